//! Exactly once and durable (G1, G9, G10): every acknowledged write takes effect once and is kept; one that is known to
//! have failed never shows.
//!
//! Every written value is unique for its key, so a version names its write. Checked:
//! 1. Every version that anybody saw was written by somebody, and not by a write that is known to have failed.
//! 2. A value has one version: a retry that took effect twice shows as two.
//! 3. The version of an acknowledged write is its commit timestamp.
//! 4. The final state has, of each key, the newest acknowledged write, or a newer one of unknown outcome.

use crate::Violation;
use crate::index::{Index, KeyId, KeyWrite, KeyWrites};
use meridian_bench::history::{Found, Record, Version};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Reads of the final state, after everything has ended. A key that is not in it had no value.
#[derive(Clone, Debug, Default)]
pub struct FinalState {
    /// The table.
    pub table: String,
    /// Every key that has a value.
    pub rows: Vec<Version>,
}

/// Checks a history and the final state of some of its tables; takes time in proportion to both.
pub fn check(history: &[Record], tables: &[FinalState]) -> Result<(), Violation> {
    let index = Index::new(history)?;
    let mut versions = Versions::new(&index)?;
    for record in history {
        for row in record.found() {
            versions.seen(&record.table, row, Some(record))?;
        }
    }
    for table in tables {
        for row in &table.rows {
            versions.seen(&table.table, row.as_found(), None)?;
        }
        check_final(table, &index)?;
    }
    Ok(())
}

/// Which write made which value, and which version it has.
struct Versions<'a> {
    writers: HashMap<(KeyId<'a>, &'a str), (KeyWrite<'a>, Fate)>,
    versions: HashMap<(KeyId<'a>, &'a str), u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    Unknown,
    Failed,
}

impl<'a> Versions<'a> {
    fn new(index: &Index<'a>) -> Result<Self, Violation> {
        let mut new = Self { writers: HashMap::new(), versions: HashMap::new() };
        for (key, writes) in &index.keys {
            for (timestamp, write) in &writes.acknowledged {
                new.write(*key, *write, Fate::Acknowledged)?;
                if let Some(value) = write.value {
                    new.versions.insert((*key, value), *timestamp);
                }
            }
            for write in &writes.unknown {
                new.write(*key, *write, Fate::Unknown)?;
            }
            for write in &writes.failed {
                new.write(*key, *write, Fate::Failed)?;
            }
        }
        Ok(new)
    }

    fn write(&mut self, key: KeyId<'a>, write: KeyWrite<'a>, fate: Fate) -> Result<(), Violation> {
        let Some(value) = write.value else { return Ok(()) };
        match self.writers.insert((key, value), (write, fate)) {
            None => Ok(()),
            Some((other, _)) => {
                let message =
                    format!("value {value} was written twice to key {}: the history cannot be checked", key.1);
                Err(Violation::new(message, &[other.record, write.record]))
            }
        }
    }

    fn seen(&mut self, table: &'a str, row: Found<'a>, reader: Option<&Record>) -> Result<(), Violation> {
        let Some(value) = row.value else { return Ok(()) };
        let Some((&id, (write, fate))) = self.writers.get_key_value(&((table, row.key), value)) else {
            let shown: Vec<_> = reader.into_iter().collect();
            return Err(Violation::new(format!("key {} shows {value}, which nobody wrote", row.key), &shown));
        };
        let refuse = |why: String| {
            let shown: Vec<_> = [write.record].into_iter().chain(reader).collect();
            Err(Violation::new(format!("key {} shows {value}, {why}", row.key), &shown))
        };
        if *fate == Fate::Failed {
            return refuse("whose write is said to have failed".to_owned());
        }
        let Some(version) = row.version else { return Ok(()) };
        match self.versions.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(version);
                Ok(())
            }
            Entry::Occupied(entry) if *entry.get() == version => Ok(()),
            Entry::Occupied(entry) => refuse(format!("at version {version} and at version {}", entry.get())),
        }
    }
}

fn check_final(table: &FinalState, index: &Index<'_>) -> Result<(), Violation> {
    let rows: HashMap<&str, &Version> = table.rows.iter().map(|row| (row.key.as_str(), row)).collect();
    for ((_, key), writes) in index.keys.iter().filter(|((name, _), _)| *name == table.table) {
        check_key(key, rows.get(key).copied(), writes)?;
    }
    Ok(())
}

