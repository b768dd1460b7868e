//! Iterators over the records of a view.

use super::instance::Records;
use crate::StorageError;
use crate::engine::Scan;
use bytes::Bytes;
use std::ops::Bound;

/// Stands on a record or on none. Moves by looking its place up: it needs no borrow of the records.
pub(crate) struct SimIter {
    records: Result<Records, StorageError>,
    start: Bound<Bytes>,
    end: Bound<Bytes>,
    at: Option<(Bytes, Bytes)>,
}

impl SimIter {
    /// `records` is an error if nothing can be read: the iterator never stands on anything then.
    pub(super) fn new(records: Result<Records, StorageError>, scan: Scan) -> Self {
        let start = scan.start.map_or(Bound::Unbounded, |start| Bound::Included(start.into()));
        let end = scan.end.map_or(Bound::Unbounded, |end| Bound::Excluded(end.into()));
        Self { records, start, end, at: None }
    }

    pub(crate) fn seek_to_first(&mut self) {
        self.at = self.first_in(self.start.clone(), self.end.clone());
    }

    pub(crate) fn seek_to_last(&mut self) {
        self.at = self.last_in(self.start.clone(), self.end.clone());
    }

    pub(crate) fn seek(&mut self, key: &[u8]) {
        let before = matches!(&self.start, Bound::Included(start) if key < &start[..]);
        let from = if before { self.start.clone() } else { Bound::Included(Bytes::copy_from_slice(key)) };
        self.at = self.first_in(from, self.end.clone());
    }

    pub(crate) fn seek_for_prev(&mut self, key: &[u8]) {
        let beyond = matches!(&self.end, Bound::Excluded(end) if key >= &end[..]);
        let to = if beyond { self.end.clone() } else { Bound::Included(Bytes::copy_from_slice(key)) };
        self.at = self.last_in(self.start.clone(), to);
    }

    pub(crate) fn next(&mut self) {
        if let Some((key, _)) = self.at.take() {
            self.at = self.first_in(Bound::Excluded(key), self.end.clone());
        }
    }

    pub(crate) fn prev(&mut self) {
        if let Some((key, _)) = self.at.take() {
            self.at = self.last_in(self.start.clone(), Bound::Excluded(key));
        }
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.at.as_ref().map(|(key, _)| &key[..])
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.at.as_ref().map(|(_, value)| &value[..])
    }

    pub(crate) fn item(&self) -> Option<(&[u8], &[u8])> {
        self.at.as_ref().map(|(key, value)| (&key[..], &value[..]))
    }

    pub(crate) fn status(&self) -> Result<(), StorageError> {
        self.records.as_ref().map(drop).map_err(Clone::clone)
    }

    fn first_in(&self, from: Bound<Bytes>, to: Bound<Bytes>) -> Option<(Bytes, Bytes)> {
        let records = self.records.as_ref().ok().filter(|_| is_range(&from, &to))?;
        records.range((from, to)).next().map(owned)
    }

    fn last_in(&self, from: Bound<Bytes>, to: Bound<Bytes>) -> Option<(Bytes, Bytes)> {
        let records = self.records.as_ref().ok().filter(|_| is_range(&from, &to))?;
        records.range((from, to)).next_back().map(owned)
    }
}

fn owned((key, value): (&Bytes, &Bytes)) -> (Bytes, Bytes) {
    (key.clone(), value.clone())
}

/// Whether anything can lie between the bounds: maps refuse to look otherwise.
fn is_range(from: &Bound<Bytes>, to: &Bound<Bytes>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
        (Bound::Included(from), Bound::Included(to)) => from <= to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from < to,
    }
}
