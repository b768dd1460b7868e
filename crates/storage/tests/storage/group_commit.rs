//! Group commit on the simulated disk: when callbacks are called, in which order, and what a stalled or failing
//! disk does to them.

use crate::support::{append, entry, indexes, waiter};
use meridian_storage::{RaftLog, SimDisk, SimDiskOptions, StorageError, Store};
use meridian_types::ShardId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SHARD: ShardId = ShardId(1);

/// Every sync takes this long.
const SYNC: Duration = Duration::from_millis(10);

fn disk() -> SimDisk {
    SimDisk::new(3, SimDiskOptions { sync_min: SYNC, sync_max: SYNC, ..SimDiskOptions::default() })
}

/// A store, and how often its fatal hook was called.
fn open(disk: &SimDisk) -> (Store, Arc<AtomicU64>) {
    let calls = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&calls);
    let hook = move |_: &StorageError| {
        theirs.fetch_add(1, Ordering::SeqCst);
    };
    (Store::open_simulated(disk, Arc::new(hook)).unwrap(), calls)
}

/// What callbacks said, in the order in which they were called.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Vec<(u64, bool)>>>);

impl Answers {
    /// Appends one entry; its index and whether it became durable turn up among the answers.
    fn append(&self, log: &RaftLog, index: u64) {
        let theirs = self.0.clone();
        let done = move |result: Result<(), _>| theirs.lock().unwrap().push((index, result.is_ok()));
        log.append(&[(index, entry(index))], Box::new(done)).unwrap();
    }

