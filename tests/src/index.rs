//! A history by key: which versions were acknowledged, and which may exist besides.

use crate::Violation;
use meridian_bench::history::{Outcome, Record};
use std::collections::BTreeMap;

/// Table and key.
pub(crate) type KeyId<'a> = (&'a str, &'a str);

/// A write to one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyWrite<'a> {
    /// The new value; `None`: removed.
    pub(crate) value: Option<&'a str>,
    pub(crate) record: &'a Record,
}

/// All writes to one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyWrites<'a> {
    /// Acknowledged, by commit timestamp.
    pub(crate) acknowledged: BTreeMap<u64, KeyWrite<'a>>,
    /// May or may not have taken effect.
    pub(crate) unknown: Vec<KeyWrite<'a>>,
    /// Certainly without effect.
    pub(crate) failed: Vec<KeyWrite<'a>>,
}

/// All keys that were written or tried to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index<'a> {
    pub(crate) keys: BTreeMap<KeyId<'a>, KeyWrites<'a>>,
}

impl<'a> Index<'a> {
    /// Refuses an acknowledged write without a timestamp, and two of one key with the same.
    pub(crate) fn new(history: &'a [Record]) -> Result<Self, Violation> {
        let mut index = Self::default();
        for record in history {
            for (key, value) in record.writes() {
                let writes = index.keys.entry((&record.table, key)).or_default();
                let write = KeyWrite { value, record };
                match record.outcome {
                    Outcome::Unknown => writes.unknown.push(write),
                    Outcome::Fail => writes.failed.push(write),
                    Outcome::Ok => acknowledge(writes, key, write)?,
                }
            }
        }
        Ok(index)
    }

    pub(crate) fn key(&self, key: KeyId<'a>) -> Option<&KeyWrites<'a>> {
        self.keys.get(&key)
    }
}

fn acknowledge<'a>(writes: &mut KeyWrites<'a>, key: &str, write: KeyWrite<'a>) -> Result<(), Violation> {
    let Some(timestamp) = write.record.timestamp else {
        return Err(Violation::new("an acknowledged write has no timestamp", &[write.record]));
    };
    match writes.acknowledged.insert(timestamp, write) {
        Some(other) => {
            let message = format!("two writes of key {key} have the timestamp {timestamp}");
            Err(Violation::new(message, &[other.record, write.record]))
        }
        None => Ok(()),
    }
}
