//! One value of every figure: what one run of one load has shown.

use crate::disk::micros;
use crate::measures::Measure;
use crate::nodes::Reading;
use crate::procfs::Usage;
use crate::system::Contender;
use meridian_bench::Report;
use serde::Serialize;
use std::time::Duration;

/// What was found in one run. Throughput and latency are of the measured time, the others of the whole run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// Successes per second.
    pub(crate) throughput_per_s: f64,
    /// `None`: nothing succeeded.
    pub(crate) p50_us: Option<f64>,
    /// `None`: nothing succeeded.
    pub(crate) p99_us: Option<f64>,
    /// Operations that failed.
    pub(crate) errors: u64,
    /// All that succeeded, in the warm-up too.
    pub(crate) operations: u64,
    /// CPU time of all servers per operation.
    pub(crate) server_cpu_us_per_op: Option<f64>,
    /// CPU time of this program per operation.
    pub(crate) client_cpu_us_per_op: Option<f64>,
    /// Syncs of the log per operation, mean of the nodes.
    pub(crate) syncs_per_op_and_node: Option<f64>,
    /// Bytes written per operation, mean of the nodes; `None` also where the kernel does not say.
    pub(crate) written_bytes_per_op_and_node: Option<f64>,
    /// Resident memory of the largest node at the end.
    pub(crate) resident_bytes_max: u64,
    /// Cores that the other system's servers used meanwhile; `None` if there is no other system.
    pub(crate) idle_other_cores: Option<f64>,
    /// Which member led before and after, counted from 1.
    pub(crate) leaders: [Option<usize>; 2],
}

/// One run and what it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Taken {
    /// Which round, counted from 1.
    pub(crate) round: u32,
    /// Which load.
    pub(crate) measure: Measure,
    /// On what.
    pub(crate) contender: Contender,
    /// What was found.
    pub(crate) sample: Sample,
}

/// Everything that is read before and after a run.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    /// The loaded cluster's nodes.
    pub(crate) nodes: Reading,
    /// This program.
    pub(crate) own: Usage,
    /// The other cluster's nodes.
    pub(crate) other: Option<Vec<Usage>>,
    /// Which member leads, counted from 0.
    pub(crate) leader: Option<usize>,
}

impl Sample {
    /// From the load generator's report of one run, and from what was read before and after it, `elapsed` apart.
    pub(crate) fn of(report: &Report, operations: u64, before: &Observed, after: &Observed, elapsed: Duration) -> Self {
        let row = report.results.first();
        let latency = row.and_then(|row| row.latency_us);
        let per_op = |total: f64| (operations > 0).then(|| total / operations as f64);
        let nodes = after.nodes.usage.len().max(1) as f64;
        let syncs = after.nodes.syncs.iter().sum::<f64>() - before.nodes.syncs.iter().sum::<f64>();
        let written = |usage: &[Usage]| usage.iter().map(|u| u.written_bytes).sum::<Option<u64>>();
        let written = written(&after.nodes.usage).zip(written(&before.nodes.usage));
        let servers = cpu(&after.nodes.usage).saturating_sub(cpu(&before.nodes.usage));
        let other = after.other.as_deref().map(cpu).zip(before.other.as_deref().map(cpu));
        Self {
            throughput_per_s: row.map_or(0.0, |row| row.throughput_per_s),
            p50_us: latency.map(|l| l.p50),
            p99_us: latency.map(|l| l.p99),
            errors: report.errors.values().sum(),
            operations,
            server_cpu_us_per_op: per_op(micros(servers)),
            client_cpu_us_per_op: per_op(micros(after.own.cpu.saturating_sub(before.own.cpu))),
            syncs_per_op_and_node: per_op(syncs / nodes),
            written_bytes_per_op_and_node: written.and_then(|(a, b)| per_op(a.saturating_sub(b) as f64 / nodes)),
            resident_bytes_max: after.nodes.usage.iter().map(|u| u.resident_bytes).max().unwrap_or(0),
            idle_other_cores: other
                .map(|(after, before)| after.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64().max(1e-9)),
            leaders: [before, after].map(|observed| observed.leader.map(|place| place + 1)),
        }
    }
}

