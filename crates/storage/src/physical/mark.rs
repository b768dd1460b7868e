//! What surely was durable: a lower bound that is kept beside the database and asks for no sync of its own.
//!
//! A write-ahead log whose end is missing looks like one whose end was never written, and RocksDB takes it so. For a
//! log from which votes and entries were acknowledged that would be a wrong answer: the replica would vote twice, or
//! lack an entry that a leader counted on. So after every completed sync the sequence number of the last write that it
//! covered is noted in the file `SYNCED` in the database's folder, and a database that comes back with less is refused.
//!
//! * Invariant: the noted number was durable when it was noted. It is read before the sync begins.
//! * The note itself is not synced. After a killed process, and for damage done to files at rest, it is exact. After a
//!   power loss it may be as old as the system's write-back, some 30 seconds: what was cut off above it is then not found by
//!   it. It never refuses a log that is whole. Every batch in the raft store's log carries such a note as well.
//! * There are two slots, in pages of their own, written in turn: a note that is cut off leaves the one before it. A slot
//!   is `crc32c u32 BE | length u8 | DurableMark`.
//! * A database without the file, written by an older build or copied by a checkpoint, has no bound; it gets the file
//!   when it is opened.

use super::Damage;
use crate::StorageError;
use meridian_proto::internal::v1::DurableMark;
use prost::Message as _;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Name of the file. RocksDB leaves names alone that it does not know.
pub(crate) const FILE: &str = "SYNCED";

const FORMAT: u32 = 1;

/// Distance of the slots: they never share a page.
const SLOT_STEP: u64 = 4096;
/// Bytes of a slot that are read; the message is far shorter.
const SLOT_LEN: usize = 64;
const SLOT_HEAD: usize = 5;

/// The highest number noted in a database's folder; `None` if there is no note.
///
/// * Errors: the file cannot be read, or holds something and no whole note.
pub(crate) fn read(dir: &Path) -> Result<Option<u64>, StorageError> {
    let path = dir.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::file("read", &path)(error)),
    };
    let slot = |at: u64| bytes.get(usize::try_from(at).ok()?..).and_then(decode);
    let newest = [slot(0), slot(SLOT_STEP)].into_iter().flatten().max_by_key(|mark| mark.sequence);
    match newest {
        Some(mark) if mark.format > FORMAT => Err(StorageError::FormatTooNew { found: mark.format, known: FORMAT }),
        Some(mark) => Ok(Some(mark.sequence)),
        // Made, and the power went before anything of it was written.
        None if bytes.iter().all(|byte| *byte == 0) => Ok(None),
        None => {
            let what = "no whole note of what was durable; without the file the database opens unchecked";
            Err(StorageError::corrupt(Damage::new(&path, 0, what).to_string()))
        }
    }
}

pub(crate) fn decode(slot: &[u8]) -> Option<DurableMark> {
    let (crc, rest) = slot.get(..slot.len().min(SLOT_LEN))?.split_first_chunk()?;
    let (length, rest) = rest.split_first()?;
    let body = rest.get(..usize::from(*length))?;
    (u32::from_be_bytes(*crc) == crc32c::crc32c(body)).then_some(())?;
    DurableMark::decode(body).ok().filter(|mark| mark.format > 0)
}

/// A note of what was durable.
pub(crate) fn message(sequence: u64) -> DurableMark {
    DurableMark { format: FORMAT, sequence }
}

fn encode(sequence: u64) -> Vec<u8> {
    let body = message(sequence).encode_to_vec();
    let mut slot = crc32c::crc32c(&body).to_be_bytes().to_vec();
    slot.push(u8::try_from(body.len()).expect("two numbers are a few bytes"));
    slot.extend_from_slice(&body);
    debug_assert!(slot.len() <= SLOT_LEN && slot.len() >= SLOT_HEAD);
    slot
}

/// The writing side. It belongs to one open database.
pub(crate) struct Mark {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<File>,
    /// The highest note; none before the first.
    noted: Option<u64>,
    second: bool,
    /// Said once that notes cannot be written.
    told: bool,
}

impl Mark {
    /// For the database in this folder, whose highest note is `noted`.
    pub(crate) fn new(dir: &Path, noted: Option<u64>) -> Self {
        let state = State { noted, ..State::default() };
        Self { path: dir.join(FILE), state: Mutex::new(state) }
    }

    /// Notes that everything up to this sequence number is durable. A failure is logged and not returned: the lower
    /// bound stays where it was, which is true as well.
    pub(crate) fn note(&self, sequence: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.noted >= Some(sequence) {
            return;
        }
        match self.write(&mut state, sequence) {
            Ok(()) => {
                state.noted = Some(sequence);
                state.second = !state.second;
            }
            Err(error) if !state.told => {
                state.told = true;
                tracing::warn!(%error, file = %self.path.display(), "cannot note what is durable; a log that is cut short later may go unnoticed");
            }
            Err(_) => {}
        }
    }

    fn write(&self, state: &mut State, sequence: u64) -> std::io::Result<()> {
        let at = if state.second { SLOT_STEP } else { 0 };
        match &state.file {
            Some(file) => file.write_all_at(&encode(sequence), at),
            None => {
                // Once per opening: whole and synced, so that later notes only ever overwrite what is there.
                let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
                let length = SLOT_STEP + SLOT_LEN as u64;
                if file.metadata()?.len() < length {
                    file.set_len(length)?;
                }
                file.write_all_at(&encode(sequence), at)?;
                file.sync_all()?;
                File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
                state.file = Some(file);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(dir: &Path) -> Option<u64> {
        read(dir).unwrap()
    }

    #[test]
    fn the_highest_note_counts_and_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(noted(dir.path()), None);
        let mark = Mark::new(dir.path(), None);
        // A new database notes that as well: what is damaged in it is no damage of an older build's.
        for (sequence, expected) in [(0, 0), (5, 5), (9, 9), (7, 9), (10, 10), (u64::MAX, u64::MAX)] {
            mark.note(sequence);
            assert_eq!(noted(dir.path()), Some(expected));
        }
        let again = Mark::new(dir.path(), noted(dir.path()));
        again.note(3);
        assert_eq!(noted(dir.path()), Some(u64::MAX));
    }

    #[test]
    fn a_note_that_was_cut_off_leaves_the_one_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let mark = Mark::new(dir.path(), None);
        (1..=3).for_each(|n| mark.note(n));
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..(16 * 8) {
            for slot in [0, SLOT_STEP as usize] {
                let mut damaged = whole.clone();
                damaged[slot + bit / 8] ^= 1 << (bit % 8);
                std::fs::write(&path, &damaged).unwrap();
                let other = if slot == 0 { 2 } else { 3 };
                assert!(noted(dir.path()) >= Some(other), "bit {bit} of slot {slot}");
            }
        }
    }

    #[test]
    fn damage_is_not_taken_for_no_note() {
        let dir = tempfile::tempdir().unwrap();
        Mark::new(dir.path(), None).note(8);
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[6] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(read(dir.path()), Err(StorageError::Corrupt { .. })));
        for unwritten in [0, 4096] {
            std::fs::write(&path, vec![0; unwritten]).unwrap();
            assert_eq!(noted(dir.path()), None);
        }
    }
}
