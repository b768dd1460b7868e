//! What can go wrong on disk.

use meridian_types::{NodeId, ShardId};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Which of the two RocksDB instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreName {
    /// Logs and votes.
    Raft,
    /// Versions, ledgers and positions.
    Data,
}

impl StoreName {
    /// Its folder inside the data directory.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Data => "data",
        }
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}/`", self.folder())
    }
}

/// A failure of the storage. Cloned freely, because one failed sync fails everything that waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or folder.
        path: String,
        /// The system's answer.
        source: Arc<std::io::Error>,
    },
    /// RocksDB refused or failed.
    #[error("cannot {action}: {source}")]
    Engine {
        /// What was attempted.
        action: &'static str,
        /// RocksDB's answer.
        source: rocksdb::Error,
    },
    /// Bytes on disk are not what was written. The replica must not go on with them.
    #[error("corrupt data: {what}")]
    Corrupt {
        /// What was found, where.
        what: String,
    },
    /// One of the two stores is gone: this node may not come back as the replica that it was.
    #[error(
        "{missing} is missing beside a store that belongs with it; restore it, or give the node an empty directory and a new node id"
    )]
    IdentityMissing {
        /// The store that is not there.
        missing: StoreName,
    },
    /// The two stores were made apart.
    #[error("`raft/` and `data/` do not belong together (incarnations {raft:016x} and {data:016x})")]
    IdentityMismatch {
        /// Incarnation found in `raft/`.
        raft: u64,
        /// Incarnation found in `data/`.
        data: u64,
    },
    /// Written by a newer build.
    #[error("the store has format {found}, this build knows formats up to {known}; use a newer build")]
    FormatTooNew {
        /// Format found.
        found: u32,
        /// Newest format of this build.
        known: u32,
    },
    /// The directory belongs to another node or another cluster.
    #[error("the data directory belongs to node {node} of cluster `{cluster_id}`")]
    OtherMember {
        /// The cluster it belongs to.
        cluster_id: String,
        /// The node it belongs to.
        node: NodeId,
    },
    /// Another process has the data directory open: a node runs on it.
    #[error("{path} is in use: a node runs on it; stop the node, or look at a copy")]
    InUse {
        /// The database's folder.
        path: String,
    },
    /// The end of a damaged log may not be cut off.
    #[error("not cut: {why}. The damage: {damage}")]
    CutRefused {
        /// What is damaged.
        damage: String,
        /// Why that does not help.
        why: String,
    },
    /// A backup is being restored into the directory, or a crash has interrupted that.
    #[error(
        "{path} is no whole data directory: restoring a backup into it was not finished; restore it again, or remove it"
    )]
    RestoreUnfinished {
        /// The directory.
        path: String,
    },
    /// Not a data directory.
    #[error("{path} is no data directory: it has neither `raft/` nor `data/`")]
    NoData {
        /// What was taken for one.
        path: String,
    },
    /// A sync failed earlier: nothing is known about what reached the disk since, so nothing more is accepted.
    #[error("the raft log was poisoned by an earlier failure: {0}")]
    Poisoned(#[source] Arc<StorageError>),
    /// A snapshot's manifest does not describe what it came for.
    #[error("snapshot {snapshot_id} of {shard} is not usable: {why}")]
    BadSnapshot {
        /// The shard it was meant for.
        shard: ShardId,
        /// Its id.
        snapshot_id: String,
        /// What is wrong.
        why: String,
    },
}

impl StorageError {
    /// Whether the disk had no room. Nothing of what was refused for that was done, except to the raft log, whose state is
    /// unknown then.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::File { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            // RocksDB's binding has no kind of its own for it.
            Self::Engine { source, .. } => source.as_ref().contains("No space left on device"),
            _ => false,
        }
    }

    /// Wraps RocksDB's error; what it found damaged becomes [`StorageError::Corrupt`].
    pub(crate) fn engine(action: &'static str) -> impl FnOnce(rocksdb::Error) -> Self {
        move |source| match source.kind() {
            rocksdb::ErrorKind::Corruption => Self::Corrupt { what: format!("cannot {action}: {source}") },
            _ => Self::Engine { action, source },
        }
    }

    pub(crate) fn file<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Self + use<'a> {
        move |source| Self::File { action, path: path.display().to_string(), source: Arc::new(source) }
    }

    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }
}
