//! A history by key: which versions were acknowledged, and which may exist besides.

use crate::Violation;
use meridian_bench::history::{Outcome, Record};
use std::collections::{BTreeMap, HashMap};

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
    /// By value: when the first of the unknown writes of it was asked for.
    unknown_from: HashMap<Option<&'a str>, u64>,
    /// Timestamp of the last acknowledged removal.
    removed_last: Option<u64>,
}

impl<'a> KeyWrites<'a> {
    /// Whether a write of unknown outcome can have made this value before the given time.
    pub(crate) fn may_have_made(&self, value: Option<&'a str>, by_ns: u64) -> bool {
        self.unknown_from.get(&value).is_some_and(|asked| *asked <= by_ns)
    }

    /// Whether a removal after this timestamp was acknowledged, or any may have happened.
    pub(crate) fn may_be_removed_after(&self, timestamp: u64) -> bool {
        self.unknown_from.contains_key(&None) || self.removed_last.is_some_and(|removed| removed > timestamp)
    }

    fn unknown(&mut self, write: KeyWrite<'a>) {
        let asked = write.record.invoked_ns;
        self.unknown_from.entry(write.value).and_modify(|first| *first = asked.min(*first)).or_insert(asked);
        self.unknown.push(write);
    }
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
                    Outcome::Unknown => writes.unknown(write),
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
    if write.value.is_none() {
        writes.removed_last = writes.removed_last.max(Some(timestamp));
    }
    match writes.acknowledged.insert(timestamp, write) {
        Some(other) => {
            let message = format!("two writes of key {key} have the timestamp {timestamp}");
            Err(Violation::new(message, &[other.record, write.record]))
        }
        None => Ok(()),
    }
}
