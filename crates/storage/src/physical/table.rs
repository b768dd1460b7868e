//! RocksDB's table files (SST), block by block.
//!
//! A block-based table is a row of blocks, each followed by `compression u8 | checksum u32 LE`, and a footer that leads to
//! the metaindex, which leads to the other blocks about the table and to the index, which leads to the blocks of
//! data. Formats 6 and later mix a block's offset into its checksum, so a block in the wrong place is found as well.
//!
//! This reader follows handles and checks checksums, and hands out what is in blocks of data if somebody asks for it.
//! RocksDB does the same when it reads a block, but names only the first damaged one, and only of tables that its
//! MANIFEST leads to.

use super::{Damage, le32, le64, masked, varint};
use crate::StorageError;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const FOOTER: usize = 53;
const TRAILER: usize = 5;
const MAGIC: u64 = 0x88e2_41b7_85f4_cff7;
const EXTENDED_MAGIC: [u8; 4] = [0x3e, 0x00, 0x7a, 0x00];
/// First format whose footer and blocks have checksums that depend on where they are.
const CONTEXT_FROM: u32 = 6;
/// Last format that is known here.
const FORMAT_MAX: u32 = 7;

const CRC32C: u8 = 1;
const XXH3: u8 = 4;

const UNCOMPRESSED: u8 = 0;
const LZ4: u8 = 4;
const ZSTD: u8 = 7;

/// The block that the index of data is in.
const INDEX: &[u8] = b"rocksdb.index";

/// An uncompressed index or metaindex larger than this is taken for damage, not for a reason to ask for memory.
const UNCOMPRESSED_MAX: usize = 256 << 20;

/// What was found in a table file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// Length of the file in bytes.
    pub(crate) bytes: u64,
    /// Blocks whose checksum was compared.
    pub(crate) blocks: u64,
    /// Everything that is not as it was written.
    pub(crate) damage: Vec<Damage>,
    /// Why some of it could not be checked.
    pub(crate) unchecked: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Handle {
    offset: u64,
    size: u64,
}

struct Footer {
    checksum: u8,
    /// Mixed into checksums; zero: not done.
    context: u32,
    metaindex: Handle,
    /// In the footer only in old formats.
    index: Option<Handle>,
}

/// Checks every block of a table file.
///
/// * Cost: reads the file once.
/// * Errors: the file cannot be read. Damage is no error, but part of the result.
pub(crate) fn check(path: &Path) -> Result<Table, StorageError> {
    let failed = || StorageError::file("read", path);
    let file = File::open(path).map_err(failed())?;
    let bytes = file.metadata().map_err(failed())?.len();
    check_content(path, file, bytes).map_err(failed())
}

/// [`check`], of the content of a file.
pub(crate) fn check_content(path: &Path, file: impl ReadAt, bytes: u64) -> std::io::Result<Table> {
    run(path, file, bytes, None)
}

/// What is done with a row: the offset of its block, its key, its value.
type EachRow<'a> = dyn FnMut(u64, &[u8], &[u8]) + 'a;

/// [`check_content`] of a file that was written for ingestion, handing out its rows in order. What else is in it than
/// such rows is damage.
pub(crate) fn check_rows(path: &Path, file: impl ReadAt, bytes: u64, each: &mut EachRow<'_>) -> std::io::Result<Table> {
    run(path, file, bytes, Some(each))
}

fn run(path: &Path, file: impl ReadAt, bytes: u64, each: Option<&mut EachRow<'_>>) -> std::io::Result<Table> {
    let mut check = Check { path, file, each, table: Table { bytes, ..Table::default() } };
    if !check.run()? && check.table.unchecked.is_none() {
        check.table.unchecked = Some("what the damaged block would lead to".to_owned());
    }
    Ok(check.table)
}

/// Bytes that can be read at any place.
pub(crate) trait ReadAt {
    /// Fills the buffer from `at` on.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> std::io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> std::io::Result<()> {
        self.read_exact_at(buffer, at)
    }
}

