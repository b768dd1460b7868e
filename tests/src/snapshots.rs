//! Snapshot reads (G5): a read at timestamp t returns the same answer on every replica, for ever.
//!
//! Checked of every successful get and scan, at whatever consistency, by the read timestamp in its reply:
//! 1. Two reads of the same key at the same read timestamp see the same value and version.
//! 2. Each sees the newest version at or below its timestamp in the order of acknowledged commit timestamps, be it
//!    acknowledged before or after the read; a version above all acknowledged ones must be of a write whose outcome
//!    is unknown.

use crate::Violation;
use crate::index::{Index, KeyId};
use crate::observe::{Observation, check_newest_at, observations};
use meridian_bench::history::Record;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Checks a history; takes time in proportion to its length, times its logarithm.
pub fn check(history: &[Record]) -> Result<(), Violation> {
    let index = Index::new(history)?;
    let mut answers: HashMap<(KeyId<'_>, u64), Observation<'_>> = HashMap::new();
    for record in history {
        for seen in observations(record, &index) {
            let Some(at) = record.timestamp else {
                return Err(Violation::new("a successful read has no timestamp", &[record]));
            };
            check_newest_at(&seen, at, &index)?;
            match answers.entry((seen.id(), at)) {
                Entry::Vacant(entry) => {
                    entry.insert(seen);
                }
                Entry::Occupied(entry) => same(entry.get(), &seen, at)?,
            }
        }
    }
    Ok(())
}

fn same(a: &Observation<'_>, b: &Observation<'_>, at: u64) -> Result<(), Violation> {
    if a.value == b.value && a.version == b.version {
        return Ok(());
    }
    let message = format!("two reads of key {} at {at} have different answers", a.key);
    Err(Violation::new(message, &[a.record, b.record]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{LARGE, Shape, generate};
    use crate::sample::{delete, get, history, put, scan};

    #[test]
    fn equal_timestamps_need_equal_answers() {
        let write = put(1, "k", "a").at(0, 10).ts(5).unknown();
        let good = history([
            write.clone(),
            get(2, "k", Some(("a", 5))).at(20, 30).ts(7),
            get(3, "k", Some(("a", 5))).at(40, 50).ts(7),
        ]);
        assert!(check(&good).is_ok());
        let bad = history([write, get(2, "k", Some(("a", 5))).at(20, 30).ts(7), get(3, "k", None).at(40, 50).ts(7)]);
        assert!(check(&bad).unwrap_err().message.contains("different answers"));
    }

    #[test]
    fn the_newest_version_at_the_timestamp_is_seen() {
        let writes =
            [put(1, "k", "a").at(0, 10).ts(5), put(1, "k", "b").at(20, 30).ts(25), delete(1, "k").at(40, 50).ts(45)];
        for (at, seen, holds) in [
            (4, None, true),
            (5, Some(("a", 5)), true),
            (24, Some(("a", 5)), true),
            (25, Some(("b", 25)), true),
            (45, None, true),
            (5, None, false),
            (25, Some(("a", 5)), false),
            (24, Some(("b", 25)), false),
            (45, Some(("b", 25)), false),
            (25, Some(("x", 25)), false),
            (25, Some(("x", 24)), false),
            (3, Some(("x", 2)), false),
        ] {
            let mut ops = writes.to_vec();
            ops.push(get(2, "k", seen).at(60, 70).ts(at));
            assert_eq!(check(&history(ops)).is_ok(), holds, "at {at}: {seen:?}");
        }
    }

    #[test]
    fn an_unknown_write_explains_only_reads_that_end_after_it_began() {
        let read = get(2, "k", Some(("u", 8))).at(20, 30).ts(9);
        assert!(check(&history([put(1, "k", "u").at(25, 90).unknown(), read.clone()])).is_ok());
        assert!(check(&history([put(1, "k", "u").at(31, 90).unknown(), read.clone()])).is_err());
        assert!(check(&history([put(1, "k", "u").at(5, 90).failed("NO_QUORUM"), read])).is_err());
    }

    #[test]
    fn a_scan_sees_what_it_passes_over() {
        let writes = [put(1, "a", "x").at(0, 10).ts(5), put(1, "b", "y").at(20, 30).ts(25)];
        let with = |rows_max, found: &[(&str, &str, u64)]| {
            let mut ops = writes.to_vec();
            ops.push(scan(2, "a", rows_max, found).at(60, 70).ts(50));
            check(&history(ops)).is_ok()
        };
        assert!(with(10, &[("a", "x", 5), ("b", "y", 25)]));
        assert!(with(1, &[("a", "x", 5)]), "the limit ended it");
        assert!(!with(10, &[("a", "x", 5)]), "it ended before its limit, so b was seen absent");
        assert!(!with(1, &[("b", "y", 25)]), "a was passed over");
    }

    #[test]
    fn a_hundred_thousand_operations_are_checked() {
        let mut history = generate(11, &LARGE);
        check(&history).unwrap();
        assert!(crate::sample::stale_version_of_some_read(&mut history, 11));
        assert!(check(&history).is_err());
    }

    #[test]
    fn random_valid_histories_pass_and_lies_are_refused() {
        for seed in 0..40 {
            let mut history = generate(seed, &Shape::default());
            check(&history).unwrap();
            let lied = crate::sample::stale_version_of_some_read(&mut history, seed);
            assert!(lied && check(&history).is_err(), "seed {seed}");
        }
    }
}
