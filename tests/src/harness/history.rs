//! Clients that record what they asked and what they were told.

use crate::Violation;
use crate::exactly_once::FinalState;
use crate::harness::again::{Answered, Unsettled};
use bytes::Bytes;
use meridian_bench::history::{Condition, OpKind, Outcome, Precondition, Record, ScanResult, Txn, Version, Write};
use meridian_client::{Client, Error, Reply, Row, ScanOptions, Session, Transaction};
use meridian_clock::Mono;
use meridian_types::{CausalityToken, Consistency, Fate, KeyRange, RegionId, Within};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Everything that the clients of a test have seen. Clones are the same history.
#[derive(Clone, Debug, Default)]
pub struct History {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Mutex<Vec<Record>>,
    /// With whether it rests on clocks.
    objections: Mutex<Vec<(bool, Violation)>>,
    settled: AtomicUsize,
    processes: AtomicU64,
}

impl History {
    /// A new process in a region.
    pub fn process(&self, region: impl Into<RegionId>, client: &Client) -> Process {
        Process {
            id: self.new_id(),
            region: region.into(),
            session: client.session(),
            history: self.clone(),
            values: 0,
            unsettled: VecDeque::new(),
            answered: VecDeque::new(),
        }
    }

    /// What was recorded so far, in the order in which it ended.
    pub fn records(&self) -> Vec<Record> {
        self.locked().clone()
    }

