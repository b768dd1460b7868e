//! A consistent view of the data store, and point reads in it.

use super::families::Family;
use super::gc::Floors;
use super::key::{self, Span};
use super::newest::{Moment, Newest};
use super::{records, value};
use crate::StorageError;
use crate::engine::{Iter, Reach, Scan, View};
use bytes::Bytes;
use meridian_proto::internal::v1::ShardState;
use meridian_types::{RequestId, ShardId, TableId, Timestamp};
use std::sync::Arc;

/// What fails when a version cannot be read.
const READ: &str = "read a version";

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its commit timestamp.
    pub ts: Timestamp,
    /// What it holds; `None` is a tombstone: the key was deleted at `ts`.
    pub value: Option<Bytes>,
}

/// One moment of the data store, over all shards and families. It owns its snapshot and may move between threads.
///
/// Reads of a shard at or above its GC floor in the view are right as long as it is open; below it versions may be
/// missing, and the floor says so.
pub struct DataView {
    view: View,
    /// While it is held, compactions keep to these floors.
    _held: Arc<Floors>,
    newest: Arc<Newest>,
    moment: Moment,
}

impl DataView {
    /// `held` and `moment` are of before the view.
    pub(super) fn of(view: View, held: Arc<Floors>, newest: Arc<Newest>, moment: Moment) -> Self {
        Self { view, _held: held, newest, moment }
    }

    /// The newest version of a key at or below `at`, tombstones included; `None`: there is none.
    ///
    /// * Cost: a lookup of one version, if it is the newest that the key has and somebody has read it before; else an
    ///   iterator over all levels.
    pub fn get(&self, table: TableId, key: &[u8], at: Timestamp) -> Result<Option<Version>, StorageError> {
        let mut sought = key::stem(table, key);
        let stem_len = sought.len();
        let newest = self.newest.of(self.moment, &sought);
        if let Some(ts) = newest.filter(|ts| *ts <= at) {
            key::push_timestamp(&mut sought, ts);
            let found = self.view.get(Family::Versions.name(), &sought, READ, value::to_owned)?;
            if let Some(value) = found {
                return Ok(Some(Version { ts, value: value? }));
            }
            // It was written after this view was taken, or is gone.
            sought.truncate(stem_len);
        }
        self.search(sought, at, newest.is_some_and(|ts| ts > at))
    }

    /// [`DataView::get`] by an iterator, of a stem. Unless it has newer versions `beyond` the timestamp for all that is
    /// known, the newest of all is found first, for the next read.
    fn search(&self, mut sought: Vec<u8>, at: Timestamp, beyond: bool) -> Result<Option<Version>, StorageError> {
        let stem_len = sought.len();
        let mut iter = self.iter(Family::Versions, Scan::all(Reach::OnePrefix));
        key::push_timestamp(&mut sought, if beyond { at } else { Timestamp::MAX });
        iter.seek(&sought);
        let stem = &sought[..stem_len];
        let mut found = timestamp_in(&iter, stem)?;
        if let Some(ts) = found.filter(|_| !beyond) {
            self.newest.learn(self.moment, stem, ts);
            if ts > at {
                sought.truncate(stem_len);
                key::push_timestamp(&mut sought, at);
                iter.seek(&sought);
                found = timestamp_in(&iter, &sought[..stem_len])?;
            }
        }
        match (found, iter.value()) {
            (Some(ts), Some(encoded)) => Ok(Some(Version { ts, value: value::to_owned(encoded)? })),
            _ => Ok(None),
        }
    }

    /// Timestamp of the newest version of a key, tombstones included.
    pub fn newest_ts(&self, table: TableId, key: &[u8]) -> Result<Option<Timestamp>, StorageError> {
        Ok(self.get(table, key, Timestamp::MAX)?.map(|version| version.ts))
    }

    /// The ledger's record of a request.
    pub fn ledger(&self, shard: ShardId, id: &RequestId) -> Result<Option<Bytes>, StorageError> {
        self.record(Family::Ledger, &records::ledger(shard, id))
    }

    /// The shard's position and what belongs to it.
    pub fn shard_state(&self, shard: ShardId) -> Result<Option<ShardState>, StorageError> {
        let bytes = self.record(Family::Shards, &records::position(shard))?;
        bytes.map(|bytes| records::decode_position(shard, &bytes)).transpose()
    }

    /// The shard's GC floor: the lowest timestamp at which it can be read. Zero if nothing was ever collected.
    pub fn gc_floor(&self, shard: ShardId) -> Result<Timestamp, StorageError> {
        let bytes = self.record(Family::Shards, &records::position(shard))?;
        bytes.map_or(Ok(Timestamp::ZERO), |bytes| records::decode_floor(shard, &bytes))
    }

    pub(crate) fn iter(&self, family: Family, scan: Scan) -> Iter<'_> {
        self.view.iter(family.name(), scan)
    }

    /// Whether there is any record of a family in a span.
    pub(crate) fn holds_any(&self, family: Family, span: &Span) -> Result<bool, StorageError> {
        let scan = Scan { start: Some(span.start.clone()), end: span.end.clone(), reach: Reach::Once };
        let mut iter = self.iter(family, scan);
        iter.seek_to_first();
        let any = iter.key().is_some();
        iter.status("look for what a shard holds")?;
        Ok(any)
    }

    pub(crate) fn engine(&self) -> &View {
        &self.view
    }

    fn record(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.view.get(family.name(), key, "read a shard's record", Bytes::copy_from_slice)
    }
}

/// Timestamp of the version that an iterator stands on, if it is one of this stem.
fn timestamp_in(iter: &Iter<'_>, stem: &[u8]) -> Result<Option<Timestamp>, StorageError> {
    let Some(found) = iter.key() else {
        // Nothing more, unless something could not be read; a later seek would forget that.
        iter.status(READ)?;
        return Ok(None);
    };
    let (found, ts) = key::split(found)?;
    Ok((found == stem).then_some(ts))
}
