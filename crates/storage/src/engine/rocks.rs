//! RocksDB, as the seam wants it.

use super::{FamilyName, IDENTITY_FAMILY, Iter};
use crate::StorageError;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, FlushOptions,
    IngestExternalFileOptions, Options, Snapshot, SstFileWriter, WriteBatch, WriteOptions,
};
use self_cell::self_cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// One open RocksDB instance.
pub(crate) struct Rocks {
    db: DB,
    /// How batches are written: through the write-ahead log or past it.
    write: WriteOptions,
    /// Options of each family: snapshot files are filtered and compressed like the files around them.
    families: Vec<(FamilyName, Options)>,
    // Dropped last: the database is closed by then.
    open: watch::Sender<()>,
}

impl Rocks {
    /// Opens a database with these families and the identity's; makes what is missing.
    pub(crate) fn open(
        path: &Path,
        options: &Options,
        families: Vec<(FamilyName, Options)>,
        logged: bool,
        action: &'static str,
    ) -> Result<Self, StorageError> {
        let identity = ColumnFamilyDescriptor::new(IDENTITY_FAMILY, Options::default());
        let others = families.iter().map(|(name, options)| ColumnFamilyDescriptor::new(*name, options.clone()));
        let db = DB::open_cf_descriptors(options, path, std::iter::once(identity).chain(others))
            .map_err(StorageError::engine(action))?;
        let mut write = WriteOptions::default();
        write.disable_wal(!logged);
        Ok(Self { db, write, families, open: watch::Sender::new(()) })
    }

    pub(super) fn watch_open(&self) -> watch::Receiver<()> {
        self.open.subscribe()
    }

    pub(super) fn db(&self) -> &DB {
        &self.db
    }

    pub(super) fn cf(&self, family: FamilyName) -> &ColumnFamily {
        self.db.cf_handle(family).expect("opened with every family")
    }

    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), rocksdb::Error> {
        self.db.write_opt(batch, &self.write)
    }

    /// Syncs the write-ahead log: everything written before the call is durable on return.
    pub(crate) fn sync_log(&self) -> Result<(), StorageError> {
        self.db.flush_wal(true).map_err(StorageError::engine("sync the raft log"))
    }

    pub(super) fn flush(&self, families: &[FamilyName]) -> Result<(), StorageError> {
        let families: Vec<_> = families.iter().map(|family| self.cf(family)).collect();
        self.db.flush_cfs_opt(&families, &waiting()).map_err(StorageError::engine("flush the data store"))
    }

    pub(super) fn put_flushed(&self, family: FamilyName, key: &[u8], value: &[u8]) -> Result<(), rocksdb::Error> {
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        self.db.put_cf_opt(self.cf(family), key, value, &unlogged)?;
        self.db.flush_cf_opt(self.cf(family), &waiting())
    }

    pub(super) fn drop_files(&self, family: FamilyName, start: &[u8], end: &[u8]) -> Result<(), StorageError> {
        let dropped = self.db.delete_file_in_range_cf(self.cf(family), start, end);
        dropped.map_err(StorageError::engine("drop the files of a range"))
    }

    pub(super) fn compact(&self, family: FamilyName, start: &[u8], end: &[u8]) -> Result<(), StorageError> {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        self.db.compact_range_cf_opt(self.cf(family), Some(start), Some(end), &options);
        Ok(())
    }

    pub(super) fn memtable_bytes(&self, family: FamilyName) -> Result<u64, StorageError> {
        let bytes = self.db.property_int_value_cf(self.cf(family), "rocksdb.cur-size-all-mem-tables");
        Ok(bytes.map_err(StorageError::engine("measure the memtables"))?.unwrap_or(0))
    }

    pub(super) fn ingest(&self, family: FamilyName, paths: Vec<PathBuf>) -> Result<(), StorageError> {
        let options = IngestExternalFileOptions::default();
        let ingested = self.db.ingest_external_file_cf_opts(self.cf(family), &options, paths);
        ingested.map_err(StorageError::engine("ingest a snapshot"))
    }

    pub(super) fn write_file(
        &self,
        family: FamilyName,
        iter: &mut Iter<'_>,
        path: &Path,
        bytes_max: u64,
    ) -> Result<(), StorageError> {
        let failed = || StorageError::engine("write a snapshot file");
        let (_, options) = self.families.iter().find(|(name, _)| *name == family).expect("opened with every family");
        let mut writer = SstFileWriter::create(options);
        writer.open(path).map_err(failed())?;
        while let Some((key, value)) = iter.item() {
            writer.put(key, value).map_err(failed())?;
            iter.next();
            if writer.file_size() >= bytes_max {
                break;
            }
        }
        writer.finish().map_err(failed())
    }
}

fn waiting() -> FlushOptions {
    let mut wait = FlushOptions::default();
    wait.set_wait(true);
    wait
}

self_cell!(
    /// A RocksDB snapshot together with the database that it borrows from.
    pub(crate) struct Pinned {
        owner: Arc<Rocks>,
        #[covariant]
        dependent: Snapshot,
    }
);

impl Pinned {
    pub(super) fn of(db: Arc<Rocks>) -> Self {
        Self::new(db, |db| db.db.snapshot())
    }

    pub(super) fn db(&self) -> &Rocks {
        self.borrow_owner()
    }

    pub(super) fn snapshot(&self) -> &Snapshot<'_> {
        self.borrow_dependent()
    }
}
