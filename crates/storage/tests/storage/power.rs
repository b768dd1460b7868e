//! What a power loss and a killed process leave on the simulated disk, and what becomes of the handles.

use crate::support::{append, entry, indexes, quiet_disk, state, waiter};
use bytes::Bytes;
use meridian_storage::{DataBatch, SimDisk, SimDiskOptions, StorageError, Store};
use meridian_types::{KeyRange, RequestId, ShardId, TableId, Timestamp};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

const SHARD: ShardId = ShardId(4);
const TABLE: TableId = TableId(9);

fn open(disk: &SimDisk) -> Store {
    Store::open_simulated(disk, Arc::new(|e| panic!("not poisoned: {e}"))).unwrap()
}

/// Appends without ever being told of the result.
fn append_unsynced(store: &Store, indexes: impl IntoIterator<Item = u64>) {
    let log = store.raft.shard(SHARD);
    indexes.into_iter().for_each(|index| log.append(&[(index, entry(index))], waiter().0).unwrap());
}

/// Applies entry `n`: a version, a ledger record and the position.
fn apply(store: &Store, n: u64) {
    let mut batch = DataBatch::default();
    batch.put_version(TABLE, b"k", Timestamp(n), Some(n.to_string().into()));
    batch.put_ledger(SHARD, &id(n), b"r");
    batch.put_shard_state(SHARD, &state(n, n));
    store.data.write(batch).unwrap();
}

fn id(n: u64) -> RequestId {
    RequestId { time: Timestamp(n), client: 1, sequence: n }
}

/// The entry up to which everything is applied, the same in all families.
fn applied(store: &Store) -> u64 {
    let view = store.data.view();
    let position = view.shard_state(SHARD).unwrap().map_or(0, |s| s.last_ts);
    assert_eq!(view.newest_ts(TABLE, b"k").unwrap().map_or(0, |ts| ts.0), position);
    assert!(view.ledger(SHARD, &id(position)).unwrap().is_some() || position == 0);
    assert_eq!(view.ledger(SHARD, &id(position + 1)).unwrap(), None);
    position
}

#[test]
fn a_power_loss_keeps_the_synced_and_a_prefix_of_the_rest() {
    let mut lengths = BTreeSet::new();
    for seed in 0..200 {
        let disk = quiet_disk(seed);
        let store = open(&disk);
        append(&store.raft.shard(SHARD), 0..5);
        store.raft.shard(ShardId(5)).mark("m", Some("x".into())).unwrap();
        disk.stall_syncs(true);
        append_unsynced(&store, 5..10);
        assert!(disk.is_synced(SHARD, 4) && !disk.is_synced(SHARD, 5));
        assert_eq!((disk.synced_last_index(SHARD), disk.synced_entry(SHARD, 5)), (Some(4), None));
        disk.crash();
        disk.stall_syncs(false);
        let found = open(&disk);
        let left = indexes(&found.raft.shard(SHARD));
        assert_eq!(left, (0..left.len() as u64).collect::<Vec<_>>());
        assert_eq!(disk.stats().lost_raft_writes, 10 - left.len() as u64);
        // What was found is durable: the next power loss takes none of it.
        disk.crash();
        assert_eq!(indexes(&open(&disk).raft.shard(SHARD)), left);
        lengths.insert(left.len());
    }
    assert_eq!(lengths, (5..=10).collect());
}

#[test]
fn an_unsynced_truncation_leaves_nothing_certain_behind_it() {
    let disk = quiet_disk(1);
    let store = open(&disk);
    append(&store.raft.shard(SHARD), 0..10);
    store.raft.shard(SHARD).truncate_from(6).unwrap();
    disk.stall_syncs(true);
    append_unsynced(&store, 6..8);
    assert_eq!(disk.synced_last_index(SHARD), Some(5));
    assert!(disk.is_synced(SHARD, 5) && !disk.is_synced(SHARD, 6) && !disk.is_synced(SHARD, 9));
}