    fn take(&self) -> Vec<(u64, bool)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn all(indexes: impl IntoIterator<Item = u64>, ok: bool) -> Vec<(u64, bool)> {
    indexes.into_iter().map(|index| (index, ok)).collect()
}

#[tokio::test(start_paused = true)]
async fn what_gathers_during_a_sync_shares_the_next_one_and_completes_in_order() {
    let disk = disk();
    let (store, _) = open(&disk);
    let (log, answers) = (store.raft.shard(SHARD), Answers::default());
    (0..5).for_each(|index| answers.append(&log, index));
    tokio::time::sleep(SYNC / 2).await;
    (5..9).for_each(|index| answers.append(&log, index));
    tokio::time::sleep(SYNC / 4).await;
    assert_eq!((answers.take(), disk.is_synced(SHARD, 0)), (vec![], false), "nothing completes before a sync ends");
    tokio::time::sleep(SYNC / 2).await;
    assert_eq!(answers.take(), all(0..5, true));
    assert_eq!((disk.synced_last_index(SHARD), indexes(&log).len()), (Some(4), 9), "the sync began before the rest");
    tokio::time::sleep(SYNC).await;
    assert_eq!(answers.take(), all(5..9, true));
    assert_eq!(disk.synced_entry(SHARD, 8), Some(entry(8)));
    let stats = store.raft.sync_stats();
    assert_eq!((stats.syncs, stats.writes, stats.total, disk.stats().syncs), (2, 9, 2 * SYNC, 2));
}

#[tokio::test(start_paused = true)]
async fn votes_wait_for_the_disk_and_cover_what_was_appended_before() {
    let disk = disk();
    let (store, _) = open(&disk);
    let (log, answers) = (store.raft.shard(SHARD), Answers::default());
    answers.append(&log, 0);
    let begun = tokio::time::Instant::now();
    log.save_vote("v".into()).await.unwrap();
    assert!(begun.elapsed() >= SYNC);
    assert_eq!((answers.take(), disk.synced_vote(SHARD)), (all([0], true), Some("v".into())));
}

#[tokio::test(start_paused = true)]
async fn a_stalled_disk_completes_nothing_until_it_goes_on() {
    let disk = disk();
    let (store, _) = open(&disk);
    let (log, answers) = (store.raft.shard(SHARD), Answers::default());
    answers.append(&log, 0);
    disk.stall_syncs(true);
    answers.append(&log, 1);
    tokio::time::sleep(100 * SYNC).await;
    assert_eq!((answers.take(), indexes(&log), disk.synced_last_index(SHARD)), (vec![], vec![0, 1], None));
    disk.stall_syncs(false);
    tokio::time::sleep(2 * SYNC).await;
    assert_eq!((answers.take(), disk.synced_last_index(SHARD)), (all([0, 1], true), Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_poisons_the_store_until_the_machine_is_restarted() {
    let disk = disk();
    let (store, fatal) = open(&disk);
    let (log, answers) = (store.raft.shard(SHARD), Answers::default());
    append_async(&log, 0).await.unwrap();
    disk.fail_next_sync();
    (1..3).for_each(|index| answers.append(&log, index));
    tokio::time::sleep(2 * SYNC).await;
    assert_eq!((answers.take(), fatal.load(Ordering::SeqCst)), (all(1..3, false), 1));
    for _ in 0..2 {
        assert!(matches!(log.append(&[(3, entry(3))], waiter().0), Err(StorageError::Poisoned(_))));
        assert!(matches!(log.save_vote("v".into()).await, Err(StorageError::Poisoned(_))));
        assert!(matches!(log.mark("m", None), Err(StorageError::Poisoned(_))));
        assert!(matches!(log.read(0..9, 9), Err(StorageError::Poisoned(_))));
    }
    assert_eq!((fatal.load(Ordering::SeqCst), disk.synced_last_index(SHARD)), (1, Some(0)));

    disk.crash();
    let (store, _) = open(&disk);
    let log = store.raft.shard(SHARD);
    let next = log.last_index().unwrap().unwrap() + 1;
    append_async(&log, next).await.unwrap();
}

#[test]
fn what_a_failed_sync_left_unsynced_may_be_found_or_not() {
    let mut found = [0; 4];
    for seed in 0..64 {
        let disk = SimDisk::new(seed, SimDiskOptions::default());
        let (store, fatal) = open(&disk);
        let log = store.raft.shard(SHARD);
        disk.stall_syncs(true);
        (0..3).for_each(|index| log.append(&[(index, entry(index))], Box::new(|_| {})).unwrap());
        disk.fail_next_sync();
        assert!(matches!(log.mark("m", Some("x".into())), Err(StorageError::File { .. })));
        assert_eq!(fatal.load(Ordering::SeqCst), 1);
        // Also without a power loss: the system may have dropped what it could not write.
        if seed % 2 == 0 {
            disk.crash()
        } else {
            disk.kill()
        }
        let log = open(&disk).0.raft.shard(SHARD);
        let indexes = indexes(&log);
        assert_eq!(indexes, (0..indexes.len() as u64).collect::<Vec<_>>());
        found[indexes.len()] += 1;
    }
    assert!(found.iter().all(|n| *n > 0), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn blocking_calls_are_durable_at_once_and_complete_what_was_queued() {
    let disk = disk();
    let (store, _) = open(&disk);
    let (log, answers) = (store.raft.shard(SHARD), Answers::default());
    (0..3).for_each(|index| answers.append(&log, index));
    tokio::time::sleep(SYNC / 2).await;
    (3..5).for_each(|index| answers.append(&log, index));
    log.mark("m", Some("x".into())).unwrap();
    assert_eq!((answers.take(), disk.synced_last_index(SHARD)), (all(0..5, true), Some(4)));
    tokio::time::sleep(3 * SYNC).await;
    assert_eq!(answers.take(), [], "once each");
    // The queue goes on as before.
    answers.append(&log, 5);
    tokio::time::sleep(2 * SYNC).await;
    assert_eq!(answers.take(), all([5], true));
    log.destroy().unwrap();
    disk.crash();
    assert!(open(&disk).0.raft.shards().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn closing_completes_what_is_queued() {
    let disk = disk();
    let (store, _) = open(&disk);
    let (log, answers) = (store.raft.shard(SHARD), Answers::default());
    answers.append(&log, 0);
    tokio::time::sleep(SYNC / 2).await;
    answers.append(&log, 1);
    let closed = store.on_close();
    drop((store, log));
    assert_eq!((answers.take(), disk.synced_last_index(SHARD)), (all(0..2, true), Some(1)));
    closed.wait().await;
    let (store, _) = open(&disk);
    // Closed while the disk stands still: nobody is told of success.
    disk.stall_syncs(true);
    answers.append(&store.raft.shard(SHARD), 2);
    drop(store);
    assert_eq!((answers.take(), disk.synced_last_index(SHARD)), (all([2], false), Some(1)));
}

#[test]
fn without_a_runtime_a_write_is_synced_at_once() {
    let disk = disk();
    let (store, _) = open(&disk);
    append(&store.raft.shard(SHARD), 0..3);
    assert_eq!(disk.synced_last_index(SHARD), Some(2));
}

async fn append_async(log: &RaftLog, index: u64) -> Result<(), StorageError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    log.append(&[(index, entry(index))], Box::new(move |result| drop(sender.send(result))))?;
    receiver.await.unwrap()
}
