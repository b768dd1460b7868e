//! RocksDB's log format: the write-ahead log and the MANIFEST.
//!
//! A file is a row of 32 KiB blocks. A block holds physical records, `crc32c u32 LE | length u16 LE | type u8 |
//! payload`, and at most six bytes of padding. A logical record is one of type FULL, or FIRST, MIDDLE.. and LAST.
//!
//! How RocksDB (11.8, `kTolerateCorruptedTailRecords`) takes what does not fit, and what follows from it here:
//!
//! | found | RocksDB | here |
//! | --- | --- | --- |
//! | checksum fails inside the file | refuses, without saying where | damage |
//! | a length that leads past the end of the file | the end: drops the record and the up to 32 KiB behind it | damage, if a record with a good checksum begins or ends behind it; else a torn end |
//! | the first record's type becomes that of a recycled log | the end: drops the whole file | damage |
//! | a later one's type becomes that | reads it again, for ever | damage |
//! | a header of zeros | skips the rest of the block and goes on behind it | damage, unless all that follows is zeros |
//! | the file ends inside a record | the end | a torn end |
//!
//! A torn end is what a crash leaves of a write that was never acknowledged. That it may be one does not say that it
//! is: a file that was cut short afterwards looks the same. The [`mark`](super::mark) tells the two apart.
//!
//! Log files are not recycled and not compressed by this crate's options; a file of either kind is called damaged.

use super::{Damage, le32, masked};
use crate::StorageError;
use meridian_proto::internal::v1::DurableMark;
use prost::Message as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
/// Records about the file itself: sizes of timestamps, the log before this one. From here on up they may be skipped.
const ABOUT_TIMESTAMPS: u8 = 10;
const IGNORABLE: u8 = 128;

/// How a log file ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a whole record.
    Whole,
    /// With less than a record, as a crash in the middle of a write leaves it.
    Torn {
        /// Where the record begins that is not whole.
        offset: u64,
        /// How it is not whole.
        how: &'static str,
    },
    /// Not at all: this is no end that a crash makes.
    Damaged(Damage),
}

/// What is in a log file.
#[derive(Clone, Debug)]
pub(crate) struct LogFile {
    /// The file.
    pub(crate) path: PathBuf,
    /// Its length in bytes.
    pub(crate) bytes: u64,
    /// Whole logical records before its end.
    pub(crate) records: u64,
    /// Where the last of them ends.
    pub(crate) whole: u64,
    /// How it ends.
    pub(crate) end: End,
}

