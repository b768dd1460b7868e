//! Operations written out by hand, and lies to put into valid histories.

use crate::generate::blank;
use crate::index::Index;
use meridian_bench::history::{Condition, OpKind, Outcome, Precondition, Record, ScanResult, Txn, Version, Write};
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// One operation in the making.
#[derive(Clone, Debug)]
pub(crate) struct Sample(Record);

/// A value and its version.
type Seen<'a> = Option<(&'a str, u64)>;

pub(crate) fn put(process: u64, key: &str, value: &str) -> Sample {
    Sample(Record { value: Some(value.to_owned()), ..blank(process, OpKind::Put, key) })
}

pub(crate) fn delete(process: u64, key: &str) -> Sample {
    Sample(blank(process, OpKind::Delete, key))
}

/// Linearizable, unless changed.
pub(crate) fn get(process: u64, key: &str, seen: Seen<'_>) -> Sample {
    let (value, version) = seen.unzip();
    let value = value.map(str::to_owned);
    Sample(Record { value, version, ..blank(process, OpKind::Get, key) }).level("linearizable")
}

pub(crate) fn scan(process: u64, start: &str, rows_max: u32, found: &[(&str, &str, u64)]) -> Sample {
    let row = |(key, value, version): &(&str, &str, u64)| Version {
        key: (*key).to_owned(),
        value: Some((*value).to_owned()),
        version: Some(*version),
    };
    let scan = ScanResult { rows_max, found: found.iter().map(row).collect() };
    Sample(Record { scan: Some(scan), ..blank(process, OpKind::Scan, start) }).level("linearizable")
}

pub(crate) fn txn_version(process: u64, key: &str, version: u64, value: &str) -> Sample {
    txn(process, key, Condition::Version(version), value)
}

pub(crate) fn txn_value(process: u64, key: &str, expected: &str, value: &str) -> Sample {
    txn(process, key, Condition::Value(expected.to_owned()), value)
}

fn txn(process: u64, key: &str, condition: Condition, value: &str) -> Sample {
    let preconditions = vec![Precondition { key: key.to_owned(), condition }];
    let writes = vec![Write { key: key.to_owned(), value: Some(value.to_owned()) }];
    let txn = Txn { preconditions, writes, found: Vec::new() };
    Sample(Record { txn: Some(txn), ..blank(process, OpKind::Txn, key) })
}

impl Sample {
    pub(crate) fn at(mut self, invoked: u64, completed: u64) -> Self {
        (self.0.invoked_ns, self.0.completed_ns) = (invoked, completed);
        self
    }

    pub(crate) fn ts(mut self, timestamp: u64) -> Self {
        self.0.timestamp = Some(timestamp);
        self
    }

    pub(crate) fn table(mut self, table: &str) -> Self {
        self.0.table = table.to_owned();
        self
    }

    pub(crate) fn level(mut self, level: &str) -> Self {
        self.0.consistency = Some(level.to_owned());
        self
    }

    pub(crate) fn token(mut self, token: u64) -> Self {
        self.0.token = Some(token);
        self
    }

    pub(crate) fn stale(mut self, staleness_ns: u64) -> Self {
        self.0.staleness_ns = Some(staleness_ns);
        self
    }

    pub(crate) fn unknown(mut self) -> Self {
        (self.0.outcome, self.0.timestamp) = (Outcome::Unknown, None);
        self
    }

    pub(crate) fn failed(mut self, reason: &str) -> Self {
        (self.0.outcome, self.0.timestamp, self.0.error) = (Outcome::Fail, None, Some(reason.to_owned()));
        self
    }
}

pub(crate) fn history(samples: impl IntoIterator<Item = Sample>) -> Vec<Record> {
    samples.into_iter().map(|sample| sample.0).collect()
}

