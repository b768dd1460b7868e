//! Makes a backup; the module above has the rules.

use super::{BackupError, Progress, manifest};
use crate::data::{AsOf, DataStore, DataView, Family};
use crate::engine::Rows as _;
use crate::install::MARK as INSTALLING;
use crate::raft::RaftLogStore;
use crate::{Collected, DiskLevel, DiskSpace, Files, StorageError, Store};
use meridian_proto::internal::v1::{BackupFile, BackupManifest, BackupShard, ShardState, StoreIdentity};
use meridian_types::{KeyRange, ShardId, TableId, Timestamp};
use std::path::Path;

/// Size at which the next file is begun.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A shard that is to be backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardScope {
    /// The shard.
    pub shard: ShardId,
    /// The table that it is a part of.
    pub table: TableId,
    /// Its part of that table.
    pub range: KeyRange,
    /// A safe time that the replica has told, *before* the backup was begun: nothing at or below it will come. Zero if
    /// nothing is known beside what is applied, whose last stamp counts in any case.
    pub closed: Timestamp,
}

/// What a backup came to.
#[derive(Clone, Debug, PartialEq)]
pub struct BackedUp {
    /// What was written.
    pub manifest: BackupManifest,
    /// Of each shard, in the manifest's order: rows that were there and are above the timestamp, so not in the backup.
    pub newer: Vec<u64>,
}

/// What a backup is made of.
pub(crate) struct Source<'a> {
    pub(crate) raft: &'a RaftLogStore,
    pub(crate) data: &'a DataStore,
    pub(crate) identity: StoreIdentity,
}

