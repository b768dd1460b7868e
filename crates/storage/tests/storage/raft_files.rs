//! What the raft log leaves on a real disk: nothing that is acknowledged is missing from it, whichever file it is in;
//! log files are bounded; and what was purged in time was never written to a table file.

use crate::support::{append, crash, entry, indexes, open, small_options, try_open, waiter};
use bytes::Bytes;
use meridian_storage::{RaftLog, Store, StoreOptions};
use meridian_types::ShardId;
use std::path::Path;

const SHARD: ShardId = ShardId(1);

/// Bytes of the write-ahead log's files.
fn log_bytes(store: &Path) -> u64 {
    let files = std::fs::read_dir(store.join("raft")).unwrap().map(|file| file.unwrap());
    let logs = files.filter(|file| file.path().extension().is_some_and(|e| e == "log"));
    // A file that goes meanwhile has no size any more.
    logs.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

#[test]
fn one_sync_covers_everything_before_it_across_files_and_shards() {
    const SHARDS: u64 = 4;
    const APPENDS: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
    let store = open(&live);
    let logs: Vec<_> = (0..SHARDS).map(|s| store.raft.shard(ShardId(s))).collect();
    // Together several memtables, so that log files are switched while nothing has asked for a sync.
    let filler = Bytes::from(vec![7; 8 << 10]);
    for n in 0..APPENDS {
        for log in &logs {
            log.append(&[(2 * n, entry(2 * n)), (2 * n + 1, filler.clone())], Box::new(|_| {})).unwrap();
        }
    }
    let (done, durable) = waiter();
    logs[0].append(&[(2 * APPENDS, entry(2 * APPENDS))], done).unwrap();
    durable.recv().unwrap().unwrap();
    crash(&live, &copy);
    let found = open(&copy);
    for shard in 0..SHARDS {
        let log = found.raft.shard(ShardId(shard));
        let entries = log.read(0..u64::MAX, usize::MAX).unwrap();
        let expected = 2 * APPENDS + u64::from(shard == 0);
        assert_eq!(entries.iter().map(|(i, _)| *i).collect::<Vec<_>>(), (0..expected).collect::<Vec<_>>());
        assert!(entries.iter().all(|(i, e)| *e == if i % 2 == 0 { entry(*i) } else { filler.clone() }));
    }
}

#[test]
fn log_files_are_bounded_and_what_is_not_purged_stays_readable() {
    const BOUND: u64 = 2 << 20;
    const ENTRIES: u64 = 256;
    let dir = tempfile::tempdir().unwrap();
    let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
    // The memtable alone would never be flushed.
    let options = StoreOptions { raft_write_buffer_bytes: 256 << 20, raft_wal_bytes_max: BOUND, ..small_options() };
    let store = Store::open(&live, options).unwrap();
    let log = store.raft.shard(SHARD);
    let content = Bytes::from(vec![7; 64 << 10]);
    let mut next = 0;
    let mut put = || {
        let (done, durable) = waiter();
        log.append(&[(next, content.clone())], done).unwrap();
        durable.recv().unwrap().unwrap();
        next += 1;
        next
    };
    while put() < ENTRIES {}
    // It is a write that finds the bound exceeded, and a flush in the background that gets below it.
    while log_bytes(&live) > BOUND {
        assert!(put() < 20 * ENTRIES, "the log files have {} bytes", log_bytes(&live));
    }
    let last = put();
    crash(&live, &copy);
    let log = try_open(&copy).unwrap().raft.shard(SHARD);
    let found = log.read(0..u64::MAX, usize::MAX).unwrap();
    assert_eq!(found.iter().map(|(i, _)| *i).collect::<Vec<_>>(), (0..last).collect::<Vec<_>>());
    assert!(found.iter().all(|(_, e)| *e == content));
}

#[test]
fn most_of_a_log_that_is_purged_in_time_reaches_no_table_file() {
    const ENTRIES: u64 = 64 << 10;
    const APPEND: u64 = 32;
    const KEPT: u64 = 512;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.raft.shard(SHARD);
    let content = Bytes::from(vec![7; 256]);
    for first in (0..ENTRIES).step_by(APPEND as usize) {
        let entries: Vec<_> = (first..first + APPEND).map(|i| (i, content.clone())).collect();
        log.append(&entries, Box::new(|_| {})).unwrap();
        if first >= KEPT && first.is_multiple_of(256) {
            log.purge(first - KEPT, "id".into()).unwrap();
        }
    }
    append(&log, [ENTRIES]);
    let stats = store.raft.stats();
    let payload = ENTRIES * content.len() as u64;
    assert!(stats.user_bytes > payload && stats.log_bytes > payload, "{stats:?}");
    // Eight memtables' worth and more went in.
    assert!(stats.flushed_bytes > 0, "{stats:?}");
    assert!(stats.flushed_bytes + stats.compaction_written_bytes < stats.user_bytes / 2, "{stats:?}");
    assert!(stats.write_amplification() < 1.6, "{stats:?}");
}

#[test]
fn the_ends_of_a_log_are_the_same_whether_remembered_or_looked_up() {
    let dir = tempfile::tempdir().unwrap();
    let ends = |log: &RaftLog| (log.first_index().unwrap(), log.last_index().unwrap(), indexes(log));
    let remembered = {
        let store = open(dir.path());
        let log = store.raft.shard(SHARD);
        append(&log, 5..100);
        log.purge(30, "30".into()).unwrap();
        log.truncate_from(90).unwrap();
        append(&log, 90..95);
        // Another handle knows what this one did, and this one what the other does.
        let other = store.raft.shard(SHARD);
        assert_eq!((other.first_index().unwrap(), other.last_index().unwrap()), (Some(31), Some(94)));
        other.purge(40, "40".into()).unwrap();
        ends(&log)
    };
    assert_eq!(remembered, (Some(41), Some(94), (41..95).collect()));
    assert_eq!(ends(&open(dir.path()).raft.shard(SHARD)), remembered);
}
