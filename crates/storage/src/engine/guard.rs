//! What is asked of a database's files before RocksDB opens them, and changes them.
//!
//! RocksDB takes some damage for the end of a log (see [`log_file`]), and recovers from what it takes for the whole:
//! afterwards nobody can tell any more that something was missing. So the logs are read first. What a crash can leave
//! goes on to RocksDB. Everything else stops the start, names the file and the place, and changes nothing.
//!
//! Three things have to hold, and follow from how RocksDB writes:
//!
//! 1. Each log is whole up to its end; what a later log goes on from may not be missing at the end of an earlier one.
//! 2. Writes are numbered. What the MANIFEST's last number does not cover lies in the write-ahead logs, without a gap. (The
//!    raft store's one kind of write past its log, the identity, is made while nothing else is written, and flushed at once.)
//! 3. They reach at least up to the number that was durable.
//!
//! A power loss breaks the first two, above what is durable: of pages that were not synced any may be there and any may be
//! missing, and of a new log a part may be there while the end of the one before is not. From the first place on that
//! is not whole nobody was told of anything then, and it is cut off. What was durable is known from below:
//!
//! * by the [`mark`], which is exact but after a power loss, when it may be seconds old;
//! * by the logs themselves: every batch says how far they were synced when it was written ([`log_file::vouched`]). A batch
//!   that lies behind a damaged place thus tells whether the place was durable before the batch was written.
//!
//! What neither of them knows of is at most what the last syncs before the loss covered, with nothing written since that
//! has survived.
//!
//! The MANIFEST is synced after each of its changes, before the next is written; what background jobs change at the same time
//! shares a sync. So what is at its end may be in pieces like that too, and what has more behind it than shares a sync was
//! durable.

use super::Rocks;
use crate::StorageError;
use crate::physical::log_file::{self, End, LogFile};
use crate::physical::{Damage, mark};
use prost::Message as _;
use std::fs::OpenOptions;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::Ordering;

/// Changes of a MANIFEST by single records that may share a sync with what lies before them: one of each background job that
/// is no flush, and the new write-ahead log of a flush.
const SINGLE_CHANGES_MAX: u64 = 2;

/// What the files of a closed database say.
pub(crate) struct Examined {
    /// The list of files in force.
    pub(crate) manifest: Option<LogFile>,
    /// The write-ahead logs, oldest first.
    pub(crate) logs: Vec<LogFile>,
    /// Number of the last write that is there, before the first place that is not whole.
    pub(crate) latest: u64,
    /// Number of the last write that is noted as durable, if anything is noted.
    pub(crate) noted: Option<u64>,
    /// The highest number that batches in the logs vouch for, if any does.
    pub(crate) vouched: Option<u64>,
    /// Some batch vouches for nothing: an older build has written it.
    older: bool,
    /// An end of the MANIFEST that a power loss has left, and that was in force for nobody.
    pub(crate) loose_list: Option<Damage>,
    /// An end of the logs that a power loss has left and nobody was told of.
    pub(crate) loose: Option<Loose>,
    /// What is wrong, the likeliest cause first.
    pub(crate) damage: Vec<Damage>,
}

/// Where the logs are not whole any more.
#[derive(Clone, Debug)]
pub(crate) struct Loose {
    /// The log, by its place in the list; later ones belong to the loose end altogether.
    log: usize,
    /// Where in it.
    offset: u64,
    /// The writes that are missing, if it is whole up to there and begins a gap in their numbers.
    gap: Option<RangeInclusive<u64>>,
    /// What makes it so.
    pub(crate) damage: Damage,
}

/// The write-ahead logs, read one after another.
struct Walk {
    latest: u64,
    vouched: Option<u64>,
    older: bool,
    /// The end of an earlier log, if that is not whole: it counts if a number is missing in the next one.
    suspect: Option<Loose>,
    /// The first place from which on numbers are missing.
    broken: Option<Loose>,
}

