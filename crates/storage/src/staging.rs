//! Staging: the folder in which a node collects the files of one snapshot, until all of them are there.
//!
//! A snapshot of many gigabytes comes over a connection that may break at any byte. What has arrived whole need not be
//! sent again: the folder is named after the snapshot, holds the manifest that its files are checked against, and outlives
//! the connection, and the process too.
//!
//! Invariants:
//! 1. A file has its own name only when its bytes are synced and are what the manifest says. Before that it has the name
//!    of a part, which nobody reads: a part is begun anew.
//! 2. The files of one folder belong to one manifest. Another manifest of the same shard, also one under the same id,
//!    discards the folder: two leaders may cut the same position into different files.
//! 3. What is said to be here was read, and compared with the manifest, when the folder was opened.
//! 4. A shard has at most one such folder, and one transfer that writes to it; who opens it sees to that.
//!
//! After a restart the folders of shards that are here stay, as long as their snapshot is newer than the shard's state:
//! the sender goes on with them. All others go ([`Store::remove_leftovers`]). The folder of a snapshot that is being
//! installed is none of this module's business: `install.rs` has it done first.

use crate::files::FileWriter;
use crate::snapshot::{check_manifest, decode_manifest, encode_manifest, is_plain};
use crate::{Files, StorageError, Store};
use meridian_probe::{Sabotage, sabotaged};
use meridian_proto::internal::v1::{ShardState, SnapshotFile, SnapshotManifest};
use meridian_types::ShardId;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The file of the received manifest. Not `manifest`: that one says that all files are there.
const RECEIVING: &str = "receiving";

/// What a file's name is followed by until it is whole.
const PART: &str = ".part";

/// Folders of snapshots that are received: `<shard>-in-<snapshot id>`.
const IN: &str = "in";

/// Folders of snapshots that are cut here: `<shard>-out-<number>`.
const OUT: &str = "out";

/// The staged files of one snapshot.
pub struct Staging {
    files: Files,
    dir: PathBuf,
    manifest: SnapshotManifest,
    /// Indexes of the files that are not whole.
    lacking: BTreeSet<usize>,
}

impl Store {
    /// Opens the folder in which a snapshot is collected, with what of it is here already. Whatever else was collected for
    /// the shard is removed. Blocks for the disk: reads what is here.
    ///
    /// * Errors: [`StorageError::BadSnapshot`] for a manifest that cannot be used; nothing was changed then.
    pub fn stage(&self, shard: ShardId, manifest: &SnapshotManifest) -> Result<Staging, StorageError> {
        check_manifest(manifest)?;
        let bad = |why: &str| {
            let (snapshot_id, why) = (manifest.snapshot_id.clone(), why.to_owned());
            StorageError::BadSnapshot { shard, snapshot_id, why }
        };
        if manifest.shard != shard.0 {
            return Err(bad("it is of another shard"));
        }
        if !is_plain(&manifest.snapshot_id) {
            return Err(bad("its id is no plain name"));
        }
        let files = self.files();
        let dir = self.snapshots_dir().join(format!("{shard}-{IN}-{}", manifest.snapshot_id));
        let mut begun = false;
        for other in self.folders_of(shard, IN)? {
            if sabotaged(Sabotage::ResumeOtherSnapshot) {
                return Ok(self.take_over(other, manifest));
            }
            if other == dir && received_manifest(&files, &other).as_ref() == Some(manifest) {
                begun = true;
            } else {
                files.remove_dir(&other)?;
            }
        }
        if !begun {
            files.create_dir(&dir)?;
            files.write_synced(&dir.join(RECEIVING), &encode_manifest(manifest))?;
            files.sync_dir(&dir)?;
            files.sync_dir(&self.snapshots_dir())?;
        }
        let names: BTreeSet<String> = files.list(&dir)?.into_iter().collect();
        let mut lacking = BTreeSet::new();
        for (i, file) in manifest.files.iter().enumerate() {
            let whole =
                names.contains(&file.name) && files.checksum(&dir.join(&file.name))? == (file.bytes, file.crc32c);
            if !whole {
                lacking.insert(i);
            }
        }
        Ok(Staging { files, dir, manifest: manifest.clone(), lacking })
    }

    /// What [`Sabotage::ResumeOtherSnapshot`] does: goes by names alone.
    fn take_over(&self, dir: PathBuf, manifest: &SnapshotManifest) -> Staging {
        let files = self.files();
        let names: BTreeSet<String> = files.list(&dir).unwrap_or_default().into_iter().collect();
        let named = manifest.files.iter().enumerate().filter(|(_, file)| !names.contains(&file.name));
        Staging { lacking: named.map(|(i, _)| i).collect(), files, dir, manifest: manifest.clone() }
    }

    /// Removes what was collected for a shard, whole or not. Nobody may be collecting or installing it. Blocks for the
    /// disk.
    pub fn discard_staged(&self, shard: ShardId) -> Result<(), StorageError> {
        self.folders_of(shard, IN)?.iter().try_for_each(|dir| self.files().remove_dir(dir))
    }