#[test]
fn a_killed_process_leaves_every_raft_write_but_not_yet_safe() {
    let mut lengths = BTreeSet::new();
    for seed in 0..100 {
        let disk = quiet_disk(seed);
        let store = open(&disk);
        (1..=3).for_each(|n| apply(&store, n));
        store.data.flush().unwrap();
        (4..=6).for_each(|n| apply(&store, n));
        disk.stall_syncs(true);
        append_unsynced(&store, 0..5);
        disk.kill();
        // The power goes before anybody has opened the log again, every other time.
        let power_too = seed % 2 == 1;
        if power_too {
            disk.crash();
        }
        let found = open(&disk);
        assert_eq!(applied(&found), 3);
        let left = indexes(&found.raft.shard(SHARD)).len();
        assert!(power_too || left == 5);
        // Recovery has written down what it found.
        disk.crash();
        assert_eq!(indexes(&open(&disk).raft.shard(SHARD)).len(), left);
        lengths.insert(left);
    }
    assert_eq!(lengths, (0..=5).collect());
}

#[test]
fn the_disk_flushes_by_itself_all_families_at_one_moment_and_that_counts() {
    let options = SimDiskOptions { flush_after_min: 3, flush_after_max: 9, ..SimDiskOptions::default() };
    let mut newest = BTreeSet::new();
    for seed in 0..100 {
        let disk = SimDisk::new(seed, options.clone());
        let store = open(&disk);
        apply(&store, 1);
        store.data.flush().unwrap();
        (2..=12).for_each(|n| apply(&store, n));
        assert!(disk.stats().own_flushes > 0);
        let durable = store.data.durable(SHARD).map(|s| s.last_ts);
        disk.crash();
        let found = open(&disk);
        assert!(applied(&found) >= 3, "every nine writes at the latest");
        assert_eq!(Some(applied(&found)), durable, "what was found on disk is what stays");
        assert_eq!(found.data.durable(SHARD).map(|s| s.last_ts), Some(applied(&found)));
        newest.insert(applied(&found));
    }
    assert!(newest.len() > 5, "{newest:?}");
}

#[tokio::test(start_paused = true)]
async fn handles_of_a_dead_process_do_nothing_and_report_no_success() {
    for kill in [false, true] {
        let disk = SimDisk::new(5, SimDiskOptions::default());
        let store = open(&disk);
        let (log, view) = (store.raft.shard(SHARD), store.data.view());
        let (done, pending) = waiter();
        log.append(&[(0, entry(0))], done).unwrap();
        // Under way when the machine stops, and queued behind it.
        tokio::task::yield_now().await;
        let (done, queued) = waiter();
        log.append(&[(1, entry(1))], done).unwrap();
        if kill {
            disk.kill()
        } else {
            disk.crash()
        }
        let new = open(&disk);
        let survived = indexes(&new.raft.shard(SHARD));

        let (done, refused) = waiter();
        assert!(log.append(&[(2, entry(2))], done).is_err() && refused.recv().unwrap().is_err());
        assert!(log.save_vote("v".into()).await.is_err() && log.vote().is_err());
        assert!(log.mark("m", Some("x".into())).is_err() && log.destroy().is_err());
        assert!(log.truncate_from(0).is_err() && log.purge(0, "p".into()).is_err());
        assert!(log.read(0..9, 9).is_err() && log.last_index().is_err() && store.raft.shards().is_err());
        let mut batch = DataBatch::default();
        batch.put_version(TABLE, b"k", Timestamp(1), None);
        assert!(store.data.write(batch).is_err() && store.data.flush().is_err());
        for view in [view, store.data.view()] {
            assert!(view.get(TABLE, b"k", Timestamp(1)).is_err() && view.shard_state(SHARD).is_err());
            assert!(view.scan(TABLE, &KeyRange::all(), Timestamp(1), true, 9, 9).is_err());
            assert!(view.build_snapshot(SHARD, TABLE, &KeyRange::all(), Path::new("/simulated/x")).is_err());
        }
        assert!(store.files().create_dir(Path::new("/simulated/x")).is_err());
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(pending.recv().unwrap().is_err() && queued.recv().unwrap().is_err());
        drop((store, log));
        assert_eq!(indexes(&new.raft.shard(SHARD)), survived, "nothing reached the new process");
        assert!(Store::open_simulated(&disk, Arc::new(|_| {})).is_err(), "it has the disk still");
    }
}

