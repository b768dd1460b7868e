//! The disk itself: what survives, what fails, and how a test looks at it.

use super::files::FileTree;
use super::instance::Instance;
use crate::{DiskSpace, StorageError, StoreName};
use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Where the simulated data directory seems to be.
pub(crate) const DIR: &str = "/simulated";

/// How the disk behaves. All ranges include their ends.
#[derive(Clone, Debug)]
pub struct SimDiskOptions {
    /// The shortest sync of the raft log.
    pub sync_min: Duration,
    /// The longest. With zero a sync is done within the call that asks for it.
    pub sync_max: Duration,
    /// The smallest number of writes to `data/` after which the disk flushes it by itself.
    pub flush_after_min: u64,
    /// The largest; zero: it never does.
    pub flush_after_max: u64,
    /// Size at which a snapshot's next file is begun: small, so that small shards have snapshots of many files.
    pub snapshot_file_bytes: u64,
}

impl Default for SimDiskOptions {
    fn default() -> Self {
        Self {
            sync_min: Duration::from_micros(200),
            sync_max: Duration::from_millis(4),
            flush_after_min: 50,
            flush_after_max: 2000,
            snapshot_file_bytes: 4 << 10,
        }
    }
}

/// A compaction happens at one of so many writes to `data/` and flushes of it.
const COMPACT_ONE_IN: u32 = 16;
/// One of so many takes all there is.
const COMPACT_WHOLE_ONE_IN: u32 = 4;

/// What a compaction takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compaction {
    /// Everything that is durable.
    pub(crate) whole: bool,
    /// If not: the seed of the choice.
    pub(super) choice: u64,
}

impl Compaction {
    /// Of everything.
    pub(crate) const WHOLE: Self = Self { whole: true, choice: 0 };
}

/// What has happened to the disk since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimDiskStats {
    /// Syncs of the raft log that succeeded, those of blocking calls included.
    pub syncs: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Batches written to `raft/`.
    pub raft_writes: u64,
    /// Batches written to `data/`.
    pub data_writes: u64,
    /// Flushes of `data/` that were asked for.
    pub flushes: u64,
    /// Flushes that the disk made by itself.
    pub own_flushes: u64,
    /// Compactions of `data/`.
    pub compactions: u64,
    /// Power losses.
    pub crashes: u64,
    /// Deaths of the process alone.
    pub kills: u64,
    /// Unsynced raft batches that a crash has taken.
    pub lost_raft_writes: u64,
    /// Unflushed data batches that a crash or a kill has taken.
    pub lost_data_writes: u64,
}

/// A simulated disk. Clones are handles of the same disk, held by a test and by the stores open on it.
#[derive(Clone)]
pub struct SimDisk {
    disk: Arc<Mutex<Disk>>,
    stalled: Arc<watch::Sender<bool>>,
    space: DiskSpace,
}

/// Everything behind the handle.
pub(crate) struct Disk {
    rng: ChaCha8Rng,
    /// Of compactions, apart from all else.
    compactions: ChaCha8Rng,
    options: SimDiskOptions,
    /// Raised by every crash: handles of an earlier generation are dead.
    generation: u64,
    raft: Instance,
    data: Instance,
    open: [bool; 2],
    pub(super) files: FileTree,
    fail_next_sync: bool,
    /// Whether a sync has failed since the raft store was opened: the system may have dropped what it held.
    sync_failed: bool,
    /// Writes to `data/` until the disk flushes by itself.
    until_flush: u64,
    stats: SimDiskStats,
}

impl SimDisk {
    /// An empty disk. The same seed, options and calls give the same behaviour.
    pub fn new(seed: u64, options: SimDiskOptions) -> Self {
        let mut disk = Disk {
            rng: ChaCha8Rng::seed_from_u64(seed),
            compactions: ChaCha8Rng::seed_from_u64(seed ^ 0x636f_6d70_6163_7400),
            options,
            generation: 0,
            raft: Instance::default(),
            data: Instance::default(),
            open: [false; 2],
            files: FileTree::new(Path::new(DIR)),
            fail_next_sync: false,
            sync_failed: false,
            until_flush: 0,
            stats: SimDiskStats::default(),
        };
        disk.draw_flush();
        let stalled = Arc::new(watch::Sender::new(false));
        Self { disk: Arc::new(Mutex::new(disk)), stalled, space: DiskSpace::simulated() }
    }

    /// The machine loses power: of `raft/` everything synced survives and a random prefix of the rest, of `data/`
    /// what was flushed, of files what was synced. Handles opened before are dead from now on.
    pub fn crash(&self) {
        let mut disk = self.lock();
        let survivors = disk.draw_prefix();
        disk.lose_raft(survivors);
        disk.lose_data();
        disk.files.crash();
        disk.end_generation();
        disk.stats.crashes += 1;
    }

    /// The process dies, the system lives: of `raft/` and of files everything survives, though still unsynced, of
    /// `data/` what was flushed. After a failed sync the system may have dropped a part of what was unsynced.
    /// Handles opened before are dead from now on.
    pub fn kill(&self) {
        let mut disk = self.lock();
        if disk.sync_failed {
            let survivors = disk.draw_prefix();
            disk.lose_raft(survivors);
        }
        disk.lose_data();
        disk.end_generation();
        disk.stats.kills += 1;
    }

