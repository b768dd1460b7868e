//! RocksDB's files as they lie on the disk, read without RocksDB.
//!
//! RocksDB finds most damage by its own checksums, but not all of it, and when it refuses a log it does not say where
//! in the file. What it takes for the harmless end of a log, and what is checked here instead, is in [`log_file`]; which
//! end of a log may not be missing is in [`mark`]. [`table`] names every damaged block of a table file, where RocksDB
//! names the first that it reads.
//!
//! Nothing here writes into a file of RocksDB.

pub(crate) mod log_file;
pub(crate) mod mark;
pub(crate) mod table;

use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a file whose bytes are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where the damaged record, block or field begins; where the file ends, if something after that is missing.
    pub offset: u64,
    /// What was found.
    pub what: String,
}

impl Damage {
    pub(crate) fn new(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), offset, what: what.into() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}: {}", self.file.display(), self.offset, self.what)
    }
}

/// RocksDB's stored form of a crc32c, which is never the crc of bytes that contain it.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Four bytes, little-endian, at a place that is known to be inside.
fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Eight bytes, little-endian.
fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Takes a variable-length number from the front.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
