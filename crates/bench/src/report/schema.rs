//! The report as JSON, version 1; `docs/bench.md` explains every field. Within a version fields are only added.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the schema that this build writes.
pub const SCHEMA: u32 = 1;

/// What a run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The topology's name, or where the cluster was.
    pub topology: String,
    /// The largest half-width of a node's clock interval, nanoseconds; `null`: no node said.
    pub clock_bound_ns: Option<u64>,
    /// The random number in every value of this run, 16 hexadecimal digits.
    pub run: String,
    /// The workload.
    pub workload: String,
    /// The key distribution.
    pub distribution: String,
    /// How operations followed one another.
    pub pace: PaceReport,
    /// Keys at the start.
    pub keys: u64,
    /// Bytes of every value.
    pub value_bytes: usize,
    /// The seed of all randomness.
    pub seed: u64,
    /// Seconds that ran unmeasured first.
    pub warm_up_s: f64,
    /// Seconds that were measured.
    pub measured_s: f64,
    /// Whether the run was stopped before its end.
    pub interrupted: bool,
    /// How often an open-loop operation had to wait because the limit of operations in flight was met.
    pub in_flight_limit_met: u64,
    /// One per region, operation and consistency.
    pub results: Vec<ResultRow>,
    /// Failed operations by reason, over all regions.
    pub errors: BTreeMap<String, u64>,
}

/// How operations followed one another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum PaceReport {
    /// Each client starts an operation when its last one has ended.
    Closed {
        /// Clients per region.
        clients: usize,
    },
    /// Operations start on a schedule; latency counts from the scheduled start.
    Open {
        /// Operations per second and region.
        rate_per_s: f64,
        /// `even` or `poisson`.
        arrivals: String,
        /// Most operations in flight per region.
        in_flight_max: usize,
    },
}

/// The operations of one kind in one region. A read-modify-write counts as a `read` and a `txn`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultRow {
    /// Where the clients were.
    pub region: String,
    /// `write`, `read`, `scan` or `txn`.
    pub op: String,
    /// The consistency of reads and scans; `null` for others.
    pub consistency: Option<String>,
    /// Operations that succeeded.
    pub count: u64,
    /// Operations that failed; not in the latencies.
    pub errors: u64,
    /// Successes per second.
    pub throughput_per_s: f64,
    /// `null` when nothing succeeded.
    pub latency_us: Option<LatencyUs>,
    /// The physical floor of this operation from this region, microseconds; `null`: unknown.
    pub floor_us: Option<f64>,
    /// `null` when the floor is zero or unknown.
    pub p50_over_floor: Option<f64>,
    /// `null` when the floor is zero or unknown.
    pub p99_over_floor: Option<f64>,
    /// How old the answers were allowed to be by their own account; `null` for writes and transactions.
    pub staleness_us: Option<StalenessUs>,
}

/// Percentiles of latency, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyUs {
    /// Half were at most this.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// All.
    pub max: f64,
}

/// Percentiles of staleness, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StalenessUs {
    /// Half were at most this.
    pub p50: f64,
    /// 99 %.
    pub p99: f64,
    /// All.
    pub max: f64,
}

impl Report {
    /// Pretty JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has only text keys and finite numbers")
    }
}
