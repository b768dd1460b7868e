//! Changes that become visible together.

use super::families::Family;
use super::key::{self, Span};
use super::{records, value};
use bytes::Bytes;
use meridian_proto::internal::v1::ShardState;
use meridian_types::{KeyRange, RequestId, ShardId, TableId, Timestamp};
use prost::Message as _;

/// Changes of one or more applied entries, with the position they lead to. Written by
/// [`DataStore::write`](super::DataStore::write): all of it is visible at once, and durable at once in some later
/// flush. A later change of the same record wins.
#[derive(Default)]
pub struct DataBatch {
    pub(super) changes: Vec<(Family, Change)>,
    bytes: usize,
}

pub(super) enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteSpan(Span),
}

impl DataBatch {
    /// Adds a version of a key; `None` is a tombstone.
    pub fn put_version(&mut self, table: TableId, key: &[u8], ts: Timestamp, value: Option<Bytes>) {
        self.put(Family::Versions, key::version(table, key, ts), value::encode(value.as_deref()));
    }

    /// Records what a request came to.
    pub fn put_ledger(&mut self, shard: ShardId, id: &RequestId, record: &[u8]) {
        self.put(Family::Ledger, records::ledger(shard, id).to_vec(), record.to_vec());
    }

    /// Drops the records of requests issued before `time`. One range deletion, which later lookups step over until
    /// it is compacted away: call it now and then, not with every entry.
    pub fn forget_ledger_before(&mut self, shard: ShardId, time: Timestamp) {
        self.delete_span(Family::Ledger, records::ledger_before(shard, time));
    }

    /// Sets the shard's position and what belongs to it.
    pub fn put_shard_state(&mut self, shard: ShardId, state: &ShardState) {
        self.put(Family::Shards, records::position(shard).to_vec(), state.encode_to_vec());
    }

    /// Removes everything of a shard: the versions in its range, its ledger and its position.
    pub(crate) fn clear_shard(&mut self, shard: ShardId, table: TableId, range: &KeyRange) {
        self.delete_span(Family::Versions, Span::of(table, range));
        self.delete_span(Family::Ledger, records::ledger_span(shard));
        self.changes.push((Family::Shards, Change::Delete(records::position(shard).to_vec())));
    }

    /// Removes a version, by its encoded key.
    pub(super) fn remove_version(&mut self, encoded: Vec<u8>) {
        self.bytes += encoded.len();
        self.changes.push((Family::Versions, Change::Delete(encoded)));
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of the keys and values put into it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn put(&mut self, family: Family, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.changes.push((family, Change::Put(key, value)));
    }

    fn delete_span(&mut self, family: Family, span: Span) {
        self.changes.push((family, Change::DeleteSpan(span)));
    }
}
