//! How much room the disk has, and what a node may still do with it.
//!
//! A write-ahead log that cannot be written ends the process: whether its last record reached the disk is unknown. So the
//! node stops writing before the disk is full. It gives up, in this order, what it can refuse truthfully:
//!
//! | level | free bytes below | refused |
//! | --- | --- | --- |
//! | [`DiskLevel::NearlyFull`] | the reserve | writes of clients at this node's leaders, received snapshots |
//! | [`DiskLevel::Full`] | half of it | entries with writes from other leaders, snapshots for followers |
//! | [`DiskLevel::Critical`] | a quarter of it | every entry, votes, standing for election |
//!
//! What is stamped already still finds room between the levels, and so do flushes and compactions, which need space before
//! they give it back. Reads, heartbeats and leases go on at every level.
//!
//! A level is left when a quarter more than its bound is free: at the bound itself a node would go back and forth. Writes
//! come back only once both databases take them: a flush that found no room stops RocksDB until it has noticed that there
//! is some, and an entry that came too early would end the process.

use crate::StorageError;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Part of the file system that is kept free if nobody says otherwise, in percent.
const RESERVE_PERCENT: u64 = 5;
/// Least that is kept free beside the memtables.
const RESERVE_MIN: u64 = 256 << 20;
/// Most that is kept free beside the memtables.
const RESERVE_MAX: u64 = 4 << 30;
/// What is written between two looks at the disk, as a part of the reserve: one in this many bytes.
const LOOKS_PER_RESERVE: u64 = 64;
/// How often a byte of a log entry is written: to the log, from its memtable, and as data.
const WRITES_PER_BYTE: u64 = 3;

/// How full the disk is. Later levels include what earlier ones refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum DiskLevel {
    /// There is room.
    #[default]
    Enough,
    /// Less is free than the reserve.
    NearlyFull,
    /// Less than half of the reserve.
    Full,
    /// Less than a quarter of the reserve.
    Critical,
}

impl DiskLevel {
    const ALL: [Self; 4] = [Self::Enough, Self::NearlyFull, Self::Full, Self::Critical];

    /// The free bytes below which it begins.
    fn bound(self, reserve: u64) -> u64 {
        match self {
            Self::Enough => u64::MAX,
            Self::NearlyFull => reserve,
            Self::Full => reserve / 2,
            Self::Critical => reserve / 4,
        }
    }

    /// The level with `free` bytes, coming from this one.
    fn next(self, free: u64, reserve: u64) -> Self {
        let begun = |level: &Self| {
            let bound = level.bound(reserve);
            // Left only with some room to spare.
            free < if *level <= self && *level != Self::Enough { bound.saturating_add(bound / 4) } else { bound }
        };
        Self::ALL.into_iter().rev().find(begun).unwrap_or_default()
    }
}

/// The disk is nearly full: refused before anything was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk is nearly full: {} MiB free, {} MiB needed", .free >> 20, .needed >> 20)]
pub struct DiskFull {
    /// Free bytes.
    pub free: u64,
    /// Free bytes from which on it is done again.
    pub needed: u64,
}

/// The room on a store's disk. Clones share it.
///
/// Somebody has to look: [`DiskSpace::look`] every now and then, and [`DiskSpace::wrote`] for what is written.
#[derive(Clone, Debug)]
pub struct DiskSpace {
    inner: Arc<Inner>,
}

/// Says whether the databases take writes.
type TakesWrites = Box<dyn Fn() -> bool + Send + Sync>;

struct Inner {
    /// Where files are kept; the fullest file system counts. Empty for a simulated disk.
    dirs: Vec<PathBuf>,
    reserve: u64,
    level: AtomicU8,
    free: AtomicU64,
    /// Bytes written since the last look.
    written: AtomicU64,
    /// One look at a time, so that levels follow one another.
    looking: Mutex<()>,
    takes_writes: OnceLock<TakesWrites>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dirs, reserve, level, free, .. } = self;
        f.debug_struct("DiskSpace")
            .field("dirs", dirs)
            .field("reserve", reserve)
            .field("level", level)
            .field("free", free)
            .finish()
    }
}

