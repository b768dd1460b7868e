//! The first pass: files, byte by byte.

use super::{CheckedFile, FileKind, Place, Report};
use crate::engine::guard;
use crate::error::{StorageError, StoreName};
use crate::physical::log_file::{self, End};
use crate::physical::{Damage, mark, table};
use crate::{Files, read_manifest};
use std::path::{Path, PathBuf};

/// Folder of snapshots that are built or received.
const SNAPSHOTS: &str = "snapshots";

/// Checks every file below a data directory.
pub(super) fn check(
    dir: &Path,
    report: &mut Report,
    progress: &mut impl FnMut(&Path, u64, u64),
) -> Result<(), StorageError> {
    let all = listing(dir)?;
    let total = all.iter().map(|(_, bytes)| bytes).sum();
    let mut read = 0;
    for (path, bytes) in all {
        progress(&path, read, total);
        let kind = kind_of(dir, &path);
        let mut file = CheckedFile { path, kind, bytes, checked: 0, findings: 0, note: None };
        for damage in look(&mut file)? {
            file.findings += 1;
            report.found(Place::File(damage.file, Some(damage.offset)), damage.what);
        }
        report.files.push(file);
        read += bytes;
    }
    for store in [StoreName::Raft, StoreName::Data] {
        let folder = dir.join(store.folder());
        if folder.is_dir() {
            whole(&folder, report)?;
        } else {
            report.found(Place::File(folder, None), "the store is missing");
        }
    }
    for snapshot in folders(&dir.join(SNAPSHOTS))? {
        against_manifest(&snapshot, report)?;
    }
    Ok(())
}

/// Looks at one file; returns what is wrong in it.
fn look(file: &mut CheckedFile) -> Result<Vec<Damage>, StorageError> {
    match file.kind {
        FileKind::WriteAheadLog | FileKind::Manifest => {
            let log = log_file::read(&file.path, |_, _| {})?;
            file.checked = log.records;
            match log.end {
                End::Whole => Ok(Vec::new()),
                End::Torn { offset, how } => {
                    // Whether something durable is missing behind it is asked of the mark.
                    file.note = Some(format!("torn end at offset {offset}: {how}"));
                    Ok(Vec::new())
                }
                End::Damaged(damage) => Ok(vec![damage]),
            }
        }
        FileKind::Table => {
            let table = table::check(&file.path)?;
            file.checked = table.blocks;
            file.note = table.unchecked.map(|why| format!("not all of it could be checked: {why}"));
            Ok(table.damage)
        }
        FileKind::Current => match file.path.parent().map(log_file::manifest).transpose()? {
            Some(Err(damage)) => Ok(vec![damage]),
            Some(Ok(_)) | None => Ok(Vec::new()),
        },
        FileKind::Mark => match file.path.parent().map(mark::read) {
            Some(Err(error @ StorageError::File { .. })) => Err(error),
            Some(Err(error)) => Ok(vec![Damage::new(&file.path, 0, error.to_string())]),
            Some(Ok(noted)) => {
                file.checked = u64::from(noted.is_some());
                Ok(Vec::new())
            }
            None => Ok(Vec::new()),
        },
        // Compared where its folder is.
        FileKind::SnapshotManifest | FileKind::Unread => Ok(Vec::new()),
    }
}

