//! Session guarantees (G7): with a causality token a process reads its own writes and never goes back, in whatever
//! region it reads.
//!
//! Checked of each process, over its own operations in order:
//! 1. A causal read's timestamp is not below that of the token it was given.
//! 2. The token of a causal read is not below the timestamp of anything that the process was told before.
//! 3. A causal or linearizable read of a key sees no older version than the newest that the process itself has
//!    written or seen there. It may see the key absent only if the process removed it, or a removal by somebody
//!    else can have followed.

use crate::Violation;
use crate::index::{Index, KeyId};
use crate::observe::{Observation, observations};
use meridian_bench::history::{Outcome, Record};
use std::collections::{BTreeMap, HashMap};

/// What one process knows of one key: the newest version, and the record that told it.
#[derive(Clone, Copy, Debug)]
struct Known<'a> {
    version: u64,
    removed: bool,
    record: &'a Record,
}

/// What one process knows.
#[derive(Debug, Default)]
struct Session<'a> {
    /// Largest timestamp of any answer.
    told: Option<(u64, &'a Record)>,
    keys: HashMap<KeyId<'a>, Known<'a>>,
}

/// Checks a history; takes time in proportion to its length, times its logarithm.
pub fn check(history: &[Record]) -> Result<(), Violation> {
    let index = Index::new(history)?;
    let mut processes: BTreeMap<u64, Vec<&Record>> = BTreeMap::new();
    for record in history {
        processes.entry(record.process).or_default().push(record);
    }
    for records in processes.values_mut() {
        records.sort_by_key(|r| r.invoked_ns);
        let mut session = Session::default();
        for record in records.iter().filter(|r| r.outcome == Outcome::Ok) {
            session.step(record, &index)?;
        }
    }
    Ok(())
}

impl<'a> Session<'a> {
    fn step(&mut self, record: &'a Record, index: &Index<'a>) -> Result<(), Violation> {
        let level = record.consistency.as_deref();
        if level == Some("causal") {
            self.check_token(record)?;
        }
        for seen in observations(record, index) {
            if matches!(level, Some("causal" | "linearizable")) {
                self.check_read(&seen, index)?;
            }
            if let Some(version) = seen.version {
                self.learn(seen.id(), Known { version, removed: false, record });
            }
        }
        let Some(timestamp) = record.timestamp else { return Ok(()) };
        for (key, value) in record.writes() {
            self.learn((&record.table, key), Known { version: timestamp, removed: value.is_none(), record });
        }
        if self.told.is_none_or(|(told, _)| timestamp > told) {
            self.told = Some((timestamp, record));
        }
        Ok(())
    }

    fn check_token(&self, record: &Record) -> Result<(), Violation> {
        let (Some(token), Some(timestamp)) = (record.token, record.timestamp) else {
            return Err(Violation::new("a causal read names no token or no timestamp", &[record]));
        };
        if timestamp < token {
            return Err(Violation::new(format!("a causal read at {timestamp} was given the token {token}"), &[record]));
        }
        match self.told {
            Some((told, earlier)) if token < told => {
                let message = format!("the token {token} forgets what the process was told at {told}");
                Err(Violation::new(message, &[earlier, record]))
            }
            _ => Ok(()),
        }
    }

    fn check_read(&self, seen: &Observation<'a>, index: &Index<'a>) -> Result<(), Violation> {
        let Some(known) = self.keys.get(&seen.id()) else { return Ok(()) };
        let holds = match seen.version {
            Some(version) => version >= known.version,
            None => {
                let removed = || index.key(seen.id()).is_some_and(|w| w.may_be_removed_after(known.version));
                seen.value.is_some() || known.removed || removed()
            }
        };
        if holds {
            return Ok(());
        }
        let message =
            format!("the process knows version {} of key {} and is shown an older state", known.version, seen.key);
        Err(Violation::new(message, &[known.record, seen.record]))
    }

    fn learn(&mut self, key: KeyId<'a>, new: Known<'a>) {
        let known = self.keys.entry(key).or_insert(new);
        if new.version >= known.version {
            *known = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{LARGE, Shape, generate};
    use crate::sample::{Sample, delete, get, history, put};

    fn causal(process: u64, seen: Option<(&str, u64)>, token: u64) -> Sample {
        get(process, "k", seen).level("causal").token(token)
    }

    #[test]
    fn a_process_reads_its_own_writes() {
        let write = put(1, "k", "a").at(0, 10).ts(100);
        for (read, holds) in [
            (causal(1, Some(("a", 100)), 100).at(20, 30).ts(100), true),
            (causal(1, None, 100).at(20, 30).ts(100), false),
            (causal(1, Some(("a", 100)), 100).at(20, 30).ts(99), false),
            (causal(1, Some(("a", 100)), 99).at(20, 30).ts(100), false),
            (causal(2, None, 0).at(20, 30).ts(50), true),
            (get(1, "k", None).level("local").at(20, 30).ts(50), true),
        ] {
            assert_eq!(check(&history([write.clone(), read.clone()])).is_ok(), holds, "{read:?}");
        }
    }

    #[test]
    fn a_process_never_goes_back() {
        let ops = |second: Sample| {
            history([
                put(1, "k", "a").at(0, 10).ts(100),
                put(1, "k", "b").at(11, 20).ts(110),
                causal(2, Some(("b", 110)), 0).at(30, 40).ts(115),
                second,
            ])
        };
        assert!(check(&ops(causal(2, Some(("b", 110)), 115).at(50, 60).ts(120))).is_ok());
        assert!(check(&ops(causal(2, Some(("a", 100)), 115).at(50, 60).ts(120))).is_err());
        assert!(check(&ops(get(2, "k", Some(("a", 100))).at(50, 60).ts(120))).is_err());
    }

    #[test]
    fn absence_needs_a_removal_that_can_have_followed() {
        let ops = |removal: Sample| {
            history([put(1, "k", "a").at(5, 10).ts(100), removal, causal(1, None, 100).at(20, 30).ts(120)])
        };
        assert!(check(&ops(delete(2, "k").at(12, 15).ts(110))).is_ok());
        assert!(check(&ops(delete(2, "k").at(12, 15).unknown())).is_ok());
        assert!(check(&ops(delete(2, "k").at(0, 4).ts(90))).is_err());
        assert!(check(&ops(delete(2, "k").at(12, 15).failed("NO_QUORUM"))).is_err());
    }

    #[test]
    fn a_hundred_thousand_operations_are_checked() {
        let mut history = generate(11, &LARGE);
        check(&history).unwrap();
        assert!(crate::sample::forget_own_write(&mut history, 11));
        assert!(check(&history).is_err());
    }

    #[test]
    fn random_valid_histories_pass_and_forgotten_writes_are_refused() {
        for seed in 0..40 {
            let mut history = generate(seed, &Shape::default());
            check(&history).unwrap();
            let lied = crate::sample::forget_own_write(&mut history, seed);
            assert!(lied && check(&history).is_err(), "seed {seed}");
        }
    }
}
