//! The loop: a life, a loss, a check, and the next life on what was left.

use crate::check::{Checked, Wrong, check};
use crate::disk::{Disk, Image, Loss, differences, write};
use crate::journal::{self, Kind, Record};
use crate::model::Expected;
use crate::workload::Note;
use meridian_clock::Mono;
use meridian_storage::StorageError;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::fmt;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// Losses that are tried out in the middle of each life, beside the one at its end, on which the next life begins.
const ASIDE: usize = 3;

/// A life that takes longer hangs.
const LIFE_MAX: Duration = Duration::from_secs(120);

/// One directory in so many lives is a new one.
const ANEW: u32 = 15;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Losses of power.
    pub losses: u64,
    /// Decides the lives, where they end and what is left.
    pub seed: u64,
    /// What becomes of what was not synced; absent: drawn for each loss.
    pub loss: Option<Loss>,
    /// The disk lies: syncs of write-ahead logs do nothing.
    pub lies: bool,
    /// The program that lives: `PROGRAM live ...`.
    pub program: PathBuf,
    /// A folder to work in.
    pub dir: PathBuf,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Lives of the worker.
    pub lives: u64,
    /// Losses of power, each followed by a check, by kind.
    pub losses: [u64; 3],
    /// Losses at which the store was being opened.
    pub opening: u64,
    /// File operations journaled.
    pub operations: u64,
    /// Acknowledged operations looked for after a loss, and found.
    pub acked: u64,
    /// Operations found that nobody had been told of.
    pub extra: u64,
    /// Entries read and compared.
    pub entries: u64,
    /// Installations of snapshots that were interrupted and finished.
    pub resumed: u64,
}

impl Summary {
    /// All losses.
    pub fn all(&self) -> u64 {
        self.losses.iter().sum()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ordered, nasty, chaotic] = self.losses;
        writeln!(
            f,
            "losses     {} in {} lives: {ordered} ordered, {nasty} nasty, {chaotic} chaotic",
            self.all(),
            self.lives
        )?;
        writeln!(
            f,
            "           {} of them while a store was opening; {} file operations",
            self.opening, self.operations
        )?;
        writeln!(f, "checked    {} acknowledged operations, {} entries", self.acked, self.entries)?;
        writeln!(f, "found too  {} operations that nobody had been told of", self.extra)?;
        write!(f, "restarts   {} snapshots installed again", self.resumed)
    }
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A check found something.
    #[error("life {life} of seed {seed}, {loss} loss after record {at} of {of}: {wrong}\nkept in {}", .kept.display())]
    Found {
        /// Number of the life.
        life: u64,
        /// The seed of the run.
        seed: u64,
        /// What became of what was not synced.
        loss: Loss,
        /// Position in the journal.
        at: usize,
        /// Records in it.
        of: usize,
        /// What was found.
        wrong: Wrong,
        /// Holds what the loss left (`left`), the journal, and the directory on which the life began (`began`).
        kept: PathBuf,
    },
    /// A life ended in another way than it should.
    #[error("life {life} of seed {seed} ended with {status}: {said}")]
    Life {
        /// Number of the life.
        life: u64,
        /// The seed of the run.
        seed: u64,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        said: String,
    },
    /// The journal does not say what happened: a function of the C library is missing in the shim.
    #[error("the journal and the real disk differ after life {life}: {}", .differences.join("; "))]
    Journal {
        /// Number of the life.
        life: u64,
        /// Where.
        differences: Vec<String>,
    },
    /// The loop itself could not go on.
    #[error("the loop failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Runs; `progress` is told after every life.
pub fn run(options: &Options, mut progress: impl FnMut(&Summary)) -> Result<Summary, Failure> {
    let mut run =
        Run { options, summary: Summary::default(), expected: Expected::default(), found: Expected::default() };
    write(&Image::new(), &run.at("live"))?;
    while run.summary.all() < options.losses {
        run.life()?;
        progress(&run.summary);
    }
    Ok(run.summary)
}

struct Run<'a> {
    options: &'a Options,
    summary: Summary,
    /// What may be found in a store that was not opened again since the last life.
    expected: Expected,
    /// What was found in it.
    found: Expected,
}

