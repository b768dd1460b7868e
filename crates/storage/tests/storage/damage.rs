//! Damage in every kind of file: found, named, refused, and never a wrong answer.
//!
//! A data directory with something in all of its files is copied, one file of the copy is damaged, and three questions are
//! asked. What does `verify` say, does a store open, and is everything that it answers what was acknowledged? A damaged
//! store may refuse and may fail; it may not answer wrongly, nor lack what was acknowledged.
//!
//! `MERIDIAN_DAMAGE_CASES` sets how many places are damaged in each way in each kind of file.

use crate::support::{append, block_on, crash, folder, indexes, open, state, try_open};
use bytes::Bytes;
use meridian_proto::internal::v1::{DurableMark, LeaderId, LedgerRecord, LogId, Outcome, Vote};
use meridian_storage::inspect::{self, Place, StoppedNode};
use meridian_storage::{DataBatch, StorageError, Store, read_manifest};
use meridian_types::{KeyRange, RequestId, ShardId, TableId, Timestamp};
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TABLE: TableId = TableId(3);
const SHARDS: [ShardId; 2] = [ShardId(1), ShardId(2)];
/// Entries of each shard's log that are in tables, and in all.
const IN_TABLES: u64 = 300;
const ENTRIES: u64 = 500;
/// Timestamps below this one are in the data.
const WRITTEN: u64 = 800;
const PAGE: usize = 4096;

fn cases() -> u64 {
    std::env::var("MERIDIAN_DAMAGE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(6)
}

fn encoded_entry(index: u64) -> Bytes {
    let leader = Some(LeaderId { term: 2, node: 1 });
    let blank = meridian_proto::internal::v1::entry::Blank {};
    let payload = Some(meridian_proto::internal::v1::entry::Payload::Blank(blank));
    // Of different lengths, so that records begin anywhere in a block.
    let mut bytes =
        meridian_proto::internal::v1::Entry { log_id: Some(LogId { leader, index }), payload }.encode_to_vec();
    // An unknown field of some bytes, which readers skip.
    bytes.extend([0xfa, 0x01, (index % 100) as u8]);
    bytes.extend(vec![index as u8; (index % 100) as usize]);
    bytes.into()
}

fn vote() -> Bytes {
    Vote { leader: Some(LeaderId { term: 2, node: 1 }), committed: true }.encode_to_vec().into()
}

fn key(n: u64) -> Vec<u8> {
    format!("key {:03}\0", n % 90).into_bytes()
}

fn value(ts: u64) -> Option<Bytes> {
    (!ts.is_multiple_of(7)).then(|| vec![ts as u8; 1 + (ts % 200) as usize].into())
}

fn id(n: u64) -> RequestId {
    RequestId { time: Timestamp(n), client: 5, sequence: n }
}

fn record(n: u64) -> Vec<u8> {
    let outcome = Some(Outcome { ts: n, result: None });
    LedgerRecord { fingerprint: n, outcome }.encode_to_vec()
}

fn append_encoded(store: &Store, range: std::ops::Range<u64>) {
    for shard in SHARDS {
        let log = store.raft.shard(shard);
        for index in range.clone() {
            let (done, durable) = crate::support::waiter();
            log.append(&[(index, encoded_entry(index))], done).unwrap();
            if index % 50 == 0 || index + 1 == range.end {
                durable.recv().unwrap().unwrap();
            }
        }
    }
}

fn put_versions(store: &Store, range: std::ops::Range<u64>) {
    let mut batch = DataBatch::default();
    for ts in range.clone() {
        batch.put_version(TABLE, &key(ts), Timestamp(ts), value(ts));
        batch.put_ledger(SHARDS[0], &id(ts), &record(ts));
    }
    SHARDS.iter().for_each(|shard| batch.put_shard_state(*shard, &state(ENTRIES - 1, range.end)));
    store.data.write(batch).unwrap();
    store.data.flush().unwrap();
}

/// A directory with something in every kind of file.
fn whole() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append_encoded(&store, 1..IN_TABLES);
    block_on(store.raft.shard(SHARDS[0]).save_vote("an older vote".into())).unwrap();
    put_versions(&store, 1..WRITTEN / 2);
    drop(store);
    // A start moves what is in the write-ahead log into tables.
    let store = open(dir.path());
    append_encoded(&store, IN_TABLES..ENTRIES);
    put_versions(&store, WRITTEN / 2..WRITTEN);
    store.data.build_snapshot(SHARDS[0], TABLE, &KeyRange::all(), &folder(&store, "s1-out-0")).unwrap();
    for shard in SHARDS {
        store.raft.shard(shard).mark("scope", Some("all".into())).unwrap();
        block_on(store.raft.shard(shard).save_vote(vote())).unwrap();
    }
    drop(store);
    dir
}

