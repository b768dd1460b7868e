//! Iterators over the records of one family, in order of their keys.

use crate::StorageError;
#[cfg(feature = "simulation")]
use crate::sim::SimIter;
use rocksdb::{DBRawIterator, ReadOptions};

/// How far an iterator will be moved, which decides what filters and caches it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Anywhere within the bounds, in a family without prefixes.
    Plain,
    /// Over the records that share the prefix of the first key sought; beyond it nothing is promised.
    OnePrefix,
    /// Anywhere within the bounds, across prefixes.
    Whole,
    /// As [`Reach::Whole`], once: what is read is not kept in the cache.
    Once,
}

/// Bounds of an iterator: from `start`, up to but not including `end`.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    pub(crate) start: Option<Vec<u8>>,
    pub(crate) end: Option<Vec<u8>>,
    pub(crate) reach: Reach,
}

impl Scan {
    /// Without bounds.
    pub(crate) fn all(reach: Reach) -> Self {
        Self { start: None, end: None, reach }
    }

    /// RocksDB's words for it.
    pub(super) fn into_options(self) -> ReadOptions {
        let mut options = ReadOptions::default();
        match self.reach {
            Reach::Plain => {}
            Reach::OnePrefix => options.set_prefix_same_as_start(true),
            Reach::Whole => options.set_total_order_seek(true),
            Reach::Once => {
                options.set_total_order_seek(true);
                options.fill_cache(false);
            }
        }
        if let Some(start) = self.start {
            options.set_iterate_lower_bound(start);
        }
        if let Some(end) = self.end {
            options.set_iterate_upper_bound(end);
        }
        options
    }
}

/// Stands on a record or on none. After it has run out, [`Iter::status`] tells an end from a failure.
pub(crate) enum Iter<'a> {
    Rocks(DBRawIterator<'a>),
    #[cfg(feature = "simulation")]
    Simulated(SimIter),
}

/// Passes a call on to whichever engine it is.
macro_rules! pass {
    ($self:ident, $iter:ident => $call:expr) => {
        match $self {
            Self::Rocks($iter) => $call,
            #[cfg(feature = "simulation")]
            Self::Simulated($iter) => $call,
        }
    };
}

impl Iter<'_> {
    /// To the first record.
    pub(crate) fn seek_to_first(&mut self) {
        pass!(self, iter => iter.seek_to_first());
    }

    /// To the last record.
    pub(crate) fn seek_to_last(&mut self) {
        pass!(self, iter => iter.seek_to_last());
    }

    /// To the first record at or after `key`.
    pub(crate) fn seek(&mut self, key: &[u8]) {
        pass!(self, iter => iter.seek(key));
    }

    /// To the last record at or before `key`.
    pub(crate) fn seek_for_prev(&mut self, key: &[u8]) {
        pass!(self, iter => iter.seek_for_prev(key));
    }

    /// To the next record. It must stand on one.
    pub(crate) fn next(&mut self) {
        pass!(self, iter => iter.next());
    }

    /// To the record before. It must stand on one.
    pub(crate) fn prev(&mut self) {
        pass!(self, iter => iter.prev());
    }

    /// Key of the record that it stands on.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        pass!(self, iter => iter.key())
    }

    /// Value of the record that it stands on.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        pass!(self, iter => iter.value())
    }

    /// The record that it stands on.
    pub(crate) fn item(&self) -> Option<(&[u8], &[u8])> {
        pass!(self, iter => iter.item())
    }

    /// Fails if something could not be read.
    pub(crate) fn status(&self, action: &'static str) -> Result<(), StorageError> {
        match self {
            Self::Rocks(iter) => iter.status().map_err(StorageError::engine(action)),
            #[cfg(feature = "simulation")]
            Self::Simulated(iter) => iter.status(),
        }
    }
}
