//! The manifest of a backup: what is in its folder, and what of it can be relied on.
//!
//! The file `manifest` is `crc32c u32 BE | BackupManifest`. It is written and synced after everything that it names.

use super::BackupError;
use crate::data::Family;
use crate::snapshot::is_plain;
use crate::{Files, framed};
use bytes::Bytes;
use meridian_proto::internal::v1::{BackupManifest, BackupShard};
use meridian_types::{KeyRange, ShardId, TableId, Timestamp};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Format of manifests and of the files that they name.
pub(super) const FORMAT: u32 = 1;

/// The manifest's file name.
const MANIFEST: &str = "manifest";

/// One shard of a manifest that was [checked](check).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) shard: ShardId,
    pub(crate) table: TableId,
    pub(crate) range: KeyRange,
}

/// Where a backup's manifest lies.
pub(super) fn path_in(dir: &Path) -> PathBuf {
    dir.join(MANIFEST)
}

/// Makes a backup of what is in the folder: durable on return.
pub(super) fn write(files: &Files, dir: &Path, manifest: &BackupManifest) -> Result<(), BackupError> {
    files.write_synced(&path_in(dir), &encode(manifest))?;
    Ok(files.sync_dir(dir)?)
}

/// Reads the manifest of a backup, and checks that it can be meant. The files that it names are not looked at.
///
/// * Errors: [`BackupError::NoBackup`], [`BackupError::Damaged`], [`BackupError::FormatTooNew`],
///   [`BackupError::BadManifest`]; the file cannot be read.
pub(super) fn read(files: &Files, dir: &Path) -> Result<BackupManifest, BackupError> {
    let path = path_in(dir);
    if files.length(&path)?.is_none() {
        return Err(BackupError::NoBackup { path: dir.to_owned() });
    }
    let manifest =
        decode(&files.read(&path)?).map_err(|what| BackupError::Damaged(crate::Damage::new(&path, 0, what)))?;
    if manifest.format > FORMAT {
        return Err(BackupError::FormatTooNew { found: manifest.format, known: FORMAT });
    }
    match check(&manifest) {
        Ok(_) => Ok(manifest),
        Err(why) => Err(BackupError::BadManifest { path, why }),
    }
}

pub(crate) fn encode(manifest: &BackupManifest) -> Vec<u8> {
    framed::encode(manifest)
}

/// The manifest in its file, or what is wrong with the file.
pub(crate) fn decode(framed: &Bytes) -> Result<BackupManifest, String> {
    framed::decode(framed).map_err(|error| error.to_string())
}

/// The shards of a manifest, if everything in it can be meant; else why not. What passes leads to files inside the
/// backup's folder only, of families that a backup has, for shards whose keys do not overlap.
pub(crate) fn check(manifest: &BackupManifest) -> Result<Vec<Scope>, String> {
    let (mut scopes, mut dirs, mut bytes) = (Vec::new(), BTreeSet::new(), Some(0_u64));
    for shard in &manifest.shards {
        let scope = scope_of(shard).ok_or_else(|| format!("the range of {} is none", ShardId(shard.shard)))?;
        let id = scope.shard;
        if let Some(other) = scopes.iter().find(|other| meets(other, &scope)) {
            return Err(format!("{id} and {} meet", other.shard));
        }
        if !is_plain(&shard.dir) || shard.dir == MANIFEST || !dirs.insert(&shard.dir) {
            return Err(format!("`{}` is no folder for {id}", shard.dir));
        }
        let mut names = BTreeSet::new();
        for file in &shard.files {
            if !is_plain(&file.name) || !names.insert(&file.name) {
                return Err(format!("`{}` is no name for a file of {id}", file.name));
            }
            if !matches!(Family::from_name(&file.family), Some(Family::Versions | Family::Ledger)) {
                return Err(format!("`{}` of {id} has no family `{}`", file.name, file.family));
            }
            bytes = bytes.and_then(|sum| sum.checked_add(file.bytes));
        }
        scopes.push(scope);
    }
    match bytes {
        _ if manifest.format == 0 => Err("it has no format".into()),
        Some(bytes) if bytes == manifest.bytes => Ok(scopes),
        _ => Err(format!("its files do not have {} bytes together", manifest.bytes)),
    }
}

/// Whether two shards have the same id or share keys.
fn meets(a: &Scope, b: &Scope) -> bool {
    a.shard == b.shard || (a.table == b.table && a.range.overlaps(&b.range))
}

/// What a shard of a manifest is of.
fn scope_of(shard: &BackupShard) -> Option<Scope> {
    let range = KeyRange::new(shard.start.clone(), shard.end.clone()).ok()?;
    Some(Scope { shard: ShardId(shard.shard), table: TableId(shard.table), range })
}

/// The timestamp that a backup is of.
pub(super) fn at(manifest: &BackupManifest) -> Timestamp {
    Timestamp(manifest.at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_proto::internal::v1::BackupFile;

    fn file(name: &str) -> BackupFile {
        BackupFile { name: name.into(), family: "versions".into(), bytes: 10, crc32c: 1, rows: 2 }
    }

    fn shard(id: u64, table: u64, start: &'static str, end: Option<&'static str>) -> BackupShard {
        let (start, end) = (start.into(), end.map(Into::into));
        let files = vec![file("versions-000000.sst"), file("versions-000001.sst")];
        BackupShard { shard: id, table, start, end, source: None, dir: format!("s{id}"), files }
    }

    fn manifest() -> BackupManifest {
        let shards = vec![shard(0, 0, "", None), shard(4, 7, "", Some("m")), shard(5, 7, "m", None)];
        BackupManifest { format: FORMAT, at: 9, shards, bytes: 60, ..BackupManifest::default() }
    }

    #[test]
    fn a_manifest_is_read_back_and_every_flipped_bit_is_found() {
        let framed = encode(&manifest());
        assert_eq!(decode(&framed.clone().into()), Ok(manifest()));
        assert_eq!(check(&manifest()).unwrap().len(), 3);
        for bit in 0..framed.len() * 8 {
            let mut damaged = framed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged.into()).is_err(), "bit {bit}");
        }
        for length in 0..framed.len() {
            assert!(decode(&framed[..length].to_vec().into()).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        type Change = fn(&mut BackupManifest);
        let wrong: [(&str, Change); 10] = [
            ("has no format", |m| m.format = 0),
            ("have 61 bytes", |m| m.bytes = 61),
            ("bytes together", |m| m.shards[0].files[0].bytes = u64::MAX),
            ("no name", |m| m.shards[1].files[0].name = "../x".into()),
            ("no name", |m| m.shards[1].files[0].name = "versions-000001.sst".into()),
            ("no family `shards`", |m| m.shards[1].files[0].family = "shards".into()),
            ("no folder", |m| m.shards[1].dir = "/tmp".into()),
            ("no folder", |m| m.shards[1].dir = "s0".into()),
            ("s5 and s4 meet", |m| m.shards[1].end = None),
            ("is none", |m| m.shards[1].start = "z".into()),
        ];
        for (why, change) in wrong {
            let mut changed = manifest();
            change(&mut changed);
            let found = check(&changed).unwrap_err();
            assert!(found.contains(why), "{found}, not {why}");
        }
    }
}
