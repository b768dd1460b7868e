//! Opens the raft store and hands out one handle per shard.

use super::ends::AllEnds;
use super::log::RaftLog;
use super::sync::{SyncQueue, SyncStats};
use super::{SyncDone, keys, record};
#[cfg(feature = "simulation")]
use crate::StoreName;
use crate::engine::{Batch, Db, EngineStats, Reach, Rocks, Scan};
use crate::{StorageError, StoreOptions};
use bytes::Bytes;
use meridian_types::ShardId;
use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options, WriteBufferManager};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// Column family of everything but the store's identity.
pub(super) const LOG: &str = "log";

/// Bits per key of the bloom filter; marks and votes are looked up where they mostly are not.
const BLOOM_BITS: f64 = 10.0;

/// Informational log files that RocksDB keeps.
const INFO_LOGS_MAX: usize = 4;

/// Full memtables that a flush takes together. Fewer than there may be, so that writers go on meanwhile.
const MEMTABLES_MERGED: i32 = 2;

/// Files of level 0 that make a compaction worth while.
const LEVEL0_FILES: i32 = 8;

/// A file of level 0 is short-lived: compressing it is work for nothing.
const COMPRESSION: [DBCompressionType; 3] = [DBCompressionType::None, DBCompressionType::Lz4, DBCompressionType::Lz4];

/// Logs and votes of every shard on this node. Clones share it.
#[derive(Clone)]
pub struct RaftLogStore {
    inner: Arc<Inner>,
}

struct Inner {
    // Dropped first: its thread syncs what is queued while the database is still open.
    sync: SyncQueue,
    db: Db,
    ends: AllEnds,
}

impl RaftLogStore {
    pub(crate) fn open(path: &Path, options: &StoreOptions, cache: &Cache) -> Result<Self, StorageError> {
        let families = vec![(LOG, log_options(options, cache))];
        let db = Arc::new(Rocks::open(path, &db_options(options, cache), families, true, "open the raft store")?);
        let synced = Arc::clone(&db);
        let sync = SyncQueue::start(move || synced.sync_log(), Arc::clone(&options.on_fatal))?;
        Ok(Self { inner: Arc::new(Inner { sync, db: Db::Rocks(db), ends: AllEnds::default() }) })
    }

    /// Opens it without changing anything; writes fail.
    pub(crate) fn open_for_reading(path: &Path, options: &StoreOptions, cache: &Cache) -> Result<Self, StorageError> {
        let families = vec![(LOG, log_options(options, cache))];
        let action = "open the raft store for reading";
        let db = Rocks::open_for_reading(path, &db_options(options, cache), families, true, action)?;
        let sync = SyncQueue::start(|| Ok(()), Arc::clone(&options.on_fatal))?;
        Ok(Self { inner: Arc::new(Inner { sync, db: Db::Rocks(Arc::new(db)), ends: AllEnds::default() }) })
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn open_simulated(disk: &crate::SimDisk, on_fatal: crate::FatalHook) -> Result<Self, StorageError> {
        let db = crate::sim::SimDb::open(disk, StoreName::Raft)?;
        let sync = SyncQueue::simulated(Arc::clone(&db), on_fatal);
        Ok(Self { inner: Arc::new(Inner { sync, db: Db::Simulated(db), ends: AllEnds::default() }) })
    }

    /// Ends when the last clone is gone and the database is closed.
    pub(crate) fn watch_open(&self) -> watch::Receiver<()> {
        self.inner.db.watch_open()
    }

    /// The handle of one shard. Nothing is written: a shard exists once it has state.
    pub fn shard(&self, shard: ShardId) -> RaftLog {
        RaftLog::new(self.clone(), shard, self.inner.ends.of(shard))
    }

    /// The shards that have any state, in order.
    pub fn shards(&self) -> Result<Vec<ShardId>, StorageError> {
        self.check()?;
        let mut shards = Vec::new();
        let mut iter = self.db().iter(LOG, Scan::all(Reach::Plain));
        iter.seek_to_first();
        while let Some(key) = iter.key() {
            let shard = keys::shard_of(key).ok_or_else(|| StorageError::corrupt("raft store: a key without shard"))?;
            shards.push(shard);
            iter.seek(&keys::shard_end(shard));
        }
        iter.status("list the shards of the raft store")?;
        Ok(shards)
    }

    /// Hands out every record of a shard in the order of their keys, with its payload if its checksum is right.
    pub(crate) fn records_of<E: From<StorageError>>(
        &self,
        shard: ShardId,
        mut each: impl FnMut(RawRecord, Result<Bytes, StorageError>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check()?;
        let (start, end) = (keys::shard_start(shard).to_vec(), keys::shard_end(shard).to_vec());
        let mut iter = self.db().iter(LOG, Scan { start: Some(start), end: Some(end), reach: Reach::Plain });
        iter.seek_to_first();
        while let Some((key, value)) = iter.item() {
            let record = RawRecord::of(key);
            let payload = record::open(key, value, || format!("{record} of {shard}"));
            each(record, payload)?;
            iter.next();
        }
        Ok(iter.status("read the raft store")?)
    }

    /// Counts of the sync thread.
    pub fn sync_stats(&self) -> SyncStats {
        self.inner.sync.stats()
    }

    /// What the engine has written since the store was opened.
    pub fn stats(&self) -> EngineStats {
        self.inner.db.stats()
    }

    /// Fails once the store is poisoned.
    pub(super) fn check(&self) -> Result<(), StorageError> {
        self.inner.db.check()?;
        self.inner.sync.check()
    }

    /// Writes into the write-ahead log, unsynced; readable on return. A failure poisons the store, because part
    /// of the batch may be in the log.
    pub(super) fn write(&self, batch: Batch<'_>) -> Result<(), StorageError> {
        self.check()?;
        let written = self.db().write(batch, "write to the raft log");
        written.inspect_err(|error| self.inner.sync.poison(error.clone()))
    }

    /// Calls `done` when everything written so far is durable.
    pub(super) fn when_synced(&self, done: SyncDone) {
        self.inner.sync.push(done);
    }

    /// Returns when everything written so far is durable. Blocks for the disk.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync.wait()
    }

    /// Bytes in memtables.
    pub fn memtable_bytes(&self) -> Result<u64, StorageError> {
        self.db().memtable_bytes(LOG)
    }

    pub(crate) fn db(&self) -> &Db {
        &self.inner.db
    }
}

/// What a record of the raft store is, by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RawRecord {
    Vote,
    Purged,
    Committed,
    Mark(String),
    Entry(u64),
    /// Of a kind that this build does not know, or under a key that no build writes.
    Unknown(u8),
}

