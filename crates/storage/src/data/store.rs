//! The data store itself: opening, atomic writes, views, and what of it is durable.

use super::batch::DataBatch;
use super::families::{self, Family};
use super::gc::{Collected, Floors, Protection, Registry};
#[cfg(feature = "simulation")]
use super::gc::{Collector, Verdict};
use super::key::{self, Span};
use super::newest::Newest;
use super::records;
use super::value;
use super::view::DataView;
use crate::engine::{Db, EngineStats, Reach, Rocks, Scan};
use crate::inspect::StoredVersion;
#[cfg(feature = "simulation")]
use crate::sim::{Compaction, SimDb};
use crate::{StorageError, StoreOptions};
#[cfg(feature = "simulation")]
use meridian_probe::{Sabotage, sabotaged};
use meridian_proto::internal::v1::ShardState;
use meridian_types::{KeyRange, ShardId, TableId, Timestamp};
use rocksdb::{Cache, Options, WriteBufferManager};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Informational log files that RocksDB keeps.
const INFO_LOGS_MAX: usize = 4;

/// What a simulated store has for a block cache: a few keys are remembered, so that they drive each other out.
#[cfg(feature = "simulation")]
const SIMULATED_CACHE: usize = 256 << 10;

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
    /// How far old versions may be collected.
    registry: Arc<Registry>,
    /// Where reads look first.
    newest: Arc<Newest>,
}

impl DataStore {
    pub(crate) fn open(path: &Path, options: &StoreOptions, cache: &Cache) -> Result<Self, StorageError> {
        let registry = Arc::<Registry>::default();
        let families = Family::ALL.map(|family| (family.name(), families::options(family, options, cache, &registry)));
        let rocks = Rocks::open(path, &db_options(options, cache), families.into(), false, "open the data store")?;
        Self::on(Db::Rocks(Arc::new(rocks)), registry, Newest::beside(options.block_cache_bytes))
    }

