//! A consistent view of the data store, and point reads in it.

use super::families::Family;
use super::gc::Floors;
use super::{key, records, value};
use crate::StorageError;
use crate::engine::{Iter, Reach, Scan, View};
use bytes::Bytes;
use meridian_proto::internal::v1::ShardState;
use meridian_types::{RequestId, ShardId, TableId, Timestamp};
use std::sync::Arc;

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
}

impl DataView {
    pub(super) fn of(view: View, held: Arc<Floors>) -> Self {
        Self { view, _held: held }
    }

    /// The newest version of a key at or below `at`, tombstones included; `None`: there is none.
    pub fn get(&self, table: TableId, key: &[u8], at: Timestamp) -> Result<Option<Version>, StorageError> {
        let mut sought = key::stem(table, key);
        let stem_len = sought.len();
        key::push_timestamp(&mut sought, at);
        let mut iter = self.iter(Family::Versions, Scan::all(Reach::OnePrefix));
        iter.seek(&sought);
        let found = match iter.item() {
            None => None,
            Some((found, encoded)) => match key::split(found)? {
                (stem, ts) if stem == &sought[..stem_len] => Some(Version { ts, value: value::to_owned(encoded)? }),
                _ => None,
            },
        };
        iter.status("read a version")?;
        Ok(found)
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

    pub(crate) fn engine(&self) -> &View {
        &self.view
    }

    fn record(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.view.get(family.name(), key, "read a shard's record", Bytes::copy_from_slice)
    }
}
