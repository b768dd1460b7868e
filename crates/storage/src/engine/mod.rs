//! The seam below the stores: an ordered key-value database with families, atomic batches, snapshots and bounded
//! iterators. RocksDB is behind it on the running path; with the feature `simulation` also a disk in memory.
//!
//! What keys and values mean, what is synced when, and how a snapshot is installed lies above the seam and is the
//! same code for both. Without the feature every enum here has one variant: it costs nothing.

mod batch;
pub(crate) mod guard;
mod iter;
mod rocks;
mod stats;

pub(crate) use batch::Batch;
pub(crate) use iter::{Iter, Reach, Rows, Scan};
pub(crate) use rocks::Rocks;
pub use stats::EngineStats;

use crate::StorageError;
use crate::files::Files;
#[cfg(feature = "simulation")]
use crate::sim::{SimDb, SimView};
use rocks::Pinned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// The family that holds the store's identity and nothing else; every database has it.
pub(crate) const IDENTITY_FAMILY: &str = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;

/// The record that [`Db::probe`] writes, beside the identity.
const PROBE: &[u8] = b"probe";

/// Names of families are compiled in: one that a database does not have is a bug, not an input.
pub(crate) type FamilyName = &'static str;

/// One open database. Clones share it; it closes with the last of them and of what was drawn from it.
#[derive(Clone)]
pub(crate) enum Db {
    Rocks(Arc<Rocks>),
    #[cfg(feature = "simulation")]
    Simulated(Arc<SimDb>),
}

impl Db {
    /// Ends when the database is closed.
    pub(crate) fn watch_open(&self) -> watch::Receiver<()> {
        match self {
            Self::Rocks(db) => db.watch_open(),
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => db.watch_open(),
        }
    }

    /// Fails if nothing may be done through this handle any more.
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        match self {
            Self::Rocks(_) => Ok(()),
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => db.check(),
        }
    }

    /// An empty batch for this database.
    pub(crate) fn batch(&self) -> Batch<'_> {
        match self {
            Self::Rocks(db) => Batch::rocks(db),
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => Batch::simulated(),
        }
    }

    /// Applies the batch: all of it is visible on return, none of it is durable. The raft store logs it, the data
    /// store keeps it in memory until a flush.
    pub(crate) fn write(&self, batch: Batch<'_>, action: &'static str) -> Result<(), StorageError> {
        match (self, batch) {
            (Self::Rocks(db), Batch::Rocks { batch, .. }) => db.write(batch).map_err(StorageError::engine(action)),
            #[cfg(feature = "simulation")]
            (Self::Simulated(db), Batch::Simulated(changes)) => db.write(changes),
            #[cfg(feature = "simulation")]
            _ => unreachable!("a batch is made by the database that it is for"),
        }
    }

    /// The record under a key, as `read` sees it.
    pub(crate) fn get<T>(
        &self,
        family: FamilyName,
        key: &[u8],
        action: &'static str,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StorageError> {
        match self {
            Self::Rocks(db) => {
                let value = db.db().get_pinned_cf(db.cf(family), key).map_err(StorageError::engine(action))?;
                Ok(value.map(|value| read(&value)))
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => Ok(db.view()?.get(family, key)?.map(|value| read(&value))),
        }
    }

    /// An iterator over the records as they are now; it stands nowhere yet.
    pub(crate) fn iter(&self, family: FamilyName, scan: Scan) -> Iter<'_> {
        match self {
            Self::Rocks(db) => Iter::Rocks(db.db().raw_iterator_cf_opt(db.cf(family), scan.into_options())),
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => Iter::Simulated(SimView::of(db).iter(family, scan)),
        }
    }

    /// This moment, for reading.
    pub(crate) fn view(&self) -> View {
        match self {
            Self::Rocks(db) => View::Rocks(Pinned::of(Arc::clone(db))),
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => View::Simulated(SimView::of(db)),
        }
    }

    /// Makes everything written to these families durable, at one moment for all. Waits for the disk.
    pub(crate) fn flush(&self, families: &[FamilyName]) -> Result<(), StorageError> {
        match self {
            Self::Rocks(db) => db.flush(families),
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => db.flush(),
        }
    }

    /// Puts a record past the write-ahead log, so that it pins none of it, and waits until it is durable.
    pub(crate) fn put_flushed(
        &self,
        family: FamilyName,
        key: &[u8],
        value: &[u8],
        action: &'static str,
    ) -> Result<(), StorageError> {
        match self {
            Self::Rocks(db) => db.put_flushed(family, key, value).map_err(StorageError::engine(action)),
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => db.put_flushed(family, key, value),
        }
    }

    /// The record under a key as it is durable: without what no flush has completed with.
    pub(crate) fn get_flushed(&self, family: FamilyName, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        match self {
            Self::Rocks(db) => db.get_flushed(family, key),
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => db.get_flushed(family, key),
        }
    }

    /// Asks whether the database takes writes, by writing a record past the write-ahead log. Does not keep it open.
    pub(crate) fn probe(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let db = match self {
            Self::Rocks(db) => Arc::downgrade(db),
            // A simulated disk takes all writes that it is given.
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => std::sync::Weak::new(),
        };
        move || db.upgrade().is_none_or(|db| db.put_flushed(IDENTITY_FAMILY, PROBE, &[]).is_ok())
    }

    /// Drops the files that lie entirely in a range, whatever views may see of them, durably at once. Others stay, with
    /// records that a dropped file may have hidden. A simulated disk has no files to drop.
    pub(crate) fn drop_files(&self, family: FamilyName, start: &[u8], end: &[u8]) -> Result<(), StorageError> {
        match self {
            Self::Rocks(db) => db.drop_files(family, start, end),
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => db.check(),
        }
    }

    /// Compacts a range down to the last level, and waits for it. A simulated disk compacts when it chooses to.
    pub(crate) fn compact(&self, family: FamilyName, start: &[u8], end: &[u8]) -> Result<(), StorageError> {
        match self {
            Self::Rocks(db) => db.compact(family, start, end),
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => db.check(),
        }
    }

    /// Bytes of what a flush would write.
    pub(crate) fn memtable_bytes(&self, family: FamilyName) -> Result<u64, StorageError> {
        match self {
            Self::Rocks(db) => db.memtable_bytes(family),
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => db.memtable_bytes(family),
        }
    }

    /// What it has written since it was opened.
    pub(crate) fn stats(&self) -> EngineStats {
        match self {
            Self::Rocks(db) => db.stats(),
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => EngineStats::default(),
        }
    }

    /// Adds the records of files that [`View::write_file`] has made; durable on return. With `take` the database takes the
    /// files themselves and their names go; else, and where the file system does not let it, they are copied.
    pub(crate) fn ingest(&self, family: FamilyName, paths: Vec<PathBuf>, take: bool) -> Result<(), StorageError> {
        match self {
            Self::Rocks(db) => db.ingest(family, paths, take),
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => db.ingest(family, &paths, take),
        }
    }

    /// Where files of snapshots lie that this database reads and writes.
    pub(crate) fn files(&self) -> Files {
        match self {
            Self::Rocks(_) => Files::real(),
            #[cfg(feature = "simulation")]
            Self::Simulated(db) => Files::simulated(db),
        }
    }

    /// Runs work that blocks for the disk without holding up the asynchronous runtime. A simulated disk never
    /// blocks: there the work is done at once, on this thread.
    ///
    /// * Errors: the work panicked, or the runtime is being shut down.
    pub(crate) async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        match self {
            Self::Rocks(_) => tokio::task::spawn_blocking(work).await,
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => Ok(work()),
        }
    }
}