/// One place where a physical record should be.
enum Physical<'a> {
    Record { kind: u8, payload: &'a [u8] },
    Padding,
    Torn(&'static str),
    Zeros,
    Damaged(String),
}

/// Reads a log file. `each` gets every whole logical record and the offset at which it begins.
///
/// * Cost: reads the file once, 32 KiB at a time.
/// * Errors: the file cannot be read. Damage is no error, but an [`End`].
pub(crate) fn read(path: &Path, each: impl FnMut(u64, &[u8])) -> Result<LogFile, StorageError> {
    let failed = || StorageError::file("read", path);
    let file = File::open(path).map_err(failed())?;
    let bytes = file.metadata().map_err(failed())?.len();
    scan(path, file, bytes, each).map_err(failed())
}

/// [`read`], from the content of the file.
pub(crate) fn scan(
    path: &Path,
    mut file: impl Read,
    bytes: u64,
    mut each: impl FnMut(u64, &[u8]),
) -> std::io::Result<LogFile> {
    let mut found = LogFile { path: path.to_owned(), bytes, records: 0, whole: 0, end: End::Whole };
    let mut block = Vec::with_capacity(BLOCK);
    // Where the logical record under way begins, and what there is of it.
    let mut begun: Option<(u64, Vec<u8>)> = None;
    let mut start = 0_u64;
    loop {
        block.clear();
        (&mut file).take(BLOCK as u64).read_to_end(&mut block)?;
        let last = block.len() < BLOCK || start + BLOCK as u64 >= bytes;
        let mut at = 0;
        while at < block.len() {
            let offset = start + at as u64;
            let damaged = |what: &str| End::Damaged(Damage::new(path, offset, what));
            match physical(&block[at..], block.len() == BLOCK, last) {
                Physical::Padding => break,
                Physical::Record { kind, payload } => {
                    at += HEADER + payload.len();
                    match (kind, begun.as_mut()) {
                        (FULL, None) => {
                            each(offset, payload);
                            found.records += 1;
                            found.whole = start + at as u64;
                        }
                        (FIRST, None) => begun = Some((offset, payload.to_vec())),
                        (MIDDLE, Some((_, record))) => record.extend_from_slice(payload),
                        (LAST, Some((_, record))) => {
                            record.extend_from_slice(payload);
                            if let Some((offset, record)) = begun.take() {
                                each(offset, &record);
                            }
                            found.records += 1;
                            found.whole = start + at as u64;
                        }
                        (FULL | FIRST, Some(_)) => {
                            found.end = damaged("a record begins inside another");
                            return Ok(found);
                        }
                        (MIDDLE | LAST, None) => {
                            found.end = damaged("the middle of a record whose beginning is not there");
                            return Ok(found);
                        }
                        _ => found.whole = start + at as u64,
                    }
                }
                Physical::Torn(how) => {
                    let offset = begun.map_or(offset, |(begun, _)| begun);
                    found.end = End::Torn { offset, how };
                    return Ok(found);
                }
                Physical::Zeros => {
                    found.end = match begun {
                        None if zeros_only(&mut file)? => End::Torn { offset, how: "zeros to the end of the file" },
                        None => damaged("zeros where a record should be, and records behind them"),
                        Some(_) => damaged("zeros in the middle of a record"),
                    };
                    return Ok(found);
                }
                Physical::Damaged(what) => {
                    found.end = damaged(&what);
                    return Ok(found);
                }
            }
        }
        if last {
            break;
        }
        start += BLOCK as u64;
    }
    if let Some((offset, _)) = begun {
        found.end = End::Torn { offset, how: "the file ends between two parts of a record" };
    }
    Ok(found)
}

/// What lies at the beginning of `rest`, the rest of a block.
fn physical(rest: &[u8], full_block: bool, last_block: bool) -> Physical<'_> {
    let Some((header, body)) = rest.split_first_chunk::<HEADER>() else {
        return if full_block { Physical::Padding } else { Physical::Torn("the file ends inside a header") };
    };
    let [c0, c1, c2, c3, l0, l1, kind] = *header;
    let (stored, length) = (u32::from_le_bytes([c0, c1, c2, c3]), usize::from(u16::from_le_bytes([l0, l1])));
    if kind == 0 && length == 0 {
        return match rest.iter().all(|byte| *byte == 0) {
            true => Physical::Zeros,
            false => Physical::Damaged("zeros where a record should be".into()),
        };
    }
    let Some(payload) = body.get(..length) else {
        return if !last_block {
            Physical::Damaged(format!("a record of {length} bytes leads out of its block"))
        } else if let Some(really) = length_by_checksum(kind, body, stored) {
            Physical::Damaged(format!("the record's length says {length}, its checksum is right for {really}"))
        } else if record_behind(body) {
            Physical::Damaged(format!("a record of {length} bytes leads out of the file, and records lie behind it"))
        } else {
            Physical::Torn("the file ends inside a record")
        };
    };
    if masked(crc(kind, payload)) != stored {
        return Physical::Damaged(format!("checksum mismatch in a record of {length} bytes"));
    }
    match kind {
        FULL..=LAST | ABOUT_TIMESTAMPS | IGNORABLE.. => Physical::Record { kind, payload },
        _ => Physical::Damaged(format!("a record of the unknown type {kind}")),
    }
}

fn crc(kind: u8, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload)
}

/// The length at which the checksum is right, if there is one: then it is the length that is damaged.
fn length_by_checksum(kind: u8, body: &[u8], stored: u32) -> Option<usize> {
    let mut crc = crc32c::crc32c(&[kind]);
    (0..=body.len()).find(|end| {
        if let Some(byte) = end.checked_sub(1).and_then(|last| body.get(last)) {
            crc = crc32c::crc32c_append(crc, &[*byte]);
        }
        masked(crc) == stored
    })
}