    /// While stalled no queued sync completes. Calls that block for the disk cannot wait in a simulation and are
    /// not held up.
    pub fn stall_syncs(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// Lets the next sync of the raft log fail, which poisons the store that asked for it.
    pub fn fail_next_sync(&self) {
        self.lock().fail_next_sync = true;
    }

    /// Its room: how full it is, a test decides. It stays so when the machine goes down.
    pub fn space(&self) -> &DiskSpace {
        &self.space
    }

    /// What has happened so far.
    pub fn stats(&self) -> SimDiskStats {
        self.lock().stats
    }

    /// The files on the disk, in order of their paths.
    pub fn file_names(&self) -> Vec<PathBuf> {
        self.lock().files.names()
    }

    /// Content of a file, as the running system sees it.
    pub fn file(&self, path: &Path) -> Option<Bytes> {
        self.lock().files.content(path)
    }

    /// Replaces the content of a file, durably, past every handle: damage, for tests. `None` removes it.
    pub fn tamper(&self, path: &Path, content: Option<Bytes>) {
        self.lock().files.tamper(path, content);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk, if the handle of this generation is still alive.
    pub(super) fn alive(&self, generation: u64) -> Result<MutexGuard<'_, Disk>, StorageError> {
        let disk = self.lock();
        if disk.generation == generation { Ok(disk) } else { Err(dead()) }
    }

    pub(crate) fn stalled(&self) -> watch::Receiver<bool> {
        self.stalled.subscribe()
    }

    /// A random number for the identity.
    pub(crate) fn draw_incarnation(&self) -> u64 {
        self.lock().rng.random()
    }

    /// Whether syncs take no time.
    pub(crate) fn syncs_at_once(&self) -> bool {
        self.lock().options.sync_max.is_zero()
    }

    /// Size of a snapshot's files.
    pub(crate) fn snapshot_file_bytes(&self) -> u64 {
        self.lock().options.snapshot_file_bytes
    }

    /// How long the next sync takes.
    pub(crate) fn draw_sync(&self) -> Duration {
        let mut disk = self.lock();
        let (min, max) = (disk.options.sync_min, disk.options.sync_max);
        if max.is_zero() {
            return Duration::ZERO;
        }
        disk.rng.random_range(min.min(max)..=max)
    }
}

impl Disk {
    pub(crate) fn instance(&mut self, store: StoreName) -> &mut Instance {
        match store {
            StoreName::Raft => &mut self.raft,
            StoreName::Data => &mut self.data,
        }
    }

    /// Opens one store; returns the generation of its handle. What is found is durable: recovery writes it anew.
    pub(super) fn open(&mut self, store: StoreName) -> Result<u64, StorageError> {
        if std::mem::replace(&mut self.open[store as usize], true) {
            return Err(failed("lock", store, std::io::ErrorKind::WouldBlock, "the store is open already"));
        }
        if store == StoreName::Raft {
            self.raft.settle_all();
            self.sync_failed = false;
        }
        Ok(self.generation)
    }

    /// Closes it in good order, which flushes the data.
    pub(super) fn close(&mut self, store: StoreName) {
        self.open[store as usize] = false;
        if store == StoreName::Data {
            self.data.settle_all();
        }
    }

    pub(super) fn write(&mut self, store: StoreName, batch: Vec<super::Change>) {
        match store {
            StoreName::Raft => {
                self.raft.write(batch);
                self.stats.raft_writes += 1;
            }
            StoreName::Data => {
                self.data.write(batch);
                self.stats.data_writes += 1;
                self.until_flush = self.until_flush.saturating_sub(1);
                if self.until_flush == 0 {
                    self.data.settle_all();
                    self.stats.own_flushes += 1;
                    self.draw_flush();
                }
            }
        }
    }

    /// Syncs what was written to the raft log up to this count.
    pub(super) fn sync(&mut self, upto: u64) -> Result<(), StorageError> {
        if std::mem::take(&mut self.fail_next_sync) {
            self.sync_failed = true;
            self.stats.failed_syncs += 1;
            return Err(failed("sync", StoreName::Raft, std::io::ErrorKind::Other, "the simulated disk failed"));
        }
        self.raft.settle(upto);
        self.stats.syncs += 1;
        Ok(())
    }

    pub(super) fn flush(&mut self, store: StoreName) {
        self.instance(store).settle_all();
        if store == StoreName::Data {
            self.stats.flushes += 1;
        }
    }

    pub(super) fn draw_compaction(&mut self) -> Option<Compaction> {
        let rng = &mut self.compactions;
        if !rng.random_ratio(1, COMPACT_ONE_IN) {
            return None;
        }
        self.stats.compactions += 1;
        Some(Compaction { whole: rng.random_ratio(1, COMPACT_WHOLE_ONE_IN), choice: rng.random() })
    }

    fn draw_flush(&mut self) {
        let (min, max) = (self.options.flush_after_min, self.options.flush_after_max);
        self.until_flush = if max == 0 { u64::MAX } else { self.rng.random_range(min.clamp(1, max)..=max) };
    }

    /// How many of the unsynced batches a power loss spares.
    fn draw_prefix(&mut self) -> usize {
        self.rng.random_range(0..=self.raft.pending())
    }

    fn lose_raft(&mut self, survivors: usize) {
        self.stats.lost_raft_writes += self.raft.lose(survivors) as u64;
    }

    fn lose_data(&mut self) {
        self.stats.lost_data_writes += self.data.lose(0) as u64;
    }

    fn end_generation(&mut self) {
        self.generation += 1;
        self.open = [false; 2];
        self.fail_next_sync = false;
        self.sync_failed = false;
    }
}

/// What a handle of an earlier generation answers.
pub(super) fn dead() -> StorageError {
    let gone = std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the process that opened it is dead");
    StorageError::file("use", Path::new(DIR))(gone)
}

fn failed(action: &'static str, store: StoreName, kind: std::io::ErrorKind, why: &'static str) -> StorageError {
    StorageError::file(action, &Path::new(DIR).join(store.folder()))(std::io::Error::new(kind, why))
}