/// Asks for everything; says what could not be read. A wrong answer fails the test.
fn answers(store: &Store) -> Vec<String> {
    let mut failures = Vec::new();
    let mut ask = |what: &str, failed: Result<(), StorageError>| {
        if let Err(error) = failed {
            failures.push(format!("{what}: {error}"));
        }
    };
    for shard in SHARDS {
        let log = store.raft.shard(shard);
        ask("vote", log.vote().map(|found| assert_eq!(found, Some(vote()))));
        ask("mark", log.get_mark("scope").map(|found| assert_eq!(found, Some("all".into()))));
        let expected: Vec<_> = (1..ENTRIES).map(|index| (index, encoded_entry(index))).collect();
        ask("log", log.read(0..u64::MAX, usize::MAX).map(|found| assert!(found == expected, "entries of {shard}")));
        for index in [1, IN_TABLES, ENTRIES - 1] {
            let one = log.read(index..index + 1, usize::MAX);
            ask("entry", one.map(|found| assert_eq!(found, [(index, encoded_entry(index))])));
        }
        let ends = log.first_index().and_then(|first| Ok((first, log.last_index()?)));
        ask("ends", ends.map(|ends| assert_eq!(ends, (Some(1), Some(ENTRIES - 1)))));
    }
    let view = store.data.view();
    for at in [5, WRITTEN / 2, WRITTEN] {
        let mut model = BTreeMap::new();
        (1..WRITTEN.min(at + 1)).for_each(|ts| drop(model.insert(key(ts), (ts, value(ts)))));
        for (key, (ts, value)) in &model {
            let found = view.get(TABLE, key, Timestamp(at));
            ask(
                "version",
                found.map(|found| {
                    let found = found.expect("it was written");
                    assert_eq!((found.ts.0, &found.value), (*ts, value));
                }),
            );
        }
        for reverse in [false, true] {
            let scan = view.scan(TABLE, &KeyRange::all(), Timestamp(at), reverse, usize::MAX, usize::MAX);
            ask(
                "scan",
                scan.map(|found| {
                    let mut rows: Vec<_> =
                        found.rows.into_iter().map(|row| (row.key.to_vec(), row.ts.0, row.value)).collect();
                    if reverse {
                        rows.reverse();
                    }
                    let live = model.iter().filter_map(|(key, (ts, value))| Some((key.clone(), *ts, value.clone()?)));
                    assert_eq!(rows, live.collect::<Vec<_>>());
                }),
            );
        }
    }
    for n in 1..WRITTEN {
        ask("ledger", view.ledger(SHARDS[0], &id(n)).map(|found| assert_eq!(found, Some(record(n).into()))));
    }
    for shard in SHARDS {
        let position = view.shard_state(shard);
        ask("position", position.map(|found| assert_eq!(found, Some(state(ENTRIES - 1, WRITTEN)))));
    }
    failures
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Flip,
    Truncate,
    ZeroPage,
    ZeroTail,
}

/// Damages a file; returns the first and the last byte that differ, or `None` if none does.
fn damage(path: &Path, way: Way, random: &mut ChaCha8Rng) -> Option<(u64, u64)> {
    let before = std::fs::read(path).unwrap();
    let at = random.random_range(0..before.len());
    let mut after = before.clone();
    match way {
        Way::Flip => after[at] ^= 1 << random.random_range(0..8),
        Way::Truncate => after.truncate(at),
        Way::ZeroPage => after.iter_mut().skip(at / PAGE * PAGE).take(PAGE).for_each(|byte| *byte = 0),
        Way::ZeroTail => after[at..].fill(0),
    }
    std::fs::write(path, &after).unwrap();
    let mut differs = (0..before.len()).filter(|at| before.get(*at) != after.get(*at));
    let first = differs.next()?;
    Some((first as u64, differs.next_back().unwrap_or(first) as u64))
}

