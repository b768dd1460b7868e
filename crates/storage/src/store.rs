//! Opens a data directory.

use crate::data::DataStore;
use crate::engine::Db;
use crate::error::{StorageError, StoreName};
use crate::options::StoreOptions;
use crate::raft::RaftLogStore;
use crate::{Damage, DiskSpace, Files, backup, identity};
use meridian_proto::internal::v1::StoreIdentity;
use meridian_types::NodeId;
use rocksdb::{Cache, LruCacheOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Exists from before the first store is made until both carry their identity: what is found beside it was never
/// in use and is made again.
const CREATING: &str = "CREATING";

/// Where snapshots are built and received.
const SNAPSHOTS: &str = "snapshots";

/// An open data directory. Clones share it; it closes with the last of them and of the handles drawn from it.
#[derive(Clone)]
pub struct Store {
    /// Logs and votes of every shard.
    pub raft: RaftLogStore,
    /// Versions, ledgers and positions of every shard.
    pub data: DataStore,
    dir: Arc<PathBuf>,
    identity: Arc<Mutex<StoreIdentity>>,
    /// Absent on a simulated disk.
    cache: Option<Cache>,
    space: DiskSpace,
}

/// What a store has in memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreMemory {
    /// The block cache with everything that is charged to it, memtables included.
    pub cache: u64,
    /// Memtables of the raft log.
    pub raft_memtables: u64,
    /// Memtables of the data.
    pub data_memtables: u64,
}

/// Tells when a [`Store`] is closed. Does not keep it open.
pub struct StoreClosed {
    open: [watch::Receiver<()>; 2],
}

impl StoreClosed {
    /// Returns once every clone of the store is gone and both databases are closed.
    pub async fn wait(mut self) {
        for open in &mut self.open {
            // Nothing is ever sent: the channel ends with the database.
            while open.changed().await.is_ok() {}
        }
    }
}

impl Store {
    /// Opens the directory, or makes it if neither store is there yet. RocksDB's lock keeps a second process out.
    ///
    /// * Errors: [`StorageError::IdentityMissing`] if only one of the stores is there,
    ///   [`StorageError::IdentityMismatch`] if they were made apart, [`StorageError::FormatTooNew`],
    ///   [`StorageError::RestoreUnfinished`].
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StorageError> {
        backup::refuse_unfinished(&Files::real(), dir)?;
        Self::open_unfinished(dir, options)
    }

    /// As [`Store::open`], whether or not a backup is being restored into it.
    pub(crate) fn open_unfinished(dir: &Path, options: StoreOptions) -> Result<Self, StorageError> {
        std::fs::create_dir_all(dir).map_err(StorageError::file("create", dir))?;
        let cache = block_cache(options.block_cache_bytes);
        let found = |store: StoreName| dir.join(store.folder()).join("CURRENT").exists();
        let unfinished = dir.join(CREATING).exists();
        let (raft, data) = match (found(StoreName::Raft), found(StoreName::Data)) {
            _ if unfinished => create(dir, &options, &cache)?,
            (false, false) => {
                never_used(dir)?;
                create(dir, &options, &cache)?
            }
            (false, true) => return Err(StorageError::IdentityMissing { missing: StoreName::Raft }),
            (true, false) => return Err(StorageError::IdentityMissing { missing: StoreName::Data }),
            (true, true) => (
                RaftLogStore::open(&dir.join(StoreName::Raft.folder()), &options, &cache)?,
                DataStore::open(&dir.join(StoreName::Data.folder()), &options, &cache)?,
            ),
        };
        let folders = [StoreName::Raft, StoreName::Data].map(|store| dir.join(store.folder()));
        let memtables = (options.raft_memtables_bytes + options.data_memtables_bytes) as u64;
        let space = DiskSpace::open(folders.into(), memtables, options.disk_reserve_bytes)?;
        let takes_writes = [raft.db(), data.db()].map(Db::probe);
        space.when(Box::new(move || takes_writes.iter().all(|takes| takes())));
        Self::of(raft, data, dir, Some(cache), space)
    }

