//! What a simulated disk surely holds of a shard's log: the truth that a test holds against what was acknowledged.

use super::store::LOG;
use super::{keys, record};
use crate::{SimDisk, StoreName};
use bytes::Bytes;
use meridian_types::ShardId;
use std::ops::Bound;

impl SimDisk {
    /// Whether the entry at `index`, as it reads now, would survive a power loss for certain. An entry that was
    /// purged would not, nor one that an unsynced truncation may take.
    pub fn is_synced(&self, shard: ShardId, index: u64) -> bool {
        let mut disk = self.lock();
        let raft = disk.instance(StoreName::Raft);
        let key = keys::entry(shard, index);
        let stable = raft.stable(LOG).is_some_and(|records| records.contains_key(&key[..]));
        stable && !raft.pending_touches(LOG, &key, &key)
    }

    /// The last entry of a shard's log that would survive a power loss for certain.
    pub fn synced_last_index(&self, shard: ShardId) -> Option<u64> {
        let mut disk = self.lock();
        let raft = disk.instance(StoreName::Raft);
        let (start, end) = (keys::entry(shard, 0), keys::entries_end(shard));
        let bounds = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
        let mut entries = raft.stable(LOG)?.range::<[u8], _>(bounds);
        let (key, _) = entries.rfind(|(key, _)| !raft.pending_touches(LOG, key, key))?;
        keys::index_of(key)
    }

    /// The content of a durable entry, as it was appended.
    pub fn synced_entry(&self, shard: ShardId, index: u64) -> Option<Bytes> {
        self.synced_record(&keys::entry(shard, index))
    }

    /// The vote that a power loss would leave, unless a newer one survives by luck.
    pub fn synced_vote(&self, shard: ShardId) -> Option<Bytes> {
        self.synced_record(&keys::single(shard, keys::VOTE))
    }

    fn synced_record(&self, key: &[u8]) -> Option<Bytes> {
        let mut disk = self.lock();
        let value = disk.instance(StoreName::Raft).stable(LOG)?.get(key)?.clone();
        record::open(key, &value, || "a record of the simulated disk".to_owned()).ok()
    }
}
