//! Reading versions, and beside it in the same run what RocksDB alone takes for as many keys and bytes.

use crate::processor::ProcessorTime;
use crate::{PAYLOAD_BYTES, SEED, TABLE};
use criterion::{BenchmarkId, Criterion, Throughput};
use meridian_storage::{DataBatch, DataStore, Store, StoreOptions};
use meridian_types::{KeyRange, Timestamp};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::cell::LazyCell;
use std::hint::black_box;
use tempfile::TempDir;

/// Rows in the table that is read.
const ROWS: u64 = 100_000;

/// Versions of each row, in as many files.
const VERSIONS: u64 = 4;

/// Rows of one scan.
const SCAN_ROWS: u64 = 100;

/// Versions of the hot key.
const HOT_VERSIONS: u64 = 100_000;

fn key(row: u64) -> String {
    // Not in order of the rows: neighbours in time are none on disk.
    format!("key-{:016x}", row.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn absent(row: u64) -> String {
    key(row + ROWS)
}

fn value(random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut value = vec![0; PAYLOAD_BYTES];
    random.fill(&mut value[..]);
    value
}

/// A table with several versions of every row, none of them in memtables.
fn versions() -> (TempDir, DataStore) {
    let dir = tempfile::tempdir().unwrap();
    let data = Store::open(dir.path(), StoreOptions::default()).unwrap().data;
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    for version in 1..=VERSIONS {
        let mut batch = DataBatch::default();
        for row in 0..ROWS {
            let value = value(&mut random).into();
            batch.put_version(TABLE, key(row).as_bytes(), Timestamp(version), Some(value));
        }
        data.write(batch).unwrap();
        data.flush().unwrap();
    }
    (dir, data)
}

/// RocksDB with the same rows, overwritten as often, and the filters and the cache that ours has.
fn plain() -> (TempDir, rocksdb::DB) {
    let dir = tempfile::tempdir().unwrap();
    let db = rocksdb::DB::open(&meridian_benches::plain_options(), dir.path()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    for _ in 0..VERSIONS {
        (0..ROWS).for_each(|row| db.put(key(row), value(&mut random)).unwrap());
        db.flush().unwrap();
    }
    (dir, db)
}

/// Point reads of rows that are there and of rows that are not. `view` is held open as a scan or a transaction does;
/// `fresh` takes one for each read, as a request does.
pub(crate) fn points(c: &mut Criterion<ProcessorTime>) {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut group = c.benchmark_group("get");
    group.throughput(Throughput::Elements(1));
    {
        // Made only if one of these benches was asked for.
        let made = LazyCell::new(versions);
        let at = Timestamp(VERSIONS);
        let mut read = |name: &str, key: fn(u64) -> String, fresh: bool| {
            group.bench_function(name, |b| {
                let data = &made.1;
                let view = data.view();
                b.iter_batched(
                    || key(random.random_range(0..ROWS)),
                    |key| {
                        if fresh {
                            black_box(data.view().get(TABLE, key.as_bytes(), at).unwrap())
                        } else {
                            black_box(view.get(TABLE, key.as_bytes(), at).unwrap())
                        }
                    },
                    criterion::BatchSize::SmallInput,
                );
            });
        };
        read("hit/view", key, false);
        read("hit/fresh", key, true);
        read("miss/view", absent, false);
        read("miss/fresh", absent, true);
    }
    let made = LazyCell::new(plain);
    for (name, key) in [("hit/plain", key as fn(u64) -> String), ("miss/plain", absent)] {
        group.bench_function(name, |b| {
            let db = &made.1;
            b.iter_batched(
                || key(random.random_range(0..ROWS)),
                |key| black_box(db.get(key).unwrap()),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Reads of one key with ten versions, and of one with a hundred thousand, in the middle of its history.
pub(crate) fn hot_key(c: &mut Criterion<ProcessorTime>) {
    let mut group = c.benchmark_group("get_versions");
    for versions in [10, HOT_VERSIONS] {
        group.bench_function(BenchmarkId::from_parameter(versions), |b| {
            let dir = tempfile::tempdir().unwrap();
            let data = Store::open(dir.path(), StoreOptions::default()).unwrap().data;
            let mut batch = DataBatch::default();
            for version in 0..versions {
                batch.put_version(TABLE, b"hot", Timestamp(2 * version), Some(vec![7; PAYLOAD_BYTES].into()));
            }
            data.write(batch).unwrap();
            data.flush().unwrap();
            let (view, at) = (data.view(), Timestamp(versions));
            b.iter(|| black_box(view.get(TABLE, b"hot", at).unwrap()));
        });
    }
    group.finish();
}

/// Scans below the newest versions, in both directions.
pub(crate) fn scans(c: &mut Criterion<ProcessorTime>) {
    let made = LazyCell::new(versions);
    let at = Timestamp(VERSIONS - 1);
    let mut keys: Vec<String> = (0..ROWS).map(key).collect();
    keys.sort_unstable();
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut group = c.benchmark_group("scan_100");
    group.throughput(Throughput::Elements(SCAN_ROWS));
    for (name, reverse) in [("forward", false), ("reverse", true)] {
        group.bench_function(name, |b| {
            let view = made.1.view();
            b.iter(|| {
                let start = random.random_range(0..ROWS - SCAN_ROWS) as usize;
                let end = start + SCAN_ROWS as usize;
                let range = KeyRange { start: keys[start].clone().into(), end: Some(keys[end].clone().into()) };
                black_box(view.scan(TABLE, &range, at, reverse, SCAN_ROWS as usize, usize::MAX).unwrap())
            });
        });
    }
    group.finish();
}
