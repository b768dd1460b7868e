//! Whole runs against a scripted cluster: one in-memory map that answers when it is told to.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use meridian_bench::history::{OpKind, Outcome, Record};
use meridian_bench::{
    Answer, Arrivals, BenchOptions, ClusterFacts, Failure, Pace, RegionSessions, Report, Request, Row, Session,
    Workload, run_sessions,
};
use meridian_clock::{Mono, sleep, sleep_until};
use meridian_types::{CausalityToken, Consistency, Error, Reason, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::io::BufReader;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A map with one timestamp per write.
#[derive(Default)]
struct Store {
    rows: BTreeMap<Bytes, Row>,
    last: u64,
    calls: u64,
}

#[derive(Clone)]
struct Scripted {
    store: Arc<Mutex<Store>>,
    seen: CausalityToken,
    /// Every call takes this long.
    service: Duration,
    /// Calls that begin in this span end with it.
    stall: Option<(Mono, Mono)>,
    /// Every call with a number that this divides fails for this reason, after it took effect.
    fails: Option<(u64, Reason)>,
}

impl Scripted {
    fn new(service: Duration) -> Self {
        let seen = CausalityToken::default();
        Self { store: Arc::default(), seen, service, stall: None, fails: None }
    }

    fn answer(&mut self, request: &Request) -> Result<Answer, Error> {
        let mut store = self.store.lock().unwrap();
        store.calls += 1;
        let failing = self.fails.filter(|(every, _)| store.calls.is_multiple_of(*every));
        let rows = match request {
            Request::Get { key, .. } => store.rows.get(key).cloned().into_iter().collect(),
            Request::Scan { start, rows, .. } => {
                store.rows.range(start.clone()..).take(*rows as usize).map(|(_, row)| row.clone()).collect()
            }
            Request::Delete { key } => {
                store.last += 1;
                store.rows.remove(key);
                Vec::new()
            }
            Request::Put { key, value } => {
                put(&mut store, key, value);
                Vec::new()
            }
            Request::PutIfVersion { key, version, value } => {
                if store.rows.get(key).map_or(Timestamp::ZERO, |row| row.version) != *version {
                    return Err(Error::new(Reason::PreconditionFailed, "changed"));
                }
                put(&mut store, key, value);
                Vec::new()
            }
        };
        if let Some((_, reason)) = failing {
            return Err(Error::new(reason, "scripted"));
        }
        let timestamp = Timestamp(store.last);
        self.seen.merge(CausalityToken(timestamp));
        Ok(Answer { timestamp, served_in: "here".into(), token: self.seen, attempts: 1, rows, ..Answer::default() })
    }
}

fn put(store: &mut Store, key: &Bytes, value: &Bytes) {
    store.last += 1;
    let row = Row { key: key.clone(), value: value.clone(), version: Timestamp(store.last) };
    store.rows.insert(key.clone(), row);
}

impl Session for Scripted {
    fn token(&self) -> CausalityToken {
        self.seen
    }

    async fn call(&mut self, _table: &str, request: Request) -> Result<Answer, Failure> {
        if let Some((from, to)) = self.stall
            && (from..to).contains(&Mono::now())
        {
            sleep_until(to).await;
        }
        if !self.service.is_zero() {
            sleep(self.service).await;
        }
        self.answer(&request).map_err(|error| Failure { error, attempts: 2 })
    }
}

fn options(workload: Workload, pace: Pace, millis: u64) -> BenchOptions {
    BenchOptions {
        workload,
        pace,
        duration: Duration::from_millis(millis),
        warm_up: Duration::ZERO,
        keys: 20,
        value_bytes: 64,
        progress: false,
        ..BenchOptions::default()
    }
}

async fn run(options: &BenchOptions, regions: &[&str], session: Scripted) -> Report {
    let regions = regions
        .iter()
        .map(|region| {
            let session = session.clone();
            RegionSessions { region: (*region).into(), session: move || session.clone() }
        })
        .collect();
    run_sessions(options, &ClusterFacts::default(), regions, std::future::pending()).await.unwrap()
}

const MS: Duration = Duration::from_millis(1);

/// p99 of the only row, in milliseconds.
fn p99_ms(report: &Report) -> f64 {
    assert_eq!(report.results.len(), 1);
    report.results[0].latency_us.unwrap().p99 / 1e3
}

/// A store that stands still for 300 ms, soon.
fn stalling() -> Scripted {
    let from = Mono::now().plus(150 * MS);
    Scripted { stall: Some((from, from.plus(300 * MS))), ..Scripted::new(MS) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_shows_the_stall_that_a_closed_loop_hides() {
    let open = |in_flight_max| Pace::Open { rate: 200.0, arrivals: Arrivals::Even, in_flight_max };
    let no_load = |pace| BenchOptions { load: false, ..options(Workload::Read, pace, 900) };

    let roomy = run(&no_load(open(1024)), &["a"], stalling()).await;
    assert!((170..=181).contains(&roomy.results[0].count), "every scheduled start counts: {}", roomy.results[0].count);
    assert!(p99_ms(&roomy) > 200.0, "{}", p99_ms(&roomy));
    assert_eq!(roomy.in_flight_limit_met, 0);

    let narrow = run(&no_load(open(2)), &["a"], stalling()).await;
    assert!((170..=181).contains(&narrow.results[0].count), "{}", narrow.results[0].count);
    assert!(p99_ms(&narrow) > 200.0, "waiting for the limit counts: {}", p99_ms(&narrow));
    assert!(narrow.in_flight_limit_met > 0);

    let closed = run(&no_load(Pace::Closed { clients: 1 }), &["a"], stalling()).await;
    assert!(p99_ms(&closed) < 100.0, "one of hundreds of operations was slow: {}", p99_ms(&closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poisson_arrivals_keep_the_rate() {
    let pace = Pace::Open { rate: 400.0, arrivals: Arrivals::Poisson, in_flight_max: 64 };
    let report = run(&options(Workload::Write, pace, 1000), &["a", "b"], Scripted::new(Duration::ZERO)).await;
    for row in &report.results {
        assert!((300..=500).contains(&row.count), "{}: {}", row.region, row.count);
    }
    assert_ne!(report.results[0].count, report.results[1].count, "regions have schedules of their own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_has_every_operation_and_no_process_overlaps_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let mut options = options(Workload::Register, Pace::Closed { clients: 4 }, 400);
    options.history = Some(path.clone());
    options.keys = 5;
    let session = Scripted { fails: Some((7, Reason::OutcomeUnknown)), ..Scripted::new(MS) };
    let report = run(&options, &["a", "b"], session.clone()).await;

    let file = std::fs::File::open(&path).unwrap();
    let records = meridian_bench::history::read(BufReader::new(file)).unwrap();
    assert_eq!(records.len() as u64, session.store.lock().unwrap().calls);
    let counted: u64 = report.results.iter().map(|r| r.count + r.errors).sum();
    assert!(counted > 100 && counted < records.len() as u64, "loading is recorded and not measured");

    let mut last_end = HashMap::new();
    let mut by_process: Vec<&Record> = records.iter().collect();
    by_process.sort_by_key(|r| (r.process, r.invoked_ns));
    for record in by_process {
        let end = last_end.insert(record.process, record.completed_ns).unwrap_or(0);
        assert!(record.invoked_ns >= end && record.completed_ns >= record.invoked_ns);
    }
    let mut values: Vec<_> = records.iter().flat_map(|r| r.writes()).filter_map(|(_, value)| value).collect();
    let written = values.len();
    values.sort_unstable();
    values.dedup();
    assert_eq!(values.len(), written, "every written value is unique");
    honest_outcomes(&records);
}

fn honest_outcomes(records: &[Record]) {
    let count = |op, outcome| records.iter().filter(|r| r.op == op && r.outcome == outcome).count();
    assert!(count(OpKind::Put, Outcome::Unknown) > 0 && count(OpKind::Put, Outcome::Fail) == 0);
    assert!(count(OpKind::Get, Outcome::Fail) > 0 && count(OpKind::Get, Outcome::Unknown) == 0);
    assert!(count(OpKind::Txn, Outcome::Ok) > 0 && count(OpKind::Delete, Outcome::Ok) > 0);
    for r in records {
        assert_eq!(r.timestamp.is_some(), r.outcome == Outcome::Ok);
        assert_eq!(r.error.is_some(), r.outcome != Outcome::Ok);
        assert_eq!(r.attempts, if r.outcome == Outcome::Ok { 1 } else { 2 });
        if r.error.as_deref() == Some("PRECONDITION_FAILED") {
            assert_eq!((r.op, r.outcome), (OpKind::Txn, Outcome::Fail));
        }
        assert!(r.version.is_none_or(|v| r.value.is_some() && Some(v) <= r.timestamp));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warm_up_is_not_measured() {
    let mut options = options(Workload::C, Pace::Closed { clients: 1 }, 200);
    options.warm_up = 400 * MS;
    let session = Scripted::new(2 * MS);
    let report = run(&options, &["a"], session.clone()).await;
    let calls = session.store.lock().unwrap().calls;
    assert!(report.results[0].count * 2 < calls, "{} of {calls}", report.results[0].count);
    assert!((report.measured_s - 0.2).abs() < 0.01);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_run_reports_what_it_has() {
    let options = options(Workload::A, Pace::Closed { clients: 2 }, 60_000);
    let session = Scripted::new(MS);
    let regions = vec![RegionSessions { region: "a".into(), session: move || session.clone() }];
    let stop = sleep(300 * MS);
    let report = run_sessions(&options, &ClusterFacts::default(), regions, stop).await.unwrap();
    assert!(report.interrupted && report.measured_s < 10.0 && report.measured_s > 0.1);
    let row = &report.results[0];
    assert!(row.count > 0 && (row.throughput_per_s * report.measured_s - row.count as f64).abs() < 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loading_gives_up_on_a_key_that_cannot_be_written() {
    let session = Scripted { fails: Some((1, Reason::NoQuorum)), ..Scripted::new(Duration::ZERO) };
    let regions = vec![RegionSessions { region: "a".into(), session: move || session.clone() }];
    let options = options(Workload::A, Pace::Closed { clients: 1 }, 100);
    let ended = run_sessions(&options, &ClusterFacts::default(), regions, std::future::pending()).await;
    assert!(matches!(ended, Err(meridian_bench::BenchError::Load { why, .. }) if why.reason == Reason::NoQuorum));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_follow_what_was_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let mut options = options(Workload::B, Pace::Closed { clients: 2 }, 200);
    options.consistency = "snapshot:0s".parse().unwrap();
    options.history = Some(path.clone());
    run(&options, &["a"], Scripted::new(MS)).await;
    let records = meridian_bench::history::read(BufReader::new(std::fs::File::open(path).unwrap())).unwrap();
    let reads: Vec<_> = records.iter().filter(|r| r.op == OpKind::Get).collect();
    let snapshot = Consistency::Snapshot(Timestamp::ZERO).name();
    assert!(!reads.is_empty() && reads.iter().all(|r| r.consistency.as_deref() == Some(snapshot)));
}
