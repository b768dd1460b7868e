//! Opens the data directory of a stopped node for reading.

use super::lock::Lock;
use crate::data::DataStore;
use crate::error::{StorageError, StoreName};
use crate::raft::RaftLogStore;
use crate::store::block_cache;
use crate::{Files, StoreOptions, backup, identity};
use meridian_proto::internal::v1::StoreIdentity;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Both databases of a stopped node, open for reading. While it lives, no node can start on the directory.
///
/// What is in the raft store's write-ahead log is read into memory, as at a start; no file is changed.
pub struct StoppedNode {
    /// Logs and votes.
    pub raft: RaftLogStore,
    /// Versions, ledgers and positions.
    pub data: DataStore,
    identities: [StoreIdentity; 2],
    dir: PathBuf,
    _locks: Locks,
}

/// The locks of both databases.
pub(super) struct Locks {
    _locks: [Lock; 2],
}

impl Locks {
    /// Locks a data directory.
    ///
    /// * Errors: [`StorageError::InUse`] while a node runs on it, [`StorageError::NoData`] if it is none.
    pub(super) fn take(dir: &Path) -> Result<Self, StorageError> {
        let [raft, data] = [StoreName::Raft, StoreName::Data].map(|store| dir.join(store.folder()));
        if !raft.is_dir() && !data.is_dir() {
            return Err(StorageError::NoData { path: dir.display().to_string() });
        }
        Ok(Self { _locks: [Lock::take(&raft)?, Lock::take(&data)?] })
    }
}

impl StoppedNode {
    /// Opens the directory.
    ///
    /// * Errors: [`StorageError::InUse`] while a node runs on it, [`StorageError::NoData`] if it is no data directory,
    ///   [`StorageError::FormatTooNew`], [`StorageError::RestoreUnfinished`], [`StorageError::Corrupt`] for what also
    ///   stops a node.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let locks = Locks::take(dir)?;
        Self::open_locked(dir, locks)
    }

    pub(super) fn open_locked(dir: &Path, locks: Locks) -> Result<Self, StorageError> {
        backup::refuse_unfinished(&Files::real(), dir)?;
        for missing in [StoreName::Raft, StoreName::Data] {
            if !dir.join(missing.folder()).join("CURRENT").exists() {
                return Err(StorageError::IdentityMissing { missing });
            }
        }
        // Failures are returned to whoever asked; nothing is acknowledged here that could not be trusted.
        let options = StoreOptions { on_fatal: Arc::new(|_| {}), ..StoreOptions::default() };
        let cache = block_cache(options.block_cache_bytes);
        let raft = RaftLogStore::open_for_reading(&dir.join(StoreName::Raft.folder()), &options, &cache)?;
        let data = DataStore::open_for_reading(&dir.join(StoreName::Data.folder()), &options, &cache)?;
        let identities = [identity::read(raft.db(), StoreName::Raft)?, identity::read(data.db(), StoreName::Data)?];
        Ok(Self { raft, data, identities, dir: dir.to_owned(), _locks: locks })
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Who the directory belongs to, as `raft/` says and as `data/` says. They are equal in a directory that a node
    /// accepts, but for a crash while it was claimed.
    pub fn identities(&self) -> &[StoreIdentity; 2] {
        &self.identities
    }
}
