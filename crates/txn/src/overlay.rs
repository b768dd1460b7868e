//! A shard's state as the mutations of a log entry see it: what is stored, and over it what earlier mutations of the
//! entries that are applied together have done. The effects go into the batch as they come, and reach the store with it;
//! what of them a later mutation may ask for is kept here until then.

use crate::apply::ShardScope;
use bytes::Bytes;
use meridian_probe::{Sabotage, machine, sabotaged};
use meridian_proto::internal::v1::LedgerRecord;
use meridian_storage::{DataBatch, DataView, StorageError, Version};
use meridian_types::{RequestId, TableId, Timestamp};
use prost::Message as _;
use std::collections::HashMap;

/// Stored state plus the effects of the entries so far.
pub(crate) struct Overlay<'a> {
    scope: &'a ShardScope,
    view: &'a DataView,
    batch: &'a mut DataBatch,
    /// The newest version of every key written by these entries.
    versions: HashMap<Bytes, Version>,
    records: HashMap<RequestId, LedgerRecord>,
    /// Tombstones at or below it are as good as nothing.
    gc_floor: Timestamp,
    /// Ledger records of ids issued before this are dropped by these entries.
    forgotten: Timestamp,
    /// An encoded record, for its memory.
    scratch: Vec<u8>,
}

impl<'a> Overlay<'a> {
    pub(crate) fn new(scope: &'a ShardScope, view: &'a DataView, batch: &'a mut DataBatch) -> Self {
        let (versions, records, scratch) = (HashMap::new(), HashMap::new(), Vec::new());
        let gc_floor = Timestamp::ZERO;
        Self { scope, view, batch, versions, records, forgotten: Timestamp::ZERO, gc_floor, scratch }
    }

    /// The GC floor that the entries from here on are applied under.
    pub(crate) fn set_floor(&mut self, gc_floor: Timestamp) {
        self.gc_floor = gc_floor;
    }

    /// The key's newest version, tombstones included that no replica has collected.
    pub(crate) fn newest(&self, key: &Bytes) -> Result<Option<Version>, StorageError> {
        let newest = match self.versions.get(key) {
            // Of an entry that is applied in the same batch: the floor may have been raised above it since.
            Some(version) => Some(version.clone()),
            None => self.view.get(self.scope.table, key, Timestamp::MAX)?,
        };
        Ok(newest.filter(|v| v.value.is_some() || v.ts > self.gc_floor))
    }

    /// Writes a version; `None` is a tombstone. A second one at the same timestamp replaces the first.
    pub(crate) fn write(&mut self, key: Bytes, ts: Timestamp, value: Option<Bytes>) {
        if sabotaged(Sabotage::CollectLocally)
            && !self.versions.contains_key(&key)
            && machine::random().is_multiple_of(4)
        {
            collect(self.view, self.scope.table, &key, self.batch);
        }
        // Of two changes of one record the batch keeps the later one.
        self.batch.put_version(self.scope.table, &key, ts, value.clone());
        self.versions.insert(key, Version { ts, value });
    }

    /// What the ledger remembers of the request.
    pub(crate) fn record(&self, id: &RequestId) -> Result<Option<LedgerRecord>, StorageError> {
        if let Some(record) = self.records.get(id) {
            return Ok(Some(record.clone()));
        }
        if id.time < self.forgotten {
            return Ok(None);
        }
        let Some(bytes) = self.view.ledger(self.scope.shard, id)? else { return Ok(None) };
        LedgerRecord::decode(bytes).map(Some).map_err(|e| damaged(id, &e))
    }

    /// Adds a record to the ledger.
    pub(crate) fn remember(&mut self, id: RequestId, record: LedgerRecord) {
        self.scratch.clear();
        record.encode(&mut self.scratch).expect("a vector grows as needed");
        self.batch.put_ledger(self.scope.shard, &id, &self.scratch);
        self.records.insert(id, record);
    }

    /// Drops the records of all ids issued before `before`, those of this entry too.
    pub(crate) fn forget(&mut self, before: Timestamp) {
        self.forgotten = self.forgotten.max(before);
        self.records.retain(|id, _| id.time >= before);
        self.batch.forget_ledger_before(self.scope.shard, before);
    }
}

/// What [`Sabotage::CollectLocally`] does: the version before the one that is written now becomes unreadable, on this
/// replica.
fn collect(view: &DataView, table: TableId, key: &[u8], batch: &mut DataBatch) {
    if let Ok(Some(old)) = view.get(table, key, Timestamp::MAX) {
        batch.put_version(table, key, old.ts, None);
    }
}

/// A ledger record that is not what was written. The replica must not go on from it.
pub(crate) fn damaged(id: &RequestId, why: &dyn std::fmt::Display) -> StorageError {
    StorageError::Corrupt { what: format!("the ledger record of request {id} cannot be read: {why}") }
}
