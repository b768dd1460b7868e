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

/// Records in order, of which one is looked at after the other.
pub(crate) trait Rows {
    /// The record that it stands on.
    fn row(&self) -> Option<(&[u8], &[u8])>;

    /// To the next record. It must stand on one.
    fn advance(&mut self);
}

impl Rows for Iter<'_> {
    fn row(&self) -> Option<(&[u8], &[u8])> {
        self.item()
    }

    fn advance(&mut self) {
        self.next();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Db, Rocks};
    use crate::sim::SimDb;
    use crate::{SimDisk, SimDiskOptions, StoreName};
    use proptest::prelude::*;
    use rocksdb::Options;
    use std::sync::Arc;

    const F: &str = "f";

    #[derive(Clone, Debug)]
    enum Move {
        First,
        Last,
        Seek(Vec<u8>),
        SeekForPrev(Vec<u8>),
        Next,
        Prev,
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..3_u8, 0..3)
    }

    fn moves() -> impl Strategy<Value = Move> {
        prop_oneof![
            Just(Move::First),
            Just(Move::Last),
            key().prop_map(Move::Seek),
            key().prop_map(Move::SeekForPrev),
            Just(Move::Next),
            Just(Move::Prev),
        ]
    }

    fn go(iter: &mut Iter<'_>, to: &Move) -> Option<(Vec<u8>, Vec<u8>)> {
        match to {
            Move::First => iter.seek_to_first(),
            Move::Last => iter.seek_to_last(),
            Move::Seek(key) => iter.seek(key),
            Move::SeekForPrev(key) => iter.seek_for_prev(key),
            Move::Next if iter.key().is_some() => iter.next(),
            Move::Prev if iter.key().is_some() => iter.prev(),
            Move::Next | Move::Prev => {}
        }
        iter.status("move").unwrap();
        let item = iter.item().map(|(key, value)| (key.to_vec(), value.to_vec()));
        assert_eq!(item, iter.key().zip(iter.value()).map(|(key, value)| (key.to_vec(), value.to_vec())));
        item
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn both_engines_move_alike(
            steps in prop::collection::vec(prop_oneof![
                4 => key().prop_map(|key| (key, None)),
                1 => key().prop_map(|key| (key, Some(None))),
                1 => (key(), key()).prop_map(|(start, end)| (start.clone().min(end.clone()), Some(Some(start.max(end))))),
            ], 0..30),
            scans in prop::collection::vec(
                (prop::option::of(key()), prop::option::of(key()), prop::collection::vec(moves(), 1..20)), 20),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut options = Options::default();
            options.create_if_missing(true);
            options.create_missing_column_families(true);
            let rocks = Rocks::open(dir.path(), &options, vec![(F, Options::default())], true, "open").unwrap();
            let simulated = SimDb::open(&SimDisk::new(1, SimDiskOptions::default()), StoreName::Raft).unwrap();
            let engines = [Db::Rocks(Arc::new(rocks)), Db::Simulated(simulated)];
            for db in &engines {
                for (n, (key, deleted)) in steps.iter().enumerate() {
                    let mut batch = db.batch();
                    match deleted {
                        None => batch.put(F, key, &n.to_be_bytes()),
                        Some(None) => batch.delete(F, key),
                        Some(Some(end)) => batch.delete_range(F, key, end),
                    }
                    db.write(batch, "write").unwrap();
                }
            }
            for (start, end, moves) in scans {
                let scan = Scan { start, end, reach: Reach::Plain };
                let [mut real, mut simulated] = engines.each_ref().map(|db| db.iter(F, scan.clone()));
                for to in &moves {
                    prop_assert_eq!(go(&mut simulated, to), go(&mut real, to), "{:?} in {:?}", to, &scan);
                }
            }
        }
    }
}