/// The files of a kind, below a data directory.
fn files(dir: &Path, folder: &str, kind: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir.join(folder)).unwrap().map(|file| file.unwrap().path()).collect();
    found.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(kind) || name.ends_with(kind)
    });
    found.sort();
    assert!(!found.is_empty(), "{kind} in {folder}");
    found
}

/// What became of the damaged copies.
#[derive(Default, Debug)]
struct Tally {
    named: u64,
    refused: u64,
    failed: u64,
    harmless: u64,
}

/// Which changes `verify` has to name. Those that make a difference to what is answered it has to name in any case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Every,
    /// All but a missing end: that of a list of files may hold nothing of weight.
    InsideTheFile,
    None,
}

/// Damages files of one kind in many places.
fn in_every_way(folder: &str, kind: &str, named_are: Named) {
    let source = whole();
    let name_of = |path: &Path| path.strip_prefix(source.path()).unwrap().to_owned();
    let candidates: Vec<_> = files(source.path(), folder, kind).iter().map(|path| name_of(path)).collect();
    let mut tallies = BTreeMap::<Way, Tally>::new();
    for way in [Way::Flip, Way::Truncate, Way::ZeroPage, Way::ZeroTail] {
        for case in 0..cases() {
            let mut random = ChaCha8Rng::seed_from_u64(case);
            let name = &candidates[random.random_range(0..candidates.len())];
            let copy = tempfile::tempdir().unwrap();
            crash(source.path(), copy.path());
            let path = copy.path().join(name);
            let Some((first, last)) = damage(&path, way, &mut random) else { continue };
            let case = format!("{way:?} {case} of {} at {first} to {last}", name.display());
            let tally = tallies.entry(way).or_default();

            let before = contents(copy.path());
            let report = inspect::verify(copy.path(), |_, _, _| {}).unwrap();
            assert!(contents(copy.path()) == before, "{case}: verify changed something");
            let named = report.findings.iter().any(|finding| match &finding.place {
                // The record or block with the damage begins at or before it, or inside.
                Place::File(file, Some(offset)) => *file == path && *offset <= last,
                Place::File(file, None) => *file == path,
                _ => false,
            });
            tally.named += u64::from(named);
            let has_to_be = match named_are {
                Named::Every => true,
                Named::InsideTheFile => matches!(way, Way::Flip | Way::ZeroPage),
                Named::None => false,
            };
            assert!(named || !has_to_be, "{case} is not named: {:?}", report.findings);

            let outcome = match try_open(copy.path()) {
                Err(refused) => {
                    tally.refused += 1;
                    vec![refused.to_string()]
                }
                Ok(store) => {
                    let failures = answers(&store);
                    tally.failed += u64::from(!failures.is_empty());
                    tally.harmless += u64::from(failures.is_empty());
                    failures
                }
            };
            assert!(
                outcome.is_empty() || !report.findings.is_empty(),
                "{case}: verify says it is whole, but {outcome:?}"
            );
        }
    }
    eprintln!("{kind} in {folder}: {tallies:?}");
}

/// Names and contents of all files, but for RocksDB's own messages.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = open.pop() {
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.clone(), std::fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_whole_directory_verifies_opens_and_answers() {
    let source = whole();
    let before = contents(source.path());
    let report = inspect::verify(source.path(), |_, _, _| {}).unwrap();
    assert!(report.findings.is_empty() && report.skipped.is_empty(), "{report:?}");
    assert!(report.files.iter().all(|file| file.note.is_none()), "{:?}", report.files);
    assert!(contents(source.path()) == before, "nothing is changed");
    // Both logs, with vote and mark each; versions, ledger records, positions.
    assert_eq!(report.records, 2 * (ENTRIES - 1 + 2) + 2 * (WRITTEN - 1) + 2);
    assert_eq!(answers(&open(source.path())), [""; 0]);
}

#[test]
fn the_write_ahead_log() {
    in_every_way("raft", ".log", Named::Every);
}

#[test]
fn tables_of_the_log() {
    in_every_way("raft", ".sst", Named::Every);
}

#[test]
fn tables_of_the_data() {
    in_every_way("data", ".sst", Named::Every);
}

