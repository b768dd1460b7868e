//! What the tests share: small stores on either engine, and crashes.

pub(crate) use crate::crash::crash;
use bytes::Bytes;
use meridian_proto::internal::v1::{LeaderId, LogId, ShardState};
use meridian_storage::{RaftLog, SimDisk, SimDiskOptions, StorageError, Store, StoreOptions, SyncDone};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tempfile::TempDir;

/// A machine with one data directory: what the engines have in common, as a test sees it.
pub(crate) enum Machine {
    /// RocksDB. A crash copies the directory as it is and goes on with the copy.
    Rocks { dir: TempDir, life: u32 },
    /// The disk in memory.
    Simulated(SimDisk),
}

impl Machine {
    pub(crate) fn rocks() -> Self {
        Self::Rocks { dir: tempfile::tempdir().unwrap(), life: 0 }
    }

    /// Its syncs take no time and it flushes only when it is told to, as a small store on RocksDB does.
    pub(crate) fn simulated() -> Self {
        Self::Simulated(quiet_disk(7))
    }

    /// Another machine of the same kind.
    pub(crate) fn another(&self) -> Self {
        match self {
            Self::Rocks { .. } => Self::rocks(),
            Self::Simulated(_) => Self::simulated(),
        }
    }

    pub(crate) fn open(&self) -> Store {
        self.try_open().unwrap()
    }

    pub(crate) fn try_open(&self) -> Result<Store, StorageError> {
        match self {
            Self::Rocks { dir, life } => try_open(&dir.path().join(life.to_string())),
            Self::Simulated(disk) => Store::open_simulated(disk, Arc::new(|_| {})),
        }
    }

    /// The machine stops here; returns what is found afterwards.
    pub(crate) fn crash(&mut self) -> Store {
        match self {
            Self::Rocks { dir, life } => {
                crash(&dir.path().join(life.to_string()), &dir.path().join((*life + 1).to_string()));
                *life += 1;
            }
            Self::Simulated(disk) => disk.crash(),
        }
        self.open()
    }

    /// Content of a file in the data directory.
    pub(crate) fn read(&self, path: &Path) -> Bytes {
        match self {
            Self::Rocks { .. } => std::fs::read(path).unwrap().into(),
            Self::Simulated(disk) => disk.file(path).unwrap(),
        }
    }

    /// Replaces a file in the data directory; `None` removes it.
    pub(crate) fn tamper(&self, path: &Path, content: Option<Bytes>) {
        match (self, content) {
            (Self::Simulated(disk), content) => disk.tamper(path, content),
            (Self::Rocks { .. }, Some(content)) => std::fs::write(path, content).unwrap(),
            (Self::Rocks { .. }, None) => std::fs::remove_file(path).unwrap(),
        }
    }
}

/// Declares, for functions that take a [`Machine`], one test on RocksDB and one on the simulated disk.
macro_rules! on_both_engines {
    ($($name:ident),* $(,)?) => {
        mod rocks {
            $(#[test] fn $name() { super::$name($crate::support::Machine::rocks()); })*
        }
        mod simulated {
            $(#[test] fn $name() { super::$name($crate::support::Machine::simulated()); })*
        }
    };
}
pub(crate) use on_both_engines;

/// A simulated disk whose syncs take no time and that flushes only when it is told to.
pub(crate) fn quiet_disk(seed: u64) -> SimDisk {
    let (sync_min, sync_max) = (Duration::ZERO, Duration::ZERO);
    let (flush_after_min, flush_after_max) = (0, 0);
    SimDisk::new(
        seed,
        SimDiskOptions { sync_min, sync_max, flush_after_min, flush_after_max, ..SimDiskOptions::default() },
    )
}

/// Runs a future on a runtime of its own, on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A store on RocksDB with small buffers whose fatal hook leaves the process alive.
pub(crate) fn open(dir: &Path) -> Store {
    try_open(dir).unwrap()
}

pub(crate) fn try_open(dir: &Path) -> Result<Store, StorageError> {
    Store::open(dir, small_options())
}

pub(crate) fn small_options() -> StoreOptions {
    StoreOptions {
        raft_write_buffer_bytes: 1 << 20,
        data_write_buffer_bytes: 1 << 20,
        block_cache_bytes: 4 << 20,
        on_fatal: Arc::new(|_| {}),
        ..StoreOptions::default()
    }
}

/// A callback, and where its result arrives.
pub(crate) fn waiter() -> (SyncDone, mpsc::Receiver<Result<(), StorageError>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

/// Appends entries whose content names their index, and waits until they are durable.
pub(crate) fn append(log: &RaftLog, indexes: impl IntoIterator<Item = u64>) {
    let entries: Vec<_> = indexes.into_iter().map(|i| (i, entry(i))).collect();
    let (done, durable) = waiter();
    log.append(&entries, done).unwrap();
    durable.recv().unwrap().unwrap();
}

pub(crate) fn entry(index: u64) -> Bytes {
    format!("entry {index}").into()
}

/// Indexes of the readable entries, whose contents are checked.
pub(crate) fn indexes(log: &RaftLog) -> Vec<u64> {
    let entries = log.read(0..u64::MAX, usize::MAX).unwrap();
    entries.into_iter().map(|(i, e)| (e == entry(i)).then_some(i).expect("the entry's own content")).collect()
}

pub(crate) fn state(index: u64, last_ts: u64) -> ShardState {
    let applied = LogId { leader: Some(LeaderId { term: 1, node: 1 }), index };
    ShardState { applied: Some(applied), last_ts, ..ShardState::default() }
}

/// Sends the files of a snapshot from one store to another as nodes do, piece by piece.
pub(crate) fn ship(from: (&Store, &Path), to: (&Store, &Path), names: impl IntoIterator<Item = impl AsRef<Path>>) {
    const CHUNK_BYTES: usize = 100;
    block_on(async {
        to.0.files().remove_dir(to.1).unwrap();
        to.0.files().create_dir(to.1).unwrap();
        for name in names {
            let mut source = from.0.files().open(&from.1.join(&name)).await.unwrap();
            let mut target = to.0.files().create(&to.1.join(&name)).await.unwrap();
            while let Some(chunk) = source.chunk(CHUNK_BYTES).await.unwrap() {
                assert!((1..=CHUNK_BYTES).contains(&chunk.len()));
                target.write(&chunk).await.unwrap();
            }
            assert!(source.chunk(CHUNK_BYTES).await.unwrap().is_none());
            target.finish().await.unwrap();
        }
    });
}

/// A folder for a snapshot of this store.
pub(crate) fn folder(store: &Store, name: &str) -> PathBuf {
    store.snapshots_dir().join(name)
}
