//! From tallies to a report.

use super::schema::{LatencyUs, PaceReport, Report, ResultRow, SCHEMA, StalenessUs};
use crate::floors::Floors;
use crate::options::{Arrivals, BenchOptions, Pace};
use crate::tally::{Cell, Measured, Tally};
use hdrhistogram::Histogram;
use meridian_types::RegionId;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the run knows beside its options and tallies.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) topology: &'a str,
    pub(crate) clock_bound: Option<Duration>,
    pub(crate) floors: &'a Floors,
    pub(crate) run: u64,
    pub(crate) measured: Duration,
    pub(crate) interrupted: bool,
    pub(crate) in_flight_limit_met: u64,
}

pub(crate) fn build(options: &BenchOptions, facts: &Facts<'_>, tallies: &[(RegionId, Tally)]) -> Report {
    let mut errors = BTreeMap::new();
    let mut results = Vec::new();
    for (region, tally) in tallies {
        for (reason, count) in &tally.errors {
            *errors.entry((*reason).to_owned()).or_default() += count;
        }
        let rows = tally.cells.iter().map(|((what, level), cell)| row(region, *what, *level, cell, facts));
        results.extend(rows);
    }
    Report {
        schema: SCHEMA,
        topology: facts.topology.to_owned(),
        clock_bound_ns: facts.clock_bound.map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        run: format!("{:016x}", facts.run),
        workload: options.workload.name().to_owned(),
        distribution: options.distribution().name().to_owned(),
        pace: pace(options.pace),
        keys: options.keys,
        value_bytes: options.value_bytes,
        seed: options.seed,
        warm_up_s: options.warm_up.as_secs_f64(),
        measured_s: facts.measured.as_secs_f64(),
        interrupted: facts.interrupted,
        in_flight_limit_met: facts.in_flight_limit_met,
        results,
        errors,
    }
}

fn row(region: &RegionId, what: Measured, level: Option<&'static str>, cell: &Cell, facts: &Facts<'_>) -> ResultRow {
    let seconds = facts.measured.as_secs_f64();
    let count = cell.latency.len();
    let latency = latency(&cell.latency);
    let floor = facts.floors.floor(region, what, level).map(|d| d.as_secs_f64() * 1e6);
    let over = |latency: Option<f64>| Some(latency? / floor.filter(|f| *f > 0.0)?);
    ResultRow {
        region: region.0.clone(),
        op: what.name().to_owned(),
        consistency: level.map(str::to_owned),
        count,
        errors: cell.errors,
        throughput_per_s: if seconds > 0.0 { count as f64 / seconds } else { 0.0 },
        latency_us: latency,
        floor_us: floor,
        p50_over_floor: over(latency.map(|l| l.p50)),
        p99_over_floor: over(latency.map(|l| l.p99)),
        staleness_us: staleness(&cell.staleness),
    }
}

fn latency(h: &Histogram<u64>) -> Option<LatencyUs> {
    let at = |quantile| micros(h.value_at_quantile(quantile));
    (!h.is_empty()).then(|| LatencyUs {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: micros(h.max()),
    })
}

fn staleness(h: &Histogram<u64>) -> Option<StalenessUs> {
    let at = |quantile| micros(h.value_at_quantile(quantile));
    (!h.is_empty()).then(|| StalenessUs { p50: at(0.5), p99: at(0.99), max: micros(h.max()) })
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn pace(pace: Pace) -> PaceReport {
    match pace {
        Pace::Closed { clients } => PaceReport::Closed { clients },
        Pace::Open { rate, arrivals, in_flight_max } => {
            let arrivals = match arrivals {
                Arrivals::Even => "even",
                Arrivals::Poisson => "poisson",
            };
            PaceReport::Open { rate_per_s: rate, arrivals: arrivals.to_owned(), in_flight_max }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::floors::ShardPlacement;
    use meridian_types::Reason;
    use meridian_types::RttMatrix;

    /// A small report of two regions, with every kind of row.
    pub(crate) fn sample() -> Report {
        let (us, eu) = (RegionId::from("us-east"), RegionId::from("eu-west"));
        let mut rtts = RttMatrix::default();
        rtts.set(us.clone(), eu.clone(), Duration::from_millis(70));
        let both = vec![us.clone(), eu.clone()];
        let shards = vec![ShardPlacement { leader: Some(us.clone()), voters: both.clone(), replicas: both }];
        let floors = Floors { rtts, shards, lead_time: false };
        let mut near = Tally::default();
        near.succeed(Measured::Write, None, Duration::from_micros(70_016), None);
        near.fail(Measured::Write, None, Reason::NoQuorum);
        let mut far = Tally::default();
        far.succeed(Measured::Read, Some("local"), Duration::from_micros(512), Some(Duration::from_micros(1024)));
        far.fail(Measured::Txn, None, Reason::PreconditionFailed);
        let facts = Facts {
            topology: "two",
            clock_bound: Some(Duration::from_millis(1)),
            floors: &floors,
            run: 0xA1,
            measured: Duration::from_secs(2),
            interrupted: false,
            in_flight_limit_met: 0,
        };
        build(&BenchOptions::default(), &facts, &[(us, near), (eu, far)])
    }

    #[test]
    fn the_json_is_the_documented_one() {
        let golden = include_str!("golden.json");
        assert_eq!(sample().to_json(), golden.trim_end(), "the schema changed: change docs/bench.md and its version");
        let back: Report = serde_json::from_str(golden).unwrap();
        assert_eq!(back, sample());
    }

    #[test]
    fn ratios_need_a_floor() {
        let report = sample();
        let row = |op: &str| report.results.iter().find(|r| r.op == op).unwrap().clone();
        assert!((row("write").p50_over_floor.unwrap() - 1.0).abs() < 0.01);
        assert_eq!((row("read").floor_us, row("read").p50_over_floor), (Some(0.0), None));
        assert_eq!((row("txn").latency_us, row("txn").errors), (None, 1));
        assert_eq!(report.errors["NO_QUORUM"], 1);
    }
}