impl Walk {
    /// Takes in one log, the `n`th.
    fn log(&mut self, n: usize, path: &Path) -> Result<LogFile, StorageError> {
        let log = log_file::read(path, |at, record| {
            let vouched = log_file::vouched(record);
            self.vouched = self.vouched.max(vouched);
            self.older |= vouched.is_none();
            let Some((first, count)) = log_file::batch_header(record) else { return };
            if self.broken.is_some() {
                return;
            }
            if first > self.latest.saturating_add(1) {
                let gap = self.latest + 1..=first - 1;
                let damage = Damage::new(path, at, missing_writes(&gap, "before this one"));
                let here = || Loose { log: n, offset: at, gap: Some(gap), damage };
                self.broken = Some(self.suspect.take().unwrap_or_else(here));
                return;
            }
            // Nothing is missing: what was not whole before holds nothing that is not elsewhere.
            self.suspect = None;
            self.latest = self.latest.max(first.saturating_add(u64::from(count)).saturating_sub(1));
        })?;
        let damage = match &log.end {
            End::Whole => return Ok(log),
            End::Torn { offset, how } => Damage::new(path, *offset, format!("{how}, and a later log goes on")),
            End::Damaged(damage) => {
                let (vouched, older) = (&mut self.vouched, &mut self.older);
                log_file::read_behind(path, log.whole, |record| {
                    let vouches = log_file::vouched(record);
                    *vouched = (*vouched).max(vouches);
                    *older |= vouches.is_none();
                })?;
                damage.clone()
            }
        };
        self.suspect.get_or_insert(Loose { log: n, offset: log.whole, gap: None, damage });
        Ok(log)
    }
}

/// Examines a database that nobody has open. `logged`: its writes go through the write-ahead log.
///
/// * Errors: a file cannot be read; a mark that is damaged or too new. Other damage is part of the answer.
/// * Cost: reads the MANIFEST and the write-ahead logs once.
pub(crate) fn examine(dir: &Path, logged: bool) -> Result<Examined, StorageError> {
    let noted = mark::read(dir)?;
    let (mut damage, mut listed, mut list, mut loose_list) = (Vec::new(), 0, None, None);
    match log_file::manifest(dir)? {
        Ok(path) => {
            let mut together = 0;
            let manifest = log_file::read(&path, |_, record| {
                together = log_file::last_sequence(record).unwrap_or(0).max(together);
                // Changes that are made together count once the last of them is there.
                if log_file::left_in_group(record).is_none_or(|left| left == 0) {
                    listed = listed.max(std::mem::take(&mut together));
                }
            })?;
            if let End::Damaged(found) = &manifest.end {
                match noted.is_some() && is_last_change(&manifest)? {
                    true => loose_list = Some(found.clone()),
                    false => damage.push(found.clone()),
                }
            }
            list = Some(manifest);
        }
        Err(found) => damage.push(found),
    }
    let mut walk = Walk { latest: listed, vouched: None, older: false, suspect: None, broken: None };
    let paths = log_file::write_ahead_logs(dir)?;
    let logs = paths.iter().enumerate().map(|(n, path)| walk.log(n, path)).collect::<Result<Vec<_>, _>>()?;
    let Walk { latest, vouched, older, suspect, broken } = walk;
    let mut found = Examined { manifest: list, logs, latest, noted, vouched, older, loose_list, loose: None, damage };
    // A list of files that is damaged says nothing about numbers.
    let numbers = found.damage.is_empty();
    // Damage inside the last logs with anything in them; a torn end alone is any crash's.
    let is_damaged = |log: &LogFile| matches!(log.end, End::Damaged(_));
    let broken = broken.or(suspect.filter(|end| found.logs[end.log..].iter().any(is_damaged)));
    match broken {
        // Logs go when what they held is in the list: what is missing in both was in the list's end.
        Some(_) if numbers && found.loose_list.is_some() => found.damage.extend(found.loose_list.take()),
        Some(loose) if numbers && logged && found.is_unproven() => found.loose = Some(loose),
        Some(broken) => found.damage.extend(named(&found, broken, listed).filter(|_| numbers || !logged)),
        None => {}
    }
    let inside = found.logs.iter().filter_map(|log| match &log.end {
        End::Damaged(damage) if found.loose.is_none() => Some(damage.clone()),
        _ => None,
    });
    let inside: Vec<_> = inside.filter(|damage| !found.damage.contains(damage)).collect();
    found.damage.extend(inside);
    if numbers && found.damage.is_empty() && found.loose.is_none() {
        let missing = missing(&found, logged);
        let list = found.loose_list.take_if(|_| missing.is_some());
        found.damage.extend(list.or(missing));
    }
    Ok(found)
}

/// Whether what is damaged at the end of a MANIFEST may belong to its last sync. There is one flush at a time, and its
/// records count down.
fn is_last_change(manifest: &LogFile) -> Result<bool, StorageError> {
    let (mut left, mut single, mut flushes) = (u64::MAX, 0, 1);
    log_file::read_behind(&manifest.path, manifest.whole, |record| match log_file::left_in_group(record) {
        Some(fewer) => {
            flushes += u64::from(fewer >= left);
            left = fewer;
        }
        None => single += 1,
    })?;
    Ok(flushes == 1 && single <= SINGLE_CHANGES_MAX)
}