/// Free and all bytes of a file system.
fn measure(dir: &std::path::Path) -> Result<(u64, u64), StorageError> {
    let failed = |e: rustix::io::Errno| StorageError::file("measure the disk of", dir)(e.into());
    let stat = rustix::fs::statvfs(dir).map_err(failed)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// What is kept free on a file system of this size by a node whose memtables take so much: a flush needs that at once.
fn default_reserve(size: u64, memtables: u64) -> u64 {
    let reserve = (size / 100).saturating_mul(RESERVE_PERCENT).clamp(RESERVE_MIN, RESERVE_MAX) + memtables;
    // On a small disk nothing would be left otherwise.
    reserve.min(size / 2)
}

impl DiskSpace {
    /// For files in these folders. `memtables` is what flushes may need at once, `reserve` overrides what is kept free.
    ///
    /// * Errors: a folder's file system cannot be asked.
    pub(crate) fn open(dirs: Vec<PathBuf>, memtables: u64, reserve: Option<u64>) -> Result<Self, StorageError> {
        let mut smallest = u64::MAX;
        for dir in &dirs {
            smallest = smallest.min(measure(dir)?.1);
        }
        let space = Self::new(dirs, reserve.unwrap_or_else(|| default_reserve(smallest, memtables)));
        space.look()?;
        Ok(space)
    }

    /// A disk that always has room, until [`DiskSpace::set_level`].
    #[cfg(feature = "simulation")]
    pub(crate) fn simulated() -> Self {
        Self::new(Vec::new(), 0)
    }

    fn new(dirs: Vec<PathBuf>, reserve: u64) -> Self {
        let inner = Inner {
            dirs,
            reserve,
            level: AtomicU8::new(DiskLevel::Enough as u8),
            free: AtomicU64::new(u64::MAX),
            written: AtomicU64::new(0),
            looking: Mutex::new(()),
            takes_writes: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Lets writes come back only when this says that the databases take them.
    pub(crate) fn when(&self, takes_writes: TakesWrites) {
        // Set once, when the store is opened.
        let _ = self.inner.takes_writes.set(takes_writes);
    }

    /// How full the disk was at the last look.
    pub fn level(&self) -> DiskLevel {
        DiskLevel::ALL[usize::from(self.inner.level.load(Ordering::Relaxed)).min(3)]
    }

    /// Free bytes at the last look; the largest number on a simulated disk.
    pub fn free(&self) -> u64 {
        self.inner.free.load(Ordering::Relaxed)
    }

    /// Free bytes below which writes are refused.
    pub fn reserve(&self) -> u64 {
        self.inner.reserve
    }

    /// Fails if the disk is fuller than something may be done at.
    pub fn check(&self, worst: DiskLevel) -> Result<(), DiskFull> {
        if self.level() <= worst {
            return Ok(());
        }
        let next = DiskLevel::ALL.into_iter().find(|level| *level > worst).unwrap_or(DiskLevel::Critical);
        let bound = next.bound(self.reserve());
        Err(DiskFull { free: self.free(), needed: bound.saturating_add(bound / 4) })
    }

    /// Fails unless `bytes` more leave the reserve free.
    pub fn check_room(&self, bytes: u64) -> Result<(), DiskFull> {
        self.check(DiskLevel::Enough)?;
        let (free, needed) = (self.free(), self.reserve().saturating_add(bytes));
        if free < needed { Err(DiskFull { free, needed }) } else { Ok(()) }
    }

    /// Looks at the disk.
    ///
    /// * Errors: it cannot be asked; the level stays.
    pub fn look(&self) -> Result<DiskLevel, StorageError> {
        let _one_at_a_time = self.inner.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.inner.dirs.is_empty() {
            return Ok(self.level());
        }
        self.inner.written.store(0, Ordering::Relaxed);
        let mut free = u64::MAX;
        for dir in &self.inner.dirs {
            free = free.min(measure(dir)?.0);
        }
        let (from, mut to) = (self.level(), self.level().next(free, self.inner.reserve));
        if to < from && to == DiskLevel::Enough && self.inner.takes_writes.get().is_some_and(|takes| !takes()) {
            to = DiskLevel::NearlyFull;
        }
        self.inner.free.store(free, Ordering::Relaxed);
        self.inner.level.store(to as u8, Ordering::Relaxed);
        let (free, reserve) = (free >> 20, self.inner.reserve >> 20);
        if to > from {
            tracing::warn!("the disk is getting full ({to:?}): {free} MiB free, the reserve is {reserve} MiB");
        } else if to < from {
            tracing::info!("the disk has room again ({to:?}): {free} MiB free, the reserve is {reserve} MiB");
        }
        Ok(to)
    }

    /// Counts bytes of log entries that are being written, and looks at the disk when many have been since the last look.
    pub fn wrote(&self, bytes: u64) {
        let written = self.inner.written.fetch_add(bytes * WRITES_PER_BYTE, Ordering::Relaxed);
        if written > self.inner.reserve / LOOKS_PER_RESERVE
            && !self.inner.dirs.is_empty()
            && let Err(e) = self.look()
        {
            tracing::warn!("{e}");
        }
    }

    /// Makes a simulated disk as full as a test wants it.
    #[cfg(feature = "simulation")]
    pub fn set_level(&self, level: DiskLevel) {
        self.inner.level.store(level as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_begin_at_their_bounds_and_end_above_them() {
        use DiskLevel::{Critical, Enough, Full, NearlyFull};
        for (from, free, to) in [
            (Enough, 1_000, Enough),
            (Enough, 999, NearlyFull),
            (Enough, 500, NearlyFull),
            (Enough, 499, Full),
            (Enough, 249, Critical),
            (Enough, 0, Critical),
            (NearlyFull, 1_000, NearlyFull),
            (NearlyFull, 1_249, NearlyFull),
            (NearlyFull, 1_250, Enough),
            (NearlyFull, 500, NearlyFull),
            (Full, 624, Full),
            (Full, 625, NearlyFull),
            (Full, 2_000, Enough),
            (Critical, 312 - 1, Critical),
            (Critical, 313, Full),
            (Critical, 700, NearlyFull),
            (Critical, 2_000, Enough),
        ] {
            assert_eq!(from.next(free, 1_000), to, "{from:?} with {free}");
        }
    }

    #[test]
    fn the_reserve_is_a_part_of_the_disk_within_limits_and_covers_a_flush() {
        let gib = |n: u64| n << 30;
        assert_eq!(default_reserve(gib(40), 0), gib(40) / 100 * 5);
        assert_eq!(default_reserve(gib(1), 0), 256 << 20);
        assert_eq!(default_reserve(gib(4_000), 0), gib(4));
        assert_eq!(default_reserve(gib(4_000), gib(1)), gib(5));
        assert_eq!(default_reserve(64 << 20, gib(1)), 32 << 20, "half of a small disk is for data");
    }

    #[test]
    fn writes_come_back_only_when_the_databases_take_them() {
        let dir = tempfile::tempdir().unwrap();
        let space = DiskSpace::open(vec![dir.path().into()], 0, Some(1)).unwrap();
        let takes = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let theirs = Arc::clone(&takes);
        space.when(Box::new(move || theirs.load(Ordering::Relaxed)));
        assert_eq!(space.look().unwrap(), DiskLevel::Enough, "nobody is asked while there is room");
        space.inner.level.store(DiskLevel::Critical as u8, Ordering::Relaxed);
        assert_eq!(space.look().unwrap(), DiskLevel::NearlyFull);
        assert_eq!(space.look().unwrap(), DiskLevel::NearlyFull);
        takes.store(true, Ordering::Relaxed);
        assert_eq!(space.look().unwrap(), DiskLevel::Enough);
    }

    #[test]
    fn a_real_disk_is_measured_and_refuses_when_less_is_free_than_the_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let (free, size) = measure(dir.path()).unwrap();
        assert!(0 < free && free <= size);
        let wide = DiskSpace::open(vec![dir.path().into()], 0, Some(1)).unwrap();
        assert_eq!(wide.level(), DiskLevel::Enough);
        assert!(wide.check(DiskLevel::Enough).is_ok() && wide.check_room(1).is_ok());
        assert!(matches!(wide.check_room(u64::MAX / 2), Err(DiskFull { .. })), "one snapshot may be too large");
        let tight = DiskSpace::open(vec![dir.path().into()], 0, Some(size * 8)).unwrap();
        assert_eq!(tight.level(), DiskLevel::Critical);
        for worst in [DiskLevel::Enough, DiskLevel::NearlyFull, DiskLevel::Full] {
            assert!(tight.check(worst).is_err());
        }
        assert!(tight.check(DiskLevel::Critical).is_ok());
        let text = DiskFull { free: 5 << 20, needed: 320 << 20 }.to_string();
        assert_eq!(text, "the disk is nearly full: 5 MiB free, 320 MiB needed");
    }
}
