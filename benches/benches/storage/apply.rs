//! Applying entries to one shard: evaluation, ledger, versions and position, into the data store.

use crate::processor::ProcessorTime;
use crate::{PAYLOAD_BYTES, SEED, TABLE};
use criterion::{BenchmarkId, Criterion, Throughput};
use meridian_proto::internal::v1::{LeaderId, LogId, Mutation, ShardState};
use meridian_proto::v1::{RequestId, WriteOp, write_op::Action};
use meridian_storage::{DataBatch, Store, StoreOptions};
use meridian_txn::{LogPosition, ShardScope};
use meridian_types::{KeyRange, ShardId, Timestamp};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::hint::black_box;
use std::time::Duration;

const SHARD: ShardId = ShardId(1);

/// Keys that are written, at random.
const KEYS: u64 = 1_000_000;

/// Entries made before the clock starts.
const PREPARED: u64 = 8_192;

/// Log time of the first entry.
const START: u64 = 1_700_000_000_000_000_000;

/// Log time between two mutations: what 200,000 entries a second make of it.
const STEP: u64 = 5_000;

/// One write of a random key for each entry, `batch` of them written to the store together, from one thread.
pub(crate) fn apply(c: &mut Criterion<ProcessorTime>) {
    let mut group = c.benchmark_group("apply_put");
    group.throughput(Throughput::Elements(1));
    for batch in [1_u64, 64] {
        let scope = ShardScope { shard: SHARD, table: TABLE, range: KeyRange::all() };
        group.bench_function(BenchmarkId::from_parameter(batch), |b| {
            let dir = tempfile::tempdir().unwrap();
            let data = Store::open(dir.path(), StoreOptions::default()).unwrap().data;
            let mut random = ChaCha8Rng::seed_from_u64(SEED);
            let mut applied = 0;
            b.iter_custom(|entries| {
                let (mut left, mut took) = (entries.next_multiple_of(batch), Duration::ZERO);
                while left > 0 {
                    let n = left.min(PREPARED);
                    let mutations: Vec<_> = (applied..applied + n).map(|i| put(&mut random, i)).collect();
                    let begun = ProcessorTime::now();
                    for mutations in mutations.chunks(batch as usize) {
                        let mut changes = DataBatch::default();
                        let (last_ts, ts) = (Timestamp(stamp(applied) - 1), Timestamp(stamp(applied)));
                        let view = data.view();
                        let outcomes = meridian_txn::apply(
                            &scope,
                            &view,
                            LogPosition { last_ts, ..LogPosition::default() },
                            ts,
                            mutations,
                            &mut changes,
                        )
                        .unwrap();
                        black_box(outcomes);
                        applied += mutations.len() as u64;
                        changes.put_shard_state(SHARD, &position(applied));
                        data.write(changes).unwrap();
                    }
                    took += ProcessorTime::now() - begun;
                    left -= n;
                }
                took
            });
        });
    }
    group.finish();
}

fn stamp(applied: u64) -> u64 {
    START + applied * STEP
}

fn put(random: &mut ChaCha8Rng, sequence: u64) -> Mutation {
    let key = format!("key-{:012}", random.random_range(0..KEYS));
    let mut value = vec![0; PAYLOAD_BYTES];
    random.fill(&mut value[..]);
    Mutation {
        request_id: Some(RequestId { time_ns: stamp(sequence), client: 9, sequence }),
        table: TABLE.0,
        writes: vec![WriteOp { key: key.into(), action: Some(Action::Put(value.into())) }],
        ..Mutation::default()
    }
}

fn position(index: u64) -> ShardState {
    let applied = LogId { leader: Some(LeaderId { term: 1, node: 1 }), index };
    ShardState { applied: Some(applied), last_ts: stamp(index), ..ShardState::default() }
}
