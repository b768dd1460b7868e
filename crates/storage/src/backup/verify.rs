//! Checks a backup without the node that it was made of: the manifest, every file's length and checksum, and every row.

use super::manifest::{self, Scope};
use super::{BackupError, Progress};
use crate::data::{Family, decode_ledger, decode_version};
use crate::{Damage, Files, StorageError};
use meridian_proto::internal::v1::{BackupFile, BackupManifest};
use meridian_types::Timestamp;
use std::path::Path;

/// What the verification of a backup found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What the backup says of itself.
    pub manifest: BackupManifest,
    /// Files that were looked at.
    pub files: u64,
    /// Rows that were decoded and are right.
    pub rows: u64,
    /// Everything that is not as it was written, with its file and offset. Empty: the backup is whole.
    pub damage: Vec<Damage>,
}

/// Checks the backup in a folder: its manifest, that each file is there with the length and the checksum that the
/// manifest says, and that each of its rows can be decoded, belongs to its shard, is at or below the backup's timestamp
/// and in order.
///
/// * Errors: a manifest that is missing, damaged, too new or cannot be meant, as there is nothing to check then; files
///   that cannot be read. Damage to other files is no error, but part of the result.
/// * Cost: reads everything once, a file at a time into memory: 64 MiB and a row.
pub fn verify(files: &Files, dir: &Path, mut progress: impl FnMut(Progress<'_>)) -> Result<Verified, BackupError> {
    let manifest = manifest::read(files, dir)?;
    let scopes = manifest::check(&manifest).map_err(|why| BackupError::BadManifest { path: dir.to_owned(), why })?;
    let (at, total) = (manifest::at(&manifest), Some(manifest.bytes));
    let mut found = Verified { manifest, files: 0, rows: 0, damage: Vec::new() };
    let mut bytes = 0;
    for (shard, scope) in found.manifest.shards.iter().zip(&scopes) {
        let mut rows = RowCheck { scope, at, last: None };
        for file in &shard.files {
            let path = dir.join(&shard.dir).join(&file.name);
            progress(Progress { path: &path, bytes, total });
            let (right, damage) = check_file(files, &path, file, &mut rows)?;
            (found.files, found.rows) = (found.files + 1, found.rows + right);
            found.damage.extend(damage);
            bytes += file.bytes;
        }
    }
    progress(Progress { path: dir, bytes, total });
    Ok(found)
}

/// One file: how many of its rows are right, and what is wrong.
fn check_file(
    files: &Files,
    path: &Path,
    expected: &BackupFile,
    rows: &mut RowCheck<'_>,
) -> Result<(u64, Vec<Damage>), StorageError> {
    let all = |what: String| Ok((0, vec![Damage::new(path, 0, what)]));
    let content = match files.length(path)? {
        None => return all("it is missing".into()),
        // Not read: a file of another length may be of any.
        Some(length) if length != expected.bytes => {
            let at = length.min(expected.bytes);
            return Ok((0, vec![Damage::new(path, at, format!("it has {length} bytes, not {}", expected.bytes))]));
        }
        Some(_) => files.read(path)?,
    };
    let Some(family) = Family::from_name(&expected.family) else {
        return all(format!("it is of the unknown family `{}`", expected.family));
    };
    rows.begin(family);
    let mut judged = Judged::default();
    let mut damage =
        files.rows(path, &content, |offset, key, value| judged.judge(path, offset, rows.check(family, key, value)));
    damage.extend(judged.first_wrong.take().map(|first| judged.of_all(first)));
    let crc32c = crc32c::crc32c(&content);
    if crc32c != expected.crc32c && damage.is_empty() {
        // In a part without a checksum of its own.
        damage.push(Damage::new(path, 0, format!("its checksum is {crc32c:08x}, not {:08x}", expected.crc32c)));
    }
    if judged.rows != expected.rows && damage.is_empty() {
        damage.push(Damage::new(path, 0, format!("it has {} rows, not {}", judged.rows, expected.rows)));
    }
    Ok((judged.right, damage))
}

/// The rows of one file.
#[derive(Default)]
struct Judged {
    rows: u64,
    right: u64,
    first_wrong: Option<Damage>,
}

impl Judged {
    fn judge(&mut self, path: &Path, offset: u64, row: Result<(), String>) {
        self.rows += 1;
        match row {
            Ok(()) => self.right += 1,
            Err(why) if self.first_wrong.is_none() => {
                let what = format!("row {} of the file, in the block there: {why}", self.rows);
                self.first_wrong = Some(Damage::new(path, offset, what));
            }
            Err(_) => {}
        }
    }

    /// One wrong row is told in full, the others are counted.
    fn of_all(&self, mut first: Damage) -> Damage {
        match self.rows - self.right - 1 {
            0 => {}
            others => first.what = format!("{}; and {others} more rows are wrong", first.what),
        }
        first
    }
}

/// What every row of a shard has to be, in the order of its files.
struct RowCheck<'a> {
    scope: &'a Scope,
    at: Timestamp,
    /// Family of the last file, and the last row's key without its timestamp.
    last: Option<(Family, Vec<u8>)>,
}