/// Successful gets that found a value, in random order.
fn gets(history: &[Record], seed: u64) -> Vec<usize> {
    let found = |r: &Record| r.op == OpKind::Get && r.outcome == Outcome::Ok && r.value.is_some();
    let mut gets: Vec<_> = (0..history.len()).filter(|i| found(&history[*i])).collect();
    gets.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    gets
}

/// Acknowledged versions of a record's key that have a value: timestamp, value, when asked for, when acknowledged.
fn versions(history: &[Record], of: &Record) -> Vec<(u64, String, u64, u64)> {
    let index = Index::new(history).unwrap();
    let writes = index.key((&of.table, &of.key)).unwrap();
    let all = writes.acknowledged.iter();
    all.filter_map(|(ts, w)| Some((*ts, w.value?.to_owned(), w.record.invoked_ns, w.record.completed_ns))).collect()
}

fn change(history: &mut [Record], get: usize, version: u64, value: String) {
    (history[get].version, history[get].value) = (Some(version), Some(value));
}

/// Makes some get show the version before the newest acknowledged one that it should show.
pub(crate) fn stale_version_of_some_read(history: &mut [Record], seed: u64) -> bool {
    for get in gets(history, seed) {
        let read = &history[get];
        let visible: Vec<_> =
            versions(history, read).into_iter().filter(|(ts, ..)| Some(*ts) <= read.timestamp).collect();
        if let [.., (version, value, ..), (newest, ..)] = visible.as_slice()
            && read.version >= Some(*newest)
        {
            let (version, value) = (*version, value.clone());
            change(history, get, version, value);
            return true;
        }
    }
    false
}

/// Makes some linearizable get show a value that was overwritten, for certain, before the get was asked for.
pub(crate) fn overwritten_value_in_some_read(history: &mut [Record], seed: u64) -> bool {
    for get in gets(history, seed) {
        let read = &history[get];
        if read.consistency.as_deref() != Some("linearizable") {
            continue;
        }
        let versions = versions(history, read);
        let overwritten = versions.iter().find(|(.., acknowledged)| {
            versions.iter().any(|(_, _, asked, done)| acknowledged < asked && *done < read.invoked_ns)
        });
        if let Some((version, value, ..)) = overwritten.cloned() {
            change(history, get, version, value);
            return true;
        }
    }
    false
}

/// Makes some stale read claim to be fresh, although a write that it did not see was acknowledged before it was asked
/// for.
pub(crate) fn too_fresh_a_claim_of_some_read(history: &mut [Record], seed: u64) -> bool {
    for get in gets(history, seed) {
        let read = &history[get];
        let missed = |(ts, _, _, done): &(u64, String, u64, u64)| Some(*ts) > read.timestamp && *done < read.invoked_ns;
        if read.staleness_ns > Some(0) && versions(history, read).iter().any(missed) {
            history[get].staleness_ns = Some(0);
            return true;
        }
    }
    false
}

/// Makes some read show the version of an acknowledged write at another timestamp.
pub(crate) fn second_version_of_some_value(history: &mut [Record], seed: u64) -> bool {
    for get in gets(history, seed) {
        let read = &history[get];
        let acknowledged = versions(history, read).iter().any(|(ts, ..)| Some(*ts) == read.version);
        if acknowledged {
            history[get].version = read.version.map(|version| version + 1);
            return true;
        }
    }
    false
}

/// Exchanges the timestamps of two acknowledged writes, of which one was acknowledged before the other was asked for.
pub(crate) fn swapped_timestamps_of_some_writes(history: &mut [Record], seed: u64) -> bool {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let written = |r: &Record| r.outcome == Outcome::Ok && !r.writes().is_empty();
    let writes: Vec<usize> = (0..history.len()).filter(|i| written(&history[*i])).collect();
    for _ in 0..10_000 {
        let (a, b) = (writes[rng.random_range(0..writes.len())], writes[rng.random_range(0..writes.len())]);
        if history[a].completed_ns < history[b].invoked_ns {
            (history[a].timestamp, history[b].timestamp) = (history[b].timestamp, history[a].timestamp);
            return true;
        }
    }
    false
}