impl Run<'_> {
    fn at(&self, name: &str) -> PathBuf {
        self.options.dir.join(name)
    }

    fn life(&mut self) -> Result<(), Failure> {
        let life = self.summary.lives;
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed);
        rng.set_stream(life);
        if rng.random_ratio(1, ANEW) {
            (self.expected, self.found) = (Expected::default(), Expected::default());
            write(&Image::new(), &self.at("live"))?;
        }
        let mut disk = Disk::load(&self.at("live"))?;
        let began = disk.whole();
        let records = self.run_worker(life, &mut rng)?;
        self.summary.lives += 1;
        self.summary.operations += records.iter().filter(|record| record.kind != Kind::Note).count() as u64;
        let notes: Vec<_> = (1..).zip(&records).filter_map(|(at, record)| Some((at, note(record)?))).collect();
        let mut places: Vec<_> = (0..ASIDE).map(|_| rng.random_range(0..=records.len())).collect();
        places.sort_unstable();
        places.push(records.len());
        let mut followed = 0;
        for (n, at) in places.iter().copied().enumerate() {
            records[followed..at].iter().for_each(|record| disk.follow(record));
            followed = at;
            let last = n == ASIDE;
            if last {
                let differences = differences(&disk.whole(), &self.at("live"))?;
                if !differences.is_empty() {
                    return Err(Failure::Journal { life, differences });
                }
            }
            let until = notes.partition_point(|(place, _)| *place <= at as u64);
            let notes = notes[..until].iter().map(|(at, note)| (*at, note));
            self.summary.opening += u64::from(!notes.clone().any(|(_, note)| matches!(note, Note::Opened(_))));
            let expected = self.expected.follow(&self.found, notes);
            let loss = self.options.loss.unwrap_or(Loss::ALL[rng.random_range(0..3)]);
            let left = disk.crash(loss, &mut rng);
            match self.check(&left, &expected) {
                Ok(checked) => {
                    self.count(loss, &checked);
                    if last {
                        write(&left, &self.at("live"))?;
                        (self.expected, self.found) = (expected, checked.found);
                        return Ok(());
                    }
                }
                Err(wrong) => {
                    let kept = self.at("kept");
                    write(&left, &kept.join("left"))?;
                    write(&began, &kept.join("began"))?;
                    std::fs::copy(self.at("journal"), kept.join("journal"))?;
                    let (seed, of) = (self.options.seed, records.len());
                    return Err(Failure::Found { life, seed, loss, at, of, wrong, kept });
                }
            }
        }
        Ok(())
    }

    /// Checks a copy of what was left.
    fn check(&self, left: &Image, expected: &Expected) -> Result<Checked, Wrong> {
        let copy = self.at("copy");
        let failed =
            |e| StorageError::File { action: "copy", path: copy.display().to_string(), source: std::sync::Arc::new(e) };
        write(left, &copy).map_err(failed)?;
        check(&copy, expected)
    }

    fn count(&mut self, loss: Loss, checked: &Checked) {
        let summary = &mut self.summary;
        summary.losses[loss as usize] += 1;
        summary.acked += checked.acked;
        summary.extra += checked.extra;
        summary.entries += checked.entries;
        summary.resumed += checked.resumed;
    }

    /// Lets a worker live in `live`; returns what it journaled.
    fn run_worker(&self, life: u64, rng: &mut ChaCha8Rng) -> Result<Vec<Record>, Failure> {
        let [dir, peer, journal, said] = ["live", "peer", "journal", "said"].map(|name| self.at(name));
        write(&Image::new(), &peer)?;
        let stop_at = match rng.random_range(0..10) {
            // While the store is opened.
            0..2 => rng.random_range(1..120),
            // Maybe while it is closed, or not at all.
            2 => rng.random_range(3_000..20_000),
            _ => rng.random_range(120..3_000),
        };
        let mut command = Command::new(&self.options.program);
        command.arg("live").arg("--dir").arg(&dir).arg("--peer").arg(&peer).arg("--journal").arg(&journal);
        command.args(["--stop-at", &format!("{stop_at}"), "--seed", &format!("{}", rng.next_u64())]);
        if self.options.lies {
            command.arg("--lies");
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said)?).spawn()?;
        let begun = Mono::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Mono::now().since(begun) > LIFE_MAX {
                child.kill()?;
                child.wait()?;
                return Err(Failure::Io(std::io::Error::other(format!("life {life} hangs"))));
            }
            // The standard library waits for a process for ever or not at all, and a life that hangs has to be ended.
            std::thread::sleep(Duration::from_millis(2));
        };
        if !status.success() && status.signal() != Some(libc::SIGKILL) {
            let (seed, said) = (self.options.seed, std::fs::read_to_string(&said)?);
            return Err(Failure::Life { life, seed, status, said });
        }
        Ok(journal::read(&journal)?)
    }
}

fn note(record: &Record) -> Option<Note> {
    if record.kind == Kind::Note { Note::decode(&record.data) } else { None }
}

/// The default place to work in: a folder that is removed unless something was found.
pub fn folder(kept: Option<&Path>) -> std::io::Result<(PathBuf, Option<tempfile::TempDir>)> {
    match kept {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            Ok((dir.to_owned(), None))
        }
        None => {
            let dir = tempfile::Builder::new().prefix("meridian-power").tempdir()?;
            Ok((dir.path().to_owned(), Some(dir)))
        }
    }
}
