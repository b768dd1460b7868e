//! Checks everything in a data directory that has a checksum, and whether its parts agree.
//!
//! Three passes, each of which is done as far as the damage found before it allows:
//!
//! 1. Files: logs, MANIFESTs and tables of both databases and of snapshots, read without RocksDB. Damage found here has a
//!    file and an offset.
//! 2. Records: everything is read through RocksDB, the raft store's own checksums are compared, everything is decoded.
//! 3. Agreement: of the two stores with each other (rules D1 to D4).

mod agreement;
mod files;
mod records;

use super::stopped::{Locks, StoppedNode};
use crate::StorageError;
use crate::physical::log_file;
use std::fmt;
use std::path::{Path, PathBuf};

/// What a file is, which decides how it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A write-ahead log: a checksum for each record.
    WriteAheadLog,
    /// RocksDB's list of its files: a checksum for each record.
    Manifest,
    /// A table: a checksum for each block.
    Table,
    /// The name of the MANIFEST; no checksum.
    Current,
    /// What surely was durable.
    Mark,
    /// A snapshot's manifest: a checksum over all of it.
    SnapshotManifest,
    /// Files that nothing is read from: RocksDB's options, its own log, its lock.
    Unread,
}

impl FileKind {
    /// Its name in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::WriteAheadLog => "write-ahead log",
            Self::Manifest => "MANIFEST",
            Self::Table => "table",
            Self::Current => "CURRENT",
            Self::Mark => "mark",
            Self::SnapshotManifest => "snapshot manifest",
            Self::Unread => "not read",
        }
    }
}

/// A file that was looked at.
#[derive(Clone, Debug)]
pub struct CheckedFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Its length.
    pub bytes: u64,
    /// Records or blocks whose checksum was compared.
    pub checked: u64,
    /// How many of the findings are in it.
    pub findings: u64,
    /// What a reader should know of it, though it is no damage.
    pub note: Option<String>,
}

/// Where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, at an offset; without one it concerns the file as a whole.
    File(PathBuf, Option<u64>),
    /// In a record, named in words: its file is whole, or RocksDB did not say where it lies.
    Record(String),
    /// Between parts that are whole each.
    Agreement(String),
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File(path, Some(offset)) => write!(f, "{} at offset {offset}: {}", path.display(), self.what),
            Place::File(path, None) => write!(f, "{}: {}", path.display(), self.what),
            Place::Record(name) | Place::Agreement(name) => write!(f, "{name}: {}", self.what),
        }
    }
}

/// What a verification found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Every file there is.
    pub files: Vec<CheckedFile>,
    /// Records of both stores that were read and decoded.
    pub records: u64,
    /// Everything that is wrong. Empty: the directory is whole.
    pub findings: Vec<Finding>,
    /// Checks that the findings kept from being made.
    pub skipped: Vec<String>,
}

impl Report {
    fn found(&mut self, place: Place, what: impl Into<String>) {
        self.findings.push(Finding { place, what: what.into() });
    }
}

/// Verifies a data directory. `progress` is told now and then what is being looked at, and how many bytes of how many
/// have been read from files.
///
/// * Cost: reads everything in the directory, tables twice.
/// * Errors: [`StorageError::InUse`] while a node runs on it, [`StorageError::NoData`], and what cannot be read at all.
///   Damage is no error, but part of the report.
pub fn verify(dir: &Path, mut progress: impl FnMut(&Path, u64, u64)) -> Result<Report, StorageError> {
    let locks = Locks::take(dir)?;
    let mut report = Report::default();
    files::check(dir, &mut report, &mut progress)?;
    match StoppedNode::open_locked(dir, locks) {
        Ok(node) => {
            records::check(&node, &mut report);
            match node.shards() {
                Ok(shards) => agreement::check(&node, &shards, &mut report),
                Err(_) => report.skipped.push("the agreement of the stores: their records cannot be read".into()),
            }
        }
        Err(error) => {
            // The damage that keeps it closed has been found already, unless RocksDB knows better.
            if report.findings.is_empty() {
                let text = error.to_string();
                let place = place_in(&report, &text).unwrap_or_else(|| Place::Agreement("opening".into()));
                report.found(place, text);
            }
            report.skipped.push(format!("records, and the agreement of the stores: {error}"));
        }
    }
    Ok(report)
}

/// The file that a message of RocksDB names, and where its last whole record ends if it is a log.
fn place_in(report: &Report, text: &str) -> Option<Place> {
    let named = report.files.iter().find(|file| text.contains(&*file.path.to_string_lossy()))?;
    let offset = match named.kind {
        FileKind::WriteAheadLog | FileKind::Manifest => {
            log_file::read(&named.path, |_, _| {}).ok().map(|log| log.whole)
        }
        _ => None,
    };
    Some(Place::File(named.path.clone(), offset))
}
