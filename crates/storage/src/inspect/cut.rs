//! Cuts off the end of a write-ahead log that no node accepts and nobody was ever told to be durable.
//!
//! A power loss may leave a later page of an unsynced write and not an earlier one. What is left looks like damage.
//! Cutting it off is right if the writes behind the place were not acknowledged. A start does it by itself where the log
//! says enough about that ([`guard`]). A log that an older build has written does not: it stops the start. Then the mark
//! proves the opposite where it can; that it does not is no proof, since after a power loss it may be some seconds old. So
//! this is done by a person who knows that the power was lost.

use super::stopped::Locks;
use crate::engine::guard;
use crate::error::{StorageError, StoreName};
use crate::physical::Damage;
use crate::physical::log_file::{End, LogFile};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// What was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Why.
    pub damage: Damage,
    /// The log's length now: where its last whole record ends.
    pub length: u64,
    /// Bytes that were cut off.
    pub bytes: u64,
    /// Where they are kept.
    pub kept: PathBuf,
}

/// Cuts the raft store's write-ahead log at its first damaged record; `None` if nothing in it is damaged, or a start cuts
/// it off by itself. What is cut off is kept in a file in the data directory.
///
/// * Errors: [`StorageError::CutRefused`] if records behind the damage were durable, or may have been for all that is known,
///   and if a later log goes on behind it. Then nothing was changed.
pub fn cut_log(dir: &Path) -> Result<Option<Cut>, StorageError> {
    let _locks = Locks::take(dir)?;
    let folder = dir.join(StoreName::Raft.folder());
    let found = guard::examine(&folder, true)?;
    let Some(damage) = found.damage.first().cloned() else { return Ok(None) };
    let refuse = |why: String| Err(StorageError::CutRefused { damage: damage.to_string(), why });
    let Some(at) = found.logs.iter().position(|file| file.path == damage.file) else {
        return refuse("it is not in a write-ahead log".into());
    };
    let (log, later) = (&found.logs[at], &found.logs[at + 1..]);
    if !matches!(log.end, End::Damaged(_)) || later.iter().any(|file| file.records > 0) {
        return refuse("it is not the end of the log that is damaged".into());
    }
    match found.durable() {
        None => return refuse("nothing is known about what was durable".into()),
        Some(noted) if noted > found.latest => {
            return refuse(format!("writes up to {noted} were durable, the log would end with {}", found.latest));
        }
        Some(_) => {}
    }
    let kept = keep(dir, log)?;
    let failed = || StorageError::file("cut", &log.path);
    let file = OpenOptions::new().write(true).open(&log.path).map_err(failed())?;
    file.set_len(log.whole).and_then(|()| file.sync_all()).map_err(failed())?;
    Ok(Some(Cut { length: log.whole, bytes: log.bytes - log.whole, kept, damage }))
}

/// Copies what follows the last whole record into a file of its own, durably.
fn keep(dir: &Path, log: &LogFile) -> Result<PathBuf, StorageError> {
    let name = log.path.file_name().unwrap_or_default().to_string_lossy();
    let kept = dir.join(format!("cut-{name}-{}", log.whole));
    let mut source = File::open(&log.path).map_err(StorageError::file("open", &log.path))?;
    source.seek(SeekFrom::Start(log.whole)).map_err(StorageError::file("read", &log.path))?;
    let failed = || StorageError::file("write", &kept);
    let mut target = File::create(&kept).map_err(failed())?;
    std::io::copy(&mut source.take(log.bytes), &mut target).and_then(|_| target.sync_all()).map_err(failed())?;
    crate::Files::real().sync_dir(dir)?;
    Ok(kept)
}