    /// Opens the store on a simulated disk, or makes it if the disk is empty. `on_fatal` is called when a sync of
    /// the raft log has failed.
    ///
    /// * Errors: as [`Store::open`], and [`StorageError::File`] while a living handle has the disk open.
    #[cfg(feature = "simulation")]
    pub fn open_simulated(disk: &crate::SimDisk, on_fatal: crate::FatalHook) -> Result<Self, StorageError> {
        let store = Self::open_simulated_unfinished(disk, on_fatal)?;
        backup::refuse_unfinished(&store.files(), store.dir())?;
        Ok(store)
    }

    /// As [`Store::open_simulated`], whether or not a backup is being restored onto it.
    #[cfg(feature = "simulation")]
    pub(crate) fn open_simulated_unfinished(
        disk: &crate::SimDisk,
        on_fatal: crate::FatalHook,
    ) -> Result<Self, StorageError> {
        let raft = RaftLogStore::open_simulated(disk, on_fatal)?;
        let data = DataStore::open_simulated(disk)?;
        let missing = |db, name| matches!(identity::read(db, name), Err(StorageError::IdentityMissing { .. }));
        // Both are written within one call, so no crash comes between.
        if missing(raft.db(), StoreName::Raft) && missing(data.db(), StoreName::Data) {
            let identity = identity::fresh(disk.draw_incarnation());
            identity::write(raft.db(), &identity)?;
            identity::write(data.db(), &identity)?;
        }
        Self::of(raft, data, Path::new(crate::sim::DIR), None, disk.space().clone())
    }

    fn of(
        raft: RaftLogStore,
        data: DataStore,
        dir: &Path,
        cache: Option<Cache>,
        space: DiskSpace,
    ) -> Result<Self, StorageError> {
        let identity = reconcile(&raft, &data)?;
        let files = data.db().files();
        files.create_dir(&dir.join(SNAPSHOTS))?;
        // Snapshots are synced inside it; its own name must not be lost under them.
        files.sync_dir(dir)?;
        let (dir, identity) = (Arc::new(dir.to_owned()), Arc::new(Mutex::new(identity)));
        Ok(Self { raft, data, dir, identity, cache, space })
    }

    /// What to wait for, after the last clone was dropped, before the directory is opened again.
    pub fn on_close(&self) -> StoreClosed {
        StoreClosed { open: [self.raft.watch_open(), self.data.watch_open()] }
    }

    /// Who this directory belongs to. `cluster_id` is empty until [`Store::set_membership`].
    pub fn identity(&self) -> StoreIdentity {
        self.lock().clone()
    }

    /// Gives the directory to one node of one cluster, for ever. Repeating it is harmless.
    ///
    /// * Errors: [`StorageError::OtherMember`] if it already belongs to another.
    pub fn set_membership(&self, cluster_id: &str, node: NodeId) -> Result<(), StorageError> {
        let mut identity = self.lock();
        if !identity.cluster_id.is_empty() {
            if identity.cluster_id == cluster_id && identity.node == node.0 {
                return Ok(());
            }
            let (cluster_id, node) = (identity.cluster_id.clone(), NodeId(identity.node));
            return Err(StorageError::OtherMember { cluster_id, node });
        }
        let claimed = StoreIdentity { cluster_id: cluster_id.to_owned(), node: node.0, ..identity.clone() };
        identity::write(self.data.db(), &claimed)?;
        identity::write(self.raft.db(), &claimed)?;
        *identity = claimed;
        Ok(())
    }

    /// What the store has in memory now.
    pub fn memory(&self) -> Result<StoreMemory, StorageError> {
        Ok(StoreMemory {
            cache: self.cache.as_ref().map_or(0, |cache| cache.get_usage() as u64),
            raft_memtables: self.raft.memtable_bytes()?,
            data_memtables: self.data.memtable_bytes()?,
        })
    }

