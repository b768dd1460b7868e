//! What reads saw, key by key, and whether a key's version order allows it.

use crate::Violation;
use crate::index::{Index, KeyId, KeyWrites};
use meridian_bench::history::{Found, OpKind, Outcome, Record};
use std::collections::HashSet;
use std::ops::Bound;

/// One key as one successful read saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation<'a> {
    pub(crate) table: &'a str,
    pub(crate) key: &'a str,
    /// `None`: the key had no value.
    pub(crate) value: Option<&'a str>,
    /// Commit timestamp of the version; `None`: not known, or no value.
    pub(crate) version: Option<u64>,
    pub(crate) record: &'a Record,
}

impl<'a> Observation<'a> {
    fn new(record: &'a Record, found: Found<'a>) -> Self {
        Self { table: &record.table, key: found.key, value: found.value, version: found.version, record }
    }

    pub(crate) fn id(&self) -> KeyId<'a> {
        (self.table, self.key)
    }
}

/// What a successful get or scan saw: of a scan also the written keys that it passed over, which it saw absent.
pub(crate) fn observations<'a>(record: &'a Record, index: &Index<'a>) -> Vec<Observation<'a>> {
    if record.outcome != Outcome::Ok || !matches!(record.op, OpKind::Get | OpKind::Scan) {
        return Vec::new();
    }
    let mut all: Vec<_> = record.found().into_iter().map(|found| Observation::new(record, found)).collect();
    if let Some(scan) = &record.scan {
        let ended = scan.found.len() < usize::try_from(scan.rows_max).unwrap_or(usize::MAX);
        let last = scan.found.last().map(|row| row.key.as_str()).filter(|_| !ended);
        let end = last.map_or(Bound::Unbounded, |key| Bound::Included((record.table.as_str(), key)));
        let found: HashSet<&str> = scan.found.iter().map(|row| row.key.as_str()).collect();
        let passed = index.keys.range((Bound::Included((record.table.as_str(), record.key.as_str())), end));
        let absent = passed
            .map(|((table, key), _)| (*table, *key))
            .take_while(|(table, _)| *table == record.table)
            .filter(|(_, key)| !found.contains(key))
            .map(|(_, key)| Observation::new(record, Found { key, value: None, version: None }));
        all.extend(absent);
    }
    all
}

/// Checks that an observation is the newest version at or below timestamp `at`. A write with an unknown outcome may
/// be that version, when it was asked for before the read ended.
pub(crate) fn check_newest_at<'a>(seen: &Observation<'a>, at: u64, index: &Index<'a>) -> Result<(), Violation> {
    let none = KeyWrites::default();
    let writes = index.key(seen.id()).unwrap_or(&none);
    let newest = writes.acknowledged.range(..=at).next_back();
    let value = seen.value;
    let by_unknown = || writes.may_have_made(value, seen.record.completed_ns);
    let explained = match (newest, seen.version) {
        (_, Some(version)) if version > at => false,
        (Some((timestamp, _)), Some(version)) if version < *timestamp => false,
        (Some((timestamp, write)), Some(version)) if version == *timestamp => write.value == value,
        (Some((_, write)), None) => write.value == value || by_unknown(),
        (None, None) => value.is_none() || by_unknown(),
        (_, Some(_)) => by_unknown(),
    };
    if explained {
        return Ok(());
    }
    let expected = newest.map_or("none".to_owned(), |(timestamp, write)| format!("{:?} of {timestamp}", write.value));
    let message = format!(
        "a read of key {} at {at} sees {value:?} of {:?}; the newest acknowledged version by then is {expected}",
        seen.key, seen.version
    );
    let shown: Vec<_> = [seen.record].into_iter().chain(newest.map(|(_, write)| write.record)).collect();
    Err(Violation::new(message, &shown))
}
