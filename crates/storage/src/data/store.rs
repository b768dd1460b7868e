//! The data store itself: opening, atomic writes, views, and what of it is durable.

use super::batch::{Change, DataBatch};
use super::families::{self, Family};
use super::key::Span;
use super::records;
use super::view::DataView;
use crate::{StorageError, StoreOptions};
use meridian_proto::internal::v1::ShardState;
use meridian_types::{KeyRange, ShardId, TableId};
use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, DB, FlushOptions, IteratorMode, Options, WriteBatch, WriteOptions,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Informational log files that RocksDB keeps.
const INFO_LOGS_MAX: usize = 4;

/// End of a span without upper bound: above every key, since versions are the longest keys and a table id of all
/// ones is never given out.
const UNBOUNDED: [u8; 16] = [u8::MAX; 16];

/// Versions, ledgers and positions of every shard on this node. Clones share it.
///
/// Nothing here is logged: a write is in memory until a flush, and a flush takes all column families at one
/// moment (RocksDB's `atomic_flush`). RocksDB also flushes by itself when a memtable is full; that only makes
/// more durable, at one moment as well.
#[derive(Clone)]
pub struct DataStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) db: DB,
    /// Options of each family, for snapshot files.
    options: StoreOptions,
    cache: Cache,
    /// Positions that were in memory when the last completed flush began.
    durable: Mutex<BTreeMap<ShardId, ShardState>>,
    /// Held by a flush from reading the positions until they are known to be durable.
    flushing: Mutex<()>,
    // Dropped last: the database is closed by then.
    open: watch::Sender<()>,
}

impl DataStore {
    pub(crate) fn open(path: &Path, options: &StoreOptions, cache: &Cache) -> Result<Self, StorageError> {
        let identity = ColumnFamilyDescriptor::new(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, Options::default());
        let data = Family::ALL
            .map(|family| ColumnFamilyDescriptor::new(family.name(), families::options(family, options, cache)));
        let db = DB::open_cf_descriptors(&db_options(options), path, std::iter::once(identity).chain(data))
            .map_err(StorageError::engine("open the data store"))?;
        let (durable, flushing, open) = (Mutex::default(), Mutex::default(), watch::Sender::new(()));
        let (options, cache) = (options.clone(), cache.clone());
        let store = Self { inner: Arc::new(Inner { db, options, cache, durable, flushing, open }) };
        // What was found on disk is durable.
        *store.lock_durable() = store.positions()?;
        Ok(store)
    }

    /// Ends when the last clone is gone and the database is closed.
    pub(crate) fn watch_open(&self) -> watch::Receiver<()> {
        self.inner.open.subscribe()
    }

    /// Writes the batch into memory, all of it visible at once. Not durable until [`DataStore::flush`].
    pub fn write(&self, batch: DataBatch) -> Result<(), StorageError> {
        let mut out = WriteBatch::default();
        for (family, change) in batch.changes {
            let cf = self.inner.cf(family);
            match change {
                Change::Put(key, value) => out.put_cf(cf, key, value),
                Change::Delete(key) => out.delete_cf(cf, key),
                Change::DeleteSpan(Span { start, end }) => {
                    out.delete_range_cf(cf, start.as_slice(), end.as_deref().unwrap_or(&UNBOUNDED));
                }
            }
        }
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        self.inner.db.write_opt(out, &unlogged).map_err(StorageError::engine("write to the data store"))
    }

    /// A view of this moment: what is written afterwards does not show in it. It pins old files and versions, so
    /// drop it soon.
    pub fn view(&self) -> DataView {
        DataView::of(Arc::clone(&self.inner))
    }

    /// Makes everything written before the call durable, at one moment for all shards and families. Blocks for the
    /// disk: not for use on an asynchronous thread.
    pub fn flush(&self) -> Result<(), StorageError> {
        let _one_at_a_time = self.inner.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let positions = self.positions()?;
        let mut wait = FlushOptions::default();
        wait.set_wait(true);
        let families = Family::ALL.map(|family| self.inner.cf(family));
        self.inner.db.flush_cfs_opt(&families, &wait).map_err(StorageError::engine("flush the data store"))?;
        *self.lock_durable() = positions;
        Ok(())
    }

    /// The shard's position that is surely durable: the raft log is kept from there on. What is really on disk may
    /// be newer.
    pub fn durable(&self, shard: ShardId) -> Option<ShardState> {
        self.lock_durable().get(&shard).cloned()
    }

    /// Bytes in memtables: what a flush would write, and a crash would have to replay.
    pub fn memtable_bytes(&self) -> Result<u64, StorageError> {
        Family::ALL.into_iter().try_fold(0, |sum, family| {
            let bytes = self.inner.db.property_int_value_cf(self.inner.cf(family), "rocksdb.cur-size-all-mem-tables");
            Ok(sum + bytes.map_err(StorageError::engine("measure the memtables"))?.unwrap_or(0))
        })
    }

    /// Removes the versions in a shard's range, its ledger and its position. Visible at once, not durable until
    /// [`DataStore::flush`].
    pub fn clear_shard(&self, shard: ShardId, table: TableId, range: &KeyRange) -> Result<(), StorageError> {
        // Not while a flush is about to report the position that goes.
        let _no_flush = self.inner.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = DataBatch::default();
        batch.clear_shard(shard, table, range);
        self.write(batch)?;
        // The log below a position that is gone must not be purged on its account.
        self.lock_durable().remove(&shard);
        Ok(())
    }

    pub(crate) fn db(&self) -> &DB {
        &self.inner.db
    }

    pub(crate) fn cf(&self, family: Family) -> &ColumnFamily {
        self.inner.cf(family)
    }

    fn positions(&self) -> Result<BTreeMap<ShardId, ShardState>, StorageError> {
        let positions = self.inner.db.iterator_cf(self.inner.cf(Family::Shards), IteratorMode::Start);
        positions
            .map(|item| {
                let (key, value) = item.map_err(StorageError::engine("read the positions of the shards"))?;
                let shard = records::shard_of(&key)?;
                Ok((shard, records::decode_position(shard, &value)?))
            })
            .collect()
    }

    fn lock_durable(&self) -> MutexGuard<'_, BTreeMap<ShardId, ShardState>> {
        self.inner.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub(super) fn cf(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("opened with every family")
    }

    /// Options for files that are to be ingested into a family.
    pub(super) fn file_options(&self, family: Family) -> Options {
        families::options(family, &self.options, &self.cache)
    }
}

fn db_options(options: &StoreOptions) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_atomic_flush(true);
    db.set_max_background_jobs(i32::from(options.background_jobs));
    db.set_max_open_files(i32::from(options.open_files_max));
    db.set_keep_log_file_num(INFO_LOGS_MAX);
    db
}