#[test]
fn one_process_at_a_time_has_the_disk() {
    let disk = quiet_disk(1);
    let store = open(&disk);
    let refused = Store::open_simulated(&disk, Arc::new(|_| {})).err().expect("refused");
    assert!(matches!(refused, StorageError::File { action: "lock", .. }), "{refused}");
    let view = store.data.view();
    drop(store);
    assert!(Store::open_simulated(&disk, Arc::new(|_| {})).is_err(), "a view keeps it open");
    drop(view);
    open(&disk);
}

#[tokio::test]
async fn files_need_a_folder_and_folders_a_synced_name() {
    let disk = quiet_disk(1);
    let store = open(&disk);
    let (files, dir) = (store.files(), store.snapshots_dir().join("d"));
    files.create_dir(&dir).unwrap();
    assert!(files.open(&dir.join("none")).await.is_err() && files.create(&dir.join("no/where")).await.is_err());
    files.create(&dir.join("f")).await.unwrap().finish().await.unwrap();
    files.sync_dir(&dir).unwrap();
    disk.kill();
    assert_eq!(disk.file_names(), [dir.join("f")], "a killed process loses no file");
    disk.crash();
    assert!(disk.file_names().is_empty(), "the folder's own name was never synced");
}

#[tokio::test]
async fn a_file_needs_its_content_and_its_name_synced() {
    let disk = quiet_disk(1);
    let store = open(&disk);
    let (files, dir) = (store.files(), store.snapshots_dir().join("d"));
    files.create_dir(&dir).unwrap();
    files.sync_dir(&store.snapshots_dir()).unwrap();
    let finished = ["a", "b", "late"];
    for name in ["a", "b", "open"] {
        let mut file = files.create(&dir.join(name)).await.unwrap();
        file.write(name.as_bytes()).await.unwrap();
        if finished.contains(&name) {
            file.finish().await.unwrap();
        }
    }
    files.sync_dir(&dir).unwrap();
    files.create(&dir.join("late")).await.unwrap().finish().await.unwrap();
    files.create(&dir.join("b")).await.unwrap().write(b"newer").await.unwrap();
    assert_eq!(disk.file(&dir.join("b")), Some(Bytes::from_static(b"newer")));
    disk.crash();
    assert_eq!(disk.file_names(), [dir.join("a"), dir.join("b")]);
    assert_eq!(disk.file(&dir.join("b")), Some(Bytes::from_static(b"b")), "the old content was synced");
}

/// A run with crashes whose trace shows everything that the disk drew.
fn trace(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let disk = SimDisk::new(seed, SimDiskOptions { flush_after_max: 60, ..SimDiskOptions::default() });
    runtime.block_on(async {
        let mut trace = Vec::new();
        let begun = tokio::time::Instant::now();
        for life in 0..5 {
            let store = open(&disk);
            let log = store.raft.shard(SHARD);
            trace.push(format!("{life} {:?} {:?} {}", store.identity(), indexes(&log), applied(&store)));
            let next = log.last_index().unwrap().map_or(0, |last| last + 1);
            for index in next..next + 20 {
                append_unsynced(&store, [index]);
                apply(&store, applied(&store) + 1);
                tokio::time::sleep(std::time::Duration::from_micros(300)).await;
            }
            log.save_vote(life.to_string().into()).await.unwrap();
            append_unsynced(&store, next + 20..next + 30);
            trace.push(format!("{:?} {:?}", begun.elapsed(), disk.stats()));
            disk.crash();
        }
        trace
    })
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}