impl ReadAt for &[u8] {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> std::io::Result<()> {
        let found = usize::try_from(at).ok().and_then(|at| self.get(at..)).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(found.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

struct Check<'a, 'b, F> {
    path: &'a Path,
    file: F,
    each: Option<&'a mut EachRow<'b>>,
    table: Table,
}

impl<F: ReadAt> Check<'_, '_, F> {
    fn damaged(&mut self, offset: u64, what: impl Into<String>) {
        self.table.damage.push(Damage::new(self.path, offset, what));
    }

    /// Returns whether every block was reached.
    fn run(&mut self) -> std::io::Result<bool> {
        let Some(at) = self.table.bytes.checked_sub(FOOTER as u64) else {
            self.damaged(self.table.bytes, "too short to be a table");
            return Ok(false);
        };
        let mut bytes = [0; FOOTER];
        self.file.read_at(&mut bytes, at)?;
        let footer = match footer(&bytes, at) {
            Ok(footer) => footer,
            Err(Unusable::Damaged(what)) => {
                self.damaged(at, what);
                return Ok(false);
            }
            Err(Unusable::Unknown(what)) => {
                self.table.unchecked = Some(what);
                return Ok(false);
            }
        };
        let Some(metaindex) = self.read(&footer, footer.metaindex, "metaindex")? else { return Ok(false) };
        let Some(entries) = self.entries(&metaindex, footer.metaindex, "metaindex", meta_entries) else {
            return Ok(false);
        };
        let mut index = footer.index;
        for (name, handle) in entries {
            if name == INDEX {
                index = Some(handle);
            } else if name.starts_with(b"rocksdb.") || name.starts_with(b"filter.") || name.starts_with(b"fullfilter.")
            {
                self.read(&footer, handle, &String::from_utf8_lossy(&name))?;
            }
        }
        let Some(index) = index else {
            self.damaged(footer.metaindex.offset, "the metaindex does not lead to an index");
            return Ok(false);
        };
        let Some(block) = self.read(&footer, index, "index")? else { return Ok(false) };
        let Some(handles) = self.entries(&block, index, "index", index_entries) else { return Ok(false) };
        for handle in handles {
            if let Some(block) = self.read(&footer, handle, "data")? {
                self.rows(&block, handle);
            }
        }
        Ok(true)
    }

    /// Hands out the rows of a block with a good checksum, if somebody wants them.
    fn rows(&mut self, block: &[u8], handle: Handle) {
        let Some(each) = &mut self.each else { return };
        let read =
            uncompress(block).and_then(|plain| data_entries(&plain, |key, value| each(handle.offset, key, value)));
        if read.is_none() {
            self.damaged(handle.offset, "the data block is whole, and holds something else than rows for ingestion");
        }
    }

    /// A block with its compression byte, if its checksum is right.
    fn read(&mut self, footer: &Footer, handle: Handle, what: &str) -> std::io::Result<Option<Vec<u8>>> {
        let length = handle.size.checked_add(TRAILER as u64);
        let inside = length.and_then(|l| handle.offset.checked_add(l)).is_some_and(|end| end <= self.table.bytes);
        let Some(length) = length.filter(|_| inside).and_then(|l| usize::try_from(l).ok()) else {
            self.damaged(handle.offset, format!("the {what} block of {} bytes leads out of the file", handle.size));
            return Ok(None);
        };
        let mut block = vec![0; length];
        self.file.read_at(&mut block, handle.offset)?;
        self.table.blocks += 1;
        let stored = le32(&block, length - 4).unwrap_or(0);
        block.truncate(length - 4);
        let computed = checksum(footer.checksum, &block).wrapping_add(modifier(footer.context, handle.offset));
        if stored != computed {
            self.damaged(handle.offset, format!("checksum mismatch in the {what} block of {} bytes", handle.size));
            return Ok(None);
        }
        Ok(Some(block))
    }

    /// The entries of a block with a good checksum. If it cannot be understood all the same, what it leads to is left
    /// unchecked, and the result says so.
    fn entries<T>(
        &mut self,
        block: &[u8],
        handle: Handle,
        what: &str,
        parse: impl FnOnce(&[u8]) -> Option<Vec<T>>,
    ) -> Option<Vec<T>> {
        let entries = uncompress(block).and_then(|plain| parse(&plain));
        if entries.is_none() {
            self.table.unchecked = Some(format!("its {what} at offset {} is of a form not known here", handle.offset));
        }
        entries
    }
}

enum Unusable {
    Damaged(&'static str),
    Unknown(String),
}

fn footer(bytes: &[u8; FOOTER], at: u64) -> Result<Footer, Unusable> {
    let bad = || Unusable::Damaged("the footer is no footer of a table");
    if le64(bytes, FOOTER - 8) != Some(MAGIC) {
        return Err(Unusable::Damaged("the file does not end like a table"));
    }
    let format = le32(bytes, FOOTER - 12).ok_or_else(bad)?;
    let checksum_kind = bytes[0];
    if format > FORMAT_MAX {
        // Also what a flipped bit looks like: the footer's checksum lies in a place that the format decides.
        return Err(Unusable::Damaged("the footer has an unknown format"));
    }
    if format < CONTEXT_FROM {
        if !matches!(checksum_kind, CRC32C | XXH3) {
            return Err(Unusable::Unknown(format!("it has checksums of the unknown kind {checksum_kind}")));
        }
        let mut rest = &bytes[1..FOOTER - 12];
        let metaindex = handle(&mut rest).ok_or_else(bad)?;
        let index = handle(&mut rest).ok_or_else(bad)?;
        return Ok(Footer { checksum: checksum_kind, context: 0, metaindex, index: Some(index) });
    }
    if !matches!(checksum_kind, CRC32C | XXH3) || bytes[1..5] != EXTENDED_MAGIC {
        return Err(bad());
    }
    let (stored, context) = (le32(bytes, 5).ok_or_else(bad)?, le32(bytes, 9).ok_or_else(bad)?);
    let mut cleared = *bytes;
    cleared[5..9].fill(0);
    if stored != checksum(checksum_kind, &cleared).wrapping_add(modifier(context, at)) {
        return Err(Unusable::Damaged("checksum mismatch in the footer"));
    }
    let size = u64::from(le32(bytes, 13).ok_or_else(bad)?);
    let offset = at.checked_sub(TRAILER as u64 + size).ok_or_else(bad)?;
    Ok(Footer { checksum: checksum_kind, context, metaindex: Handle { offset, size }, index: None })
}

/// Checksum of a block that ends with its compression byte, as RocksDB stores it.
fn checksum(kind: u8, bytes: &[u8]) -> u32 {
    const LAST_BYTE: u32 = 0x6b90_83d9;
    match (kind, bytes.split_last()) {
        (XXH3, Some((last, rest))) => {
            let low = xxhash_rust::xxh3::xxh3_64(rest) & u64::from(u32::MAX);
            u32::try_from(low).unwrap_or(0) ^ u32::from(*last).wrapping_mul(LAST_BYTE)
        }
        (XXH3, None) => 0,
        _ => masked(crc32c::crc32c(bytes)),
    }
}

/// What a block's place adds to its checksum.
fn modifier(context: u32, offset: u64) -> u32 {
    let [b0, b1, b2, b3, b4, b5, b6, b7] = offset.to_le_bytes();
    let folded = u32::from_le_bytes([b0, b1, b2, b3]).wrapping_add(u32::from_le_bytes([b4, b5, b6, b7]));
    if context == 0 { 0 } else { context ^ folded }
}

fn handle(bytes: &mut &[u8]) -> Option<Handle> {
    Some(Handle { offset: varint(bytes)?, size: varint(bytes)? })
}

/// The content of a block that ends with its compression byte.
fn uncompress(block: &[u8]) -> Option<Vec<u8>> {
    let (kind, mut rest) = block.split_last()?;
    if *kind == UNCOMPRESSED {
        return Some(rest.to_vec());
    }
    let size = usize::try_from(varint(&mut rest)?).ok().filter(|size| *size <= UNCOMPRESSED_MAX)?;
    match *kind {
        LZ4 => lz4_flex::block::decompress(rest, size).ok(),
        ZSTD => {
            let mut plain = vec![0; size];
            let written = zstd_safe::decompress(&mut plain[..], rest).ok()?;
            plain.truncate(written);
            Some(plain)
        }
        _ => None,
    }
    .filter(|plain| plain.len() == size)
}

/// A block's entries, without the restart points at its end; `None` for what this reader does not know.
fn body(plain: &[u8]) -> Option<&[u8]> {
    let count = le32(plain, plain.len().checked_sub(4)?)?;
    // The upper bits say that the block is laid out in another way, but for one that only describes the keys.
    const UNIFORM_KEYS: u32 = 1 << 29;
    let count = count & !UNIFORM_KEYS;
    let restarts = usize::try_from(count).ok().filter(|count| *count < 1 << 28)?.checked_mul(4)?.checked_add(4)?;
    plain.get(..plain.len().checked_sub(restarts)?)
}

/// Entries `shared | unshared | value length | key | value`, whose values are handles.
fn meta_entries(plain: &[u8]) -> Option<Vec<(Vec<u8>, Handle)>> {
    let (mut rest, mut entries, mut key) = (body(plain)?, Vec::new(), Vec::new());
    while !rest.is_empty() {
        let [shared, unshared, value] = [varint(&mut rest)?, varint(&mut rest)?, varint(&mut rest)?];
        key.truncate(usize::try_from(shared).ok().filter(|shared| *shared <= key.len())?);
        key.extend_from_slice(take(&mut rest, unshared)?);
        let mut value = take(&mut rest, value)?;
        // Some entries hold something else.
        if let Some(handle) = handle(&mut value).filter(|_| value.is_empty()) {
            entries.push((key.clone(), handle));
        }
    }
    Some(entries)
}

/// What follows each key of a file that was written for ingestion: sequence number zero, and that it is a value.
const INGESTED: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

/// Entries `shared | unshared | value length | key | value`, whose keys end with [`INGESTED`].
fn data_entries(plain: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Option<()> {
    let (mut rest, mut key) = (body(plain)?, Vec::new());
    while !rest.is_empty() {
        let [shared, unshared, value] = [varint(&mut rest)?, varint(&mut rest)?, varint(&mut rest)?];
        key.truncate(usize::try_from(shared).ok().filter(|shared| *shared <= key.len())?);
        key.extend_from_slice(take(&mut rest, unshared)?);
        let value = take(&mut rest, value)?;
        each(key.strip_suffix(&INGESTED)?, value);
    }
    Some(())
}

/// Entries `shared | unshared | key | handle`; a handle after a shared key is told by its distance from the one before.
fn index_entries(plain: &[u8]) -> Option<Vec<Handle>> {
    let (mut rest, mut handles) = (body(plain)?, Vec::new());
    while !rest.is_empty() {
        let [shared, unshared] = [varint(&mut rest)?, varint(&mut rest)?];
        take(&mut rest, unshared)?;
        let next = match handles.last() {
            Some(Handle { offset, size }) if shared != 0 => {
                let zigzag = varint(&mut rest)?;
                let delta = i64::try_from(zigzag >> 1).ok()? ^ -i64::try_from(zigzag & 1).ok()?;
                let after = offset.checked_add(*size)?.checked_add(TRAILER as u64)?;
                Handle { offset: after, size: size.checked_add_signed(delta)? }
            }
            _ => handle(&mut rest)?,
        };
        handles.push(next);
    }
    Some(handles)
}

fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(count).ok()?)?;
    *bytes = rest;
    Some(taken)
}