    /// Removes what earlier processes have left in the folder of snapshots and nobody can use any more. Called after
    /// [`Store::resume_installs`], before any shard is served. Blocks for the disk.
    ///
    /// Stays: what was received whole of a snapshot that is newer than the state of its shard, if that shard is here.
    pub fn remove_leftovers(&self) -> Result<(), StorageError> {
        let (files, shards) = (self.files(), self.raft.shards()?);
        for name in files.list(&self.snapshots_dir())? {
            let dir = self.snapshots_dir().join(&name);
            let useful = match purpose(&name) {
                Some((shard, IN)) if shards.iter().any(|s| s.to_string() == shard) => {
                    received_manifest(&files, &dir).is_some_and(|manifest| self.is_newer(&manifest))
                }
                Some(_) => false,
                // Not of this module.
                None => continue,
            };
            if !useful {
                tracing::info!("removing the files of a snapshot that nobody can use any more: {name}");
                files.remove_dir(&dir)?;
            }
        }
        Ok(())
    }

    /// Whether a snapshot is newer than the shard's state here.
    fn is_newer(&self, manifest: &SnapshotManifest) -> bool {
        let index = |state: Option<&ShardState>| state.and_then(|s| s.applied.as_ref()).map(|id| id.index);
        let here = self.data.view().shard_state(ShardId(manifest.shard));
        here.is_ok_and(|here| index(manifest.state.as_ref()) > index(here.as_ref()))
    }

    /// The folders of one shard for one purpose.
    fn folders_of(&self, shard: ShardId, wanted: &str) -> Result<Vec<PathBuf>, StorageError> {
        let (shard, all) = (shard.to_string(), self.files().list(&self.snapshots_dir())?);
        let of_shard = all.into_iter().filter(|name| purpose(name) == Some((&shard, wanted)));
        Ok(of_shard.map(|name| self.snapshots_dir().join(name)).collect())
    }
}

impl Staging {
    /// The folder. It may be installed from once nothing is lacking.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The snapshot's manifest.
    pub fn manifest(&self) -> &SnapshotManifest {
        &self.manifest
    }

    /// Indexes, in the manifest, of the files that are not here whole; in order.
    pub fn lacking(&self) -> impl Iterator<Item = usize> + '_ {
        self.lacking.iter().copied()
    }

    /// Bytes of those files.
    pub fn lacking_bytes(&self) -> u64 {
        self.lacking().fold(0, |sum, i| sum.saturating_add(self.manifest.files[i].bytes))
    }

    /// Begins the first of the files that are lacking; `None`: all are here.
    pub async fn begin(&self) -> Result<Option<StagedFile>, StorageError> {
        let Some(index) = self.lacking().next() else { return Ok(None) };
        let expected = self.manifest.files[index].clone();
        let part = self.dir.join(format!("{}{PART}", expected.name));
        // Not the file of an earlier transfer: a write of its may still be under way.
        self.files.remove(&part).await?;
        let writer = self.files.create(&part).await?;
        Ok(Some(StagedFile { index, expected, writer, bytes: 0, crc32c: 0 }))
    }

    /// Ends a file: it is durable on return, and not lacking any more.
    ///
    /// * Errors: [`StorageError::Corrupt`] if it is not what the manifest says: it stays a part.
    pub async fn finish(&mut self, file: StagedFile) -> Result<(), StorageError> {
        let StagedFile { index, expected: SnapshotFile { name, bytes, crc32c, .. }, writer, .. } = file;
        if (file.bytes, file.crc32c) != (bytes, crc32c) {
            let got = format!("{} bytes, crc32c {:08x}", file.bytes, file.crc32c);
            let what = format!("snapshot file `{name}` arrived with {got}, not {bytes} bytes, crc32c {crc32c:08x}");
            return Err(StorageError::corrupt(what));
        }
        writer.finish().await?;
        self.files.rename_synced(&self.dir.join(format!("{name}{PART}")), &self.dir.join(name)).await?;
        self.lacking.remove(&index);
        Ok(())
    }
}

/// A file that is arriving.
pub struct StagedFile {
    index: usize,
    expected: SnapshotFile,
    writer: FileWriter,
    bytes: u64,
    crc32c: u32,
}

impl StagedFile {
    /// Its index in the manifest.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many of its bytes are here: where the next ones go.
    pub fn offset(&self) -> u64 {
        self.bytes
    }

    /// Whether all its bytes are here.
    pub fn is_complete(&self) -> bool {
        self.bytes >= self.expected.bytes
    }

    /// Appends bytes.
    ///
    /// * Errors: [`StorageError::Corrupt`] for more than the manifest says; nothing is written then.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let sum = self.bytes + bytes.len() as u64;
        if sum > self.expected.bytes {
            let SnapshotFile { name, bytes, .. } = &self.expected;
            return Err(StorageError::corrupt(format!("snapshot file `{name}` has more than its {bytes} bytes")));
        }
        self.writer.write(bytes).await?;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        self.bytes = sum;
        Ok(())
    }
}

/// The manifest that a folder was received for, if it can be read.
fn received_manifest(files: &Files, dir: &Path) -> Option<SnapshotManifest> {
    decode_manifest(&files.read(&dir.join(RECEIVING)).ok()?)
}

/// Shard and purpose of a folder by its name.
fn purpose(name: &str) -> Option<(&str, &str)> {
    let mut parts = name.splitn(3, '-');
    let (shard, purpose, _) = (parts.next()?, parts.next()?, parts.next()?);
    [IN, OUT].contains(&purpose).then_some((shard, purpose))
}
