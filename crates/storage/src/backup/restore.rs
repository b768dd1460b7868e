//! Puts a backup into an empty data directory; the module above says what comes out, and why a crash does no harm.

use super::manifest::{self, Scope};
use super::{BackupError, Progress, make, verify};
use crate::data::{DataBatch, Family};
use crate::{Files, StorageError, Store, StoreOptions};
use meridian_proto::internal::v1::{
    BackupManifest, BackupShard, LeaderId, LogId, Membership, ShardState, StoredMembership,
};
use meridian_types::{ShardId, TableId};
use prost::Message as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The log id up to which the log of a restored shard counts as purged, on every replica: of no leader, and not the
/// first index, so that a replica that has nothing is told from one that has this.
pub const BIRTH: LogId = LogId { leader: Some(LeaderId { term: 0, node: 0 }), index: 1 };

/// In the directory from before anything else is written until everything is durable.
const RESTORING: &str = "RESTORING";

/// What a file system may have in an empty folder that is its root.
const NOTHING: &str = "lost+found";

/// What was restored.
#[derive(Clone, Debug, PartialEq)]
pub struct Restored {
    /// The backup.
    pub manifest: BackupManifest,
    /// Rows in it.
    pub rows: u64,
    /// Whether an unfinished restoration was found in the directory, and begun again.
    pub resumed: bool,
}

