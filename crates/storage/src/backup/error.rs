//! Why there is no backup, or nothing was restored from it.

use crate::{Collected, Damage, DiskFull, StorageError};
use meridian_types::{ShardId, Timestamp};
use std::path::PathBuf;

/// A backup that was not made, is not one, or was not restored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackupError {
    /// The disk or the database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no room for it.
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
    /// A shard cannot be read at the timestamp any more.
    #[error("no backup at {at}: {collected}")]
    Collected {
        /// The timestamp.
        at: Timestamp,
        /// Which shard, and its floor.
        collected: Collected,
    },
    /// A shard may still get something at or below the timestamp.
    #[error("no backup at {at}: {shard} surely has everything only up to {has}")]
    NotClosed {
        /// The shard.
        shard: ShardId,
        /// The timestamp.
        at: Timestamp,
        /// Up to where nothing can come any more.
        has: Timestamp,
    },
    /// A shard has no position: it was never written to, is being installed, or was dropped.
    #[error("{shard} has no data here that could be backed up")]
    NoPosition {
        /// The shard.
        shard: ShardId,
    },
    /// A shard was being replaced by a snapshot when the node stopped.
    #[error("{shard} was being replaced by a snapshot when the node stopped; start the node and stop it again")]
    Installing {
        /// The shard.
        shard: ShardId,
    },
    /// Nothing tells which keys a shard is of.
    #[error("nothing says which keys {shard} is of")]
    NoScope {
        /// The shard.
        shard: ShardId,
    },
    /// There is nothing to back up.
    #[error("there is no shard to back up")]
    NoShards,
    /// Backups are never written over something.
    #[error("{path} exists; a backup goes into a folder that is not there yet")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A backup among the files that it is of would be lost with them.
    #[error("{path} is inside the data directory; a backup goes somewhere else")]
    Inside {
        /// The folder.
        path: PathBuf,
    },
    /// No manifest: it is written last.
    #[error("{path} is no backup, or one that was not finished: it has no manifest")]
    NoBackup {
        /// The folder.
        path: PathBuf,
    },
    /// Made by a newer build.
    #[error("the backup has format {found}, this build knows formats up to {known}; use a newer build")]
    FormatTooNew {
        /// Format found.
        found: u32,
        /// Newest format of this build.
        known: u32,
    },
    /// The manifest is whole, and cannot be meant.
    #[error("{path} cannot be used: {why}")]
    BadManifest {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file of the backup is not what was written.
    #[error("the backup is damaged: {0}")]
    Damaged(Damage),
    /// A backup is restored into an empty directory only.
    #[error("{path} is not empty: it has `{found}`; a backup is restored into an empty directory only")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// Something that is in it.
        found: String,
    },
}
