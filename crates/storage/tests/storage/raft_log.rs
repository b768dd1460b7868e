//! The raft log: what is appended, cut, purged and saved is what is found, per shard, now and after a restart.

use crate::support::{Machine, append, block_on, crash, entry, indexes, on_both_engines, open, waiter};
use bytes::Bytes;
use meridian_storage::StorageError;
use meridian_types::ShardId;
use std::sync::{Arc, Barrier, mpsc};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

on_both_engines!(
    appended_entries_are_readable_at_once_and_found_after_a_restart,
    a_read_returns_a_prefix_of_its_range_and_at_least_one_entry,
    cutting_the_tail_and_appending_again_leaves_only_the_new_entries,
    a_purge_removes_the_front_and_may_pass_the_end,
    votes_marks_and_committed_ids_are_found_again,
    a_saved_vote_covers_the_entries_appended_before_it,
    shards_do_not_see_each_other,
);

fn appended_entries_are_readable_at_once_and_found_after_a_restart(machine: Machine) {
    let store = machine.open();
    let log = store.raft.shard(A);
    assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (None, None));
    let (done, durable) = waiter();
    log.append(&[(0, entry(0)), (1, entry(1))], done).unwrap();
    assert_eq!(indexes(&log), [0, 1]);
    durable.recv().unwrap().unwrap();
    append(&log, 2..300);
    drop((store, log));
    let log = machine.open().raft.shard(A);
    assert_eq!(indexes(&log), (0..300).collect::<Vec<_>>());
    assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (Some(0), Some(299)));
}

fn a_read_returns_a_prefix_of_its_range_and_at_least_one_entry(machine: Machine) {
    let log = machine.open().raft.shard(A);
    append(&log, 10..20);
    let read = |range, bytes| log.read(range, bytes).unwrap().into_iter().map(|(i, _)| i).collect::<Vec<_>>();
    assert_eq!(read(12..15, usize::MAX), [12, 13, 14]);
    assert_eq!(read(12..15, 0), [12]);
    assert_eq!(read(12..20, 2 * entry(12).len()), [12, 13]);
    assert_eq!(read(12..20, 2 * entry(12).len() + 1), [12, 13]);
    assert_eq!(read(0..12, usize::MAX), [10, 11]);
    assert!(read(20..30, usize::MAX).is_empty() && read(15..15, usize::MAX).is_empty());
}

fn cutting_the_tail_and_appending_again_leaves_only_the_new_entries(machine: Machine) {
    // Few entries go one by one, many by a range deletion.
    for cut in [5, 200] {
        let machine = machine.another();
        let store = machine.open();
        let log = store.raft.shard(A);
        append(&log, 0..300);
        log.truncate_from(300 - cut).unwrap();
        assert_eq!(log.last_index().unwrap(), Some(299 - cut));
        log.truncate_from(1000).unwrap();
        let (done, durable) = waiter();
        log.append(&[(300 - cut, Bytes::from_static(b"new"))], done).unwrap();
        durable.recv().unwrap().unwrap();
        drop((store, log));
        let log = machine.open().raft.shard(A);
        let tail = log.read(299 - cut..1000, usize::MAX).unwrap();
        assert_eq!(tail, [(299 - cut, entry(299 - cut)), (300 - cut, Bytes::from_static(b"new"))]);
    }
}

fn a_purge_removes_the_front_and_may_pass_the_end(machine: Machine) {
    let store = machine.open();
    let log = store.raft.shard(A);
    append(&log, 0..100);
    log.purge(9, "id 9".into()).unwrap();
    assert_eq!((log.first_index().unwrap(), log.purged().unwrap()), (Some(10), Some("id 9".into())));
    log.purge(79, "id 79".into()).unwrap();
    assert_eq!(indexes(&log), (80..100).collect::<Vec<_>>());
    log.purge(500, "id 500".into()).unwrap();
    assert_eq!((log.last_index().unwrap(), log.purged().unwrap()), (None, Some("id 500".into())));
    log.purge(u64::MAX, "end".into()).unwrap();
    append(&log, 501..503);
    drop((store, log));
    let log = machine.open().raft.shard(A);
    assert_eq!((indexes(&log), log.purged().unwrap()), (vec![501, 502], Some("end".into())));
}