/// Makes some read of a process, causal or linearizable, show a version older than one that it wrote before.
pub(crate) fn forget_own_write(history: &mut [Record], seed: u64) -> bool {
    for get in gets(history, seed) {
        let read = &history[get];
        if !matches!(read.consistency.as_deref(), Some("linearizable" | "causal")) {
            continue;
        }
        let own = history.iter().filter(|w| w.process == read.process && w.completed_ns < read.invoked_ns);
        let own = own.filter(|w| w.writes().iter().any(|(key, _)| *key == read.key)).filter_map(|w| w.timestamp).max();
        let older = versions(history, read).into_iter().rev().find(|(ts, ..)| Some(*ts) < own);
        if let Some((version, value, ..)) = older {
            change(history, get, version, value);
            return true;
        }
    }
    false
}

/// A few operations on one key with results drawn at random: some are linearizable, many are not.
pub(crate) fn tiny_random(seed: u64) -> Vec<Record> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = rng.random_range(2..7);
    let values = ["v0", "v1", "v2"];
    let mut next_value = 0;
    let mut ops = Vec::new();
    for process in 0..count {
        let any = values[rng.random_range(0..values.len())];
        let new = format!("v{next_value}");
        let op = match rng.random_range(0..10) {
            0..4 => get(process, "k", rng.random_bool(0.6).then_some((any, 1))),
            4..6 => put(process, "k", &new),
            6..8 => delete(process, "k"),
            _ => txn_value(process, "k", any, &new),
        };
        next_value += u64::from(!op.0.writes().is_empty() && op.0.op != OpKind::Delete);
        let invoked = rng.random_range(0..30);
        let op = op.at(invoked, invoked + rng.random_range(1..15));
        let (is_write, is_txn) = (!op.0.writes().is_empty(), op.0.op == OpKind::Txn);
        ops.push(match rng.random_range(0..10) {
            0..2 if is_write => op.unknown(),
            2..5 if is_txn => op.failed("PRECONDITION_FAILED"),
            _ => op.ts(1000 + process),
        });
    }
    history(ops)
}

/// The definition of linearizability, tried out: every subset of unknown operations, in every order.
pub(crate) fn some_order_works(history: &[Record]) -> bool {
    fn extend(history: &[Record], ordered: u32, state: Option<&str>) -> bool {
        let left = |i: usize| ordered & (1 << i) == 0;
        let certain = |r: &Record| r.outcome != Outcome::Unknown;
        if (0..history.len()).all(|i| !left(i) || !certain(&history[i])) {
            return true;
        }
        let may_be_next = |i: usize| {
            let earlier = |j: usize| left(j) && certain(&history[j]) && history[j].completed_ns < history[i].invoked_ns;
            left(i) && !(0..history.len()).any(earlier)
        };
        (0..history.len())
            .filter(|i| may_be_next(*i))
            .any(|i| apply(&history[i], state).is_some_and(|after| extend(history, ordered | (1 << i), after)))
    }
    extend(history, 0, None)
}

/// The state after an operation; `None`: it cannot have had its result in this state.
fn apply<'a>(record: &'a Record, state: Option<&'a str>) -> Option<Option<&'a str>> {
    match record.op {
        OpKind::Get => (record.value.as_deref() == state).then_some(state),
        OpKind::Put | OpKind::Delete => Some(record.value.as_deref()),
        OpKind::Txn => {
            let txn = record.txn.as_ref()?;
            let Condition::Value(expected) = &txn.preconditions[0].condition else { return None };
            match (state == Some(expected), record.outcome) {
                (true, Outcome::Ok | Outcome::Unknown) => Some(txn.writes[0].value.as_deref()),
                (false, Outcome::Fail) => Some(state),
                _ => None,
            }
        }
        OpKind::Scan => None,
    }
}
