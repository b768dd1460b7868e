//! Installs a snapshot so that a crash at any step leaves either the old state or the new one (invariants, rule D2).
//!
//! 1. The received files are checked against the manifest.
//! 2. An "installing" mark is synced into `raft/`.
//! 3. The shard is cleared, the files are ingested, the position is put, everything is flushed. Ingested files are
//!    durable at once, the position only with the flush: between the two the disk holds new data under an old or
//!    no position, which is why a mark found at start means "do it again".
//! 4. The mark is removed; only then may the caller purge the log or drop the staged files.
//!
//! Repeating is harmless: step 3 begins by clearing.

use crate::data::{DataBatch, Family};
use crate::raft::RaftLog;
use crate::{StorageError, Store, verify_snapshot};
use bytes::Bytes;
use meridian_proto::internal::v1::{InstallMark, SnapshotManifest};
use meridian_types::{KeyRange, ShardId, TableId};
use prost::Message as _;
use rocksdb::IngestExternalFileOptions;
use std::path::{Path, PathBuf};

/// Name of the mark that is in `raft/` while a snapshot is being installed.
const MARK: &str = "install";

impl Store {
    /// Replaces everything that this node has of a shard by a snapshot whose files are in `dir`.
    ///
    /// On return the new state is durable and the files may be removed. Until then they must stay, also over a
    /// crash; [`Store::snapshots_dir`] is the place for them. Nobody else writes the shard meanwhile, and whoever
    /// reads it may see it half replaced. Blocks for the disk.
    ///
    /// * Errors: as [`verify_snapshot`], and [`StorageError::BadSnapshot`] for another shard's; then nothing was
    ///   changed. Any other error leaves the mark: the shard must not be served until it is installed again.
    pub fn install_snapshot(
        &self,
        shard: ShardId,
        table: TableId,
        range: &KeyRange,
        dir: &Path,
        manifest: &SnapshotManifest,
    ) -> Result<(), StorageError> {
        if manifest.shard != shard.0 {
            let (snapshot_id, why) = (manifest.snapshot_id.clone(), format!("it is of {}", ShardId(manifest.shard)));
            return Err(StorageError::BadSnapshot { shard, snapshot_id, why });
        }
        verify_snapshot(dir, manifest)?;
        let mark = InstallMark {
            dir: self.relative(dir)?,
            manifest: Some(manifest.clone()),
            table: table.0,
            start: range.start.clone(),
            end: range.end.clone(),
        };
        let log = self.raft.shard(shard);
        log.mark(MARK, Some(mark.encode_to_vec().into()))?;
        self.replace(shard, table, range, dir, manifest)?;
        log.mark(MARK, None)
    }

    /// Finishes the installations that a crash has interrupted; returns their shards. Called after opening, before
    /// any shard is served.
    ///
    /// * Errors: as [`Store::install_snapshot`]; a shard whose staged files are lost has to be given up.
    pub fn resume_installs(&self) -> Result<Vec<ShardId>, StorageError> {
        let mut resumed = Vec::new();
        for shard in self.raft.shards()? {
            let log = self.raft.shard(shard);
            if let Some(mark) = log.get_mark(MARK)? {
                self.resume(&log, mark)?;
                resumed.push(shard);
            }
        }
        Ok(resumed)
    }

    fn resume(&self, log: &RaftLog, mark: Bytes) -> Result<(), StorageError> {
        let bad = || StorageError::corrupt(format!("the mark of a snapshot being installed for {}", log.shard()));
        let mark = InstallMark::decode(mark).map_err(|_| bad())?;
        let manifest = mark.manifest.ok_or_else(bad)?;
        let range = KeyRange { start: mark.start, end: mark.end };
        let dir = self.dir().join(&mark.dir);
        tracing::warn!(shard = %log.shard(), snapshot = manifest.snapshot_id, "installing an interrupted snapshot again");
        verify_snapshot(&dir, &manifest)?;
        self.replace(log.shard(), TableId(mark.table), &range, &dir, &manifest)?;
        log.mark(MARK, None)
    }

    /// Step 3: durable on return, and in no consistent state before.
    fn replace(
        &self,
        shard: ShardId,
        table: TableId,
        range: &KeyRange,
        dir: &Path,
        manifest: &SnapshotManifest,
    ) -> Result<(), StorageError> {
        self.data.clear_shard(shard, table, range)?;
        self.ingest(Family::Versions, dir, manifest)?;
        self.ingest(Family::Ledger, dir, manifest)?;
        if let Some(state) = &manifest.state {
            let mut position = DataBatch::default();
            position.put_shard_state(shard, state);
            self.data.write(position)?;
        }
        self.data.flush()
    }

    /// Adds the family's files. They are copied: a repeated installation needs the staged ones.
    fn ingest(&self, family: Family, dir: &Path, manifest: &SnapshotManifest) -> Result<(), StorageError> {
        let of_family = manifest.files.iter().filter(|file| file.family == family.name());
        let paths: Vec<PathBuf> = of_family.map(|file| dir.join(&file.name)).collect();
        if paths.is_empty() {
            return Ok(());
        }
        let options = IngestExternalFileOptions::default();
        let ingested = self.data.db().ingest_external_file_cf_opts(self.data.cf(family), &options, paths);
        ingested.map_err(StorageError::engine("ingest a snapshot"))
    }

    /// How the mark names a folder: relative inside the data directory, which may be moved between two starts.
    fn relative(&self, dir: &Path) -> Result<String, StorageError> {
        let path = match dir.strip_prefix(self.dir()) {
            Ok(inside) => inside.to_owned(),
            Err(_) => std::path::absolute(dir).map_err(StorageError::file("locate", dir))?,
        };
        path.into_os_string().into_string().map_err(|path| {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not UTF-8");
            StorageError::file("name", Path::new(&path))(source)
        })
    }
}