#[test]
fn lists_of_files() {
    in_every_way("raft", "MANIFEST", Named::InsideTheFile);
    in_every_way("data", "MANIFEST", Named::InsideTheFile);
}

#[test]
fn names_of_the_lists() {
    in_every_way("raft", "CURRENT", Named::Every);
    in_every_way("data", "CURRENT", Named::Every);
}

#[test]
fn notes_of_what_was_durable() {
    // One of the two slots is enough, and most of the file is between them.
    in_every_way("raft", "SYNCED", Named::None);
    in_every_way("data", "SYNCED", Named::None);
}

#[test]
fn options_that_nobody_reads() {
    in_every_way("raft", "OPTIONS", Named::None);
    in_every_way("data", "OPTIONS", Named::None);
}

#[test]
fn snapshots() {
    in_every_way("snapshots/s1-out-0", ".sst", Named::Every);
    in_every_way("snapshots/s1-out-0", "manifest", Named::Every);
}

#[test]
fn a_damaged_snapshot_is_not_installed() {
    let source = whole();
    let staged = source.path().join("snapshots/s1-out-0");
    let store = open(source.path());
    let files = store.files();
    let manifest = read_manifest(&files, &staged).unwrap();
    for way in [Way::Flip, Way::Truncate, Way::ZeroPage, Way::ZeroTail] {
        for case in 0..cases() {
            let mut random = ChaCha8Rng::seed_from_u64(case);
            let listed = &manifest.files[random.random_range(0..manifest.files.len())];
            let path = staged.join(&listed.name);
            let whole = std::fs::read(&path).unwrap();
            if damage(&path, way, &mut random).is_none() {
                continue;
            }
            let refused = store.install_snapshot(SHARDS[0], TABLE, &KeyRange::all(), &staged, &manifest).unwrap_err();
            assert!(refused.to_string().contains(&listed.name), "{refused}");
            std::fs::write(&path, whole).unwrap();
        }
    }
    assert_eq!(answers(&store), [""; 0]);
}

/// A directory whose log holds more than its mark says, as a power loss leaves it: the log's path, its length when the mark
/// was written, and the directory.
fn beyond_the_mark() -> (tempfile::TempDir, PathBuf, u64) {
    let dir = tempfile::tempdir().unwrap();
    let (live, found) = (dir.path().join("live"), dir.path().join("found"));
    let store = open(&live);
    append(&store.raft.shard(SHARDS[0]), 0..40);
    let noted = std::fs::read(live.join("raft/SYNCED")).unwrap();
    let log = files(&live, "raft", ".log").pop().unwrap();
    let length = std::fs::metadata(&log).unwrap().len();
    (40..80).for_each(|index| append(&store.raft.shard(SHARDS[0]), [index]));
    crash(&live, &found);
    drop(store);
    std::fs::write(found.join("raft/SYNCED"), noted).unwrap();
    (dir, PathBuf::from("raft").join(log.file_name().unwrap()), length)
}

#[test]
fn a_log_may_be_cut_short_above_its_mark_and_nowhere_below() {
    let (dir, log, noted) = beyond_the_mark();
    let found = dir.path().join("found");
    let bytes = std::fs::read(found.join(&log)).unwrap();
    assert!(noted < bytes.len() as u64);
    let mut shortest = u64::MAX;
    for (n, length) in (noted - 30..bytes.len() as u64).step_by(7).enumerate() {
        let copy = dir.path().join(n.to_string());
        crash(&found, &copy);
        std::fs::write(copy.join(&log), &bytes[..length as usize]).unwrap();
        match try_open(&copy) {
            Ok(store) => {
                assert!(length >= noted, "at {length} of {noted} something durable is gone");
                let left = indexes(&store.raft.shard(SHARDS[0]));
                assert_eq!(left, (0..left.len() as u64).collect::<Vec<_>>());
                shortest = shortest.min(left.len() as u64);
            }
            Err(refused) => {
                assert!(length < noted, "at {length} of {noted}: {refused}");
                let text = refused.to_string();
                assert!(text.contains(log.file_name().unwrap().to_str().unwrap()), "{text}");
                // Asked again, it says the same: nothing was changed.
                assert_eq!(try_open(&copy).err().expect("refused").to_string(), text);
            }
        }
        std::fs::remove_dir_all(copy).unwrap();
    }
    assert!((40..45).contains(&shortest), "{shortest}");
}

