//! A shard's state as the mutations of one log entry see it: what is stored, and over it what earlier mutations
//! of the same entry have done. The entry's effects reach the store in one batch, so until then they are here.

use crate::apply::ShardScope;
use bytes::Bytes;
use meridian_probe::{Sabotage, machine, sabotaged};
use meridian_proto::internal::v1::LedgerRecord;
use meridian_storage::{DataBatch, DataView, StorageError, Version};
use meridian_types::{RequestId, TableId, Timestamp};
use prost::Message as _;
use std::collections::BTreeMap;

/// Stored state plus the effects of the entry so far.
pub(crate) struct Overlay<'a> {
    scope: &'a ShardScope,
    view: &'a DataView,
    /// Stored tombstones at or below it are as good as nothing.
    gc_floor: Timestamp,
    /// Every version written by this entry, oldest first.
    versions: BTreeMap<Bytes, Vec<Version>>,
    records: BTreeMap<RequestId, LedgerRecord>,
    /// Ledger records of ids issued before this are dropped by this entry.
    forgotten: Timestamp,
}

impl<'a> Overlay<'a> {
    pub(crate) fn new(scope: &'a ShardScope, view: &'a DataView, gc_floor: Timestamp) -> Self {
        let (versions, records) = (BTreeMap::new(), BTreeMap::new());
        Self { scope, view, gc_floor, versions, records, forgotten: Timestamp::ZERO }
    }

    /// The key's newest version, tombstones included that no replica has collected.
    pub(crate) fn newest(&self, key: &Bytes) -> Result<Option<Version>, StorageError> {
        if let Some(version) = self.versions.get(key).and_then(|versions| versions.last()) {
            return Ok(Some(version.clone()));
        }
        let stored = self.view.get(self.scope.table, key, Timestamp::MAX)?;
        let collected = |v: &Version| v.value.is_none() && v.ts <= self.gc_floor;
        Ok(stored.filter(|v| !collected(v)))
    }

    /// Writes a version; `None` is a tombstone. A second one at the same timestamp replaces the first.
    pub(crate) fn write(&mut self, key: Bytes, ts: Timestamp, value: Option<Bytes>) {
        let versions = self.versions.entry(key).or_default();
        versions.pop_if(|last| last.ts == ts);
        versions.push(Version { ts, value });
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
        self.records.insert(id, record);
    }

    /// Drops the records of all ids issued before `before`.
    pub(crate) fn forget(&mut self, before: Timestamp) {
        self.forgotten = self.forgotten.max(before);
        self.records.retain(|id, _| id.time >= before);
    }

    /// Puts the entry's effects into the batch, the dropping first: it must not take what this entry has added.
    pub(crate) fn write_into(self, batch: &mut DataBatch) {
        if self.forgotten > Timestamp::ZERO {
            batch.forget_ledger_before(self.scope.shard, self.forgotten);
        }
        for (key, versions) in self.versions {
            if sabotaged(Sabotage::CollectLocally) && machine::random().is_multiple_of(4) {
                collect(self.view, self.scope.table, &key, batch);
            }
            for version in versions {
                batch.put_version(self.scope.table, &key, version.ts, version.value);
            }
        }
        for (id, record) in self.records {
            batch.put_ledger(self.scope.shard, &id, &record.encode_to_vec());
        }
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