impl Examined {
    /// Number of the last write that surely was durable.
    pub(crate) fn durable(&self) -> Option<u64> {
        self.noted.max(self.vouched)
    }

    /// Ends that a power loss has left and a start cuts off.
    pub(crate) fn loose_ends(&self) -> impl Iterator<Item = &Damage> {
        self.loose_list.iter().chain(self.loose.iter().map(|loose| &loose.damage))
    }

    /// Whether nothing proves that a write was durable which is not there. Logs that vouch for nothing, as an older build
    /// has written them, prove nothing either way.
    fn is_unproven(&self) -> bool {
        !self.older && self.durable().is_some_and(|durable| durable <= self.latest)
    }
}

/// Names the damage: where numbers are missing, the end of the file that should have gone on.
fn named(found: &Examined, broken: Loose, listed: u64) -> Option<Damage> {
    match (&found.manifest, &broken.gap) {
        // What the list of files should cover, or what should lie in a log.
        (Some(manifest), Some(gap)) if found.latest == listed && broken.offset == 0 => {
            Some(Damage::new(&manifest.path, manifest.whole, missing_writes(gap, "at its end")))
        }
        _ => Some(broken.damage),
    }
}

fn missing_writes(gap: &RangeInclusive<u64>, place: &str) -> String {
    format!("writes {} to {} are missing {place}", gap.start(), gap.end())
}

/// What was durable and is not there. The place is the end of the file that should go on.
fn missing(found: &Examined, logged: bool) -> Option<Damage> {
    let noted = found.durable().filter(|noted| *noted > found.latest)?;
    let what =
        format!("its end is missing: writes up to {noted} were durable, what is left ends with {}", found.latest);
    let listed = found.manifest.as_ref();
    let torn_list = listed.is_some_and(|manifest| manifest.end != End::Whole);
    let ends = found.logs.last().filter(|_| logged && !torn_list).or(listed)?;
    Some(Damage::new(&ends.path, ends.whole, what))
}

/// Refuses a database that is damaged; a folder without a database is none. A loose end is cut off, or refused as well if
/// nothing may be changed.
///
/// * Returns: the number up to which everything was once durable, if that is known.
/// * Errors: [`StorageError::Corrupt`] naming file and offset.
pub(super) fn before_open(dir: &Path, logged: bool, may_cut: bool) -> Result<Option<u64>, StorageError> {
    if !dir.join("CURRENT").exists() {
        return Ok(None);
    }
    let found = examine(dir, logged)?;
    if let Some(damage) = found.damage.first().or(found.loose_ends().next().filter(|_| !may_cut)) {
        return Err(StorageError::corrupt(damage.to_string()));
    }
    if let (Some(damage), Some(manifest)) = (&found.loose_list, &found.manifest) {
        tracing::warn!(%damage, "the last change of a list of files is in pieces, as a power loss leaves it; it is cut off");
        shorten(&manifest.path, manifest.whole)?;
    }
    if let Some(loose) = &found.loose {
        cut(dir, &found, loose)?;
    }
    Ok(found.durable())
}

/// Cuts off a loose end. A crash in between leaves less of it, which is as loose.
fn cut(dir: &Path, found: &Examined, loose: &Loose) -> Result<(), StorageError> {
    let (whole, latest) = (&found.logs[loose.log], found.latest);
    tracing::warn!(
        damage = %loose.damage, log = %whole.path.display(), at = loose.offset, latest, durable = found.durable(),
        "the end of the raft log is not whole, as a power loss leaves what was not synced; nobody was told of it, and it is cut off"
    );
    // The newest first: what is left never has a part missing in the middle that was there before.
    for later in found.logs[loose.log + 1..].iter().rev() {
        std::fs::remove_file(&later.path).map_err(StorageError::file("remove", &later.path))?;
    }
    shorten(&whole.path, loose.offset)?;
    crate::Files::real().sync_dir(dir)
}

/// Cuts a file off, durably.
fn shorten(path: &Path, length: u64) -> Result<(), StorageError> {
    let failed = || StorageError::file("cut", path);
    let file = OpenOptions::new().write(true).open(path).map_err(failed())?;
    file.set_len(length).and_then(|()| file.sync_all()).map_err(failed())
}

impl Rocks {
    /// Notes, after a completed sync or flush, what it covered.
    pub(super) fn covered(&self, sequence: u64) {
        self.durable.fetch_max(sequence, Ordering::Release);
        self.mark.note(sequence);
    }

