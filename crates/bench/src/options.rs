//! What one run of the harness is asked to do.

use crate::error::BadOption;
use crate::workload::{Distribution, Workload};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Most operations that an open-loop region has in flight, unless told otherwise. When as many are out, further ones
/// wait, and their latency is counted from when they should have started.
pub const IN_FLIGHT_MAX: usize = 1024;

/// Smallest value that can carry the unique name of its write; see `docs/bench.md`.
pub const VALUE_BYTES_MIN: usize = 48;

/// Everything that a run needs to know, besides the cluster.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Which operations, in which shares.
    pub workload: Workload,
    /// How operations follow one another.
    pub pace: Pace,
    /// How long is measured.
    pub duration: Duration,
    /// How long before that load runs unmeasured.
    pub warm_up: Duration,
    /// Keys in the table at the start.
    pub keys: u64,
    /// Bytes of every value.
    pub value_bytes: usize,
    /// How keys are chosen; `None`: as the workload says.
    pub distribution: Option<Distribution>,
    /// The consistency of gets and scans.
    pub consistency: ReadLevel,
    /// Longest scan, in rows; each scan's limit is uniform from 1 to this.
    pub scan_rows_max: u32,
    /// All randomness follows from it.
    pub seed: u64,
    /// Whether the keys are written before the run. Without it they must be there already.
    pub load: bool,
    /// Concurrent writers of the load phase.
    pub load_clients: usize,
    /// Whether clients share a stream per gateway, or make a call for each operation.
    pub pipelining: bool,
    /// The table.
    pub table: String,
    /// Where every operation is recorded, one JSON object per line.
    pub history: Option<PathBuf>,
    /// Whether a progress line is shown on a terminal.
    pub progress: bool,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            workload: Workload::A,
            pace: Pace::Closed { clients: 1 },
            duration: Duration::from_secs(20),
            warm_up: Duration::from_secs(2),
            keys: 1000,
            value_bytes: 256,
            distribution: None,
            consistency: ReadLevel::Linearizable,
            scan_rows_max: 100,
            seed: 1,
            load: true,
            load_clients: 64,
            pipelining: true,
            table: "bench".to_owned(),
            history: None,
            progress: true,
        }
    }
}

impl BenchOptions {
    /// Checks every option and returns the first fault.
    pub fn validate(&self) -> Result<(), BadOption> {
        let checks = [
            (self.keys > 0, "keys", "at least one key is needed"),
            (self.value_bytes >= VALUE_BYTES_MIN, "value size", "a value must hold its unique name: at least 48 bytes"),
            (!self.duration.is_zero(), "duration", "it must be longer than nothing"),
            (self.scan_rows_max > 0, "scan rows", "a scan reads at least one row"),
            (self.load_clients > 0, "load clients", "loading needs at least one writer"),
            (!self.table.is_empty(), "table", "name the table"),
        ];
        if let Some((_, option, why)) = checks.into_iter().find(|(holds, ..)| !holds) {
            return Err(BadOption::new(option, why));
        }
        match self.pace {
            Pace::Closed { clients: 0 } => Err(BadOption::new("clients", "at least one client per region is needed")),
            Pace::Open { rate, .. } if !(rate.is_finite() && rate > 0.0) => {
                Err(BadOption::new("rate", "operations per second and region, above zero"))
            }
            Pace::Open { in_flight_max: 0, .. } => Err(BadOption::new("in flight", "at least one must be allowed")),
            Pace::Closed { .. } | Pace::Open { .. } => Ok(()),
        }
    }

    /// The key distribution in force.
    pub fn distribution(&self) -> Distribution {
        self.distribution.unwrap_or_else(|| self.workload.distribution())
    }
}

/// How operations follow one another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// This many clients per region, each with one operation at a time. A slow answer delays the next request, so a
    /// stall shows as lower throughput and hardly in the percentiles.
    Closed {
        /// Clients per region.
        clients: usize,
    },
    /// Operations start on a schedule, whatever became of the earlier ones; latency counts from the scheduled start,
    /// so a stall shows in the latency of everything that it held up (no coordinated omission).
    Open {
        /// Operations per second and region.
        rate: f64,
        /// Their spacing.
        arrivals: Arrivals,
        /// Most operations in flight per region.
        in_flight_max: usize,
    },
}

