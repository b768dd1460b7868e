//! A disk that fills up, on small file systems of the tests' own, below both stores and below each of them: writes are
//! refused before the log fails, reads go on, and writes come back by themselves when there is room. What was
//! acknowledged is all there at the end.

use crate::mounts::{SmallDisk, may_mount};
use crate::support::{small_options, state, waiter};
use bytes::Bytes;
use meridian_storage::{DataBatch, DiskLevel, RaftLog, StorageError, Store, StoreName, StoreOptions};
use meridian_types::{ShardId, TableId, Timestamp};
use std::path::Path;
use std::time::Duration;

const SHARD: ShardId = ShardId(3);
const TABLE: TableId = TableId(1);
const SMALL_MIB: u64 = 64;
const LARGE_MIB: u64 = 1024;
const RESERVE: u64 = 24 << 20;
/// Bytes of an entry, and of the value that it becomes.
const VALUE: usize = 32 << 10;
/// Entries between two flushes.
const FLUSH_EVERY: u64 = 64;
/// How long RocksDB may take to notice room; it looks every five seconds.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);

/// An entry's content: random, so that it takes the same room when it is compressed.
fn content(index: u64) -> Bytes {
    let mut x = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    std::iter::repeat_with(next).take(VALUE).collect::<Vec<_>>().into()
}

/// A node that writes: appends an entry, waits until it is synced, applies it.
struct Node {
    store: Store,
    log: RaftLog,
    /// The next index: everything below was acknowledged.
    next: u64,
}

impl Node {
    fn open(dir: &Path, next: u64) -> Self {
        let fatal = |e: &StorageError| panic!("the raft log failed: {e}");
        let options =
            StoreOptions { disk_reserve_bytes: Some(RESERVE), on_fatal: std::sync::Arc::new(fatal), ..small_options() };
        let store = Store::open(dir, options).unwrap();
        let log = store.raft.shard(SHARD);
        Self { store, log, next }
    }

    fn batch(index: u64) -> DataBatch {
        let mut batch = DataBatch::default();
        batch.put_version(TABLE, &index.to_be_bytes(), Timestamp(index + 1), Some(content(index)));
        batch.put_shard_state(SHARD, &state(index, index + 1));
        batch
    }

    /// Writes one entry if the disk has room for it, as a leader does.
    fn write(&mut self) -> bool {
        if self.store.space().check(DiskLevel::Enough).is_err() {
            return false;
        }
        let (done, synced) = waiter();
        self.store.space().wrote(VALUE as u64);
        self.log.append(&[(self.next, content(self.next))], done).unwrap();
        synced.recv().unwrap().unwrap();
        self.apply(self.next);
        self.next += 1;
        if self.next.is_multiple_of(FLUSH_EVERY) {
            self.store.data.flush().unwrap();
        }
        true
    }

    /// Applies one entry; waits for room as a replica does.
    fn apply(&self, index: u64) {
        let batch = Self::batch(index);
        eventually("the data takes writes", || match self.store.data.write_ref(&batch) {
            Ok(()) => true,
            Err(e) => {
                assert!(e.is_no_space(), "{e}");
                false
            }
        });
    }

