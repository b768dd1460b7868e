//! Clients that record what they asked and what they were told.

use crate::exactly_once::FinalState;
use bytes::Bytes;
use meridian_bench::history::{Condition, OpKind, Outcome, Precondition, Record, ScanResult, Txn, Version, Write};
use meridian_client::{Client, Error, Reply, Row, ScanOptions, Session, Transaction};
use meridian_clock::Mono;
use meridian_types::{CausalityToken, Consistency, Fate, KeyRange, RegionId};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Everything that the clients of a test have seen. Clones are the same history.
#[derive(Clone, Debug, Default)]
pub struct History {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Mutex<Vec<Record>>,
    processes: AtomicU64,
}

impl History {
    /// A new process in a region.
    pub fn process(&self, region: impl Into<RegionId>, client: &Client) -> Process {
        let id = self.inner.processes.fetch_add(1, Ordering::Relaxed);
        Process { id, region: region.into(), session: client.session(), history: self.clone(), values: 0 }
    }

    /// What was recorded so far, in the order in which it ended.
    pub fn records(&self) -> Vec<Record> {
        self.inner.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, record: Record) {
        self.inner.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }
}

/// One client process: one operation at a time, each recorded. Every value that it writes is unique.
#[derive(Debug)]
pub struct Process {
    id: u64,
    region: RegionId,
    session: Session,
    history: History,
    values: u64,
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
        self.history.push(Record { value: Some(value), ..record });
        result
    }

    /// Removes a key.
    pub async fn delete(&mut self, table: &str, key: &str) -> Result<Reply<()>, Error> {
        let start = Mono::now();
        let result = self.session.delete(table, key.to_owned()).await;
        self.history.push(self.record(OpKind::Delete, (table, key), start, &result));
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
        let result = self.session.transact(table, &transaction.put(key.to_owned(), value.clone())).await;
        let record = self.record(OpKind::Txn, (table, key), start, &result);
        let txn = Txn {
            preconditions: vec![Precondition { key: key.to_owned(), condition }],
            writes: vec![Write { key: key.to_owned(), value: Some(value) }],
            found: Vec::new(),
        };
        self.history.push(Record { txn: Some(txn), ..record });
        result
    }

    /// Reads a key.
    pub async fn get(&mut self, table: &str, key: &str, level: Consistency) -> Result<Reply<Option<Row>>, Error> {
        let start = Mono::now();
        let result = self.session.get(table, key.to_owned(), level.clone()).await;
        let record = self.record(OpKind::Get, (table, key), start, &result);
        let row = result.as_ref().ok().and_then(|reply| reply.value.as_ref());
        let (value, version) = (row.map(|r| text(&r.value)), row.map(|r| r.version.0));
        self.history.push(Record { value, version, ..read(record, &level, &result) });
        result
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
        let options = ScanOptions { range, limit: rows, reverse: false, consistency: level.clone() };
        let result = self.session.scan(table, options).collect().await;
        let record = self.record(OpKind::Scan, (table, start_key), start, &result);
        let found = result.as_ref().map(|reply| reply.value.iter().map(version).collect()).unwrap_or_default();
        let scan = Some(ScanResult { rows_max: rows, found });
        self.history.push(Record { scan, ..read(record, &level, &result) });
        result
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

fn version(row: &Row) -> Version {
    Version { key: text(&row.key), value: Some(text(&row.value)), version: Some(row.version.0) }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
