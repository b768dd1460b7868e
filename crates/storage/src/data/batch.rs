//! Changes that become visible together.

use super::families::Family;
use super::key::{self, Span};
use super::store::UNBOUNDED;
use super::view::DataView;
use super::{records, value};
use crate::StorageError;
use crate::engine::Batch;
use bytes::Bytes;
use meridian_proto::internal::v1::ShardState;
use meridian_types::{KeyRange, RequestId, ShardId, TableId, Timestamp};
use prost::Message as _;

/// Changes of one or more applied entries, with the position they lead to. Written by
/// [`DataStore::write`](super::DataStore::write): all of it is visible at once, and durable at once in some later
/// flush. A later change of the same record wins.
///
/// Keys and values are encoded one after another into one buffer: an entry costs no allocation of its own.
#[derive(Default)]
pub struct DataBatch {
    changes: Vec<(Family, Change)>,
    buffer: Vec<u8>,
}

/// One change. Its key, and then its value, are the next bytes of the buffer.
enum Change {
    Put { key: usize, value: usize },
    Delete { key: usize },
    DeleteSpan(Span),
}

/// One change with its bytes.
enum Encoded<'a> {
    Put(&'a [u8], &'a [u8]),
    Delete(&'a [u8]),
    DeleteSpan(&'a Span),
}

impl DataBatch {
    /// Adds a version of a key; `None` is a tombstone.
    pub fn put_version(&mut self, table: TableId, key: &[u8], ts: Timestamp, value: Option<Bytes>) {
        let encode_key = |out: &mut Vec<u8>| key::write_version(out, table, key, ts);
        self.put(Family::Versions, encode_key, |out| value::write(out, value.as_deref()));
    }

    /// Records what a request came to.
    pub fn put_ledger(&mut self, shard: ShardId, id: &RequestId, record: &[u8]) {
        let encode_key = |out: &mut Vec<u8>| out.extend_from_slice(&records::ledger(shard, id));
        self.put(Family::Ledger, encode_key, |out| out.extend_from_slice(record));
    }

    /// Drops the records of requests issued before `time`. One range deletion, which later lookups step over until
    /// it is compacted away: call it now and then, not with every entry.
    pub fn forget_ledger_before(&mut self, shard: ShardId, time: Timestamp) {
        self.delete_span(Family::Ledger, records::ledger_before(shard, time));
    }

    /// Sets the shard's position and what belongs to it.
    pub fn put_shard_state(&mut self, shard: ShardId, state: &ShardState) {
        let encode_key = |out: &mut Vec<u8>| out.extend_from_slice(&records::position(shard));
        self.put(Family::Shards, encode_key, |out| state.encode(out).expect("a vector grows as needed"));
    }

    /// Removes everything of a shard that `held` has: the versions in its range, its ledger and its position. A span in
    /// which there is nothing is not marked as removed: the mark alone would send the files of a snapshot that is ingested
    /// into it to level 0, and all of them through a compaction.
    ///
    /// * Errors: what is held cannot be read.
    pub(crate) fn clear_shard(
        &mut self,
        held: &DataView,
        shard: ShardId,
        table: TableId,
        range: &KeyRange,
    ) -> Result<(), StorageError> {
        let spans = [(Family::Versions, Span::of(table, range)), (Family::Ledger, records::ledger_span(shard))];
        for (family, span) in spans {
            if held.holds_any(family, &span)? {
                self.delete_span(family, span);
            }
        }
        self.delete(Family::Shards, &records::position(shard));
        Ok(())
    }

    /// Removes everything of every shard.
    pub(crate) fn clear_everything(&mut self) {
        for family in Family::ALL {
            self.delete_span(family, Span { start: Vec::new(), end: None });
        }
    }

    /// Removes a version, by its encoded key.
    pub(super) fn remove_version(&mut self, encoded: &[u8]) {
        self.delete(Family::Versions, encoded);
    }

    /// Whether it removes versions by spans.
    pub(super) fn clears_versions(&self) -> bool {
        self.changes
            .iter()
            .any(|(family, change)| *family == Family::Versions && matches!(change, Change::DeleteSpan(_)))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of the keys and values put into it.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Hands the changes to the engine, in order.
    pub(super) fn write_into(&self, out: &mut Batch<'_>) {
        self.each(|family, change| match change {
            Encoded::Put(key, value) => out.put(family.name(), key, value),
            Encoded::Delete(key) => out.delete(family.name(), key),
            Encoded::DeleteSpan(Span { start, end }) => {
                out.delete_range(family.name(), start, end.as_deref().unwrap_or(&UNBOUNDED));
            }
        });
    }

    /// Hands out the whole keys of the versions that it adds.
    pub(super) fn each_version(&self, mut version: impl FnMut(&[u8])) {
        self.each(|family, change| {
            if let (Family::Versions, Encoded::Put(key, _)) = (family, change) {
                version(key);
            }
        });
    }

    fn each(&self, mut pass: impl FnMut(Family, Encoded<'_>)) {
        let mut rest = &self.buffer[..];
        let mut next = |len: usize| {
            let (next, after) = rest.split_at(len);
            rest = after;
            next
        };
        for (family, change) in &self.changes {
            let encoded = match change {
                Change::Put { key, value } => Encoded::Put(next(*key), next(*value)),
                Change::Delete { key } => Encoded::Delete(next(*key)),
                Change::DeleteSpan(span) => Encoded::DeleteSpan(span),
            };
            pass(*family, encoded);
        }
    }

    fn put(&mut self, family: Family, key: impl FnOnce(&mut Vec<u8>), value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.buffer.len();
        key(&mut self.buffer);
        let key = self.buffer.len() - start;
        value(&mut self.buffer);
        let value = self.buffer.len() - start - key;
        self.changes.push((family, Change::Put { key, value }));
    }

    fn delete(&mut self, family: Family, key: &[u8]) {
        self.buffer.extend_from_slice(key);
        self.changes.push((family, Change::Delete { key: key.len() }));
    }

    fn delete_span(&mut self, family: Family, span: Span) {
        self.changes.push((family, Change::DeleteSpan(span)));
    }
}