fn votes_marks_and_committed_ids_are_found_again(machine: Machine) {
    let store = machine.open();
    let log = store.raft.shard(A);
    assert_eq!((log.vote().unwrap(), log.committed().unwrap(), log.get_mark("m").unwrap()), (None, None, None));
    log.save_committed("c7".into()).unwrap();
    block_on(log.save_vote("v1".into())).unwrap();
    block_on(log.save_vote("v2".into())).unwrap();
    log.mark("m", Some("marked".into())).unwrap();
    log.mark("n", Some("gone".into())).unwrap();
    log.mark("n", None).unwrap();
    drop((store, log));
    let log = machine.open().raft.shard(A);
    assert_eq!((log.vote().unwrap(), log.committed().unwrap()), (Some("v2".into()), Some("c7".into())));
    assert_eq!((log.get_mark("m").unwrap(), log.get_mark("n").unwrap()), (Some("marked".into()), None));
}

fn a_saved_vote_covers_the_entries_appended_before_it(machine: Machine) {
    let log = machine.open().raft.shard(A);
    let (done, durable) = waiter();
    log.append(&[(0, entry(0))], done).unwrap();
    block_on(log.save_vote("v".into())).unwrap();
    // The append's callback was queued first, so it has been called.
    durable.try_recv().expect("called before the vote returned").unwrap();
}

fn shards_do_not_see_each_other(machine: Machine) {
    let store = machine.open();
    let (a, b, far) = (store.raft.shard(A), store.raft.shard(B), store.raft.shard(ShardId(u64::MAX)));
    append(&a, 0..50);
    append(&b, 7..9);
    block_on(b.save_vote("b votes".into())).unwrap();
    far.mark("m", Some("x".into())).unwrap();
    assert_eq!(store.raft.shards().unwrap(), [A, B, ShardId(u64::MAX)]);
    a.purge(u64::MAX, "all".into()).unwrap();
    b.truncate_from(8).unwrap();
    assert_eq!((indexes(&a), indexes(&b), a.vote().unwrap()), (vec![], vec![7], None));
    a.destroy().unwrap();
    assert_eq!((a.purged().unwrap(), indexes(&b), b.vote().unwrap()), (None, vec![7], Some("b votes".into())));
    drop((store, a, b, far));
    assert_eq!(machine.open().raft.shards().unwrap(), [B, ShardId(u64::MAX)]);
}

#[test]
fn many_shards_share_syncs_and_each_completes_in_order() {
    const WRITERS: u64 = 16;
    const APPENDS: u64 = 100;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let together = Arc::new(Barrier::new(WRITERS as usize));
    let (done, completed) = mpsc::channel();
    std::thread::scope(|threads| {
        for shard in 0..WRITERS {
            let (log, together, done) = (store.raft.shard(ShardId(shard)), Arc::clone(&together), done.clone());
            threads.spawn(move || {
                together.wait();
                for index in 0..APPENDS {
                    let done = done.clone();
                    let tell = move |result: Result<(), _>| done.send((shard, index, result.is_ok())).unwrap();
                    log.append(&[(index, entry(index))], Box::new(tell)).unwrap();
                }
            });
        }
    });
    let mut next = [0; WRITERS as usize];
    for _ in 0..WRITERS * APPENDS {
        let (shard, index, ok) = completed.recv().unwrap();
        assert!(ok);
        assert_eq!(index, next[shard as usize], "callbacks of shard {shard} come in order");
        next[shard as usize] += 1;
    }
    let stats = store.raft.sync_stats();
    assert_eq!(stats.writes, WRITERS * APPENDS);
    assert!(stats.syncs * 2 < stats.writes, "{} syncs for {} appends", stats.syncs, stats.writes);
    assert!(stats.last > std::time::Duration::ZERO && stats.mean() <= stats.total);
}

#[test]
fn a_damaged_log_file_is_reported_and_never_read_as_data() {
    let dir = tempfile::tempdir().unwrap();
    let needle = b"a rather unmistakable entry";
    {
        let store = open(&dir.path().join("live"));
        let log = store.raft.shard(A);
        let entries: Vec<_> = (0..100).map(|i| (i, Bytes::from_static(needle))).collect();
        let (done, durable) = waiter();
        log.append(&entries, done).unwrap();
        durable.recv().unwrap().unwrap();
        append(&log, 100..200);
        // Crash and damage: a bit of a synced entry, in the middle of the write-ahead log.
        crash(&dir.path().join("live"), &dir.path().join("copy"));
    }
    let copy = dir.path().join("copy");
    let damaged = std::fs::read_dir(copy.join("raft")).unwrap().any(|file| {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|e| e != "log") {
            return false;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let Some(at) = bytes.windows(needle.len()).position(|w| w == needle) else { return false };
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
        true
    });
    assert!(damaged, "found the entry in the write-ahead log");
    let refused = crate::support::try_open(&copy).err().expect("refused");
    assert!(matches!(refused, StorageError::Corrupt { .. }), "{refused}");
}
