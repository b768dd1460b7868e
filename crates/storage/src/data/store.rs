//! The data store itself: opening, atomic writes, views, and what of it is durable.

use super::batch::DataBatch;
use super::families::{self, Family};
use super::key;
use super::records;
use super::value;
use super::view::DataView;
use crate::engine::{Db, EngineStats, Reach, Rocks, Scan};
use crate::inspect::StoredVersion;
use crate::{StorageError, StoreOptions};
use meridian_proto::internal::v1::ShardState;
use meridian_types::{KeyRange, ShardId, TableId};
use rocksdb::{Cache, Options, WriteBufferManager};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Informational log files that RocksDB keeps.
const INFO_LOGS_MAX: usize = 4;

/// End of a span without upper bound: above every key, since versions are the longest keys and a table id of all
/// ones is never given out.
pub(super) const UNBOUNDED: [u8; 16] = [u8::MAX; 16];

/// Versions, ledgers and positions of every shard on this node. Clones share it.
///
/// Nothing here is logged: a write is in memory until a flush, and a flush takes all column families at one
/// moment (RocksDB's `atomic_flush`). RocksDB also flushes by itself when a memtable is full; that only makes
/// more durable, at one moment as well.
#[derive(Clone)]
pub struct DataStore {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    /// Positions that were in memory when the last completed flush began.
    durable: Mutex<BTreeMap<ShardId, ShardState>>,
    /// Held by a flush from reading the positions until they are known to be durable.
    flushing: Mutex<()>,
}

impl DataStore {
    pub(crate) fn open(path: &Path, options: &StoreOptions, cache: &Cache) -> Result<Self, StorageError> {
        let families = Family::ALL.map(|family| (family.name(), families::options(family, options, cache)));
        let rocks = Rocks::open(path, &db_options(options, cache), families.into(), false, "open the data store")?;
        Self::on(Db::Rocks(Arc::new(rocks)))
    }