    /// Opens it without changing anything; writes fail.
    pub(crate) fn open_for_reading(path: &Path, options: &StoreOptions, cache: &Cache) -> Result<Self, StorageError> {
        let registry = Arc::<Registry>::default();
        let families = Family::ALL.map(|family| (family.name(), families::options(family, options, cache, &registry)));
        let action = "open the data store for reading";
        let rocks = Rocks::open_for_reading(path, &db_options(options, cache), families.into(), false, action)?;
        Self::on(Db::Rocks(Arc::new(rocks)), registry, Newest::beside(options.block_cache_bytes))
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn open_simulated(disk: &crate::SimDisk) -> Result<Self, StorageError> {
        let db = Db::Simulated(crate::sim::SimDb::open(disk, crate::StoreName::Data)?);
        Self::on(db, Arc::default(), Newest::beside(SIMULATED_CACHE))
    }

    fn on(db: Db, registry: Arc<Registry>, newest: Newest) -> Result<Self, StorageError> {
        let (durable, flushing, newest) = (Mutex::default(), Mutex::default(), Arc::new(newest));
        let store = Self { inner: Arc::new(Inner { db, durable, flushing, registry, newest }) };
        // What was found on disk is durable.
        store.set_durable(store.positions()?);
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
        {
            let newest = &self.inner.newest;
            let change = if batch.clears_versions() { newest.change_everything() } else { newest.change() };
            batch.each_version(|encoded| {
                if let Ok((stem, ts)) = key::split(encoded) {
                    change.version(stem, ts);
                }
            });
            self.inner.db.write(out, "write to the data store")?;
        }
        self.compact_by_chance()
    }

    /// A view of this moment: what is written afterwards does not show in it. It pins old files and versions, so
    /// drop it soon. While it is open, old versions are collected no further than when it was taken, on the whole node.
    pub fn view(&self) -> DataView {
        // Held before the moment is taken: compactions do not keep to the engine's snapshots.
        let held = self.inner.registry.hold();
        let (newest, moment) = (self.inner.newest.clone(), self.inner.newest.moment());
        DataView::of(self.inner.db.view(), held, newest, moment)
    }

    /// Adds the records of snapshot files; see [`Db::ingest`].
    pub(crate) fn ingest(&self, family: Family, paths: Vec<PathBuf>, take: bool) -> Result<(), StorageError> {
        let _done = self.inner.newest.change_everything();
        self.inner.db.ingest(family.name(), paths, take)
    }

    /// Drops the files that lie entirely in a span; see [`Db::drop_files`].
    pub(super) fn drop_files(&self, family: Family, Span { start, end }: &Span) -> Result<(), StorageError> {
        // What a dropped file had hidden in others may be there again.
        let _done = self.inner.newest.change_everything();
        self.inner.db.drop_files(family.name(), start, end.as_deref().unwrap_or(&UNBOUNDED))
    }

    /// Makes everything written before the call durable, at one moment for all shards and families. Blocks for the
    /// disk: not for use on an asynchronous thread.
    pub fn flush(&self) -> Result<(), StorageError> {
        let _one_at_a_time = self.inner.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let positions = self.positions()?;
        self.inner.db.flush(&Family::ALL.map(Family::name))?;
        self.set_durable(positions);
        self.compact_by_chance()
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
            // Stays known, should it not be readable some day.
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
        self.clear(shard, table, range).map(drop)
    }

    /// As [`DataStore::clear_shard`]; returns what tells views that were taken before from later ones.
    pub(super) fn clear(&self, shard: ShardId, table: TableId, range: &KeyRange) -> Result<Arc<Floors>, StorageError> {
        // Not while a flush is about to report the position that goes.
        let _no_flush = self.inner.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = DataBatch::default();
        batch.clear_shard(&self.view(), shard, table, range)?;
        self.write(batch)?;
        // The log below a position that is gone must not be purged on its account, nor anything collected.
        self.lock_durable().remove(&shard);
        Ok(self.inner.registry.clear(shard))
    }

    /// Collects old versions in the range of a replica that is open here from now on: those that no read at or above the
    /// shard's durable GC floor can find. Where nothing is known to be a shard's, nothing is collected.
    pub fn collect_in(&self, shard: ShardId, table: TableId, range: &KeyRange) {
        self.inner.registry.cover(shard, Span::of(table, range));
    }

    /// Protects everything readable at `at` and above, of one shard or (`None`) of all, from being collected on this
    /// node, while the result exists. A leader on this node raises no floor above it either. It does not bind the leaders
    /// of other nodes: who reads through a replica has to expect that the shard's floor is above `at` afterwards.
    ///
    /// * Errors: [`Collected`] if a floor above `at` is durable already.
    pub fn protect(&self, shard: Option<ShardId>, at: Timestamp) -> Result<Protection, Collected> {
        self.inner.registry.protect(shard, at)
    }

    /// The lowest timestamp of a shard that is protected on this node.
    pub fn lowest_protected(&self, shard: ShardId) -> Option<Timestamp> {
        self.inner.registry.lowest_protected(shard)
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

    fn set_durable(&self, positions: BTreeMap<ShardId, ShardState>) {
        let floors: Vec<_> = positions.iter().map(|(shard, state)| (*shard, Timestamp(state.gc_floor))).collect();
        *self.lock_durable() = positions;
        self.inner.registry.set_durable(floors);
    }

    /// Keeps flushes and clears away: what is durable does not change meanwhile.
    pub(super) fn hold_flushes(&self) -> MutexGuard<'_, ()> {
        self.inner.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// A simulated disk compacts when its chance comes; RocksDB does so on threads of its own.
    #[cfg(feature = "simulation")]
    fn compact_by_chance(&self) -> Result<(), StorageError> {
        let Db::Simulated(simulated) = &self.inner.db else { return Ok(()) };
        simulated.draw_compaction()?.map_or(Ok(()), |compaction| self.compact_simulated(simulated, compaction))
    }

    #[cfg(not(feature = "simulation"))]
    fn compact_by_chance(&self) -> Result<(), StorageError> {
        Ok(())
    }

    #[cfg(feature = "simulation")]
    pub(super) fn compact_simulated(&self, db: &SimDb, compaction: Compaction) -> Result<(), StorageError> {
        if sabotaged(Sabotage::CollectUnflushedFloor) {
            let positions = self.positions()?;
            self.inner.registry.set_durable(positions.iter().map(|(s, state)| (*s, Timestamp(state.gc_floor))));
        }
        let mut collector = Collector::new(self.inner.registry.for_compaction(), compaction.whole);
        let mut lonely = Vec::new();
        db.compact(Family::Versions.name(), compaction, |key, value| match collector.pass(key, value) {
            Verdict::Go => true,
            Verdict::Stay => false,
            Verdict::Lonely => {
                lonely.push(key.to_vec());
                false
            }
        })?;
        self.inner.registry.note_lonely(lonely);
        Ok(())
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
    (key::version(table, key, ts), value::encode(value))
}

fn db_options(options: &StoreOptions, cache: &Cache) -> Options {
    let mut db = Options::default();
    let memtables = WriteBufferManager::new_write_buffer_manager_with_cache;
    db.set_write_buffer_manager(&memtables(options.data_memtables_bytes, false, cache.clone()));
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_atomic_flush(true);
    // Two halves of a compaction must not share a key: see `gc/decide.rs`. One is RocksDB's default.
    db.set_max_subcompactions(1);
    db.set_max_background_jobs(i32::from(options.background_jobs));
    db.set_max_open_files(i32::from(options.open_files_max));
    db.set_keep_log_file_num(INFO_LOGS_MAX);
    db
}
