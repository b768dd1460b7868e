//! One client process: carries out operations one at a time, measures and records them.

use crate::history::{Condition, OpKind, Outcome, Precondition, Record, ScanResult, Txn, Version, Write};
use crate::history_file::HistorySender;
use crate::options::ReadLevel;
use crate::request::{Answer, Failure, Request, Row, Session};
use crate::tally::{Measured, Tally};
use crate::workload::{KeySpace, Op, UniqueValues, key_name, value_name};
use bytes::Bytes;
use meridian_clock::Mono;
use meridian_types::{CausalityToken, Consistency, Fate, RegionId, Timestamp};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What all workers of one region share.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) name: RegionId,
    pub(crate) table: String,
    pub(crate) level: ReadLevel,
    pub(crate) keys: Arc<KeySpace>,
    /// Operations that should start in this span are measured.
    pub(crate) measured: Range<Mono>,
    pub(crate) tally: Mutex<Tally>,
    pub(crate) history: Option<HistorySender>,
    /// Newest timestamp that any client of the run has seen.
    pub(crate) newest: Arc<AtomicU64>,
    /// Requests answered so far, warm-up included: for the progress line.
    pub(crate) answered: AtomicU64,
    /// Requests failed so far.
    pub(crate) failed: AtomicU64,
}

/// One client of a region.
#[derive(Debug)]
pub(crate) struct Worker<S> {
    pub(crate) process: u64,
    pub(crate) region: Arc<Region>,
    pub(crate) session: S,
    pub(crate) values: UniqueValues,
}

impl<S: Session> Worker<S> {
    /// Carries out one operation that should start, or should have started, at `due`.
    pub(crate) async fn run(&mut self, op: Op, due: Mono) {
        match op {
            Op::Read { key } => {
                let consistency = self.consistency();
                let _ = self.request(Request::Get { key: key_name(key).into(), consistency }, due).await;
            }
            Op::Update { key } => {
                let _ = self.put(key, due).await;
            }
            Op::Delete { key } => {
                let _ = self.request(Request::Delete { key: key_name(key).into() }, due).await;
            }
            Op::Insert { key } => {
                let _ = self.put(key, due).await;
                self.region.keys.insert_ended(key);
            }
            Op::Scan { from, rows } => {
                let consistency = self.consistency();
                let _ = self.request(Request::Scan { start: key_name(from).into(), rows, consistency }, due).await;
            }
            Op::ReadModifyWrite { key } => self.read_modify_write(key, due).await,
        }
    }

    /// Writes a new value to key `number`.
    pub(crate) async fn put(&mut self, number: u64, due: Mono) -> Result<Answer, Failure> {
        let value = self.values.make();
        self.request(Request::Put { key: key_name(number).into(), value }, due).await
    }

    async fn read_modify_write(&mut self, number: u64, due: Mono) {
        let key = Bytes::from(key_name(number));
        let consistency = self.consistency();
        let Ok(read) = self.request(Request::Get { key: key.clone(), consistency }, due).await else { return };
        let version = read.rows.first().map_or(Timestamp::ZERO, |row| row.version);
        let value = self.values.make();
        let _ = self.request(Request::PutIfVersion { key, version, value }, Mono::now()).await;
    }

    fn consistency(&self) -> Consistency {
        match self.region.level {
            ReadLevel::Linearizable => Consistency::Linearizable,
            ReadLevel::Bounded(bound) => Consistency::BoundedStaleness(bound),
            ReadLevel::Causal => Consistency::Causal(self.session.token()),
            ReadLevel::Local => Consistency::Local,
            ReadLevel::Snapshot(age) => match self.region.newest.load(Ordering::Relaxed) {
                // Nothing was seen yet: the first read finds out what time it is.
                0 => Consistency::Linearizable,
                newest => Consistency::Snapshot(Timestamp(newest).minus(age)),
            },
        }
    }