    /// The room on the disk.
    pub fn space(&self) -> &DiskSpace {
        &self.space
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder for snapshots that are built or received: on the same file system as the stores.
    pub fn snapshots_dir(&self) -> PathBuf {
        self.dir.join(SNAPSHOTS)
    }

    /// Access to the files of snapshots, wherever this store keeps them.
    pub fn files(&self) -> Files {
        self.data.db().files()
    }

    /// Runs work on the store that blocks without holding up the asynchronous runtime; see
    /// [`DataStore::run_blocking`].
    pub async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        self.data.run_blocking(work).await
    }

    fn lock(&self) -> MutexGuard<'_, StoreIdentity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fails if there is anything where the stores would be: without CURRENT a database is not there for RocksDB, but what
/// lies around it may be all that this node has acknowledged.
fn never_used(dir: &Path) -> Result<(), StorageError> {
    for store in [StoreName::Raft, StoreName::Data] {
        let folder = dir.join(store.folder());
        let empty = match std::fs::read_dir(&folder) {
            Ok(mut files) => files.next().is_none(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(error) => return Err(StorageError::file("list", &folder)(error)),
        };
        if !empty {
            let what = "it is missing, and with it the database whose other files are there";
            return Err(StorageError::corrupt(Damage::new(&folder.join("CURRENT"), 0, what).to_string()));
        }
    }
    Ok(())
}

/// Makes both stores under the protection of the `CREATING` file, which is durably gone before anything is used.
fn create(dir: &Path, options: &StoreOptions, cache: &Cache) -> Result<(RaftLogStore, DataStore), StorageError> {
    let (creating, files) = (dir.join(CREATING), Files::real());
    files.write_synced(&creating, b"")?;
    files.sync_dir(dir)?;
    for store in [StoreName::Raft, StoreName::Data] {
        files.remove_dir(&dir.join(store.folder()))?;
    }
    let raft = RaftLogStore::open(&dir.join(StoreName::Raft.folder()), options, cache)?;
    let data = DataStore::open(&dir.join(StoreName::Data.folder()), options, cache)?;
    let identity = identity::fresh(rand::random());
    identity::write(raft.db(), &identity)?;
    identity::write(data.db(), &identity)?;
    // The stores' names first: were they lost and the file gone, a directory that was never in use would count as damaged.
    files.sync_dir(dir)?;
    std::fs::remove_file(&creating).map_err(StorageError::file("remove", &creating))?;
    files.sync_dir(dir)?;
    Ok((raft, data))
}

/// Checks that the stores belong together. A crash inside [`Store::set_membership`] leaves one of them without
/// its member; it takes the other's.
fn reconcile(raft: &RaftLogStore, data: &DataStore) -> Result<StoreIdentity, StorageError> {
    let in_raft = identity::read(raft.db(), StoreName::Raft)?;
    let in_data = identity::read(data.db(), StoreName::Data)?;
    if in_raft.incarnation != in_data.incarnation {
        return Err(StorageError::IdentityMismatch { raft: in_raft.incarnation, data: in_data.incarnation });
    }
    match (in_raft.cluster_id.is_empty(), in_data.cluster_id.is_empty()) {
        (true, false) => identity::write(raft.db(), &in_data).map(|()| in_data),
        (false, true) => identity::write(data.db(), &in_raft).map(|()| in_raft),
        _ if in_raft != in_data => {
            Err(StorageError::OtherMember { cluster_id: in_data.cluster_id, node: NodeId(in_data.node) })
        }
        _ => Ok(in_raft),
    }
}
/// Parts of the block cache, each with a lock and a share of the bytes of its own, as a power of two.
const CACHE_SHARD_BITS: i32 = 3;

/// The block cache. The index of one table file is up to a megabyte: in the 64 parts that RocksDB makes of a cache by
/// itself, a few of them would drive each other out while there is room elsewhere.
pub(crate) fn block_cache(bytes: usize) -> Cache {
    let mut options = LruCacheOptions::default();
    options.set_capacity(bytes);
    options.set_num_shard_bits(CACHE_SHARD_BITS);
    Cache::new_lru_cache_opts(&options)
}
