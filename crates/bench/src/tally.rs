//! What a region's operations came to: histograms and counts.

use hdrhistogram::Histogram;
use meridian_types::Reason;
use std::collections::BTreeMap;
use std::time::Duration;

/// Significant decimal digits of recorded times.
const DIGITS: u8 = 3;

/// Longest time that is told apart from longer ones: an hour, in nanoseconds.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// What is told apart in reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Measured {
    Write,
    Read,
    Scan,
    Txn,
}

impl Measured {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Scan => "scan",
            Self::Txn => "txn",
        }
    }
}

/// One line of the report in the making. Times in nanoseconds, failed operations excluded from histograms.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) latency: Histogram<u64>,
    pub(crate) staleness: Histogram<u64>,
    pub(crate) errors: u64,
}

impl Cell {
    fn new() -> Self {
        let histogram = || Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).expect("valid bounds and digits");
        Self { latency: histogram(), staleness: histogram(), errors: 0 }
    }
}

/// All measured operations of one region.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// By operation and consistency (of reads).
    pub(crate) cells: BTreeMap<(Measured, Option<&'static str>), Cell>,
    /// Failed operations by reason.
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(crate) fn succeed(
        &mut self,
        what: Measured,
        level: Option<&'static str>,
        latency: Duration,
        staleness: Option<Duration>,
    ) {
        let cell = self.cells.entry((what, level)).or_insert_with(Cell::new);
        cell.latency.saturating_record(nanos(latency));
        if let Some(staleness) = staleness {
            cell.staleness.saturating_record(nanos(staleness));
        }
    }

    pub(crate) fn fail(&mut self, what: Measured, level: Option<&'static str>, reason: Reason) {
        self.cells.entry((what, level)).or_insert_with(Cell::new).errors += 1;
        *self.errors.entry(reason.name()).or_default() += 1;
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