/// One moment of a database. It owns what it needs and may move between threads.
pub(crate) enum View {
    Rocks(Pinned),
    #[cfg(feature = "simulation")]
    Simulated(SimView),
}

impl View {
    /// As [`Db::get`], of this moment.
    pub(crate) fn get<T>(
        &self,
        family: FamilyName,
        key: &[u8],
        action: &'static str,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StorageError> {
        match self {
            Self::Rocks(pinned) => {
                let value = pinned.snapshot().get_pinned_cf(pinned.db().cf(family), key);
                Ok(value.map_err(StorageError::engine(action))?.map(|value| read(&value)))
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(view) => Ok(view.get(family, key)?.map(|value| read(&value))),
        }
    }

    /// As [`Db::iter`], of this moment.
    pub(crate) fn iter(&self, family: FamilyName, scan: Scan) -> Iter<'_> {
        match self {
            Self::Rocks(pinned) => {
                let cf = pinned.db().cf(family);
                Iter::Rocks(pinned.snapshot().raw_iterator_cf_opt(cf, scan.into_options()))
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(view) => Iter::Simulated(view.iter(family, scan)),
        }
    }

    /// Where this view's snapshot files go.
    pub(crate) fn files(&self) -> Files {
        match self {
            Self::Rocks(_) => Files::real(),
            #[cfg(feature = "simulation")]
            Self::Simulated(view) => Files::simulated(view.db()),
        }
    }

    /// Moves records from where they come into one file for [`Db::ingest`], until the file has `bytes_max` or the
    /// records are at an end. The file is synced on return.
    pub(crate) fn write_file(
        &self,
        family: FamilyName,
        rows: &mut impl Rows,
        path: &Path,
        bytes_max: u64,
    ) -> Result<(), StorageError> {
        match self {
            Self::Rocks(pinned) => pinned.db().write_file(family, rows, path, bytes_max)?,
            #[cfg(feature = "simulation")]
            Self::Simulated(view) => view.write_file(rows, path, bytes_max)?,
        }
        self.files().sync_file(path)
    }
}