impl RowCheck<'_> {
    /// The next file is of this family.
    fn begin(&mut self, family: Family) {
        self.last.take_if(|(last, _)| *last != family);
    }

    fn check(&mut self, family: Family, key: &[u8], value: &[u8]) -> Result<(), String> {
        let (shard, ts, place) = match family {
            Family::Versions => {
                let (table, version) = decode_version(key, value).map_err(|error| error.to_string())?;
                if table != self.scope.table || !self.scope.range.contains(&version.key) {
                    return Err(format!(
                        "key `{}` of {table} is not in {}",
                        version.key.escape_ascii(),
                        self.scope.shard
                    ));
                }
                if version.value.is_none() {
                    return Err(format!("a tombstone of key `{}`", version.key.escape_ascii()));
                }
                // One version of each key: equal stems are not in order.
                (self.scope.shard, version.ts, key.split_last_chunk::<8>().map_or(key, |(stem, _)| stem))
            }
            Family::Ledger => {
                let (shard, ts) = decode_ledger(key, value).map_err(|error| error.to_string())?;
                (shard, ts, key)
            }
            Family::Shards => return Err("no row of a backup".into()),
        };
        if shard != self.scope.shard {
            return Err(format!("a record of {shard}, not of {}", self.scope.shard));
        }
        if ts > self.at {
            return Err(format!("its timestamp {ts} is above the backup's, {}", self.at));
        }
        let in_order = self.last.as_ref().is_none_or(|(_, last)| last.as_slice() < place);
        self.last = Some((family, place.to_vec()));
        if in_order { Ok(()) } else { Err("it is not above the row before it".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataBatch, Store, StoreOptions};
    use meridian_proto::internal::v1::{BackupShard, LedgerRecord, Outcome, ShardState};
    use meridian_types::{KeyRange, RequestId, ShardId, TableId};
    use prost::Message as _;
    use std::path::PathBuf;

    const SHARD: ShardId = ShardId(4);
    const TABLE: TableId = TableId(7);

    /// Raw files of these versions and of one decided request, as a snapshot has them, under a manifest as a backup has
    /// it: what no backup would have is whole all the same.
    fn backup(dir: &Path, versions: &[(&str, u64, Option<&str>)]) -> (PathBuf, BackupManifest) {
        let store = Store::open(&dir.join("node"), StoreOptions::default()).unwrap();
        let mut batch = DataBatch::default();
        for (key, ts, value) in versions {
            let value = value.map(|value| value.to_owned().into());
            batch.put_version(TABLE, key.as_bytes(), Timestamp(*ts), value);
        }
        let id = RequestId { time: Timestamp(1), client: 2, sequence: 3 };
        let record = LedgerRecord { fingerprint: 1, outcome: Some(Outcome { ts: 20, result: None }) };
        batch.put_ledger(SHARD, &id, &record.encode_to_vec());
        batch.put_shard_state(SHARD, &ShardState { last_ts: 50, ..ShardState::default() });
        store.data.write(batch).unwrap();
        let to = dir.join("backup");
        let raw = store.data.build_snapshot(SHARD, TABLE, &KeyRange::all(), &to.join("s4")).unwrap();
        let rows = |family: &str| if family == "versions" { versions.len() as u64 } else { 1 };
        let file = |f: meridian_proto::internal::v1::SnapshotFile| {
            let rows = rows(&f.family);
            BackupFile { name: f.name, family: f.family, bytes: f.bytes, crc32c: f.crc32c, rows }
        };
        let files: Vec<BackupFile> = raw.files.into_iter().map(file).collect();
        let bytes = files.iter().map(|file| file.bytes).sum();
        let shard = BackupShard { shard: 4, table: 7, dir: "s4".into(), files, ..BackupShard::default() };
        let manifest = BackupManifest {
            format: manifest::FORMAT,
            at: 50,
            bytes,
            shards: vec![shard],
            ..BackupManifest::default()
        };
        (to, manifest)
    }

    fn verified(to: &Path, manifest: &BackupManifest) -> Verified {
        manifest::write(&Files::real(), to, manifest).unwrap();
        verify(&Files::real(), to, |_| {}).unwrap()
    }

    const WHOLE: [(&str, u64, Option<&str>); 3] = [("a", 10, Some("1")), ("b", 50, Some("")), ("c", 30, Some("3"))];

    #[test]
    fn a_manifest_that_means_other_rows_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let (to, right) = backup(dir.path(), &WHOLE);
        let found = verified(&to, &right);
        assert!(found.damage.is_empty() && (found.files, found.rows) == (2, 4), "{found:?}");
        type Change = fn(&mut BackupManifest);
        let wrong: [(&str, &str, u64, Change); 7] = [
            ("versions", "`c` of t7 is not in s4", 3, |m| m.shards[0].end = Some("c".into())),
            ("versions", "row 1 of the file, in the block there: key `a`", 3, |m| m.shards[0].start = "b".into()),
            ("versions", "and 2 more rows are wrong", 1, |m| m.shards[0].table = 8),
            ("versions", "its timestamp 50 is above the backup's, 49", 3, |m| m.at = 49),
            ("ledger", "a record of s4, not of s5", 3, |m| m.shards[0].shard = 5),
            ("versions", "it has 3 rows, not 4", 4, |m| m.shards[0].files[0].rows = 4),
            ("versions", "its checksum is", 4, |m| m.shards[0].files[0].crc32c ^= 1),
        ];
        for (file, what, rows, change) in wrong {
            let mut changed = right.clone();
            change(&mut changed);
            let found = verified(&to, &changed);
            let [damage] = &found.damage[..] else { panic!("{what}: {found:?}") };
            assert_eq!(damage.file, to.join(format!("s4/{file}-000000.sst")), "{what}");
            assert!(damage.what.contains(what), "{damage}, not {what}");
            assert_eq!(found.rows, rows, "{what}");
        }
    }

    #[test]
    fn rows_that_no_backup_has_are_found() {
        for (what, row) in [
            ("a tombstone of key `b`", ("b", 20, None)),
            ("it is not above the row before it", ("c", 20, Some("hidden"))),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut versions = WHOLE.to_vec();
            versions.retain(|(key, ..)| *key != row.0 || row.2.is_some());
            versions.push(row);
            let (to, manifest) = backup(dir.path(), &versions);
            let found = verified(&to, &manifest);
            let [damage] = &found.damage[..] else { panic!("{what}: {found:?}") };
            assert!(damage.what.contains(what), "{damage}, not {what}");
        }
    }
}