    /// What a batch of this database says that was durable before it was written.
    pub(super) fn vouch(&self) -> Vec<u8> {
        mark::message(self.durable.load(Ordering::Acquire)).encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physical::log_file::tests::framed;
    use std::path::PathBuf;

    /// A database's folder: a list of files that covers writes up to `listed`, and a note of what was durable.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(listed: u8, noted: Option<u64>) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            std::fs::write(folder.0.path().join("CURRENT"), "MANIFEST-000001\n").unwrap();
            folder.put("MANIFEST-000001", framed(&[change(listed)]));
            if let Some(noted) = noted {
                mark::Mark::new(folder.0.path(), None).note(noted);
            }
            folder
        }

        fn put(&self, name: &str, content: Vec<u8>) -> &Self {
            std::fs::write(self.path(name), content).unwrap();
            self
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn length(&self, name: &str) -> Option<u64> {
            std::fs::metadata(self.path(name)).ok().map(|meta| meta.len())
        }

        /// Refused, with this in the message, whether or not anything may be cut; and nothing is changed.
        fn refused(&self, why: &str) {
            let lengths = || -> Vec<_> {
                let files = std::fs::read_dir(self.0.path()).unwrap();
                files.map(|file| file.unwrap().metadata().unwrap().len()).collect()
            };
            let before = lengths();
            for may_cut in [false, true] {
                let error = before_open(self.0.path(), true, may_cut).unwrap_err().to_string();
                assert!(error.contains(why), "{error}");
            }
            assert_eq!(lengths(), before);
        }

        /// Cut off and then whole.
        fn cut(&self) {
            let refused = before_open(self.0.path(), true, false);
            assert!(refused.is_err(), "not without changing something: {refused:?}");
            before_open(self.0.path(), true, true).unwrap();
            self.whole();
        }

        fn whole(&self) {
            before_open(self.0.path(), true, false).unwrap();
        }
    }

    /// A change of a list of files: the number of the last write.
    fn change(sequence: u8) -> Vec<u8> {
        vec![4, sequence]
    }

    /// A change that so many others follow which are made together with it.
    fn grouped(sequence: u8, left: u8) -> Vec<u8> {
        vec![4, sequence, 0xac, 0x02, left]
    }

    /// A batch of two writes that vouches for what was durable before it, and is about a sector long.
    fn batch(first: u64, vouches: Option<u64>) -> Vec<u8> {
        let mut record = [&first.to_le_bytes()[..], &2_u32.to_le_bytes()].concat();
        if let Some(sequence) = vouches {
            let mark = mark::message(sequence).encode_to_vec();
            record.extend([3, u8::try_from(mark.len()).unwrap()]);
            record.extend(mark);
        }
        record.resize(500, b'x');
        record
    }

    fn log(batches: &[(u64, Option<u64>)]) -> Vec<u8> {
        framed(&batches.iter().map(|(first, vouches)| batch(*first, *vouches)).collect::<Vec<_>>())
    }

    /// Bytes of a batch's record.
    const RECORD: usize = 507;

    #[test]
    fn a_later_log_without_the_end_of_the_one_before_is_cut_off_unless_that_end_was_durable() {
        let one = log(&[(1, Some(0)), (3, Some(2)), (5, Some(2))]);
        // What the batches behind the hole vouch for, and what is noted. Writes 5 and 6 are gone.
        let cases = [(2, 2, false), (4, 4, false), (5, 4, true), (6, 2, true), (2, 6, true)];
        for (vouches, noted, was_durable) in cases {
            for torn in [false, true] {
                let folder = Folder::new(0, Some(noted));
                let end = if torn { 2 * RECORD + 100 } else { 2 * RECORD };
                folder.put("000003.log", one[..end].to_vec());
                folder.put("000005.log", log(&[(7, Some(vouches)), (9, Some(2))]));
                if was_durable {
                    folder.refused(if torn {
                        "000003.log at offset 1014"
                    } else {
                        "000005.log at offset 0: writes 5 to 6"
                    });
                    continue;
                }
                folder.cut();
                // Of the later log nothing is left.
                let left = if torn { None } else { Some(0) };
                assert_eq!((folder.length("000003.log"), folder.length("000005.log")), (Some(2 * RECORD as u64), left));
            }
        }
    }