/// The mark is old; but the batches behind the place were written when it was durable, and say so.
#[test]
fn what_later_batches_vouch_for_is_not_cut_off_whatever_the_mark_says() {
    let (dir, log, noted) = beyond_the_mark();
    let found = dir.path().join("found");
    let bytes = std::fs::read(found.join(&log)).unwrap();
    for (n, at) in [noted - 20, noted + 400].into_iter().enumerate() {
        let copy = dir.path().join(n.to_string());
        crash(&found, &copy);
        let mut damaged = bytes.clone();
        damaged[at as usize] ^= 0x10;
        std::fs::write(copy.join(&log), damaged).unwrap();
        let before = contents(&copy);
        assert!(matches!(try_open(&copy), Err(StorageError::Corrupt { .. })));
        let refused = inspect::cut_log(&copy).unwrap_err();
        assert!(matches!(refused, StorageError::CutRefused { .. }), "{refused}");
        assert!(contents(&copy) == before, "nothing is changed");
    }
}

/// One large batch is under way when the power goes: of its pages any may be missing.
#[test]
fn an_unsynced_end_with_missing_pages_is_cut_off_by_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let (live, found) = (dir.path().join("live"), dir.path().join("found"));
    let store = open(&live);
    append(&store.raft.shard(SHARDS[0]), 0..40);
    let noted = std::fs::read(live.join("raft/SYNCED")).unwrap();
    let log = files(&live, "raft", ".log").pop().unwrap();
    let length = std::fs::metadata(&log).unwrap().len() as usize;
    append(&store.raft.shard(SHARDS[0]), 40..4000);
    crash(&live, &found);
    append(&store.raft.shard(SHARDS[0]), [4000]);
    let later = std::fs::read(&log).unwrap();
    drop(store);
    std::fs::write(found.join("raft/SYNCED"), &noted).unwrap();
    let name = PathBuf::from("raft").join(log.file_name().unwrap());
    let whole = std::fs::read(found.join(&name)).unwrap();
    assert!(whole.len() > length + 10 * PAGE);
    for page in (length.div_ceil(PAGE)..whole.len() / PAGE).step_by(3) {
        let missing = page * PAGE..(page + 1) * PAGE;
        let without = |log: &[u8]| {
            let copy = dir.path().join("copy");
            std::fs::remove_dir_all(&copy).ok();
            crash(&found, &copy);
            let mut log = log.to_vec();
            log[missing.clone()].fill(0);
            std::fs::write(copy.join(&name), log).unwrap();
            copy
        };
        let copy = without(&whole);
        let report = inspect::verify(&copy, |_, _, _| {}).unwrap();
        assert!(report.findings.iter().any(|f| f.what.contains("a start cuts it off")), "{:?}", report.findings);
        assert_eq!(inspect::cut_log(&copy).unwrap(), None, "nothing is left to a person");
        assert_eq!(indexes(&open(&copy).raft.shard(SHARDS[0])), (0..40).collect::<Vec<_>>());
        // The same in a log that was written to afterwards: the batch was durable by then.
        let refused = try_open(&without(&later)).err().expect("refused").to_string();
        assert!(refused.contains(name.file_name().unwrap().to_str().unwrap()), "{refused}");
    }
}

/// An older build's batches vouch for nothing, so that a person has to say that the power was lost.
#[test]
fn a_damaged_end_of_an_older_builds_log_can_be_cut_off_by_hand() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1");
    let noted = mark_in(&source);
    let log = files(&source, "raft", ".log").pop().unwrap();
    let (name, bytes) = (log.strip_prefix(&source).unwrap(), std::fs::read(&log).unwrap());
    // Somewhere in its last records, which an older mark does not know of.
    let at = bytes.len() - 20;
    let damaged = |mark: u64| {
        let copy = tempfile::tempdir().unwrap();
        crash(&source, copy.path());
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        std::fs::write(copy.path().join(name), damaged).unwrap();
        write_mark(copy.path(), mark);
        assert!(matches!(try_open(copy.path()), Err(StorageError::Corrupt { .. })));
        copy
    };
    let above = damaged(noted / 2);
    let cut = inspect::cut_log(above.path()).unwrap().expect("there is damage");
    assert!(cut.length <= at as u64 && cut.length + cut.bytes == bytes.len() as u64, "{cut:?}");
    let mut tail = bytes.clone();
    tail[at] ^= 0x10;
    assert_eq!(std::fs::read(&cut.kept).unwrap(), tail.split_off(cut.length as usize));
    open(above.path());
    assert_eq!(inspect::cut_log(above.path()).unwrap(), None);

    let below = damaged(noted);
    let before = contents(below.path());
    let refused = inspect::cut_log(below.path()).unwrap_err();
    assert!(matches!(refused, StorageError::CutRefused { .. }), "{refused}");
    assert!(contents(below.path()) == before, "nothing is changed");
}