/// The spacing of scheduled starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Equal gaps.
    Even,
    /// Exponential gaps (a Poisson process), drawn from the run's seed.
    Poisson,
}

impl FromStr for Arrivals {
    type Err = BadOption;

    fn from_str(text: &str) -> Result<Self, BadOption> {
        match text {
            "even" => Ok(Self::Even),
            "poisson" => Ok(Self::Poisson),
            _ => Err(BadOption::new("arrivals", "`even` or `poisson`")),
        }
    }
}

/// The consistency that a run's reads ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLevel {
    /// Sees everything acknowledged before.
    Linearizable,
    /// At most this old.
    Bounded(Duration),
    /// Includes everything that the session has seen.
    Causal,
    /// Whatever the region's replica has.
    Local,
    /// At a timestamp this far before the newest one that any client of the run has seen.
    Snapshot(Duration),
}

impl ReadLevel {
    /// The name used in reports and histories; the same as [`meridian_types::Consistency::name`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Bounded(_) => "bounded",
            Self::Causal => "causal",
            Self::Local => "local",
            Self::Snapshot(_) => "snapshot",
        }
    }
}

impl FromStr for ReadLevel {
    type Err = BadOption;

    /// Reads `linearizable`, `causal`, `local`, `bounded:500ms` or `snapshot:1s`.
    fn from_str(text: &str) -> Result<Self, BadOption> {
        let (name, bound) = text.split_once(':').map_or((text, None), |(name, bound)| (name, Some(bound)));
        let duration = |bound: Option<&str>| {
            let bound = bound.ok_or_else(|| BadOption::new("consistency", "needs a duration, e.g. `bounded:500ms`"))?;
            humantime::parse_duration(bound).map_err(|e| BadOption::new("consistency", e.to_string()))
        };
        match (name, bound) {
            ("linearizable", None) => Ok(Self::Linearizable),
            ("causal", None) => Ok(Self::Causal),
            ("local", None) => Ok(Self::Local),
            ("bounded", bound) => duration(bound).map(Self::Bounded),
            ("snapshot", bound) => duration(bound).map(Self::Snapshot),
            _ => Err(BadOption::new(
                "consistency",
                "one of `linearizable`, `causal`, `local`, `bounded:DURATION`, `snapshot:AGE`",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read() {
        assert_eq!("bounded:500ms".parse(), Ok(ReadLevel::Bounded(Duration::from_millis(500))));
        assert_eq!("snapshot:1s".parse(), Ok(ReadLevel::Snapshot(Duration::from_secs(1))));
        assert_eq!("local".parse(), Ok(ReadLevel::Local));
        for bad in ["bounded", "bounded:soon", "local:1s", "strong"] {
            assert!(bad.parse::<ReadLevel>().is_err(), "{bad}");
        }
    }

    #[test]
    fn faults_are_named() {
        assert!(BenchOptions::default().validate().is_ok());
        let faulty = |change: fn(&mut BenchOptions)| {
            let mut options = BenchOptions::default();
            change(&mut options);
            options.validate().unwrap_err().option
        };
        assert_eq!(faulty(|o| o.keys = 0), "keys");
        assert_eq!(faulty(|o| o.value_bytes = 8), "value size");
        assert_eq!(faulty(|o| o.pace = Pace::Closed { clients: 0 }), "clients");
        let open = |rate, in_flight_max| Pace::Open { rate, arrivals: Arrivals::Even, in_flight_max };
        let mut options = BenchOptions { pace: open(f64::NAN, 1), ..BenchOptions::default() };
        assert_eq!(options.validate().unwrap_err().option, "rate");
        options.pace = open(10.0, 0);
        assert_eq!(options.validate().unwrap_err().option, "in flight");
    }
}