    #[test]
    fn a_page_that_is_missing_is_cut_off_with_what_follows_unless_that_was_durable() {
        let without = |page: std::ops::Range<usize>, last: u64| {
            let mut log = log(&[(1, Some(0)), (3, Some(2)), (5, Some(2)), (7, Some(last))]);
            log[page].fill(0);
            log
        };
        for page in [2 * RECORD..3 * RECORD, 2 * RECORD - 40..3 * RECORD - 40, 3 * RECORD..3 * RECORD + 9] {
            let kept = page.start / RECORD * RECORD;
            let folder = Folder::new(0, Some(0));
            folder.put("000003.log", without(page.clone(), 2)).cut();
            assert_eq!(folder.length("000003.log"), Some(kept as u64), "{page:?}");
            let noted = Folder::new(0, Some(6));
            noted.put("000003.log", without(page.clone(), 2));
            if kept < 3 * RECORD { noted.refused("000003.log") } else { noted.cut() }
        }
        // The second batch is gone, and the ones behind it were written when it was durable.
        Folder::new(0, Some(0)).put("000003.log", without(RECORD..2 * RECORD, 4)).refused("000003.log at offset 507");
    }

    #[test]
    fn logs_that_vouch_for_nothing_are_not_cut() {
        let mut older = log(&[(1, None), (3, None), (5, None)]);
        older[2 * RECORD + 30] ^= 1;
        Folder::new(0, Some(2)).put("000003.log", older.clone()).refused("checksum mismatch");
        // Behind the place, too, and where the log says nothing and no mark does.
        older[30] ^= 1;
        Folder::new(0, Some(0)).put("000003.log", older).refused("checksum mismatch");
        let mut only = log(&[(1, Some(0))]);
        only[30] ^= 1;
        Folder::new(0, None).put("000003.log", only.clone()).refused("checksum mismatch");
        // A new log with nothing but one batch in pieces.
        let folder = Folder::new(0, Some(0));
        folder.put("000003.log", only).cut();
        assert_eq!(folder.length("000003.log"), Some(0));
        // The same behind a log that is torn.
        let (one, mut two) = (log(&[(1, Some(0)), (3, Some(0))]), log(&[(5, Some(0))]));
        two[30] ^= 1;
        let folder = Folder::new(0, Some(2));
        folder.put("000003.log", one[..RECORD + 100].to_vec()).put("000005.log", two).cut();
        assert_eq!((folder.length("000003.log"), folder.length("000005.log")), (Some(RECORD as u64), None));
    }

    #[test]
    fn the_torn_end_of_a_log_whose_writes_are_all_elsewhere_is_no_damage() {
        let one = log(&[(1, Some(0)), (3, Some(2)), (5, Some(2))]);
        let folder = Folder::new(6, Some(6));
        folder.put("000003.log", one[..2 * RECORD + 100].to_vec()).put("000005.log", log(&[(7, Some(6))])).whole();
    }

    #[test]
    fn the_last_change_of_a_list_of_files_may_be_in_pieces_and_no_earlier_one() {
        let list = |changes: &[Vec<u8>], damaged: usize| {
            let before = framed(&changes[..damaged]).len();
            let mut list = framed(changes);
            list[before..before + 8].fill(0);
            (list, before as u64)
        };
        let last = [change(2), change(4)];
        let group = [change(2), grouped(4, 2), grouped(4, 1), grouped(4, 0)];
        let shared = [change(2), change(4), change(4)];
        for (changes, damaged) in [(&last[..], 1), (&group, 1), (&group, 2), (&group, 3), (&shared, 1)] {
            let (content, before) = list(changes, damaged);
            let folder = Folder::new(0, Some(2));
            folder.put("MANIFEST-000001", content.clone()).put("000003.log", log(&[(3, Some(2))])).cut();
            assert_eq!(folder.length("MANIFEST-000001"), Some(before));
            // A log that has gone proves that the change was in force, and so does a note.
            for noted in [2, 4] {
                let folder = Folder::new(0, Some(noted));
                folder.put("MANIFEST-000001", content.clone());
                if noted == 2 {
                    folder.put("000005.log", log(&[(5, Some(2))]));
                }
                folder.refused("MANIFEST-000001");
            }
            Folder::new(0, None).put("MANIFEST-000001", content).refused("MANIFEST-000001");
        }
        let followed = [change(2), grouped(4, 1), grouped(4, 0), grouped(6, 1), grouped(6, 0)];
        for (changes, damaged) in [(&[2, 4, 4, 4, 4].map(change)[..], 1), (&followed, 1)] {
            Folder::new(0, Some(2)).put("MANIFEST-000001", list(changes, damaged).0).refused("MANIFEST-000001");
        }
    }
}
