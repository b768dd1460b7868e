//! RocksDB, as the seam wants it.

use super::{EngineStats, FamilyName, IDENTITY_FAMILY, Rows, guard};
use crate::StorageError;
use crate::physical::mark::Mark;
use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, FlushOptions,
    IngestExternalFileOptions, Options, ReadOptions, ReadTier, Snapshot, SstFileWriter, WriteBatch, WriteOptions,
};
use self_cell::self_cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::watch;

/// One open RocksDB instance.
pub(crate) struct Rocks {
    db: DB,
    /// How batches are written: through the write-ahead log or past it.
    write: WriteOptions,
    /// Options of each family: snapshot files are filtered and compressed like the files around them.
    families: Vec<(FamilyName, Options)>,
    /// What the database was opened with: RocksDB's counters hang on it.
    options: Options,
    /// Whether its writes go through the write-ahead log.
    pub(super) logged: bool,
    /// Number of the last write that completed syncs and flushes have covered, at least.
    pub(super) durable: AtomicU64,
    /// The same, beside the database.
    pub(super) mark: Mark,
    // Dropped last: the database is closed by then.
    open: watch::Sender<()>,
}

impl Rocks {
    /// Opens a database with these families and the identity's; makes what is missing.
    ///
    /// * Errors: [`StorageError::Corrupt`] for a log that no crash has left so, and for one that lacks what was once
    ///   durable; then nothing was changed.
    pub(crate) fn open(
        path: &Path,
        options: &Options,
        families: Vec<(FamilyName, Options)>,
        logged: bool,
        action: &'static str,
    ) -> Result<Self, StorageError> {
        let noted = guard::before_open(path, logged, true)?;
        let mut options = options.clone();
        options.enable_statistics();
        // Counters only: they are kept per core and cost next to nothing, times and histograms do not.
        options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
        let identity = ColumnFamilyDescriptor::new(IDENTITY_FAMILY, Options::default());
        let others = families.iter().map(|(name, options)| ColumnFamilyDescriptor::new(*name, options.clone()));
        let db = DB::open_cf_descriptors(&options, path, std::iter::once(identity).chain(others))
            .map_err(StorageError::engine(action))?;
        let mut write = WriteOptions::default();
        write.disable_wal(!logged);
        let (mark, durable) = (Mark::new(path, noted), AtomicU64::new(noted.unwrap_or(0)));
        let rocks = Self { db, write, families, options, logged, durable, mark, open: watch::Sender::new(()) };
        // RocksDB has moved what it found in logs into tables: whatever is there now is durable.
        rocks.covered(rocks.latest_sequence());
        Ok(rocks)
    }

    /// Opens a database for reading: no file of it is changed, and writes fail. What is in its write-ahead log is read
    /// into memory.
    ///
    /// * Errors: as [`Rocks::open`].
    pub(crate) fn open_for_reading(
        path: &Path,
        options: &Options,
        families: Vec<(FamilyName, Options)>,
        logged: bool,
        action: &'static str,
    ) -> Result<Self, StorageError> {
        guard::before_open(path, logged, false)?;
        let mut options = options.clone();
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        let identity = ColumnFamilyDescriptor::new(IDENTITY_FAMILY, Options::default());
        let others = families.iter().map(|(name, options)| ColumnFamilyDescriptor::new(*name, options.clone()));
        let db = DB::open_cf_descriptors_read_only(&options, path, std::iter::once(identity).chain(others), false)
            .map_err(StorageError::engine(action))?;
        let (write, mark, durable) = (WriteOptions::default(), Mark::new(path, None), AtomicU64::new(0));
        Ok(Self { db, write, families, options, logged, durable, mark, open: watch::Sender::new(()) })
    }

    /// Sequence number of the last write that is visible.
    pub(crate) fn latest_sequence(&self) -> u64 {
        self.db.latest_sequence_number()
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

    /// Writes the buffer of the write-ahead log to its file and syncs it: everything written before the call is durable
    /// on return.
    pub(crate) fn sync_log(&self) -> Result<(), StorageError> {
        let covered = self.latest_sequence();
        self.db.flush_wal(true).map_err(StorageError::engine("sync the raft log"))?;
        self.covered(covered);
        Ok(())
    }

    pub(super) fn flush(&self, families: &[FamilyName]) -> Result<(), StorageError> {
        let families: Vec<_> = families.iter().map(|family| self.cf(family)).collect();
        let covered = self.latest_sequence();
        self.db.flush_cfs_opt(&families, &waiting()).map_err(StorageError::engine("flush the data store"))?;
        self.covered(covered);
        Ok(())
    }

    pub(super) fn put_flushed(&self, family: FamilyName, key: &[u8], value: &[u8]) -> Result<(), rocksdb::Error> {
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        self.db.put_cf_opt(self.cf(family), key, value, &unlogged)?;
        self.db.flush_cf_opt(self.cf(family), &waiting())
    }

    /// The record under a key as it is on disk: nothing that a flush has not completed with.
    pub(super) fn get_flushed(&self, family: FamilyName, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let mut persisted = ReadOptions::default();
        persisted.set_read_tier(ReadTier::Persisted);
        let found = self.db.get_cf_opt(self.cf(family), key, &persisted);
        found.map_err(StorageError::engine("read what is flushed"))
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

    pub(super) fn stats(&self) -> EngineStats {
        let count = |ticker| self.options.get_ticker_count(ticker);
        EngineStats {
            user_bytes: count(Ticker::BytesWritten),
            log_bytes: count(Ticker::WalFileBytes),
            log_syncs: count(Ticker::WalFileSynced),
            flushed_bytes: count(Ticker::FlushWriteBytes),
            compaction_read_bytes: count(Ticker::CompactReadBytes),
            compaction_written_bytes: count(Ticker::CompactWriteBytes),
            stalled_us: count(Ticker::StallMicros),
            block_hits: count(Ticker::BlockCacheDataHit),
            block_misses: count(Ticker::BlockCacheDataMiss),
        }
    }

    pub(super) fn ingest(&self, family: FamilyName, paths: Vec<PathBuf>, take: bool) -> Result<(), StorageError> {
        let mut options = IngestExternalFileOptions::default();
        // A link into the database's folder and, once that is durable, the removal of the other name.
        options.set_move_files(take);
        let ingested = self.db.ingest_external_file_cf_opts(self.cf(family), &options, paths);
        ingested.map_err(StorageError::engine("ingest a snapshot"))
    }

    pub(super) fn write_file(
        &self,
        family: FamilyName,
        rows: &mut impl Rows,
        path: &Path,
        bytes_max: u64,
    ) -> Result<(), StorageError> {
        let failed = || StorageError::engine("write a snapshot file");
        let (_, options) = self.families.iter().find(|(name, _)| *name == family).expect("opened with every family");
        let mut writer = SstFileWriter::create(options);
        writer.open(path).map_err(failed())?;
        while let Some((key, value)) = rows.row() {
            writer.put(key, value).map_err(failed())?;
            rows.advance();
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
