//! One shard on a real store in a temporary directory, and short ways to say requests.

use bytes::Bytes;
use meridian_proto::internal::v1::outcome::Result as Decision;
use meridian_proto::internal::v1::{Mutation, Outcome};
use meridian_proto::v1::precondition::Condition;
use meridian_proto::v1::write_op::{Action, Remove};
use meridian_proto::v1::{Precondition, RequestId, Row, WriteOp};
use meridian_storage::{DataBatch, DataStore, DataView, Store, StoreOptions};
use meridian_txn::{LogPosition, ShardScope, apply};
use meridian_types::{KeyRange, ShardId, TableId, Timestamp};

pub(crate) const SECOND: u64 = 1_000_000_000;
/// Log time at which the tests begin: 2026, at the start of a minute.
pub(crate) const START: u64 = 1_790_000_040 * SECOND;
pub(crate) const TABLE: TableId = TableId(7);

/// A shard of the keys `a..n`, and the log's position in time.
pub(crate) struct Shard {
    pub(crate) store: DataStore,
    pub(crate) scope: ShardScope,
    pub(crate) last_ts: Timestamp,
    pub(crate) gc_floor: Timestamp,
    _dir: tempfile::TempDir,
}

impl Shard {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path(), StoreOptions::default()).expect("an empty store opens").data;
        let range = KeyRange::new("a".into(), Some("n".into())).expect("a range");
        let scope = ShardScope { shard: ShardId(3), table: TABLE, range };
        Self { store, scope, last_ts: Timestamp(START - 1), gc_floor: Timestamp::ZERO, _dir: dir }
    }

    /// Applies one entry stamped `ts`.
    pub(crate) fn entry(&mut self, ts: u64, mutations: &[Mutation]) -> Vec<Outcome> {
        let mut batch = DataBatch::default();
        let ts = Timestamp(ts);
        let view = self.store.view();
        let log = LogPosition { last_ts: self.last_ts, gc_floor: self.gc_floor };
        let outcomes = apply(&self.scope, &view, log, ts, mutations, &mut batch).expect("the store works");
        drop(view);
        self.store.write(batch).expect("the store takes the batch");
        self.last_ts = self.last_ts.max(Timestamp(ts.0 + mutations.len() as u64 - 1));
        outcomes
    }

    /// Applies one mutation as an entry of its own, at the next timestamp.
    pub(crate) fn one(&mut self, mutation: &Mutation) -> Decision {
        let outcome = self.entry(self.last_ts.next().0, std::slice::from_ref(mutation)).remove(0);
        outcome.result.expect("an outcome")
    }

    pub(crate) fn view(&self) -> DataView {
        self.store.view()
    }

    /// The newest value of a key.
    pub(crate) fn value(&self, key: &'static str) -> Option<Bytes> {
        let version = self.view().get(TABLE, key.as_bytes(), Timestamp::MAX).expect("the store reads");
        version.and_then(|v| v.value)
    }
}

/// A mutation of the test's table, without preconditions, writes or reads, issued at [`START`].
pub(crate) fn request(sequence: u64) -> Mutation {
    let request_id = Some(RequestId { time_ns: START, client: 1, sequence });
    Mutation { request_id, table: TABLE.0, ..Mutation::default() }
}

pub(crate) trait Say: Sized {
    fn put(self, key: &'static str, value: &'static str) -> Self;
    fn delete(self, key: &'static str) -> Self;
    fn given(self, key: &'static str, condition: Condition) -> Self;
    fn read(self, key: &'static str) -> Self;
    fn issued(self, time_ns: u64) -> Self;
}

impl Say for Mutation {
    fn put(mut self, key: &'static str, value: &'static str) -> Self {
        self.writes.push(WriteOp { key: key.into(), action: Some(Action::Put(value.into())) });
        self
    }

    fn delete(mut self, key: &'static str) -> Self {
        self.writes.push(WriteOp { key: key.into(), action: Some(Action::Delete(Remove {})) });
        self
    }

    fn given(mut self, key: &'static str, condition: Condition) -> Self {
        self.preconditions.push(Precondition { key: key.into(), condition: Some(condition) });
        self
    }

    fn read(mut self, key: &'static str) -> Self {
        self.reads.push(key.into());
        self
    }

    fn issued(mut self, time_ns: u64) -> Self {
        if let Some(id) = &mut self.request_id {
            id.time_ns = time_ns;
        }
        self
    }
}

pub(crate) fn row(key: &'static str, value: &'static str, version: u64) -> Row {
    Row { key: key.into(), value: value.into(), version }
}
