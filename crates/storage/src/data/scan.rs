//! Scans: the visible version of every key in a range, in either direction.
//!
//! Versions of one key lie together, newest first. A scan takes of each key the newest version at or below its
//! timestamp and steps over the rest: a few single steps, then a seek, because stepping is cheaper while versions
//! are few and hopeless when a key has thousands.

use super::families::Family;
use super::key::{self, Span};
use super::value;
use super::view::DataView;
use crate::StorageError;
use crate::engine::{Iter, Reach, Scan};
use bytes::Bytes;
use meridian_types::{KeyRange, TableId, Timestamp};

/// Single steps over versions of one key before a seek.
const STEPS_MAX: usize = 8;

/// A scan of more rows than this leaves nothing in the cache: it would drive out what point reads live on, and is not
/// likely to come again before it is driven out itself. What is there it uses.
const CACHED_ROWS_MAX: usize = 256;

/// One row of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRow {
    /// Its key.
    pub key: Bytes,
    /// Commit timestamp of the version.
    pub ts: Timestamp,
    /// What it holds.
    pub value: Bytes,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanResult {
    /// The visible rows, in the order of the scan.
    pub rows: Vec<ScanRow>,
    /// Whether a limit ended the scan before its last row.
    pub more: bool,
    /// The newest timestamp that the answer depends on: of the rows, of the tombstones passed over, and of the row
    /// that made `more` true. Zero if it depends on none (rule W1).
    pub reveals: Timestamp,
}

impl DataView {
    /// Scans a range of keys as of `at`, up to `max_rows` rows and up to `max_bytes` of keys and values, but at
    /// least one row if rows are asked for at all.
    ///
    /// * Cost: proportional to the keys passed over, deleted ones included, not to their versions.
    pub fn scan(
        &self,
        table: TableId,
        range: &KeyRange,
        at: Timestamp,
        reverse: bool,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<ScanResult, StorageError> {
        let reach = if max_rows > CACHED_ROWS_MAX { Reach::Once } else { Reach::Whole };
        let mut cursor = Cursor::new(self, Span::of(table, range), at, reverse, reach);
        let (mut result, mut bytes) = (ScanResult::default(), 0_usize);
        while let Some((ts, visible)) = cursor.next_key()? {
            result.reveals = result.reveals.max(ts);
            let Some(value) = visible else { continue };
            let (_, key) = key::decode_stem(&cursor.stem)?;
            bytes = bytes.saturating_add(key.len() + value.len());
            if result.rows.len() >= max_rows || (bytes > max_bytes && !result.rows.is_empty()) {
                result.more = true;
                break;
            }
            result.rows.push(ScanRow { key, ts, value });
        }
        Ok(result)
    }
}

/// Walks over the keys of a span that have a version at or below `at`.
struct Cursor<'a> {
    iter: Iter<'a>,
    at: Timestamp,
    reverse: bool,
    begun: bool,
    /// Stem of the current key.
    stem: Vec<u8>,
    /// Scratch for seeks.
    target: Vec<u8>,
}

/// A version's timestamp and content.
type Visible = (Timestamp, Option<Bytes>);

impl<'a> Cursor<'a> {
    /// `reach` crosses stems: the bloom filters know single ones.
    fn new(view: &'a DataView, span: Span, at: Timestamp, reverse: bool, reach: Reach) -> Self {
        let scan = Scan { start: Some(span.start), end: span.end, reach };
        let iter = view.iter(Family::Versions, scan);
        Self { iter, at, reverse, begun: false, stem: Vec::new(), target: Vec::new() }
    }

    /// Moves to the next key with a version at or below `at`, and returns that version.
    fn next_key(&mut self) -> Result<Option<Visible>, StorageError> {
        self.begin();
        while let Some(encoded) = self.iter.key() {
            let (stem, _) = key::split(encoded)?;
            self.stem.clear();
            self.stem.extend_from_slice(stem);
            let visible = if self.reverse { self.pass_backward()? } else { self.pass_forward()? };
            if visible.is_some() {
                return Ok(visible);
            }
        }
        self.iter.status("scan versions")?;
        Ok(None)
    }

    fn begin(&mut self) {
        match (std::mem::replace(&mut self.begun, true), self.reverse) {
            (true, _) => {}
            (false, false) => self.iter.seek_to_first(),
            (false, true) => self.iter.seek_to_last(),
        }
    }

    /// From the newest version of the current key: finds the visible one and passes the key.
    fn pass_forward(&mut self) -> Result<Option<Visible>, StorageError> {
        self.step_while(Iter::next, |ts, at| ts > at)?;
        if self.here()?.is_some_and(|ts| ts > self.at) {
            self.seek(Some(self.at));
        }
        let visible = self.take()?;
        self.step_while(Iter::next, |_, _| true)?;
        if self.here()?.is_some() {
            // Past the oldest version that a key can have, which is at timestamp zero.
            self.seek(Some(Timestamp::ZERO));
            if self.here()?.is_some() {
                self.iter.next();
            }
        }
        Ok(visible)
    }

    /// From the oldest version of the current key: finds the visible one and passes the key.
    fn pass_backward(&mut self) -> Result<Option<Visible>, StorageError> {
        let mut visible = None;
        for _ in 0..STEPS_MAX {
            match self.here()? {
                Some(ts) if ts <= self.at => visible = self.take()?,
                _ => break,
            }
            self.iter.prev();
        }
        match self.here()? {
            None => return Ok(visible),
            Some(ts) if ts > self.at => {}
            Some(_) => {
                self.seek(Some(self.at));
                visible = self.take()?;
            }
        }
        // The stem alone sorts before all versions of its key.
        self.seek(None);
        Ok(visible)
    }

    /// Steps while on the current key and while `pass` says so, a few times at most.
    fn step_while(
        &mut self,
        step: impl Fn(&mut Iter<'a>),
        pass: impl Fn(Timestamp, Timestamp) -> bool,
    ) -> Result<(), StorageError> {
        for _ in 0..STEPS_MAX {
            match self.here()? {
                Some(ts) if pass(ts, self.at) => step(&mut self.iter),
                _ => break,
            }
        }
        Ok(())
    }

    /// Timestamp under the iterator, if it is on the current key.
    fn here(&self) -> Result<Option<Timestamp>, StorageError> {
        let Some(encoded) = self.iter.key() else {
            // The end of the span, unless something could not be read; a later seek would forget that.
            self.iter.status("scan versions")?;
            return Ok(None);
        };
        let (stem, ts) = key::split(encoded)?;
        Ok((stem == self.stem).then_some(ts))
    }

    /// The version under the iterator, if it is one of the current key.
    fn take(&self) -> Result<Option<Visible>, StorageError> {
        match (self.here()?, self.iter.value()) {
            (Some(ts), Some(encoded)) => Ok(Some((ts, value::to_owned(encoded)?))),
            _ => Ok(None),
        }
    }

    /// With a timestamp: to that version of the current key or the next older one. Without: to the last version of
    /// the key before the current one.
    fn seek(&mut self, ts: Option<Timestamp>) {
        self.target.clear();
        self.target.extend_from_slice(&self.stem);
        match ts {
            Some(ts) => {
                key::push_timestamp(&mut self.target, ts);
                self.iter.seek(&self.target);
            }
            None => self.iter.seek_for_prev(&self.target),
        }
    }
}