/// Restores the backup in `from` into the data directory `to`, which is made if it is not there, and must be empty
/// except for what an earlier restoration has left unfinished. Whole and durable on return; the directory is closed
/// then.
///
/// * The backup is verified first.
/// * `members` names the members of a restored shard's group, the same on all its replicas; `None`: it has none, and no
///   node starts on the directory until somebody has given it some.
/// * `progress` is told what is begun.
/// * Errors: as [`verify`], with [`BackupError::Damaged`] for the first damage; [`BackupError::NotEmpty`],
///   [`BackupError::DiskFull`]: then nothing was changed. After any other error, and after a crash, the directory
///   cannot be opened as a data directory, and the same call begins again.
/// * Cost: reads the backup twice and writes it once. Blocks for the disk.
pub fn restore(
    from: &Path,
    to: &Path,
    members: impl Fn(ShardId) -> Option<Membership>,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Restored, BackupError> {
    let files = Files::real();
    let checked = check(&files, from, &mut progress)?;
    let resumed = unfinished(&files, to)?;
    if !resumed {
        empty(to)?;
        make::room_at(to)?.check_room(checked.0.bytes)?;
    }
    files.create_dir(to)?;
    announce(&files, to)?;
    let path = std::path::absolute(to).map_err(StorageError::file("locate", to))?;
    if let Some(parent) = path.parent() {
        files.sync_dir(parent)?;
    }
    // Failures are returned to whoever asked; nothing is acknowledged here.
    let options = StoreOptions { on_fatal: Arc::new(|_| {}), ..StoreOptions::default() };
    let store = Store::open_unfinished(to, options)?;
    fill(store, from, checked, resumed, members, progress)
}

/// As [`restore`], onto a simulated disk on which the backup lies as well.
#[cfg(feature = "simulation")]
pub fn restore_simulated(
    from: &Path,
    disk: &crate::SimDisk,
    members: impl Fn(ShardId) -> Option<Membership>,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Restored, BackupError> {
    let store = Store::open_simulated_unfinished(disk, Arc::new(|_| {}))?;
    let (files, dir) = (store.files(), store.dir().to_owned());
    let checked = check(&files, from, &mut progress)?;
    let resumed = unfinished(&files, &dir)?;
    if !resumed {
        let shards = store.raft.shards()?.into_iter().chain(store.data.all_positions()?.into_keys());
        if let Some(found) = shards.min() {
            return Err(BackupError::NotEmpty { path: dir, found: found.to_string() });
        }
        store.space().check_room(checked.0.bytes)?;
    }
    announce(&files, &dir)?;
    fill(store, from, checked, resumed, members, progress)
}

/// A backup that is whole, its shards, and how many rows it has.
type Checked = (BackupManifest, Vec<Scope>, u64);

fn check(files: &Files, from: &Path, progress: &mut impl FnMut(Progress<'_>)) -> Result<Checked, BackupError> {
    let mut verified = verify(files, from, progress)?;
    if !verified.damage.is_empty() {
        return Err(BackupError::Damaged(verified.damage.swap_remove(0)));
    }
    let scopes = manifest::check(&verified.manifest);
    let scopes = scopes.map_err(|why| BackupError::BadManifest { path: from.to_owned(), why })?;
    Ok((verified.manifest, scopes, verified.rows))
}

/// Fails if there is anything in the directory.
fn empty(dir: &Path) -> Result<(), BackupError> {
    let failed = || StorageError::file("list", dir);
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed())?,
    };
    for entry in entries {
        let found = entry.map_err(failed())?.file_name();
        if found != NOTHING {
            return Err(BackupError::NotEmpty { path: dir.to_owned(), found: found.to_string_lossy().into_owned() });
        }
    }
    Ok(())
}

/// Whether a restoration was begun in this directory and not finished.
fn unfinished(files: &Files, dir: &Path) -> Result<bool, StorageError> {
    Ok(files.length(&dir.join(RESTORING))?.is_some())
}

/// Refuses a directory in which a restoration was begun and not finished.
pub(crate) fn refuse_unfinished(files: &Files, dir: &Path) -> Result<(), StorageError> {
    if unfinished(files, dir)? {
        return Err(StorageError::RestoreUnfinished { path: dir.display().to_string() });
    }
    Ok(())
}

/// From here on the directory is no data directory.
fn announce(files: &Files, dir: &Path) -> Result<(), StorageError> {
    files.write_synced(&dir.join(RESTORING), b"")?;
    files.sync_dir(dir)
}

/// Everything between the announcement and its end.
fn fill(
    store: Store,
    from: &Path,
    (manifest, scopes, rows): Checked,
    resumed: bool,
    members: impl Fn(ShardId) -> Option<Membership>,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Restored, BackupError> {
    let (files, dir) = (store.files(), store.dir().to_owned());
    if resumed {
        clear(&store)?;
    }
    let (mut bytes, total) = (0, Some(manifest.bytes));
    for (shard, scope) in manifest.shards.iter().zip(&scopes) {
        let folder = from.join(&shard.dir);
        progress(Progress { path: &folder, bytes, total });
        begin_log(&store, scope)?;
        for family in [Family::Versions, Family::Ledger] {
            let paths = paths(shard, family, &folder);
            if !paths.is_empty() {
                // Copied: the backup stays what it is.
                store.data.ingest(family, paths, false)?;
                progress(Progress { path: &folder, bytes, total });
            }
        }
        let mut position = DataBatch::default();
        position.put_shard_state(scope.shard, &birth_state(&manifest, members(scope.shard)));
        store.data.write(position)?;
        bytes += shard.files.iter().map(|file| file.bytes).sum::<u64>();
    }
    progress(Progress { path: &dir, bytes, total });
    store.raft.sync()?;
    store.data.flush()?;
    progress(Progress { path: &dir, bytes, total });
    files.remove_file(&dir.join(RESTORING))?;
    files.sync_dir(&dir)?;
    progress(Progress { path: &dir, bytes, total });
    Ok(Restored { manifest, rows, resumed })
}

/// Removes what an unfinished restoration has left.
fn clear(store: &Store) -> Result<(), StorageError> {
    for shard in store.raft.shards()? {
        store.raft.shard(shard).destroy()?;
    }
    let mut all = DataBatch::default();
    all.clear_everything();
    store.data.write(all)?;
    store.data.flush()
}

/// The log of a restored shard: nothing, up to its birth.
fn begin_log(store: &Store, scope: &Scope) -> Result<(), StorageError> {
    let log = store.raft.shard(scope.shard);
    log.purge(BIRTH.index, BIRTH.encode_to_vec().into())?;
    if scope.table != TableId::CATALOG {
        // The catalog's is known without it.
        log.remember_scope(scope.table, &scope.range)?;
    }
    Ok(())
}

fn paths(shard: &BackupShard, family: Family, folder: &Path) -> Vec<PathBuf> {
    let of_family = shard.files.iter().filter(|file| file.family == family.name());
    of_family.map(|file| folder.join(&file.name)).collect()
}

/// The position that a restored shard begins with.
fn birth_state(manifest: &BackupManifest, members: Option<Membership>) -> ShardState {
    let membership = members.map(|membership| StoredMembership { log_id: Some(BIRTH), membership: Some(membership) });
    ShardState {
        applied: Some(BIRTH),
        last_ts: manifest.at,
        membership,
        gc_floor: manifest.at,
        ..ShardState::default()
    }
}

impl Store {
    /// The shards that were restored without members: they have a position, and nobody who could go on from it. A node
    /// must not start on a directory that has any; the catalog among them would lead it to the nodes of another life.
    pub fn without_members(&self) -> Result<Vec<ShardId>, StorageError> {
        let lonely = |state: &ShardState| state.applied.is_some() && state.membership.is_none();
        Ok(self.data.all_positions()?.into_iter().filter(|(_, state)| lonely(state)).map(|(shard, _)| shard).collect())
    }
}