/// A database as a whole: its logs one after another, and what surely was durable.
fn whole(folder: &Path, report: &mut Report) -> Result<(), StorageError> {
    if !folder.join("CURRENT").exists() {
        report.found(Place::File(folder.join("CURRENT"), None), "it is missing, and with it the database");
        return Ok(());
    }
    let logged = folder.ends_with(StoreName::Raft.folder());
    let damage = match guard::examine(folder, logged) {
        Ok(found) => {
            let told = "; a power loss leaves it so, nobody was told of what it held, and a start cuts it off";
            let loose = found.loose_ends().map(|end| Damage::new(&end.file, end.offset, format!("{}{told}", end.what)));
            let loose: Vec<_> = loose.collect();
            // Said once, with that.
            let place = |end: &Damage| Place::File(end.file.clone(), Some(end.offset));
            report.findings.retain(|finding| !loose.iter().any(|end| place(end) == finding.place));
            found.damage.into_iter().chain(loose).collect()
        }
        Err(error @ StorageError::File { .. }) => return Err(error),
        // A mark that is damaged: found with the file.
        Err(_) => Vec::new(),
    };
    for damage in damage {
        // Those inside a file have been found with the file.
        if !report.findings.iter().any(|f| f.place == Place::File(damage.file.clone(), Some(damage.offset))) {
            report.found(Place::File(damage.file, Some(damage.offset)), damage.what);
        }
    }
    Ok(())
}

/// A snapshot that was built here lists its files; one that is being received does not.
fn against_manifest(folder: &Path, report: &mut Report) -> Result<(), StorageError> {
    let path = folder.join("manifest");
    if !path.exists() {
        return Ok(());
    }
    let files = Files::real();
    let manifest = match read_manifest(&files, folder) {
        Ok(manifest) => manifest,
        Err(error @ StorageError::File { .. }) => return Err(error),
        Err(error) => {
            report.found(Place::File(path.clone(), Some(0)), error.to_string());
            count(report, &path, 0, 1);
            return Ok(());
        }
    };
    count(report, &path, 1, 0);
    for listed in &manifest.files {
        let path = folder.join(&listed.name);
        let what = match files.checksum(&path) {
            Ok(found) if found == (listed.bytes, listed.crc32c) => continue,
            Ok((bytes, _)) if bytes != listed.bytes => {
                format!("it has {bytes} bytes, its manifest says {}", listed.bytes)
            }
            Ok(_) => "its checksum is not the one in its manifest".to_owned(),
            Err(error) => error.to_string(),
        };
        // The table's own checks may have named the block.
        let named = report.findings.iter().any(|f| matches!(&f.place, Place::File(file, _) if *file == path));
        if !named {
            report.found(Place::File(path.clone(), None), what);
            count(report, &path, 0, 1);
        }
    }
    Ok(())
}

fn count(report: &mut Report, path: &Path, checked: u64, findings: u64) {
    if let Some(file) = report.files.iter_mut().find(|file| file.path == path) {
        file.checked += checked;
        file.findings += findings;
    }
}

fn kind_of(dir: &Path, path: &Path) -> FileKind {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let numbered = path.file_stem().and_then(|s| s.to_str()).is_some_and(|s| s.bytes().all(|b| b.is_ascii_digit()));
    let in_store = path.parent() == Some(&dir.join(StoreName::Raft.folder()))
        || path.parent() == Some(&dir.join(StoreName::Data.folder()));
    match (name, extension) {
        (_, "sst") => FileKind::Table,
        ("manifest", _) if !in_store => FileKind::SnapshotManifest,
        (_, "log") if in_store && numbered => FileKind::WriteAheadLog,
        ("CURRENT", _) if in_store => FileKind::Current,
        (mark::FILE, _) if in_store => FileKind::Mark,
        (name, _) if in_store && name.starts_with("MANIFEST-") => FileKind::Manifest,
        _ => FileKind::Unread,
    }
}

/// All files below a folder with their lengths, in order.
fn listing(dir: &Path) -> Result<Vec<(PathBuf, u64)>, StorageError> {
    let (mut files, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).map_err(StorageError::file("list", &folder))? {
            let entry = entry.map_err(StorageError::file("list", &folder))?;
            let path = entry.path();
            let meta = entry.metadata().map_err(StorageError::file("look at", &path))?;
            if meta.is_dir() {
                open.push(path);
            } else if meta.is_file() {
                files.push((path, meta.len()));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The folders directly in one; none if it is not there.
fn folders(dir: &Path) -> Result<Vec<PathBuf>, StorageError> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(StorageError::file("list", dir))? {
        let path = entry.map_err(StorageError::file("list", dir))?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
