//! The stored rows of a shard that a read at one timestamp sees, in the order of their keys: what a backup holds.
//!
//! Of each key it is the newest version at or below the timestamp, if that is no tombstone. Of the request ledger it is
//! the requests that were decided at or below it: a record from above would say of writes that are not here that they
//! committed.

use super::families::Family;
use super::key::{self, Span};
use super::records;
use super::value;
use super::view::DataView;
use crate::StorageError;
use crate::engine::{Iter, Reach, Rows, Scan};
use meridian_proto::internal::v1::LedgerRecord;
use meridian_types::{KeyRange, ShardId, TableId, Timestamp};
use prost::Message as _;

/// What becomes of a row.
enum Fate {
    /// A read at the timestamp sees it.
    Seen,
    /// It is above the timestamp.
    Newer,
    /// A newer row hides it, or it is a tombstone.
    Hidden,
}

/// Says what becomes of each row; asked once for each, in order.
type Judge = Box<dyn FnMut(&[u8], &[u8]) -> Result<Fate, StorageError>>;

/// Stands on one of the rows, or behind the last. [`AsOf::finish`] tells an end from a failure.
pub(crate) struct AsOf<'a> {
    iter: Iter<'a>,
    judge: Judge,
    failed: Option<StorageError>,
    passed: Passed,
}

/// Rows that were gone over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Those that a read at the timestamp sees.
    pub(crate) seen: u64,
    /// Those above it.
    pub(crate) newer: u64,
}

impl DataView {
    /// The versions of a range as of `at`.
    pub(crate) fn versions_as_of(&self, table: TableId, range: &KeyRange, at: Timestamp) -> AsOf<'_> {
        let mut told: Vec<u8> = Vec::new();
        let judge = move |key: &[u8], value: &[u8]| {
            let (stem, ts) = key::split(key)?;
            if ts > at {
                return Ok(Fate::Newer);
            }
            if stem == told {
                return Ok(Fate::Hidden);
            }
            told.clear();
            told.extend_from_slice(stem);
            Ok(if value::decode(value)?.is_some() { Fate::Seen } else { Fate::Hidden })
        };
        self.as_of(Family::Versions, Span::of(table, range), Box::new(judge))
    }

    /// The request ledger of a shard as of `at`.
    pub(crate) fn ledger_as_of(&self, shard: ShardId, at: Timestamp) -> AsOf<'_> {
        let judge = move |key: &[u8], value: &[u8]| {
            let (_, decided) = decode_ledger(key, value)?;
            Ok(if decided > at { Fate::Newer } else { Fate::Seen })
        };
        self.as_of(Family::Ledger, records::ledger_span(shard), Box::new(judge))
    }

    fn as_of(&self, family: Family, span: Span, judge: Judge) -> AsOf<'_> {
        let mut iter = self.iter(family, Scan { start: Some(span.start), end: span.end, reach: Reach::Once });
        iter.seek_to_first();
        let mut rows = AsOf { iter, judge, failed: None, passed: Passed::default() };
        rows.settle();
        rows
    }
}

/// A record of the request ledger: whose it is, and the timestamp at which its request was decided.
pub(crate) fn decode_ledger(key: &[u8], value: &[u8]) -> Result<(ShardId, Timestamp), StorageError> {
    let (shard, id) = records::decode_ledger_key(key)?;
    let bad = |why: String| StorageError::corrupt(format!("the ledger record of request {id} of {shard}: {why}"));
    let record = LedgerRecord::decode(value).map_err(|error| bad(error.to_string()))?;
    let outcome = record.outcome.ok_or_else(|| bad("it holds no outcome".into()))?;
    Ok((shard, Timestamp(outcome.ts)))
}

impl AsOf<'_> {
    /// Goes on to the next row that is seen, from the one that it stands on, which was not judged yet.
    fn settle(&mut self) {
        while let Some((key, value)) = self.iter.item() {
            match (self.judge)(key, value) {
                Ok(Fate::Seen) => return,
                Ok(Fate::Newer) => self.passed.newer += 1,
                Ok(Fate::Hidden) => {}
                Err(error) => {
                    self.failed = Some(error);
                    return;
                }
            }
            self.iter.next();
        }
    }

    /// What was gone over so far.
    pub(crate) fn passed(&self) -> Passed {
        self.passed
    }

    /// What was gone over, if it was the whole span.
    ///
    /// * Errors: what could not be read or understood.
    pub(crate) fn finish(self) -> Result<Passed, StorageError> {
        match self.failed {
            Some(error) => Err(error),
            None => self.iter.status("read for a backup").map(|()| self.passed),
        }
    }
}

impl Rows for AsOf<'_> {
    fn row(&self) -> Option<(&[u8], &[u8])> {
        self.iter.item().filter(|_| self.failed.is_none())
    }

    fn advance(&mut self) {
        self.passed.seen += 1;
        self.iter.next();
        self.settle();
    }
}