/// Whether a whole record lies anywhere in these bytes. After a write that was cut off there is none.
fn record_behind(bytes: &[u8]) -> bool {
    (0..bytes.len().saturating_sub(HEADER)).any(|at| {
        let (Some(stored), Some(rest)) = (le32(bytes, at), bytes.get(at + 4..)) else { return false };
        let [l0, l1, kind @ FULL..=LAST, body @ ..] = rest else { return false };
        let length = usize::from(u16::from_le_bytes([*l0, *l1]));
        body.get(..length).is_some_and(|payload| length > 0 && masked(crc(*kind, payload)) == stored)
    })
}

fn zeros_only(file: &mut impl Read) -> std::io::Result<bool> {
    let mut chunk = vec![0; BLOCK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(true),
            read if chunk[..read].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

/// Sequence number and count at the beginning of a write batch, which is what a record of a write-ahead log holds.
pub(crate) fn batch_header(record: &[u8]) -> Option<(u64, u32)> {
    Some((super::le64(record, 0)?, le32(record, 8)?))
}

/// The sequence number up to which the log was durable when this batch was written, as the batch itself says; none from
/// an older build. It is RocksDB's log data, which is in the write-ahead log and nowhere else: `3 | length | DurableMark`
/// behind the header.
pub(crate) fn vouched(record: &[u8]) -> Option<u64> {
    const LOG_DATA: u8 = 3;
    let (tag, mut rest) = record.get(12..)?.split_first()?;
    if *tag != LOG_DATA {
        return None;
    }
    let length = usize::try_from(super::varint(&mut rest)?).ok()?;
    let mark = DurableMark::decode(rest.get(..length)?).ok()?;
    // It was written after what it vouches for.
    let (first, _) = batch_header(record)?;
    (mark.format > 0 && mark.sequence < first).then_some(mark.sequence)
}

/// The whole records that lie behind a damaged place, wherever they begin: [`read`] does not go on there. Content of an entry
/// that is made to look like a record is taken for one; what it says can only make a start refuse.
///
/// * Cost: reads the rest of the file into memory and looks at every byte of it.
pub(crate) fn read_behind(path: &Path, offset: u64, mut each: impl FnMut(&[u8])) -> Result<(), StorageError> {
    let bytes = std::fs::read(path).map_err(StorageError::file("read", path))?;
    let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
    while at.saturating_add(HEADER) <= bytes.len() {
        match logical(&bytes, at) {
            Some((record, end)) => {
                each(&record);
                at = end;
            }
            None => at += 1,
        }
    }
    Ok(())
}

/// The logical record that begins here, if a whole one does, and where it ends.
fn logical(bytes: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let mut record = Vec::new();
    loop {
        let room = BLOCK - at % BLOCK;
        if room < HEADER {
            at += room;
        }
        let block = BLOCK - at % BLOCK;
        let rest = bytes.get(at..bytes.len().min(at + block))?;
        let (header, body) = rest.split_first_chunk::<HEADER>()?;
        let [c0, c1, c2, c3, l0, l1, kind] = *header;
        let expected = if record.is_empty() { [FULL, FIRST] } else { [MIDDLE, LAST] };
        let payload = body.get(..usize::from(u16::from_le_bytes([l0, l1]))).filter(|_| expected.contains(&kind))?;
        (masked(crc(kind, payload)) == u32::from_le_bytes([c0, c1, c2, c3])).then_some(())?;
        record.extend_from_slice(payload);
        at += HEADER + payload.len();
        if kind == FULL || kind == LAST {
            return (!record.is_empty()).then_some((record, at));
        }
    }
}

/// The last sequence number that a record of a MANIFEST carries.
pub(crate) fn last_sequence(mut record: &[u8]) -> Option<u64> {
    const COMPARATOR: u64 = 1;
    const LAST_SEQUENCE: u64 = 4;
    const DATABASE: u64 = (1 << 13) + 1;
    loop {
        match super::varint(&mut record)? {
            COMPARATOR | DATABASE => {
                let length = usize::try_from(super::varint(&mut record)?).ok()?;
                record = record.get(length..)?;
            }
            LAST_SEQUENCE => return super::varint(&mut record),
            // Numbers of logs and files, which come before it. What comes after it is of no interest.
            2 | 3 | 9 | 10 | 203 => drop(super::varint(&mut record)?),
            _ => return None,
        }
    }
}

/// How many records of a MANIFEST follow this one that are made together with it, if it is made together with others: the
/// last field of such a record.
pub(crate) fn left_in_group(record: &[u8]) -> Option<u64> {
    // 300, as a number of variable length.
    const IN_ATOMIC_GROUP: [u8; 2] = [0xac, 0x02];
    let (fields, left) = record.split_last_chunk::<1>()?;
    fields.ends_with(&IN_ATOMIC_GROUP).then_some(u64::from(left[0]))
}

/// The write-ahead logs of a database, oldest first.
pub(crate) fn write_ahead_logs(dir: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(StorageError::file("list", dir))? {
        let path = entry.map_err(StorageError::file("list", dir))?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|extension| extension == "log")) {
            logs.push((number, path));
        }
    }
    logs.sort();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}