fn cpu(usage: &[Usage]) -> Duration {
    usage.iter().map(|usage| usage.cpu).sum()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use meridian_bench::{LatencyUs, PaceReport, ResultRow, SCHEMA};

    fn report() -> Report {
        let latency = LatencyUs { p50: 1000.0, p90: 2000.0, p99: 3000.0, p999: 4000.0, max: 5000.0 };
        Report {
            schema: SCHEMA,
            topology: String::new(),
            clock_bound_ns: None,
            run: String::new(),
            workload: "write".to_owned(),
            distribution: "uniform".to_owned(),
            pace: PaceReport::Closed { clients: 1 },
            keys: 1,
            value_bytes: 256,
            seed: 1,
            warm_up_s: 1.0,
            measured_s: 1.0,
            interrupted: false,
            in_flight_limit_met: 0,
            results: vec![ResultRow {
                region: "local".to_owned(),
                op: "write".to_owned(),
                consistency: None,
                count: 600,
                errors: 2,
                throughput_per_s: 600.0,
                latency_us: Some(latency),
                floor_us: None,
                p50_over_floor: None,
                p99_over_floor: None,
                staleness_us: None,
            }],
            errors: [("NO_QUORUM".to_owned(), 2)].into(),
        }
    }

    fn observed(factor: u32, written: Option<u64>) -> Observed {
        let usage = |ms: u32| Usage {
            cpu: Duration::from_millis(u64::from(ms * factor)),
            resident_bytes: u64::from(ms * factor),
            written_bytes: written,
        };
        Observed {
            nodes: Reading { usage: vec![usage(100), usage(200), usage(300)], syncs: vec![f64::from(30 * factor); 3] },
            own: usage(500),
            other: Some(vec![usage(10), usage(10)]),
            leader: Some(1),
        }
    }

    #[test]
    fn totals_are_divided_by_operations_and_nodes() {
        let (before, after) = (observed(1, Some(1000)), observed(2, Some(7000)));
        let sample = Sample::of(&report(), 1000, &before, &after, Duration::from_secs(2));
        assert_eq!((sample.throughput_per_s, sample.p50_us, sample.p99_us), (600.0, Some(1000.0), Some(3000.0)));
        assert_eq!((sample.errors, sample.operations), (2, 1000));
        // 600 ms of three servers and 500 ms of clients for 1000 operations.
        assert_eq!(sample.server_cpu_us_per_op, Some(600.0));
        assert_eq!(sample.client_cpu_us_per_op, Some(500.0));
        // Each node has synced 30 times and written 6000 bytes.
        assert_eq!(sample.syncs_per_op_and_node, Some(0.03));
        assert_eq!(sample.written_bytes_per_op_and_node, Some(6.0));
        assert_eq!(sample.resident_bytes_max, 600);
        assert_eq!(sample.idle_other_cores, Some(0.01));
        assert_eq!(sample.leaders, [Some(2), Some(2)]);
    }

    #[test]
    fn what_cannot_be_had_is_not_zero() {
        let (before, after) = (observed(1, None), observed(2, Some(1)));
        let empty = Report { results: Vec::new(), ..report() };
        let sample = Sample::of(&empty, 0, &before, &after, Duration::ZERO);
        assert_eq!((sample.p50_us, sample.server_cpu_us_per_op, sample.syncs_per_op_and_node), (None, None, None));
        let sample = Sample::of(&report(), 10, &before, &after, Duration::from_secs(1));
        assert_eq!(sample.written_bytes_per_op_and_node, None);
    }

    /// A sample with this throughput and p50, for tests of reports.
    pub(crate) fn sample(throughput_per_s: f64, p50_us: f64) -> Sample {
        let (before, after) = (observed(1, Some(0)), observed(2, Some(0)));
        let sample = Sample::of(&report(), 1000, &before, &after, Duration::from_secs(2));
        Sample { throughput_per_s, p50_us: Some(p50_us), errors: 0, ..sample }
    }
}