impl Store {
    /// Makes a backup of these shards as of `at` in the folder `to`, which must not exist, but whose parent must.
    /// Durable on return. See the [module](crate::backup) for what is in it.
    ///
    /// * Until it returns, the timestamp is protected: nothing that a read at it sees is collected on this node, and no
    ///   leader here raises a floor above it.
    /// * `progress` is told of every file that is begun.
    /// * Errors: [`BackupError::NotClosed`] above what a shard surely has, [`BackupError::Collected`] below its GC
    ///   floor, [`BackupError::NoPosition`], [`BackupError::Exists`], [`BackupError::DiskFull`] when the backup's disk
    ///   would be left with less than a reserve; the disk failed. What was begun is removed, as far as the disk
    ///   permits; what a crash leaves has no manifest and is no backup.
    /// * Cost: reads every version of the shards, without keeping them in the cache. Blocks for the disk.
    pub fn back_up(
        &self,
        shards: &[ShardScope],
        at: Timestamp,
        to: &Path,
        progress: impl FnMut(Progress<'_>),
    ) -> Result<BackedUp, BackupError> {
        let source = Source { raft: &self.raft, data: &self.data, identity: self.identity() };
        make(&source, shards, at, to, &self.space_at(to)?, progress)
    }

    /// The room where a backup goes: on a simulated disk its own.
    fn space_at(&self, to: &Path) -> Result<DiskSpace, BackupError> {
        if self.files().is_real() { room_at(to) } else { Ok(self.space().clone()) }
    }
}

/// The room on the disk of a folder that is to be made.
pub(super) fn room_at(to: &Path) -> Result<DiskSpace, BackupError> {
    let to = std::path::absolute(to).map_err(StorageError::file("locate", to))?;
    let there = to.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    Ok(DiskSpace::open(vec![there.to_owned()], 0, None)?)
}

/// Up to where a shard surely has everything, in this view.
///
/// * Errors: [`BackupError::NoPosition`], [`BackupError::Installing`].
pub(crate) fn surely_has(raft: &RaftLogStore, view: &DataView, scope: &ShardScope) -> Result<Timestamp, BackupError> {
    let shard = scope.shard;
    // The view itself tells of an installation by this process: it takes the position first, and puts it last.
    if raft.shard(shard).get_mark(INSTALLING)?.is_some() {
        return Err(BackupError::Installing { shard });
    }
    let state = view.shard_state(shard)?.filter(|state| state.applied.is_some());
    let state = state.ok_or(BackupError::NoPosition { shard })?;
    // Log order is stamp order: what comes after is stamped above.
    Ok(Timestamp(state.last_ts).max(scope.closed))
}

/// As [`Store::back_up`].
pub(crate) fn make(
    source: &Source<'_>,
    shards: &[ShardScope],
    at: Timestamp,
    to: &Path,
    space: &DiskSpace,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<BackedUp, BackupError> {
    if shards.is_empty() {
        return Err(BackupError::NoShards);
    }
    let collected = |collected| BackupError::Collected { at, collected };
    // Before the view: whatever it sees at this timestamp stays until the last file is written.
    let protect = |scope: &ShardScope| source.data.protect(Some(scope.shard), at).map_err(collected);
    let _protected = shards.iter().map(protect).collect::<Result<Vec<_>, _>>()?;
    let view = source.data.view();
    for scope in shards {
        let (shard, has) = (scope.shard, surely_has(source.raft, &view, scope)?);
        if has < at {
            return Err(BackupError::NotClosed { shard, at, has });
        }
        // A floor that is applied and not durable yet: replicas refuse to read below it already.
        let floor = view.gc_floor(shard)?;
        if at < floor {
            return Err(collected(Collected { shard, floor }));
        }
    }
    let files = source.data.db().files();
    files.create_new_dir(to).map_err(|error| exists(error, to))?;
    let cut = Cut { view: &view, files: &files, at, to, space };
    let made = cut.all(source, shards, &mut progress);
    if made.is_err() {
        // The disk may not permit it; what is left has no manifest.
        let _ = files.remove_dir(to);
    }
    made
}

fn exists(error: StorageError, path: &Path) -> BackupError {
    match &error {
        StorageError::File { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
            BackupError::Exists { path: path.to_owned() }
        }
        _ => error.into(),
    }
}

/// Cuts the files of one view.
struct Cut<'a> {
    view: &'a DataView,
    files: &'a Files,
    at: Timestamp,
    to: &'a Path,
    space: &'a DiskSpace,
}

impl Cut<'_> {
    /// Everything, the manifest last.
    fn all(
        &self,
        source: &Source<'_>,
        shards: &[ShardScope],
        progress: &mut impl FnMut(Progress<'_>),
    ) -> Result<BackedUp, BackupError> {
        let identity = &source.identity;
        let mut manifest = BackupManifest {
            format: manifest::FORMAT,
            cluster_id: identity.cluster_id.clone(),
            node: identity.node,
            incarnation: identity.incarnation,
            at: self.at.0,
            ..BackupManifest::default()
        };
        let mut ordered: Vec<&ShardScope> = shards.iter().collect();
        ordered.sort_by_key(|scope| scope.shard);
        let mut newer = Vec::new();
        for scope in ordered {
            let state = self.view.shard_state(scope.shard)?.ok_or(BackupError::NoPosition { shard: scope.shard })?;
            let (shard, passed) = self.shard(scope, state, &mut manifest.bytes, progress)?;
            manifest.shards.push(shard);
            newer.push(passed);
        }
        if let Err(why) = manifest::check(&manifest) {
            return Err(BackupError::BadManifest { path: manifest::path_in(self.to), why });
        }
        // Names of folders and files first: the manifest says that they are there.
        self.files.sync_dir(self.to)?;
        progress(Progress { path: &manifest::path_in(self.to), bytes: manifest.bytes, total: Some(manifest.bytes) });
        manifest::write(self.files, self.to, &manifest)?;
        self.files.sync_dir_and_name(self.to)?;
        Ok(BackedUp { manifest, newer })
    }

    /// One shard into a folder of its own; and how many of its rows are above the timestamp.
    fn shard(
        &self,
        scope: &ShardScope,
        source: ShardState,
        bytes: &mut u64,
        progress: &mut impl FnMut(Progress<'_>),
    ) -> Result<(BackupShard, u64), BackupError> {
        let ShardScope { shard, table, range, .. } = scope;
        let dir = shard.to_string();
        let into = self.to.join(&dir);
        self.files.create_new_dir(&into)?;
        let versions = self.view.versions_as_of(*table, range, self.at);
        let (mut files, above) = self.family(Family::Versions, versions, &into, bytes, progress)?;
        let ledger = self.view.ledger_as_of(*shard, self.at);
        let (of_ledger, ledger_above) = self.family(Family::Ledger, ledger, &into, bytes, progress)?;
        files.extend(of_ledger);
        self.files.sync_dir(&into)?;
        let (start, end) = (range.start.clone(), range.end.clone());
        let made = BackupShard { shard: shard.0, table: table.0, start, end, source: Some(source), dir, files };
        Ok((made, above + ledger_above))
    }

    /// Rows of one family into as many files as they need, maybe none.
    fn family(
        &self,
        family: Family,
        mut rows: AsOf<'_>,
        into: &Path,
        bytes: &mut u64,
        progress: &mut impl FnMut(Progress<'_>),
    ) -> Result<(Vec<BackupFile>, u64), BackupError> {
        let mut listed = Vec::new();
        while rows.row().is_some() {
            let name = format!("{}-{:06}.sst", family.name(), listed.len());
            let path = into.join(&name);
            progress(Progress { path: &path, bytes: *bytes, total: None });
            self.space.look()?;
            self.space.check(DiskLevel::Enough)?;
            let before = rows.passed().seen;
            self.view.engine().write_file(family.name(), &mut rows, &path, FILE_BYTES_MAX)?;
            let (length, crc32c) = self.files.checksum(&path)?;
            *bytes += length;
            let rows = rows.passed().seen - before;
            listed.push(BackupFile { name, family: family.name().to_owned(), bytes: length, crc32c, rows });
        }
        Ok((listed, rows.finish()?.newer))
    }
}