/// The MANIFEST that CURRENT names.
pub(crate) fn manifest(dir: &Path) -> Result<Result<PathBuf, Damage>, StorageError> {
    let current = dir.join("CURRENT");
    let bytes = std::fs::read(&current).map_err(StorageError::file("read", &current))?;
    let name = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n'));
    let number = name.and_then(|name| name.strip_prefix("MANIFEST-"));
    if let Some(name) = name.filter(|_| number.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))) {
        let path = dir.join(name);
        return Ok(match path.exists() {
            true => Ok(path),
            false => Err(Damage::new(&current, 0, format!("it names {name}, which is not there"))),
        });
    }
    Ok(Err(Damage::new(&current, 0, "it does not name a MANIFEST")))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file with records of these lengths, and where each begins.
    fn written(lengths: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let records: Vec<_> = lengths.iter().enumerate().map(|(n, length)| vec![b'a' + n as u8; *length]).collect();
        begun(&records)
    }

    /// A file with these records.
    pub(crate) fn framed(records: &[Vec<u8>]) -> Vec<u8> {
        begun(records).0
    }

    /// The same, and where each begins.
    fn begun(records: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let (mut file, mut begins) = (Vec::new(), Vec::new());
        for record in records {
            let (mut rest, mut first) = (&record[..], true);
            loop {
                let room = BLOCK - file.len() % BLOCK;
                if room < HEADER {
                    file.resize(file.len() + room, 0);
                    continue;
                }
                if first {
                    begins.push(file.len());
                }
                let (part, left) = rest.split_at(rest.len().min(room - HEADER));
                let kind = match (first, left.is_empty()) {
                    (true, true) => FULL,
                    (true, false) => FIRST,
                    (false, false) => MIDDLE,
                    (false, true) => LAST,
                };
                file.extend(masked(crc(kind, part)).to_le_bytes());
                file.extend(u16::try_from(part.len()).unwrap().to_le_bytes());
                file.push(kind);
                file.extend(part);
                (rest, first) = (left, false);
                if rest.is_empty() {
                    break;
                }
            }
        }
        (file, begins)
    }

    fn scanned(bytes: &[u8]) -> (Vec<(u64, usize)>, LogFile) {
        let mut records = Vec::new();
        let each = |at, record: &[u8]| records.push((at, record.len()));
        let found = scan(Path::new("000001.log"), bytes, bytes.len() as u64, each).unwrap();
        (records, found)
    }

    fn damaged_at(bytes: &[u8]) -> Option<u64> {
        match scanned(bytes).1.end {
            End::Damaged(damage) => Some(damage.offset),
            End::Whole | End::Torn { .. } => None,
        }
    }

    const LENGTHS: [usize; 6] = [100, 40_000, 12, 20_000, 1, 300];

    #[test]
    fn records_are_found_where_they_begin() {
        let (file, begins) = written(&LENGTHS);
        let (records, found) = scanned(&file);
        let expected: Vec<_> = begins.iter().map(|at| *at as u64).zip(LENGTHS).collect();
        assert_eq!((records, found.end, found.whole), (expected, End::Whole, file.len() as u64));
        assert_eq!(scanned(&[]).1.end, End::Whole);
    }

    #[test]
    fn a_file_that_ends_early_is_torn_and_not_damaged() {
        let (file, begins) = written(&LENGTHS);
        for length in 0..file.len() {
            let (records, found) = scanned(&file[..length]);
            let whole = begins.iter().skip(1).chain([&file.len()]).filter(|end| **end <= length).count();
            // Padding may lie between the end of one record and the beginning of the next.
            assert!(records.len() == whole || records.len() == whole + 1, "at {length}");
            assert!(!matches!(found.end, End::Damaged(_)), "at {length}: {:?}", found.end);
            if let End::Torn { offset, .. } = found.end {
                assert!(begins.contains(&(offset as usize)) && found.whole <= offset, "at {length}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_damage_at_or_before_its_place() {
        let (file, begins) = written(&LENGTHS);
        // The headers, of which some bits lead RocksDB astray, and one of every few bytes in between.
        let headers = begins.iter().chain([&BLOCK]).flat_map(|at| *at..*at + HEADER + 1);
        for byte in headers.chain((0..file.len()).step_by(97)) {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[byte] ^= 1 << bit;
                let found = damaged_at(&damaged);
                assert!(found.is_some_and(|at| at <= byte as u64), "bit {bit} of byte {byte}: {found:?}");
            }
        }
    }

    #[test]
    fn zeros_are_an_end_only_if_nothing_follows() {
        let (file, begins) = written(&LENGTHS);
        for at in begins {
            let mut zeroed = file.clone();
            zeroed[at..].fill(0);
            assert_eq!(damaged_at(&zeroed), None);
            let mut page = file.clone();
            let end = (at + 4096).min(file.len() - 1);
            page[at..end].fill(0);
            if page[at..].iter().any(|byte| *byte != 0) {
                assert_eq!(damaged_at(&page), Some(at as u64));
            }
        }
    }

    #[test]
    fn records_behind_a_damaged_place_are_found() {
        let (file, begins) = written(&LENGTHS);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("000001.log");
        for n in 0..LENGTHS.len() - 1 {
            let mut damaged = file.clone();
            // A page, or all of the record.
            damaged[begins[n]..begins[n + 1].min(begins[n] + 4096)].fill(0);
            std::fs::write(&path, damaged).unwrap();
            let mut found = Vec::new();
            read_behind(&path, begins[n] as u64, |record| found.push(record.len())).unwrap();
            assert_eq!(found, LENGTHS[n + 1..], "behind record {n}");
        }
    }

    #[test]
    fn a_batch_vouches_for_what_was_written_before_it_and_nothing_else() {
        let batch = |first: u64, mark: &[u8]| {
            let tail = [&[3, mark.len() as u8][..], mark, b"the rest"].concat();
            [&first.to_le_bytes()[..], &1_u32.to_le_bytes(), &tail].concat()
        };
        let mark = |sequence| DurableMark { format: 1, sequence }.encode_to_vec();
        assert_eq!(vouched(&batch(9, &mark(8))), Some(8));
        assert_eq!(vouched(&batch(9, &mark(0))), Some(0));
        assert_eq!(vouched(&batch(9, &mark(9))), None, "not for itself");
        assert_eq!(vouched(&batch(9, b"")), None, "without a format");
        let mut older = batch(9, &mark(8));
        older[12] = 1;
        assert_eq!((vouched(&older), vouched(&older[..12]), vouched(&batch(9, &mark(8))[..20])), (None, None, None));
    }

    #[test]
    fn a_record_of_a_recycled_file_is_not_taken_for_an_end() {
        let (mut file, _) = written(&[50, 50]);
        file[6] = 5;
        assert_eq!(damaged_at(&file), Some(0));
    }
}