    /// Opens it without changing anything; writes fail.
    pub(crate) fn open_for_reading(path: &Path, options: &StoreOptions, cache: &Cache) -> Result<Self, StorageError> {
        let families = Family::ALL.map(|family| (family.name(), families::options(family, options, cache)));
        let action = "open the data store for reading";
        let rocks = Rocks::open_for_reading(path, &db_options(options, cache), families.into(), false, action)?;
        Self::on(Db::Rocks(Arc::new(rocks)))
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn open_simulated(disk: &crate::SimDisk) -> Result<Self, StorageError> {
        Self::on(Db::Simulated(crate::sim::SimDb::open(disk, crate::StoreName::Data)?))
    }

    fn on(db: Db) -> Result<Self, StorageError> {
        let store = Self { inner: Arc::new(Inner { db, durable: Mutex::default(), flushing: Mutex::default() }) };
        // What was found on disk is durable.
        *store.lock_durable() = store.positions()?;
        Ok(store)
    }

    /// Ends when the last clone is gone and the database is closed.
    pub(crate) fn watch_open(&self) -> watch::Receiver<()> {
        self.inner.db.watch_open()
    }

    /// Writes the batch into memory, all of it visible at once. Not durable until [`DataStore::flush`].
    pub fn write(&self, batch: DataBatch) -> Result<(), StorageError> {
        self.write_ref(&batch)
    }

    /// As [`DataStore::write`], of a batch that may have to be written again: after [`StorageError::is_no_space`] nothing
    /// of it was written, and it may be once there is room.
    pub fn write_ref(&self, batch: &DataBatch) -> Result<(), StorageError> {
        let mut out = self.inner.db.batch();
        batch.write_into(&mut out);
        self.inner.db.write(out, "write to the data store")
    }

    /// A view of this moment: what is written afterwards does not show in it. It pins old files and versions, so
    /// drop it soon.
    pub fn view(&self) -> DataView {
        DataView::of(self.inner.db.view())
    }

    /// Makes everything written before the call durable, at one moment for all shards and families. Blocks for the
    /// disk: not for use on an asynchronous thread.
    pub fn flush(&self) -> Result<(), StorageError> {
        let _one_at_a_time = self.inner.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let positions = self.positions()?;
        self.inner.db.flush(&Family::ALL.map(Family::name))?;
        let mut durable = self.lock_durable();
        for (shard, position) in positions {
            let known = durable.entry(shard).or_default();
            // A position that was found on disk meanwhile may be newer than what was read before the flush.
            if index(&position) >= index(known) {
                *known = position;
            }
        }
        Ok(())
    }

    /// The shard's position that is surely durable: the raft log is kept from there on. RocksDB flushes by itself as
    /// well, so what is found on disk counts if it is newer than what the last [`DataStore::flush`] has reported. It never
    /// goes back, except to `None` when the shard is cleared.
    pub fn durable(&self, shard: ShardId) -> Option<ShardState> {
        let mut durable = self.lock_durable();
        let reported = durable.get_mut(&shard)?;
        // What cannot be read now was durable all the same: then the report stands.
        let found = self.inner.db.get_flushed(Family::Shards.name(), &records::position(shard)).ok().flatten();
        let found = found.and_then(|bytes| records::decode_position(shard, &bytes).ok());
        if let Some(newer) = found.filter(|found| index(found) > index(reported)) {
            *reported = newer;
        }
        Some(reported.clone())
    }

    /// Bytes in memtables: what a flush would write, and a crash would have to replay.
    pub fn memtable_bytes(&self) -> Result<u64, StorageError> {
        Family::ALL.into_iter().try_fold(0, |sum, family| Ok(sum + self.inner.db.memtable_bytes(family.name())?))
    }

    /// What the engine has written since the store was opened.
    pub fn stats(&self) -> EngineStats {
        self.inner.db.stats()
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

    /// Runs work on the store that blocks, as [`DataStore::flush`] does, without holding up the asynchronous
    /// runtime. On a simulated disk nothing blocks: there the work is done at once, on this thread.
    ///
    /// * Errors: the work panicked, or the runtime is being shut down.
    pub async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        self.inner.db.run_blocking(work).await
    }

    pub(crate) fn db(&self) -> &Db {
        &self.inner.db
    }

    /// The positions of all shards.
    pub(crate) fn all_positions(&self) -> Result<BTreeMap<ShardId, ShardState>, StorageError> {
        self.positions()
    }

    fn positions(&self) -> Result<BTreeMap<ShardId, ShardState>, StorageError> {
        let mut positions = BTreeMap::new();
        let mut iter = self.inner.db.iter(Family::Shards.name(), Scan::all(Reach::Plain));
        iter.seek_to_first();
        while let Some((key, value)) = iter.item() {
            let shard = records::shard_of(key)?;
            positions.insert(shard, records::decode_position(shard, value)?);
            iter.next();
        }
        iter.status("read the positions of the shards")?;
        Ok(positions)
    }

    fn lock_durable(&self) -> MutexGuard<'_, BTreeMap<ShardId, ShardState>> {
        self.inner.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Index of the last entry that a position covers.
fn index(position: &ShardState) -> u64 {
    position.applied.map_or(0, |id| id.index)
}

/// One record of the versions, as it is stored.
pub(crate) fn decode_version(key: &[u8], value: &[u8]) -> Result<(TableId, StoredVersion), StorageError> {
    let (stem, ts) = key::split(key)?;
    let (table, key) = key::decode_stem(stem)?;
    Ok((table, StoredVersion { key, ts, value: value::to_owned(value)? }))
}

/// The other way round.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn encode_version(
    table: TableId,
    key: &[u8],
    ts: meridian_types::Timestamp,
    value: Option<&[u8]>,
) -> (Vec<u8>, Vec<u8>) {
    let (mut stored_key, mut stored_value) = (Vec::new(), Vec::new());
    key::write_version(&mut stored_key, table, key, ts);
    value::write(&mut stored_value, value);
    (stored_key, stored_value)
}

fn db_options(options: &StoreOptions, cache: &Cache) -> Options {
    let mut db = Options::default();
    let memtables = WriteBufferManager::new_write_buffer_manager_with_cache;
    db.set_write_buffer_manager(&memtables(options.data_memtables_bytes, false, cache.clone()));
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_atomic_flush(true);
    db.set_max_background_jobs(i32::from(options.background_jobs));
    db.set_max_open_files(i32::from(options.open_files_max));
    db.set_keep_log_file_num(INFO_LOGS_MAX);
    db
}