    /// How many operations that is.
    pub fn len(&self) -> usize {
        self.locked().len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What clients found wrong themselves, because no record shows it: another answer to the same request, an answer
    /// that is not of the level that was asked for. With `broken_clocks` only what asks no clock.
    pub fn objections(&self, broken_clocks: bool) -> Vec<Violation> {
        let all = self.inner.objections.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = all.iter().filter(|(rests_on_clocks, _)| !(broken_clocks && *rests_on_clocks));
        counts.map(|(_, violation)| violation.clone()).collect()
    }

    pub(crate) fn object(&self, rests_on_clocks: bool, violation: Violation) {
        self.inner.objections.lock().unwrap_or_else(PoisonError::into_inner).push((rests_on_clocks, violation));
    }

    /// How many unknown outcomes were found out later.
    pub fn settled(&self) -> usize {
        self.inner.settled.load(Ordering::Relaxed)
    }

    /// A number that no process has.
    pub(crate) fn new_id(&self) -> u64 {
        self.inner.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// What was recorded at a place.
    pub(crate) fn record_at(&self, place: usize) -> Option<Record> {
        self.locked().get(place).cloned()
    }

    /// Changes what was recorded at a place, now that it is known.
    pub(crate) fn amend(&self, place: usize, change: impl FnOnce(&mut Record)) {
        self.inner.settled.fetch_add(1, Ordering::Relaxed);
        if let Some(record) = self.locked().get_mut(place) {
            change(record);
        }
    }

    /// Returns the record's place.
    fn push(&self, record: Record) -> usize {
        let mut records = self.locked();
        records.push(record);
        records.len() - 1
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Record>> {
        self.inner.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client process: one operation at a time, each recorded. Every value that it writes is unique.
#[derive(Debug)]
pub struct Process {
    id: u64,
    region: RegionId,
    pub(super) session: Session,
    pub(super) history: History,
    values: u64,
    /// Writes whose outcome it does not know, the oldest first.
    pub(super) unsettled: VecDeque<Unsettled>,
    /// Transactions that were answered for good, the oldest first.
    pub(super) answered: VecDeque<Answered>,
}

impl Process {
    /// Where it runs.
    pub fn region(&self) -> &RegionId {
        &self.region
    }

    /// Its session, for what is not to be recorded.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Goes to another region: the session's token goes with it, its history too.
    pub fn travel(&mut self, region: impl Into<RegionId>, client: &Client) {
        self.session = client.session().with_token(self.session.token());
        self.region = region.into();
    }

    /// A value that nobody writes a second time.
    pub fn value(&mut self) -> String {
        self.values += 1;
        format!("p{}-{}", self.id, self.values)
    }

    /// Writes a new value.
    pub async fn put(&mut self, table: &str, key: &str) -> Result<Reply<()>, Error> {
        let (value, start) = (self.value(), Mono::now());
        let result = self.session.put(table, key.to_owned(), value.clone()).await;
        let record = self.record(OpKind::Put, (table, key), start, &result);
        let place = self.history.push(Record { value: Some(value.clone()), ..record });
        self.remember_unknown(place, table, &result, || Transaction::new().put(key.to_owned(), value));
        result
    }

    /// Removes a key.
    pub async fn delete(&mut self, table: &str, key: &str) -> Result<Reply<()>, Error> {
        let start = Mono::now();
        let result = self.session.delete(table, key.to_owned()).await;
        let place = self.history.push(self.record(OpKind::Delete, (table, key), start, &result));
        self.remember_unknown(place, table, &result, || Transaction::new().delete(key.to_owned()));
        result
    }

    /// Writes a new value if the key still has the version that `seen` shows: compare and swap.
    pub async fn swap(&mut self, table: &str, key: &str, seen: Option<&Row>) -> Result<Reply<Vec<Row>>, Error> {
        let (value, start) = (self.value(), Mono::now());
        let (transaction, condition) = match seen {
            // By value and by version in turn: both mean the same, because values are unique.
            Some(row) if self.values.is_multiple_of(2) => {
                let condition = Condition::Value(text(&row.value));
                (Transaction::new().if_value(key.to_owned(), row.value.clone()), condition)
            }
            Some(row) => {
                (Transaction::new().if_version(key.to_owned(), row.version), Condition::Version(row.version.0))
            }
            None => (Transaction::new().if_absent(key.to_owned()), Condition::Exists(false)),
        };
        let transaction = transaction.put(key.to_owned(), value.clone());
        let txn = Txn {
            preconditions: vec![Precondition { key: key.to_owned(), condition }],
            writes: vec![Write { key: key.to_owned(), value: Some(value) }],
            found: Vec::new(),
        };
        self.transact(table, key, transaction, txn, &[], start).await
    }

    /// Reads two keys of one shard, whatever they are, and writes a new value to each.
    pub async fn exchange(&mut self, table: &str, keys: [&str; 2]) -> Result<Reply<Vec<Row>>, Error> {
        let (values, start) = (keys.map(|_| self.value()), Mono::now());
        let mut transaction = Transaction::new();
        let mut writes = Vec::new();
        for (key, value) in keys.iter().zip(values) {
            transaction = transaction.read((*key).to_owned()).put((*key).to_owned(), value.clone());
            writes.push(Write { key: (*key).to_owned(), value: Some(value) });
        }
        let txn = Txn { writes, ..Txn::default() };
        self.transact(table, keys[0], transaction, txn, &keys, start).await
    }

    /// Sends a transaction under an id of its own, so that it can be sent again.
    async fn transact(
        &mut self,
        table: &str,
        key: &str,
        transaction: Transaction,
        txn: Txn,
        reads: &[&str],
        start: Mono,
    ) -> Result<Reply<Vec<Row>>, Error> {
        let id = self.session.request_id()?;
        let result = self.session.transact_as(id, table, &transaction).await;
        let record = self.record(OpKind::Txn, (table, key), start, &result);
        let found = result.as_ref().map(|reply| found(reads, &reply.value)).unwrap_or_default();
        let place = self.history.push(Record { txn: Some(Txn { found, ..txn }), ..record });
        self.remember_unknown(place, table, &result, || transaction.clone());
        self.remember(Answered::new(id, table, transaction, place, &result));
        result
    }

    fn remember_unknown<T>(
        &mut self,
        place: usize,
        table: &str,
        result: &Result<Reply<T>, Error>,
        transaction: impl FnOnce() -> Transaction,
    ) {
        let unknown = result.as_ref().err().filter(|e| e.fate() == Fate::Unknown);
        if let Some(id) = unknown.and_then(|e| e.request_id) {
            self.unsettled.push_back(Unsettled { place, id, table: table.to_owned(), transaction: transaction() });
        }
    }

    /// Reads a key.
    pub async fn get(&mut self, table: &str, key: &str, level: Consistency) -> Result<Reply<Option<Row>>, Error> {
        let start = Mono::now();
        let result = self.session.get(table, key.to_owned(), level.clone()).await;
        self.was_read((table, key), start, &level, &result);
        result
    }

    /// Reads a key with a latency budget. The record has the level that was given, and is held to it.
    pub async fn get_within(
        &mut self,
        table: &str,
        key: &str,
        strongest: Consistency,
        within: &Within,
    ) -> Result<Reply<Option<Row>>, Error> {
        let start = Mono::now();
        let result = self.session.get_within(table, key.to_owned(), strongest.clone(), within).await;
        let given = result.as_ref().map_or(Some(&strongest), |reply| reply.given.as_ref());
        self.was_read((table, key), start, given.unwrap_or(&strongest), &result);
        result
    }

    fn was_read(&self, at: (&str, &str), start: Mono, level: &Consistency, result: &Result<Reply<Option<Row>>, Error>) {
        let record = self.record(OpKind::Get, at, start, result);
        let row = result.as_ref().ok().and_then(|reply| reply.value.as_ref());
        let (value, version) = (row.map(|r| text(&r.value)), row.map(|r| r.version.0));
        let record = Record { value, version, ..read(record, level, result) };
        self.hold_to_level(&record, level);
        self.history.push(record);
    }

    /// Reads a key, with everything that this process has seen.
    pub async fn get_causal(&mut self, table: &str, key: &str) -> Result<Reply<Option<Row>>, Error> {
        let level = self.session.causal();
        self.get(table, key, level).await
    }

    /// Reads up to `rows` keys from `start_key` on.
    pub async fn scan(
        &mut self,
        table: &str,
        start_key: &str,
        rows: u32,
        level: Consistency,
    ) -> Result<Reply<Vec<Row>>, Error> {
        let start = Mono::now();
        let range = KeyRange { start: start_key.to_owned().into(), end: None };
        let options = ScanOptions { range, limit: rows, consistency: level.clone(), ..ScanOptions::default() };
        let result = self.session.scan(table, options).collect().await;
        let record = self.record(OpKind::Scan, (table, start_key), start, &result);
        let found = result.as_ref().map(|reply| reply.value.iter().map(version).collect()).unwrap_or_default();
        let scan = Some(ScanResult { rows_max: rows, found });
        let record = Record { scan, ..read(record, &level, &result) };
        self.hold_to_level(&record, &level);
        self.history.push(record);
        result
    }

    /// Objects to a read that succeeded and is not what was asked for. The record does not say what that was.
    fn hold_to_level(&self, record: &Record, level: &Consistency) {
        let (Outcome::Ok, Some(timestamp), Some(staleness_ns)) =
            (record.outcome, record.timestamp, record.staleness_ns)
        else {
            return;
        };
        match level {
            Consistency::Snapshot(at) if timestamp != at.0 => {
                let message = format!("a snapshot at {at} was asked for, and one at {timestamp} answered");
                self.history.object(false, Violation::new(message, &[record]));
            }
            Consistency::BoundedStaleness(bound) if u128::from(staleness_ns) > bound.as_nanos() => {
                let message = format!("at most {bound:?} of staleness were allowed, and {staleness_ns} ns answered");
                self.history.object(true, Violation::new(message, &[record]));
            }
            _ => {}
        }
    }

    /// Everything that a table has, for the checkers of a final state.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn final_state(&mut self, table: &str) -> FinalState {
        let all = self.scan(table, "", u32::MAX, Consistency::Linearizable).await.expect("a table that can be read");
        FinalState { table: table.to_owned(), rows: all.value.iter().map(version).collect() }
    }

    fn record<T>(&self, op: OpKind, at: (&str, &str), start: Mono, result: &Result<Reply<T>, Error>) -> Record {
        let writes = matches!(op, OpKind::Put | OpKind::Delete | OpKind::Txn);
        let outcome = match result {
            Ok(_) => Outcome::Ok,
            Err(e) if writes && e.fate() == Fate::Unknown => Outcome::Unknown,
            Err(_) => Outcome::Fail,
        };
        Record {
            process: self.id,
            region: self.region.0.clone(),
            op,
            table: at.0.to_owned(),
            key: at.1.to_owned(),
            value: None,
            outcome,
            invoked_ns: start.0,
            completed_ns: Mono::now().0,
            timestamp: result.as_ref().ok().map(|reply| reply.timestamp.0),
            version: None,
            consistency: None,
            staleness_ns: None,
            token: None,
            attempts: result.as_ref().map_or_else(|e| e.attempts, |reply| reply.attempts),
            error: result.as_ref().err().map(|e| e.reason().name().to_owned()),
            txn: None,
            scan: None,
        }
    }
}

/// What a read's record says besides.
fn read<T>(record: Record, level: &Consistency, result: &Result<Reply<T>, Error>) -> Record {
    let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    let token = match level {
        Consistency::Causal(CausalityToken(seen)) => Some(seen.0),
        _ => None,
    };
    let staleness_ns = result.as_ref().ok().map(|reply| nanos(reply.staleness));
    Record { consistency: Some(level.name().to_owned()), staleness_ns, token, ..record }
}

/// What a transaction found of the keys that it asked for, absent ones included.
pub(super) fn found(keys: &[&str], rows: &[Row]) -> Vec<Version> {
    let of = |key: &&str| {
        let absent = Version { key: (*key).to_owned(), value: None, version: None };
        rows.iter().find(|row| row.key == key.as_bytes()).map_or(absent, version)
    };
    keys.iter().map(of).collect()
}

fn version(row: &Row) -> Version {
    Version { key: text(&row.key), value: Some(text(&row.value)), version: Some(row.version.0) }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