    /// Everything acknowledged can be read, from the log and from the data.
    fn check(&self) {
        let view = self.store.data.view();
        for index in 0..self.next {
            let entry = self.log.read(index..index + 1, usize::MAX).unwrap();
            assert_eq!(entry, [(index, content(index))]);
            let found = view.get(TABLE, &index.to_be_bytes(), Timestamp::MAX).unwrap();
            assert_eq!(found.and_then(|v| v.value), Some(content(index)), "value {index}");
        }
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looks = PATIENCE.as_millis() / LOOK.as_millis();
    for _ in 0..looks {
        if holds() {
            return;
        }
        std::thread::sleep(LOOK);
    }
    panic!("waited {PATIENCE:?} until {what}");
}

/// Puts the folder of one store onto a disk of its own.
fn move_to(disk: &SmallDisk, at: &Path, dir: &Path, store: StoreName) {
    let (from, to) = (dir.join(store.folder()), at.join(store.folder()));
    std::fs::create_dir(&to).unwrap();
    for file in std::fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    std::fs::remove_dir_all(&from).unwrap();
    std::os::unix::fs::symlink(&to, &from).unwrap();
    assert!(disk.free() > 0);
}

/// `small` is below `only`, or below everything.
fn fills_up(only: Option<StoreName>) {
    let home = tempfile::tempdir().unwrap();
    let (large, small) = (home.path().join("large"), home.path().join("small"));
    let _large_disk = SmallDisk::mount(&large, LARGE_MIB);
    let disk = SmallDisk::mount(&small, SMALL_MIB);
    let dir = match only {
        None => small.clone(),
        Some(store) => {
            drop(Node::open(&large, 0));
            move_to(&disk, &small, &large, store);
            large.clone()
        }
    };
    let mut node = Node::open(&dir, 0);

    // Until refused: there is room below the reserve then, because levels begin before the disk is full.
    while node.write() {
        assert!(node.next < 1 << 20, "the small disk never fills up");
    }
    let refused = node.store.space().check(DiskLevel::Enough).unwrap_err();
    assert!(node.next > 100, "only {} entries fit", node.next);
    assert!(refused.free < RESERVE && refused.free > RESERVE / 4, "{refused}");
    node.check();

    // Another program takes the rest. Reads go on; the flush finds no room, and says so.
    disk.fill(0);
    assert_eq!(node.store.space().look().unwrap(), DiskLevel::Critical);
    node.check();
    if only != Some(StoreName::Raft) {
        node.flush_in_vain(&disk);
        node.check();
    }

    // Room again: everything goes on by itself, in the same process.
    disk.relieve();
    disk.resize(4 * SMALL_MIB);
    // Not before RocksDB has noticed: a write that came too early would be refused, and the log's ends the process.
    eventually("writes come back", || node.store.space().look().unwrap() == DiskLevel::Enough);
    node.store.data.flush().unwrap();
    let before = node.next;
    while node.next < before + 2 * FLUSH_EVERY {
        assert!(node.write());
    }
    node.check();

    // And once more across a restart on a full disk, without a flush in between.
    disk.fill(0);
    let next = node.next;
    drop(node);
    disk.relieve();
    Node::open(&dir, next).check_after_replay();
}

impl Node {
    /// Applies, and flushes, until a flush finds no room. Compactions give some back now and then.
    fn flush_in_vain(&self, disk: &SmallDisk) {
        for index in self.next..self.next + 100 {
            self.apply(index);
            disk.fill(0);
            let durable = self.store.data.durable(SHARD);
            if let Err(error) = self.store.data.flush() {
                assert!(error.is_no_space(), "{error}");
                assert_eq!(self.store.data.durable(SHARD), durable, "nothing was made durable");
                return;
            }
        }
        panic!("every flush found room on a full disk");
    }

    /// What a node finds after its process has died: the log has everything, and the data what was flushed.
    fn check_after_replay(mut self) {
        let durable =
            self.store.data.view().shard_state(SHARD).unwrap().and_then(|s| s.applied).map_or(0, |a| a.index + 1);
        for index in durable..self.next {
            self.apply(index);
        }
        self.check();
        assert!(self.write());
        self.check();
    }
}

#[test]
fn a_full_disk_below_both_stores() {
    if may_mount("full_disk::a_full_disk_below_both_stores") {
        fills_up(None);
    }
}

#[test]
fn a_full_disk_below_the_log() {
    if may_mount("full_disk::a_full_disk_below_the_log") {
        fills_up(Some(StoreName::Raft));
    }
}

#[test]
fn a_full_disk_below_the_data() {
    if may_mount("full_disk::a_full_disk_below_the_data") {
        fills_up(Some(StoreName::Data));
    }
}