/// What the raft store's mark notes as durable.
fn mark_in(dir: &Path) -> u64 {
    let bytes = std::fs::read(dir.join("raft/SYNCED")).unwrap();
    let slots = [&bytes[5..5 + usize::from(bytes[4])], &bytes[PAGE + 5..PAGE + 5 + usize::from(bytes[PAGE + 4])]];
    slots.map(|slot| DurableMark::decode(slot).unwrap().sequence).into_iter().max().unwrap()
}

fn write_mark(dir: &Path, sequence: u64) {
    let body = DurableMark { format: 1, sequence }.encode_to_vec();
    let mut bytes = [&crc32c::crc32c(&body).to_be_bytes()[..], &[body.len() as u8], &body].concat();
    bytes.resize(PAGE + 64, 0);
    std::fs::write(dir.join("raft/SYNCED"), bytes).unwrap();
}

#[test]
fn a_log_whose_files_are_gone_is_refused() {
    let dir = whole();
    let store = open(dir.path());
    append_encoded(&store, ENTRIES..ENTRIES + 100);
    drop(store);
    for log in files(dir.path(), "raft", ".log") {
        std::fs::remove_file(log).unwrap();
    }
    let refused = try_open(dir.path()).err().expect("the log is gone").to_string();
    assert!(refused.contains("were durable") && refused.contains("MANIFEST"), "{refused}");
    let report = inspect::verify(dir.path(), |_, _, _| {}).unwrap();
    assert!(report.findings.iter().any(|f| f.what.contains("were durable")), "{:?}", report.findings);
}

/// Set for the child: the directory that it has open.
const CHILD_DIR: &str = "MERIDIAN_STORAGE_RUNNING_DIR";

/// Not a test by itself: a process that has the directory open until its input ends.
#[test]
fn child_that_runs_on_the_directory() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let _store = open(dir.as_ref());
    println!("the store is open");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

#[test]
fn a_running_nodes_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "damage::child_that_runs_on_the_directory", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("the store is open")));
    assert!(matches!(inspect::verify(dir.path(), |_, _, _| {}), Err(StorageError::InUse { .. })));
    assert!(matches!(inspect::cut_log(dir.path()), Err(StorageError::InUse { .. })));
    let refused = StoppedNode::open(dir.path()).err().expect("refused").to_string();
    assert!(refused.contains("a node runs on it"), "{refused}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());

    // The other way round: nobody starts under the reader's hands.
    let reading = StoppedNode::open(dir.path()).unwrap();
    let started = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "damage::child_that_runs_on_the_directory"])
        .env(CHILD_DIR, dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!started.success());
    drop(reading);
    drop(open(dir.path()));
}

#[test]
fn databases_without_their_beginning_are_not_made_again() {
    let source = whole();
    for gone in [&["raft"][..], &["data"], &["raft", "data"]] {
        let copy = tempfile::tempdir().unwrap();
        crash(source.path(), copy.path());
        gone.iter().for_each(|store| std::fs::remove_file(copy.path().join(store).join("CURRENT")).unwrap());
        let before = contents(copy.path());
        assert!(try_open(copy.path()).is_err());
        assert!(contents(copy.path()) == before, "nothing is removed");
        let report = inspect::verify(copy.path(), |_, _, _| {}).unwrap();
        assert!(report.findings.iter().any(|f| f.to_string().contains("CURRENT")), "{:?}", report.findings);
    }
}

#[test]
fn what_is_not_a_stopped_nodes_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(inspect::verify(dir.path(), |_, _, _| {}), Err(StorageError::NoData { .. })));
    assert!(matches!(StoppedNode::open(dir.path()), Err(StorageError::NoData { .. })));
}