fn check_key(key: &str, row: Option<&Version>, writes: &KeyWrites<'_>) -> Result<(), Violation> {
    let value = row.and_then(|row| row.value.as_deref());
    let newest = writes.acknowledged.last_key_value();
    let is_newest = newest.map_or(value.is_none(), |(_, write)| write.value == value);
    let version = row.and_then(|row| row.version);
    let newer = newest.is_none_or(|(timestamp, _)| version.is_none_or(|version| version > *timestamp));
    if is_newest || newer && writes.unknown.iter().any(|write| write.value == value) {
        return Ok(());
    }
    let expected = newest.map(|(timestamp, write)| (write.value, timestamp));
    let shown: Vec<_> = newest.into_iter().map(|(_, write)| write.record).collect();
    let message = format!("key {key} ends as {value:?} at {version:?}; acknowledged last: {expected:?}");
    Err(Violation::new(message, &shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{LARGE, Shape, final_state, generate};
    use crate::sample::{Sample, delete, get, history, put};

    fn ends(rows: &[(&str, &str, u64)]) -> Vec<FinalState> {
        let row = |(key, value, version): &(&str, &str, u64)| Version {
            key: (*key).to_owned(),
            value: Some((*value).to_owned()),
            version: Some(*version),
        };
        vec![FinalState { table: "t".to_owned(), rows: rows.iter().map(row).collect() }]
    }

    fn holds(ops: impl IntoIterator<Item = Sample>, rows: &[(&str, &str, u64)]) -> bool {
        check(&history(ops), &ends(rows)).is_ok()
    }

    #[test]
    fn acknowledged_writes_are_kept() {
        let ops = [put(1, "k", "a").at(0, 10).ts(5), put(1, "k", "b").at(20, 30).ts(25)];
        assert!(holds(ops.clone(), &[("k", "b", 25)]));
        assert!(!holds(ops.clone(), &[("k", "a", 5)]), "the last write is lost");
        assert!(!holds(ops.clone(), &[]), "both are lost");
        assert!(!holds(ops.clone(), &[("k", "b", 26)]), "another version than was acknowledged");
        assert!(!holds(ops, &[("k", "b", 25), ("l", "x", 7)]), "a value that nobody wrote");
        assert!(holds([put(1, "k", "a").at(0, 10).ts(5), delete(1, "k").at(20, 30).ts(25)], &[]));
    }

    #[test]
    fn unknown_writes_may_have_won_or_not() {
        let ops = [put(1, "k", "a").at(0, 10).ts(5), put(1, "k", "u").at(20, 30).unknown()];
        assert!(holds(ops.clone(), &[("k", "a", 5)]) && holds(ops.clone(), &[("k", "u", 25)]));
        assert!(!holds(ops.clone(), &[("k", "u", 4)]), "older than an acknowledged write: that one is lost");
        assert!(!holds(ops, &[]));
        assert!(
            !holds([put(1, "k", "f").at(0, 10).failed("OVERLOADED")], &[("k", "f", 5)]),
            "it was said to have failed"
        );
    }

    #[test]
    fn a_write_that_took_effect_twice_is_seen() {
        let write = put(1, "k", "u").at(0, 10).unknown();
        let reads = |second| {
            [
                write.clone(),
                get(2, "k", Some(("u", 5))).at(20, 30).ts(6),
                get(2, "k", Some(("u", second))).at(40, 50).ts(60),
            ]
        };
        assert!(check(&history(reads(5)), &[]).is_ok());
        assert!(check(&history(reads(55)), &[]).is_err());
    }

    #[test]
    fn a_hundred_thousand_operations_are_checked() {
        let mut history = generate(11, &LARGE);
        let state = [final_state(11, &LARGE)];
        check(&history, &state).unwrap();
        assert!(crate::sample::second_version_of_some_value(&mut history, 11));
        assert!(check(&history, &state).is_err());
    }

    #[test]
    fn random_valid_histories_pass_and_lost_writes_are_refused() {
        for seed in 0..40 {
            let history = generate(seed, &Shape::default());
            let mut state = final_state(seed, &Shape::default());
            check(&history, std::slice::from_ref(&state)).unwrap();
            let acknowledged = |row: &Version| {
                history
                    .iter()
                    .any(|r| r.timestamp == row.version && r.writes().contains(&(&row.key, row.value.as_deref())))
            };
            let lost = state.rows.iter().position(acknowledged).unwrap();
            let row = state.rows.remove(lost);
            let explained = history.iter().any(|r| {
                r.outcome == meridian_bench::history::Outcome::Unknown && r.writes().contains(&(&row.key, None))
            });
            assert_eq!(check(&history, &[state]).is_err(), !explained, "seed {seed}");
        }
    }
}
