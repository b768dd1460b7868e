//! What a point read touches, by RocksDB's own count.

use crate::support::open;
use meridian_storage::{DataBatch, DataStore, DataView};
use meridian_types::{TableId, Timestamp};
use rocksdb::{PerfContext, PerfMetric, PerfStatsLevel, perf};

const TABLE: TableId = TableId(1);

/// Files, each with rows of its own: all of them overlap.
const FILES: u64 = 3;

/// Rows of a file.
const ROWS: u64 = 2_000;

fn key(file: u64, row: u64) -> String {
    format!("key-{row:06}-{file}")
}

/// Tables files without a memtable before them.
fn fill(data: &DataStore) {
    for file in 0..FILES {
        let mut batch = DataBatch::default();
        for row in 0..ROWS {
            batch.put_version(TABLE, key(file, row).as_bytes(), Timestamp(1 + file), Some(vec![7; 100].into()));
        }
        data.write(batch).unwrap();
        data.flush().unwrap();
    }
}

/// How many of the reads found a version, and what they touched: blocks of rows, and filters that said no.
fn touched(data: &DataStore, view: &DataView, keys: impl Iterator<Item = String>) -> (u64, u64, u64) {
    let blocks = || {
        let stats = data.stats();
        stats.block_hits + stats.block_misses
    };
    let mut context = PerfContext::default();
    context.reset();
    let before = blocks();
    let mut found = 0;
    for key in keys {
        found += u64::from(view.get(TABLE, key.as_bytes(), Timestamp::MAX).unwrap().is_some());
    }
    (found, blocks() - before, context.metric(PerfMetric::BloomSstMissCount))
}

#[test]
fn a_point_read_touches_one_block_and_none_if_the_key_is_absent() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path()).data;
    fill(&data);
    let view = data.view();
    perf::set_perf_stats(PerfStatsLevel::EnableCount);
    let (found, blocks, refused) = touched(&data, &view, (0..ROWS).map(|row| key(row % FILES, row)));
    // Every hundredth look at a file that does not have the key is a filter's mistake.
    let mistakes = FILES * ROWS / 25;
    assert_eq!(found, ROWS);
    assert!((ROWS..ROWS + mistakes).contains(&blocks), "{blocks} blocks for {ROWS} reads");
    assert!(refused > (FILES - 1) * ROWS - mistakes, "{refused} files passed over");
    let (found, blocks, refused) = touched(&data, &view, (0..ROWS).map(|row| key(FILES, row)));
    assert_eq!(found, 0);
    assert!(blocks < mistakes, "{blocks} blocks for {ROWS} reads of nothing");
    assert!(refused > FILES * ROWS - mistakes, "{refused} files passed over");
    perf::set_perf_stats(PerfStatsLevel::Disable);
}

#[test]
fn a_key_with_a_hundred_thousand_versions_costs_one_block_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path()).data;
    let mut batch = DataBatch::default();
    (0..100_000).for_each(|ts| batch.put_version(TABLE, b"hot", Timestamp(ts), Some("value".into())));
    data.write(batch).unwrap();
    data.flush().unwrap();
    // The first read finds the newest version too, to remember it.
    for most in [3, 2] {
        let before = data.stats();
        let found = data.view().get(TABLE, b"hot", Timestamp(50_000)).unwrap().unwrap();
        let after = data.stats();
        assert_eq!(found.ts, Timestamp(50_000));
        let blocks = after.block_hits + after.block_misses - before.block_hits - before.block_misses;
        assert!((1..=most).contains(&blocks), "{blocks} blocks, at most {most} expected");
    }
}
