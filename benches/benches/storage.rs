//! The storage by itself: what group commit makes of the disk's fsync, and what reading versions costs.
//!
//! The disk under the temporary folder is what is measured; point `TMPDIR` at the one that matters.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot write has nothing to report")]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use meridian_storage::{DataBatch, RaftLog, Store, StoreOptions};
use meridian_types::{KeyRange, ShardId, TableId, Timestamp};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::hint::black_box;
use std::sync::mpsc;

const TABLE: TableId = TableId(1);

/// Rows in the table that is read.
const ROWS: u64 = 50_000;

/// Versions of each row.
const VERSIONS: u64 = 4;

/// Rows of one scan.
const SCAN_ROWS: usize = 100;

/// Bytes of an entry and of a value.
const PAYLOAD_BYTES: usize = 256;

const SEED: u64 = 42;

/// One durable entry in each of `shards` logs at a time. If syncs are shared, 64 cost little more than one.
fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("raft_append_synced");
    for shards in [1, 8, 64] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let logs: Vec<RaftLog> = (0..shards).map(|s| store.raft.shard(ShardId(s))).collect();
        let entry = Bytes::from(vec![7; PAYLOAD_BYTES]);
        let mut index = 0;
        group.throughput(Throughput::Elements(shards));
        group.bench_function(BenchmarkId::from_parameter(shards), |b| {
            b.iter(|| {
                let (done, durable) = mpsc::channel();
                for log in &logs {
                    let done = done.clone();
                    let tell = move |result| drop(done.send(result));
                    log.append(&[(index, entry.clone())], Box::new(tell)).unwrap();
                }
                logs.iter().for_each(|_| durable.recv().unwrap().unwrap());
                index += 1;
            });
        });
    }
    group.finish();
}

/// Point reads and scans of a table on disk, below its newest versions.
fn read(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let data = Store::open(dir.path(), StoreOptions::default()).unwrap().data;
    for version in 1..=VERSIONS {
        let mut batch = DataBatch::default();
        for row in 0..ROWS {
            batch.put_version(TABLE, &row.to_be_bytes(), Timestamp(version), Some(vec![7; PAYLOAD_BYTES].into()));
        }
        data.write(batch).unwrap();
        data.flush().unwrap();
    }
    let (view, at) = (data.view(), Timestamp(VERSIONS - 1));
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    c.bench_function("mvcc_get", |b| {
        b.iter(|| {
            let row = random.random_range(0..ROWS).to_be_bytes();
            black_box(view.get(TABLE, &row, at).unwrap())
        });
    });
    c.bench_function("mvcc_get_absent", |b| {
        b.iter(|| {
            let row = random.random_range(ROWS..u64::MAX).to_be_bytes();
            black_box(view.get(TABLE, &row, at).unwrap())
        });
    });
    let mut group = c.benchmark_group("mvcc_scan");
    group.throughput(Throughput::Elements(SCAN_ROWS as u64));
    for (name, reverse) in [("forward", false), ("reverse", true)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let start = random.random_range(0..ROWS - SCAN_ROWS as u64);
                let end = start + SCAN_ROWS as u64;
                let range = KeyRange {
                    start: start.to_be_bytes().to_vec().into(),
                    end: Some(end.to_be_bytes().to_vec().into()),
                };
                black_box(view.scan(TABLE, &range, at, reverse, SCAN_ROWS, usize::MAX).unwrap())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append, read);
criterion_main!(benches);