impl RawRecord {
    pub(crate) fn of(key: &[u8]) -> Self {
        match keys::kind_of(key) {
            Some((keys::VOTE, [])) => Self::Vote,
            Some((keys::PURGED, [])) => Self::Purged,
            Some((keys::COMMITTED, [])) => Self::Committed,
            Some((keys::MARK, name)) => Self::Mark(String::from_utf8_lossy(name).into_owned()),
            Some((keys::ENTRY, _)) => match keys::index_of(key) {
                Some(index) => Self::Entry(index),
                None => Self::Unknown(keys::ENTRY),
            },
            Some((kind, _)) => Self::Unknown(kind),
            None => Self::Unknown(0),
        }
    }
}

impl fmt::Display for RawRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vote => f.write_str("vote"),
            Self::Purged => f.write_str("purged log id"),
            Self::Committed => f.write_str("committed log id"),
            Self::Mark(name) => write!(f, "mark `{name}`"),
            Self::Entry(index) => write!(f, "entry {index}"),
            Self::Unknown(kind) => write!(f, "record of the unknown kind {kind}"),
        }
    }
}

fn db_options(options: &StoreOptions, cache: &Cache) -> Options {
    let mut db = Options::default();
    // Never stalls writers: they are the tasks that also send heartbeats.
    let memtables = WriteBufferManager::new_write_buffer_manager_with_cache;
    db.set_write_buffer_manager(&memtables(options.raft_memtables_bytes, false, cache.clone()));
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    // Damage before the last record stops the start: what was acknowledged is never silently cut off.
    db.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // Also what bounds the log files: when they exceed it, the next write seals the memtable, and the log files before
    // it go once the flush that this starts is done. What stays of a log that is not purged lies in table files.
    db.set_max_total_wal_size(options.raft_wal_bytes_max);
    // Appends stay in memory until the sync thread writes all of them by one call; see `sync.rs`.
    db.set_manual_wal_flush(true);
    db.set_max_background_jobs(i32::from(options.background_jobs));
    db.set_max_open_files(i32::from(options.open_files_max));
    db.set_keep_log_file_num(INFO_LOGS_MAX);
    db
}

fn log_options(options: &StoreOptions, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(BLOOM_BITS, false);
    let mut log = Options::default();
    log.set_block_based_table_factory(&table);
    log.set_write_buffer_size(options.raft_write_buffer_bytes);
    log.set_max_write_buffer_number(i32::from(options.write_buffers_max));
    // Several memtables make one file: an entry and the purge that removes it mostly meet there, and neither is written.
    log.set_min_write_buffer_number_to_merge(MEMTABLES_MERGED);
    // What reaches a file is mostly dead by the time that a few files are there, so compaction is put off.
    log.set_level_zero_file_num_compaction_trigger(LEVEL0_FILES);
    log.set_compression_type(DBCompressionType::Lz4);
    log.set_compression_per_level(&COMPRESSION);
    log
}