    async fn request(&mut self, request: Request, due: Mono) -> Result<Answer, Failure> {
        let invoked = Mono::now();
        let result = self.session.call(&self.region.table, request.clone()).await;
        let completed = Mono::now();
        self.count(&request, &result, due, completed);
        if let Some(history) = &self.region.history {
            history.send(self.record(&request, &result, invoked, completed)).await;
        }
        result
    }

    fn count(&self, request: &Request, result: &Result<Answer, Failure>, due: Mono, completed: Mono) {
        let region = &self.region;
        if let Ok(answer) = result {
            region.newest.fetch_max(answer.timestamp.0, Ordering::Relaxed);
        }
        let progress = if result.is_ok() { &region.answered } else { &region.failed };
        progress.fetch_add(1, Ordering::Relaxed);
        if !region.measured.contains(&due) {
            return;
        }
        let level = request.consistency().map(Consistency::name);
        let mut tally = region.tally.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(answer) => {
                let staleness = level.map(|_| answer.staleness);
                tally.succeed(measured(request), level, completed.since(due), staleness);
            }
            Err(failure) => tally.fail(measured(request), level, failure.error.reason),
        }
    }

    fn record(&self, request: &Request, result: &Result<Answer, Failure>, invoked: Mono, completed: Mono) -> Record {
        let answer = result.as_ref().ok();
        let failure = result.as_ref().err();
        let found = || answer.map(|a| a.rows.iter().map(version).collect()).unwrap_or_default();
        let (op, key, value, txn, scan) = match request {
            Request::Get { key, .. } => {
                (OpKind::Get, key, answer.and_then(|a| a.rows.first()).map(|row| value_name(&row.value)), None, None)
            }
            Request::Put { key, value } => (OpKind::Put, key, Some(value_name(value)), None, None),
            Request::Delete { key } => (OpKind::Delete, key, None, None, None),
            Request::Scan { start, rows, .. } => {
                (OpKind::Scan, start, None, None, Some(ScanResult { rows_max: *rows, found: found() }))
            }
            Request::PutIfVersion { key, version, value } => {
                let condition = Condition::Version(version.0);
                let txn = Txn {
                    preconditions: vec![Precondition { key: text(key), condition }],
                    writes: vec![Write { key: text(key), value: Some(value_name(value)) }],
                    found: found(),
                };
                (OpKind::Txn, key, None, Some(txn), None)
            }
        };
        Record {
            process: self.process,
            region: self.region.name.0.clone(),
            op,
            table: self.region.table.clone(),
            key: text(key),
            value,
            outcome: failure.map_or(Outcome::Ok, |f| outcome(request, f.error.fate)),
            invoked_ns: invoked.0,
            completed_ns: completed.0,
            timestamp: answer.map(|a| a.timestamp.0),
            version: answer.filter(|_| op == OpKind::Get).and_then(|a| a.rows.first()).map(|row| row.version.0),
            consistency: request.consistency().map(|c| c.name().to_owned()),
            staleness_ns: answer
                .filter(|_| !request.is_write())
                .map(|a| u64::try_from(a.staleness.as_nanos()).unwrap_or(u64::MAX)),
            token: match request.consistency() {
                Some(Consistency::Causal(CausalityToken(seen))) => Some(seen.0),
                _ => None,
            },
            attempts: answer.map_or_else(|| failure.map_or(0, |f| f.attempts), |a| a.attempts),
            error: failure.map(|f| f.error.reason.name().to_owned()),
            txn,
            scan,
        }
    }
}

fn measured(request: &Request) -> Measured {
    match request {
        Request::Get { .. } => Measured::Read,
        Request::Put { .. } | Request::Delete { .. } => Measured::Write,
        Request::Scan { .. } => Measured::Scan,
        Request::PutIfVersion { .. } => Measured::Txn,
    }
}

/// A failed read had no effect, whatever became of it.
fn outcome(request: &Request, fate: Fate) -> Outcome {
    match fate {
        Fate::Unknown if request.is_write() => Outcome::Unknown,
        Fate::Unknown | Fate::NotApplied => Outcome::Fail,
    }
}

fn version(row: &Row) -> Version {
    Version { key: text(&row.key), value: Some(value_name(&row.value)), version: Some(row.version.0) }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
