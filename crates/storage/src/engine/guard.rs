//! What is asked of a database's files before RocksDB opens them, and changes them.
//!
//! RocksDB takes some damage for the end of a log (see [`log_file`]), and recovers from what it takes for the whole:
//! afterwards nobody can tell any more that something was missing. So the logs are read first. What a crash can leave
//! goes on to RocksDB. Everything else stops the start, names the file and the place, and changes nothing.
//!
//! Three things have to hold, and follow from how RocksDB writes:
//!
//! 1. Each log is whole up to its end, and only the newest with anything in it may end torn.
//! 2. Writes are numbered. What the MANIFEST's last number does not cover lies in the write-ahead logs, without a gap. (The
//!    raft store's one kind of write past its log, the identity, is made while nothing else is written, and flushed at once.)
//! 3. They reach at least up to the number that is noted as durable.

use super::Rocks;
use crate::StorageError;
use crate::physical::log_file::{self, End, LogFile};
use crate::physical::{Damage, mark};
use std::path::Path;

/// What the files of a closed database say.
pub(crate) struct Examined {
    /// The list of files in force.
    pub(crate) manifest: Option<LogFile>,
    /// The write-ahead logs, oldest first.
    pub(crate) logs: Vec<LogFile>,
    /// Number of the last write that is there.
    pub(crate) latest: u64,
    /// Number of the last write that is noted as durable, if anything is noted.
    pub(crate) noted: Option<u64>,
    /// What is wrong, the likeliest cause first.
    pub(crate) damage: Vec<Damage>,
}

/// Examines a database that nobody has open. `logged`: its writes go through the write-ahead log.
///
/// * Errors: a file cannot be read; a mark that is damaged or too new. Other damage is part of the answer.
/// * Cost: reads the MANIFEST and the write-ahead logs once.
pub(crate) fn examine(dir: &Path, logged: bool) -> Result<Examined, StorageError> {
    let noted = mark::read(dir)?;
    let mut found = Examined { manifest: None, logs: Vec::new(), latest: 0, noted, damage: Vec::new() };
    match log_file::manifest(dir)? {
        Ok(path) => {
            let latest = &mut found.latest;
            let manifest = log_file::read(&path, |_, record| {
                *latest = (*latest).max(log_file::last_sequence(record).unwrap_or(0));
            })?;
            if let End::Damaged(damage) = &manifest.end {
                found.damage.push(damage.clone());
            }
            found.manifest = Some(manifest);
        }
        Err(damage) => found.damage.push(damage),
    }
    // A list of files that is damaged says nothing about numbers.
    let numbers = found.damage.is_empty();
    let listed = found.latest;
    let mut gap = None;
    for path in log_file::write_ahead_logs(dir)? {
        let latest = &mut found.latest;
        let log = log_file::read(&path, |at, record| {
            let Some((first, count)) = log_file::batch_header(record) else { return };
            if first > latest.saturating_add(1) && gap.is_none() {
                gap = Some((path.clone(), at, *latest, first));
            }
            *latest = (*latest).max(first.saturating_add(u64::from(count)).saturating_sub(1));
        })?;
        found.logs.push(log);
    }
    found.damage.extend(ends(&found.logs));
    if numbers
        && logged
        && found.damage.is_empty()
        && let Some((path, at, before, first)) = gap
    {
        let what = format!("writes {} to {} are missing", before + 1, first - 1);
        // What the list of files should cover, or what should lie in a log.
        let damage = match &found.manifest {
            Some(manifest) if before == listed => {
                Damage::new(&manifest.path, manifest.whole, format!("{what} at its end"))
            }
            _ => Damage::new(&path, at, format!("{what} before this one")),
        };
        found.damage.push(damage);
    }
    if numbers && found.damage.is_empty() {
        found.damage.extend(missing(&found, logged));
    }
    Ok(found)
}

/// What is wrong with the ends of logs.
fn ends(files: &[LogFile]) -> Vec<Damage> {
    let mut found = Vec::new();
    for (n, file) in files.iter().enumerate() {
        match &file.end {
            End::Whole => {}
            End::Damaged(damage) => found.push(damage.clone()),
            End::Torn { offset, how } if files[n + 1..].iter().any(|later| later.records > 0) => {
                found.push(Damage::new(&file.path, *offset, format!("{how}, and a later log goes on")));
            }
            End::Torn { .. } => {}
        }
    }
    found
}

/// What was durable and is not there. The place is the end of the file that should go on.
fn missing(found: &Examined, logged: bool) -> Option<Damage> {
    let noted = found.noted.filter(|noted| *noted > found.latest)?;
    let what =
        format!("its end is missing: writes up to {noted} were durable, what is left ends with {}", found.latest);
    let listed = found.manifest.as_ref();
    let torn_list = listed.is_some_and(|manifest| manifest.end != End::Whole);
    let ends = found.logs.last().filter(|_| logged && !torn_list).or(listed)?;
    Some(Damage::new(&ends.path, ends.whole, what))
}

/// Refuses a database that is damaged; a folder without a database is none.
///
/// * Returns: the number up to which everything was once durable, if that is known.
/// * Errors: [`StorageError::Corrupt`] naming file and offset.
pub(super) fn before_open(dir: &Path, logged: bool) -> Result<Option<u64>, StorageError> {
    if !dir.join("CURRENT").exists() {
        return Ok(None);
    }
    let found = examine(dir, logged)?;
    match found.damage.first() {
        None => Ok(found.noted),
        Some(damage) => Err(StorageError::corrupt(damage.to_string())),
    }
}

impl Rocks {
    /// Notes, after a completed sync or flush, what it covered.
    pub(super) fn covered(&self, sequence: u64) {
        self.mark.note(sequence);
    }
}
