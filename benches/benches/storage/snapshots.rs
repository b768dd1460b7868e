//! Cutting a shard's snapshot into files, and installing it.

use crate::{PAYLOAD_BYTES, SEED, TABLE};
use criterion::{BatchSize, Criterion, Throughput};
use meridian_proto::internal::v1::{LeaderId, LogId, ShardState};
use meridian_storage::{DataBatch, Store, StoreOptions};
use meridian_types::{KeyRange, ShardId, Timestamp};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::cell::LazyCell;
use std::path::PathBuf;
use tempfile::TempDir;

const SHARD: ShardId = ShardId(1);

/// Rows of the shard: 64 MiB of values.
const ROWS: u64 = 256 << 10;

/// Rows written together.
const BATCH: u64 = 4_096;

pub(crate) fn snapshots(c: &mut Criterion) {
    let mut group = c.benchmark_group("snapshot");
    group.throughput(Throughput::Bytes(ROWS * PAYLOAD_BYTES as u64));
    // Made only if one of these benches was asked for.
    let made = LazyCell::new(source);
    group.bench_function("build", |b| {
        let (_, store, files) = &*made;
        b.iter(|| store.data.build_snapshot(SHARD, TABLE, &KeyRange::all(), files).unwrap());
    });
    group.bench_function("install", |b| {
        let (dir, store, files) = &*made;
        let manifest = store.data.build_snapshot(SHARD, TABLE, &KeyRange::all(), files).unwrap();
        let to = Store::open(&dir.path().join("to"), StoreOptions::default()).unwrap();
        b.iter_batched(
            || {
                let staged = to.snapshots_dir().join("staged");
                let _ = std::fs::remove_dir_all(&staged);
                std::fs::create_dir(&staged).unwrap();
                for file in &manifest.files {
                    std::fs::copy(files.join(&file.name), staged.join(&file.name)).unwrap();
                }
                staged
            },
            |staged| to.install_snapshot(SHARD, TABLE, &KeyRange::all(), &staged, &manifest).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// A store with the shard in it, and where a snapshot of it is built.
fn source() -> (TempDir, Store, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("from"), StoreOptions::default()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    for first in (0..ROWS).step_by(BATCH as usize) {
        let mut batch = DataBatch::default();
        for row in first..first + BATCH {
            let mut value = vec![0; PAYLOAD_BYTES];
            random.fill(&mut value[..]);
            batch.put_version(TABLE, format!("key-{row:012}").as_bytes(), Timestamp(1 + row), Some(value.into()));
        }
        let applied = LogId { leader: Some(LeaderId { term: 1, node: 1 }), index: first };
        let state = ShardState { applied: Some(applied), last_ts: first + BATCH, ..ShardState::default() };
        batch.put_shard_state(SHARD, &state);
        store.data.write(batch).unwrap();
    }
    store.data.flush().unwrap();
    let files = store.snapshots_dir().join("built");
    (dir, store, files)
}
