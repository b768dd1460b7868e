//! Histories: what every process asked, when, and what it was told. `docs/bench.md` describes the format.
//!
//! A process has one operation at a time, so its operations never overlap. A retry belongs to the operation that it
//! retries. Outcomes are honest (guarantee G10): `fail` only for what certainly had no effect.

use serde::{Deserialize, Serialize};
use std::io::BufRead;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpKind {
    /// Reads one key.
    Get,
    /// Writes one key.
    Put,
    /// Removes one key.
    Delete,
    /// Reads a range.
    Scan,
    /// Preconditions, then reads and writes.
    Txn,
}

/// What is certain about an operation's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It took effect, once.
    Ok,
    /// It took no effect and never will. Also: a precondition did not hold; also: a failed read.
    Fail,
    /// It may have taken effect at any time after it was invoked, may yet do so, or never.
    Unknown,
}

/// One version of one key, as a reader saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The key.
    pub key: String,
    /// The value's name; absent when the key had none.
    pub value: Option<String>,
    /// Commit timestamp of the version; absent when the key had none.
    pub version: Option<u64>,
}

/// A version that a record says was found, borrowed from the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The key.
    pub key: &'a str,
    /// The value's name; `None`: the key had none.
    pub value: Option<&'a str>,
    /// Commit timestamp of the version, when there is one and it is known.
    pub version: Option<u64>,
}

impl Version {
    /// The same, borrowed.
    pub fn as_found(&self) -> Found<'_> {
        Found { key: &self.key, value: self.value.as_deref(), version: self.version }
    }
}

/// What a transaction required of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Exactly this value.
    Value(String),
    /// To exist (true) or not (false).
    Exists(bool),
    /// Exactly this version; 0: none.
    Version(u64),
}

/// One precondition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precondition {
    /// The key.
    pub key: String,
    /// What it had to be.
    pub condition: Condition,
}

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The key.
    pub key: String,
    /// The new value's name; absent: the key was removed.
    pub value: Option<String>,
}

/// The parts of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// All had to hold.
    pub preconditions: Vec<Precondition>,
    /// Took effect together.
    pub writes: Vec<Write>,
    /// What it found before its writes, for the keys that it asked for; empty unless the outcome is `ok`.
    pub found: Vec<Version>,
}

/// A scan and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanResult {
    /// Most rows that were asked for. The range starts at the record's key and has no end.
    pub rows_max: u32,
    /// What it found, in key order.
    pub found: Vec<Version>,
}

/// One operation. Absent fields are left out of the JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who asked; unique in a run.
    pub process: u64,
    /// The asking process's region.
    pub region: String,
    /// What was asked.
    pub op: OpKind,
    /// The table.
    pub table: String,
    /// The key; of a scan the first key, of a transaction its first.
    pub key: String,
    /// The value's name: written by a put, found by a get. Absent: a get found none, and for all other operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What is certain about its effect.
    pub outcome: Outcome,
    /// When the process asked: nanoseconds of the recording machine's monotonic clock.
    pub invoked_ns: u64,
    /// When it had its answer, or gave up; same clock.
    pub completed_ns: u64,
    /// Commit timestamp of a write, read timestamp of a read; absent unless the outcome is `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// Commit timestamp of the version that a get found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Of gets and scans: `linearizable`, `snapshot`, `bounded`, `causal` or `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<String>,
    /// How old the answer may be, as the reply said, nanoseconds; of reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness_ns: Option<u64>,
    /// Timestamp in the causality token that the read was given; of causal reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// Attempts made.
    pub attempts: u32,
    /// Reason of the failure, e.g. `NO_QUORUM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Of transactions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<Txn>,
    /// Of scans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<ScanResult>,
}

impl Record {
    /// The keys that it writes if it takes effect, with the new values (absent: removed).
    pub fn writes(&self) -> Vec<(&str, Option<&str>)> {
        match self.op {
            OpKind::Put | OpKind::Delete => vec![(&self.key, self.value.as_deref())],
            OpKind::Txn => {
                self.txn.iter().flat_map(|t| &t.writes).map(|w| (w.key.as_str(), w.value.as_deref())).collect()
            }
            OpKind::Get | OpKind::Scan => Vec::new(),
        }
    }

    /// The versions that it found; empty unless the outcome is `ok`. A scan names only keys that had a value.
    pub fn found(&self) -> Vec<Found<'_>> {
        match self.op {
            _ if self.outcome != Outcome::Ok => Vec::new(),
            OpKind::Get => {
                vec![Found { key: &self.key, value: self.value.as_deref(), version: self.version }]
            }
            OpKind::Txn => self.txn.iter().flat_map(|t| &t.found).map(Version::as_found).collect(),
            OpKind::Scan => self.scan.iter().flat_map(|s| &s.found).map(Version::as_found).collect(),
            OpKind::Put | OpKind::Delete => Vec::new(),
        }
    }
}

/// A history file that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It could not be read.
    #[error("cannot read the history")]
    Io(#[from] std::io::Error),
    /// A line is no record.
    #[error("line {line} of the history is not a record")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
}

/// Reads a history; empty lines are skipped.
pub fn read(input: impl BufRead) -> Result<Vec<Record>, HistoryError> {
    let mut records = Vec::new();
    for (number, line) in input.lines().enumerate() {
        let line = line?;
        if !line.trim().is_empty() {
            let record =
                serde_json::from_str(&line).map_err(|source| HistoryError::Line { line: number + 1, source })?;
            records.push(record);
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of `docs/bench.md`.
    const GOLDEN: [&str; 3] = [
        r#"{"process":3,"region":"us-east","op":"put","table":"bench","key":"user000000000007","value":"00000000000000a1-3-12","outcome":"ok","invoked_ns":1000,"completed_ns":72000000,"timestamp":1700000000000000000,"attempts":1}"#,
        r#"{"process":4,"region":"eu-west","op":"get","table":"bench","key":"user000000000007","value":"00000000000000a1-3-12","outcome":"ok","invoked_ns":1500,"completed_ns":2000,"timestamp":1700000000000000000,"version":1700000000000000000,"consistency":"causal","staleness_ns":90000000,"token":1700000000000000000,"attempts":1}"#,
        r#"{"process":4,"region":"eu-west","op":"txn","table":"bench","key":"user000000000007","outcome":"fail","invoked_ns":3000,"completed_ns":90000000,"attempts":2,"error":"PRECONDITION_FAILED","txn":{"preconditions":[{"key":"user000000000007","condition":{"version":7}}],"writes":[{"key":"user000000000007","value":"00000000000000a1-4-1"}],"found":[]}}"#,
    ];

    #[test]
    fn golden_lines_round_trip() {
        let records = read(GOLDEN.join("\n\n").as_bytes()).unwrap();
        let documented = include_str!("../../../docs/bench.md");
        assert!(GOLDEN.iter().all(|line| documented.contains(line)), "the format changed: change docs/bench.md");
        let written: Vec<_> = records.iter().map(|r| serde_json::to_string(r).unwrap()).collect();
        assert_eq!(written, GOLDEN);
        assert_eq!(records[0].writes(), [("user000000000007", Some("00000000000000a1-3-12"))]);
        assert_eq!(records[1].found()[0].version, Some(1_700_000_000_000_000_000));
        assert_eq!(records[2].writes()[0].1, Some("00000000000000a1-4-1"));
        assert!(records[2].found().is_empty());
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = read("\n{\"process\":1}\n".as_bytes()).unwrap_err();
        assert!(matches!(error, HistoryError::Line { line: 2, .. }));
    }
}
