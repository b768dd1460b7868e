//! What reads cost, counted by RocksDB: a key with many versions costs what one with few does, and large scans leave
//! the cache to others. Nothing here looks at the time.

use crate::support::{Machine, small_options};
use meridian_storage::{DataBatch, DataStore, DataView, Store, StoreOptions};
use meridian_types::{KeyRange, TableId, Timestamp};
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

const FEW: (TableId, u64) = (TableId(1), 10);
const MANY: (TableId, u64) = (TableId(2), 100_000);

/// A table of three keys, the middle one with so many versions, stamped from 1 on.
fn fill(data: &DataStore, (table, versions): (TableId, u64)) {
    for first in (1..=versions).step_by(1_000) {
        let mut batch = DataBatch::default();
        for ts in first..=versions.min(first + 999) {
            batch.put_version(table, b"hot", Timestamp(ts), Some(ts.to_string().into()));
        }
        data.write(batch).unwrap();
    }
    let mut batch = DataBatch::default();
    batch.put_version(table, b"a", Timestamp(1), Some("a".into()));
    batch.put_version(table, b"z", Timestamp(1), Some("z".into()));
    data.write(batch).unwrap();
}

/// How often RocksDB compared keys for this.
fn compared(work: impl FnOnce()) -> u64 {
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut context = PerfContext::default();
    context.reset();
    work();
    let count = context.metric(PerfMetric::UserKeyComparisonCount);
    set_perf_stats(PerfStatsLevel::Disable);
    count
}

/// The reads of one table, at the newest, the oldest and a timestamp in the middle.
fn costs(view: &DataView, (table, versions): (TableId, u64)) -> Vec<u64> {
    let mut costs = Vec::new();
    for at in [versions, versions / 2, 1] {
        costs.push(compared(|| {
            let found = view.get(table, b"hot", Timestamp(at)).unwrap();
            assert_eq!(found.map(|v| v.ts), Some(Timestamp(at)));
        }));
        for reverse in [false, true] {
            costs.push(compared(|| {
                let found = view.scan(table, &KeyRange::all(), Timestamp(at), reverse, 10, usize::MAX).unwrap();
                let mut stamps: Vec<u64> = found.rows.iter().map(|row| row.ts.0).collect();
                stamps.sort_unstable();
                assert_eq!(stamps, [1, 1, at]);
            }));
        }
    }
    costs
}

#[test]
fn a_key_with_many_versions_costs_what_one_with_few_does() {
    let machine = Machine::rocks();
    let store = machine.open();
    fill(&store.data, FEW);
    fill(&store.data, MANY);
    for place in ["memtable", "files"] {
        let view = store.data.view();
        let (few, many) = (costs(&view, FEW), costs(&view, MANY));
        println!("{place}: comparisons with {} versions {few:?}, with {} {many:?}", FEW.1, MANY.1);
        for (few, many) in few.iter().zip(&many) {
            // A seek among 100,000 takes a few more than one among ten; a walk would take 100,000.
            assert!(*many < few + 400, "{place}: {few} -> {many}");
        }
        store.data.flush().unwrap();
    }
}

/// Blocks that had to be read for this.
fn blocks_read(work: impl FnOnce()) -> u64 {
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut context = PerfContext::default();
    context.reset();
    work();
    let count = context.metric(PerfMetric::BlockReadCount);
    set_perf_stats(PerfStatsLevel::Disable);
    count
}

#[test]
fn large_scans_leave_the_cache_to_others() {
    const ROWS: u32 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let table = TableId(3);
    let options = || StoreOptions { block_cache_bytes: 64 << 20, ..small_options() };
    let mut batch = DataBatch::default();
    for n in 0..ROWS {
        batch.put_version(table, &n.to_be_bytes(), Timestamp(1), Some(vec![n as u8; 100].into()));
    }
    let store = Store::open(dir.path(), options()).unwrap();
    store.data.write(batch).unwrap();
    store.data.flush().unwrap();
    drop(store);

    let view = Store::open(dir.path(), options()).unwrap().data.view();
    let scan = |rows| {
        let found = view.scan(table, &KeyRange::all(), Timestamp::MAX, false, rows, usize::MAX).unwrap();
        assert_eq!(found.rows.len(), rows.min(ROWS as usize));
    };
    scan(usize::MAX);
    assert!(blocks_read(|| scan(100)) > 0, "a large scan keeps nothing");
    assert_eq!(blocks_read(|| scan(100)), 0, "a small one does");
}
