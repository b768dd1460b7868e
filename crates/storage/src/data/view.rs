//! A consistent view of the data store, and point reads in it.

use super::families::Family;
use super::store::Inner;
use super::{key, records, value};
use crate::StorageError;
use bytes::Bytes;
use meridian_proto::internal::v1::ShardState;
use meridian_types::{RequestId, ShardId, TableId, Timestamp};
use rocksdb::{DBRawIterator, Options, ReadOptions, Snapshot};
use self_cell::self_cell;
use std::sync::Arc;

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its commit timestamp.
    pub ts: Timestamp,
    /// What it holds; `None` is a tombstone: the key was deleted at `ts`.
    pub value: Option<Bytes>,
}

self_cell!(
    struct Pinned {
        owner: Arc<Inner>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// One moment of the data store, over all shards and families. It owns its snapshot and may move between threads.
pub struct DataView {
    pinned: Pinned,
}

impl DataView {
    pub(super) fn of(inner: Arc<Inner>) -> Self {
        Self { pinned: Pinned::new(inner, |inner| inner.db.snapshot()) }
    }

    /// The newest version of a key at or below `at`, tombstones included; `None`: there is none.
    pub fn get(&self, table: TableId, key: &[u8], at: Timestamp) -> Result<Option<Version>, StorageError> {
        let mut sought = key::stem(table, key);
        let stem_len = sought.len();
        key::push_timestamp(&mut sought, at);
        let mut one_stem = ReadOptions::default();
        one_stem.set_prefix_same_as_start(true);
        let mut iter = self.iter(Family::Versions, one_stem);
        iter.seek(&sought);
        let found = match iter.item() {
            None => None,
            Some((found, encoded)) => match key::split(found)? {
                (stem, ts) if stem == &sought[..stem_len] => Some(Version { ts, value: value::to_owned(encoded)? }),
                _ => None,
            },
        };
        iter.status().map_err(StorageError::engine("read a version"))?;
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

    pub(crate) fn iter(&self, family: Family, options: ReadOptions) -> DBRawIterator<'_> {
        let cf = self.pinned.borrow_owner().cf(family);
        self.pinned.borrow_dependent().raw_iterator_cf_opt(cf, options)
    }

    /// Options for files that are to be ingested into a family.
    pub(crate) fn file_options(&self, family: Family) -> Options {
        self.pinned.borrow_owner().file_options(family)
    }

    fn record(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let cf = self.pinned.borrow_owner().cf(family);
        let read = self.pinned.borrow_dependent().get_pinned_cf(cf, key);
        Ok(read.map_err(StorageError::engine("read a shard's record"))?.map(|bytes| Bytes::copy_from_slice(&bytes)))
    }
}
