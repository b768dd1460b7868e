//! Appending to the raft log, durably.

use crate::PAYLOAD_BYTES;
use crate::processor::ProcessorTime;
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use meridian_clock::Mono;
use meridian_storage::{RaftLog, Store, StoreOptions};
use meridian_types::ShardId;
use std::cell::LazyCell;
use std::sync::mpsc;

/// `writers` groups with one entry of each on its way to the disk at any time: as one is durable, its group appends the
/// next. With shared syncs the throughput grows with the writers.
pub(crate) fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append_synced");
    group.throughput(Throughput::Elements(1));
    for writers in [1_u64, 16, 256] {
        // Made only if this bench was asked for.
        let made = LazyCell::new(|| {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
            (dir, store)
        });
        let mut next = vec![0; writers as usize];
        let entry = Bytes::from(vec![7; PAYLOAD_BYTES]);
        group.bench_function(BenchmarkId::from_parameter(writers), |b| {
            let logs: Vec<RaftLog> = (0..writers).map(|s| made.1.raft.shard(ShardId(s))).collect();
            b.iter_custom(|appends| {
                let (done, durable) = mpsc::channel();
                let mut start = |writer: usize| {
                    let done = done.clone();
                    let tell = move |result: Result<(), _>| drop(done.send(result.map(|()| writer)));
                    logs[writer].append(&[(next[writer], entry.clone())], Box::new(tell)).unwrap();
                    next[writer] += 1;
                };
                let begun = Mono::now();
                let first = appends.min(writers);
                (0..first).for_each(|writer| start(writer as usize));
                for _ in first..appends {
                    start(durable.recv().unwrap().unwrap());
                }
                (0..first).for_each(|_| _ = durable.recv().unwrap().unwrap());
                begun.elapsed()
            });
        });
        if next[0] > 0 {
            let stats = made.1.raft.sync_stats();
            let share = stats.syncs as f64 / stats.writes as f64;
            println!("{writers} writers: {share:.4} syncs for each append, {:?} for each sync", stats.mean());
        }
    }
    group.finish();
}

/// What an append costs the task that makes it, whatever the disk does afterwards.
pub(crate) fn append_call(c: &mut Criterion<ProcessorTime>) {
    c.bench_function("append_call", |b| {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let log = store.raft.shard(ShardId(1));
        let entry = Bytes::from(vec![7; PAYLOAD_BYTES]);
        let mut index = 0;
        b.iter(|| {
            log.append(&[(index, entry.clone())], Box::new(|_| {})).unwrap();
            index += 1;
        });
    });
}
