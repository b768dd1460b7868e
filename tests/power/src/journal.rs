//! What the worker asked of the disk, in order: the record from which crash images are built.
//!
//! The worker appends to one file, under one lock, so the order of the records is an order in which things happened. Notes
//! of the workload lie between the file operations: a note that something was acknowledged comes after the end of the sync
//! on which that rests.
//!
//! A record is `length u32 LE of what follows | kind u8 | a u64 LE | b u64 LE | length of name u32 LE | name | data`. A
//! record that is cut off, by the end of the process that wrote it, is none.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Bytes of a record before name and data, without its length.
const HEAD: usize = 1 + 8 + 8 + 4;

/// What happened. Paths are relative to the watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A new file `name`; `a` identifies it from now on.
    Create = 1,
    /// `data` was written into file `a` at offset `b`.
    Write = 2,
    /// The length of file `a` was set to `b`.
    SetLength = 3,
    /// Sync `b` of file `a` begins: it will cover what was written before.
    SyncFile = 4,
    /// Sync `b` of the folder `name` begins.
    SyncFolder = 5,
    /// Sync `b` has succeeded.
    Synced = 6,
    /// `name` is called `data` from now on.
    Rename = 7,
    /// `name` is gone.
    Unlink = 8,
    /// The file `name` is also called `data`.
    Link = 9,
    /// A new folder `name`.
    MakeFolder = 10,
    /// The folder `name` is gone.
    RemoveFolder = 11,
    /// `data` is a note of the workload.
    Note = 12,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::*;
        let all = [
            Create,
            Write,
            SetLength,
            SyncFile,
            SyncFolder,
            Synced,
            Rename,
            Unlink,
            Link,
            MakeFolder,
            RemoveFolder,
            Note,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub kind: Kind,
    /// See [`Kind`].
    pub a: u64,
    /// See [`Kind`].
    pub b: u64,
    /// See [`Kind`].
    pub name: PathBuf,
    /// See [`Kind`].
    pub data: Vec<u8>,
}

/// Encodes a record.
pub fn encode(kind: Kind, a: u64, b: u64, name: &[u8], data: &[u8]) -> Vec<u8> {
    let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let mut record = Vec::with_capacity(4 + HEAD + name.len() + data.len());
    record.extend(length(HEAD + name.len() + data.len()));
    record.push(kind as u8);
    record.extend(a.to_le_bytes());
    record.extend(b.to_le_bytes());
    record.extend(length(name.len()));
    record.extend(name);
    record.extend(data);
    record
}

/// Reads a journal up to its last whole record.
pub fn read(path: &Path) -> std::io::Result<Vec<Record>> {
    let bytes = std::fs::read(path)?;
    let (mut rest, mut records) = (&bytes[..], Vec::new());
    while let Some(record) = next(&mut rest) {
        records.push(record);
    }
    Ok(records)
}

fn next(rest: &mut &[u8]) -> Option<Record> {
    let (length, after) = rest.split_first_chunk()?;
    let (record, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = after;
    let (kind, record) = record.split_first()?;
    let (a, record) = record.split_first_chunk()?;
    let (b, record) = record.split_first_chunk()?;
    let (length, record) = record.split_first_chunk()?;
    let (name, data) = record.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some(Record {
        kind: Kind::of(*kind)?,
        a: u64::from_le_bytes(*a),
        b: u64::from_le_bytes(*b),
        name: OsStr::from_bytes(name).into(),
        data: data.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back_and_one_that_is_cut_off_is_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("journal");
        let mut bytes = encode(Kind::Write, 7, 9, b"", b"some bytes");
        let whole = bytes.len();
        bytes.extend(encode(Kind::Rename, 0, 0, b"a/b", b"a/c"));
        for length in whole..=bytes.len() {
            std::fs::write(&path, &bytes[..length]).expect("written");
            let records = read(&path).expect("readable");
            assert_eq!(records.len(), if length == bytes.len() { 2 } else { 1 });
            let first = Record { kind: Kind::Write, a: 7, b: 9, name: "".into(), data: b"some bytes".to_vec() };
            assert_eq!(records[0], first);
        }
    }
}
