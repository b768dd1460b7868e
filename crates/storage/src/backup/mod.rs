//! Backup and restore, one node's part: shards of this node as of one timestamp, in a folder that can be checked
//! without the node, and put into an empty data directory.
//!
//! # What is in a backup
//!
//! A folder with one folder for each shard, which holds files for ingestion, and a manifest. Of every shard it has what
//! a read at the backup's timestamp sees: of each key the newest version at or below it, no tombstones, and of the
//! request ledger the requests that were decided by then. Older versions are not in it: as with garbage collection, a
//! restored shard can be read from the backup's timestamp on. It is a full backup; there are no incremental ones.
//!
//! # Why it is consistent
//!
//! 1. All files are cut from one view of the data (rule D3): whatever is not in one shard is not missing by accident.
//! 2. Every shard surely has everything at or below the timestamp: it is at or below the last stamp applied, after
//!    which only higher ones come (S3), or at or below a closed timestamp whose position is applied (C4). Otherwise the
//!    backup is refused. So it is complete, and the same on every replica, wherever its log stands.
//! 3. No shard's GC floor is above it, and it is protected while the files are cut (A2).
//! 4. The manifest is written last, when everything that it names is synced. A folder without it is no backup.
//!
//! # What a restored shard is
//!
//! The versions and the ledger of the backup, with a position of its own:
//!
//! * `last_ts` and `gc_floor` are the backup's timestamp: no write comes at or below it, no read goes below it, on any
//!   replica alike, whichever of them the backup was made from (A1, A2).
//! * The log begins behind [`BIRTH`], the same constant log id everywhere, up to which it counts as purged (rule P2). A
//!   position of the old log would be a lie in a new group; in the old one it would be worse, because it would say that
//!   entries are applied which the timestamp has left out. No position at all would be wrong too: a replica added later
//!   would replay the log from its beginning, over nothing, and lack everything that was restored.
//! * The members of its group are those that whoever restores it names, or none. Those of the backup are nodes of
//!   another cluster, or of an earlier life of this one. A replica without members takes part in nothing, and
//!   [`Store::without_members`](crate::Store::without_members) tells a node not to start on it.
//! * There is no vote: whoever votes first in the new group has voted in none before. The directory has a new
//!   incarnation and belongs to no cluster.
//!
//! All replicas of one restored shard have to come from the same backup of it, as followers' snapshots come from one
//! leader.
//!
//! # Why a crash does no harm
//!
//! `RESTORING` lies in the directory from before anything else is written until all of it is durable. Opening a
//! directory with it is refused; restoring into it begins again.

mod error;
mod make;
mod manifest;
mod offline;
mod restore;
mod verify;

pub use error::BackupError;
pub use make::{BackedUp, ShardScope};
pub use restore::{BIRTH, Restored, restore};
pub use verify::{Verified, verify};

#[cfg(feature = "simulation")]
pub use restore::restore_simulated;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use manifest::{check as check_manifest, decode as decode_manifest, encode as encode_manifest};
pub(crate) use restore::refuse_unfinished;

use std::path::Path;

/// How far a backup, its verification or its restoration is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file or folder that is begun.
    pub path: &'a Path,
    /// Bytes of files done so far.
    pub bytes: u64,
    /// Bytes of all files, once they are known.
    pub total: Option<u64>,
}
