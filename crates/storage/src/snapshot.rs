//! Snapshots: everything of one shard at one moment, as files that another node can ingest.
//!
//! A snapshot is a folder with SST files (one family each, cut at a size), and a manifest with the shard's position
//! and every file's length and crc32c. All of it comes from one view, so position, versions and ledger agree
//! (invariants, rule D3). Files are synced before the manifest is written: a folder with a whole manifest is whole.

use crate::data::{DataStore, DataView, Family, Span, ledger_span};
use crate::engine::{Reach, Scan};
use crate::{Files, StorageError, framed};
use bytes::Bytes;
use meridian_proto::internal::v1::{ShardState, SnapshotFile, SnapshotManifest};
use meridian_types::{KeyRange, ShardId, TableId};
use std::collections::BTreeSet;
use std::path::{Component, Path};

/// Format of manifests and of the files they name.
const FORMAT: u32 = 1;

/// Size at which the next file is begun.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The manifest's file name: `crc32c u32 BE | SnapshotManifest`.
const MANIFEST: &str = "manifest";

/// How the names of a snapshot's files end.
const SUFFIX: &str = ".sst";

impl DataStore {
    /// Builds a snapshot of this moment; see [`DataView::build_snapshot`].
    pub fn build_snapshot(
        &self,
        shard: ShardId,
        table: TableId,
        range: &KeyRange,
        dir: &Path,
    ) -> Result<SnapshotManifest, StorageError> {
        self.view().build_snapshot(shard, table, range, dir)
    }
}

impl DataView {
    /// Writes a shard's snapshot, as of this view, into `dir`, which is emptied first. All of it is durable on
    /// return, the folder's name too; the folder that it is in was there before. Blocks for the disk.
    ///
    /// * Shape: a shard without rows has a snapshot without files; one that never wrote a position has none in the
    ///   manifest.
    /// * Cost: reads the whole shard, without keeping it in the block cache.
    pub fn build_snapshot(
        &self,
        shard: ShardId,
        table: TableId,
        range: &KeyRange,
        dir: &Path,
    ) -> Result<SnapshotManifest, StorageError> {
        let files = self.engine().files();
        files.remove_dir(dir)?;
        files.create_dir(dir)?;
        let state = self.shard_state(shard)?;
        let mut listed = self.write_files(Family::Versions, Span::of(table, range), dir)?;
        listed.extend(self.write_files(Family::Ledger, ledger_span(shard), dir)?);
        let snapshot_id = snapshot_id(shard, state.as_ref());
        let manifest = SnapshotManifest { format: FORMAT, shard: shard.0, snapshot_id, state, files: listed };
        write_manifest(&files, dir, &manifest)?;
        Ok(manifest)
    }

    /// Copies one span of a family into as many files as it needs, maybe none.
    fn write_files(&self, family: Family, span: Span, dir: &Path) -> Result<Vec<SnapshotFile>, StorageError> {
        let files = self.engine().files();
        let mut iter = self.iter(family, Scan { start: Some(span.start), end: span.end, reach: Reach::Once });
        iter.seek_to_first();
        let mut listed = Vec::new();
        while iter.key().is_some() {
            let name = format!("{}-{:06}{SUFFIX}", family.name(), listed.len());
            let path = dir.join(&name);
            self.engine().write_file(family.name(), &mut iter, &path, FILE_BYTES_MAX)?;
            let (bytes, crc32c) = files.checksum(&path)?;
            listed.push(SnapshotFile { name, family: family.name().to_owned(), bytes, crc32c });
        }
        iter.status("read for a snapshot")?;
        Ok(listed)
    }
}

/// Names the state that a snapshot holds: the same position gives the same name on every replica.
fn snapshot_id(shard: ShardId, state: Option<&ShardState>) -> String {
    let applied = state.and_then(|s| s.applied.as_ref());
    let leader = applied.and_then(|id| id.leader.as_ref());
    let (term, node) = leader.map_or((0, 0), |l| (l.term, l.node));
    let (index, ts) = (applied.map_or(0, |id| id.index), state.map_or(0, |s| s.last_ts));
    format!("{shard}-T{term}-n{node}-{index}-{ts}")
}

fn write_manifest(files: &Files, dir: &Path, manifest: &SnapshotManifest) -> Result<(), StorageError> {
    files.write_synced(&dir.join(MANIFEST), &encode_manifest(manifest))?;
    files.sync_dir_and_name(dir)
}

/// A manifest as its file has it.
pub(crate) fn encode_manifest(manifest: &SnapshotManifest) -> Vec<u8> {
    framed::encode(manifest)
}

/// Reads the manifest of a folder in which a snapshot was built.
pub fn read_manifest(files: &Files, dir: &Path) -> Result<SnapshotManifest, StorageError> {
    let path = dir.join(MANIFEST);
    let bad = || StorageError::corrupt(format!("snapshot manifest {}", path.display()));
    decode_manifest(&files.read(&path)?).ok_or_else(bad)
}

/// Decodes a manifest's file, if its checksum is right.
pub(crate) fn decode_manifest(framed: &Bytes) -> Option<SnapshotManifest> {
    framed::decode(framed).ok()
}

/// Checks that the files which the manifest names are in `dir`, whole and as they were built. The manifest may come
/// from a peer: names that lead out of the folder are refused.
///
/// * Errors: [`StorageError::BadSnapshot`] for a manifest that cannot be used, [`StorageError::Corrupt`] for a file
///   that is not what the manifest says, [`StorageError::File`] for one that cannot be read.
pub fn verify_snapshot(files: &Files, dir: &Path, manifest: &SnapshotManifest) -> Result<(), StorageError> {
    check_manifest(manifest)?;
    for file in &manifest.files {
        let (bytes, crc32c) = files.checksum(&dir.join(&file.name))?;
        if (bytes, crc32c) != (file.bytes, file.crc32c) {
            let expected = format!("{} bytes, crc32c {:08x}", file.bytes, file.crc32c);
            let what = format!("snapshot file `{}` has {bytes} bytes, crc32c {crc32c:08x}, not {expected}", file.name);
            return Err(StorageError::corrupt(what));
        }
    }
    Ok(())
}

/// Checks that a manifest can be used, and leads nowhere but into its own folder.
///
/// * Errors: [`StorageError::BadSnapshot`].
pub(crate) fn check_manifest(manifest: &SnapshotManifest) -> Result<(), StorageError> {
    let bad = |why: String| {
        let (shard, snapshot_id) = (ShardId(manifest.shard), manifest.snapshot_id.clone());
        Err(StorageError::BadSnapshot { shard, snapshot_id, why })
    };
    if manifest.format != FORMAT {
        return bad(format!("its format is {}, this build knows {FORMAT}", manifest.format));
    }
    let mut names = BTreeSet::new();
    for file in &manifest.files {
        if !is_plain(&file.name) || !file.name.ends_with(SUFFIX) {
            return bad(format!("`{}` is no plain name of a table file", file.name));
        }
        if !names.insert(&file.name) {
            return bad(format!("it names `{}` twice", file.name));
        }
        if file.bytes == 0 {
            return bad(format!("`{}` is empty", file.name));
        }
        match Family::from_name(&file.family) {
            Some(Family::Versions | Family::Ledger) => {}
            Some(Family::Shards) | None => return bad(format!("`{}` has no family `{}`", file.name, file.family)),
        }
    }
    Ok(())
}

pub(crate) fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_plain() {
        assert!(is_plain("versions-000000.sst"));
        for name in ["", ".", "..", "/etc/passwd", "a/b", "../a", "a/", "./a"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
