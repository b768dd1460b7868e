//! External consistency (G2): if one write was acknowledged before another was asked for, anywhere, on whatever key,
//! table or region, then its commit timestamp is smaller.
//!
//! Checked of every pair of acknowledged writes by one sweep over real time: each write's timestamp must exceed the
//! largest one acknowledged before it was asked for. Equal times count as overlapping. All times must be of one
//! monotonic clock.

use crate::Violation;
use meridian_bench::history::{Outcome, Record};
use std::collections::BTreeMap;

/// Checks a history; takes time in proportion to its length, times its logarithm.
pub fn check(history: &[Record]) -> Result<(), Violation> {
    check_within(history, |_| ())
}

/// The same, of pairs within a group only: with shards as groups it holds whatever clocks do, because a shard's
/// timestamps follow its log.
pub fn check_within<'a, G: Ord>(history: &'a [Record], group: impl Fn(&'a Record) -> G) -> Result<(), Violation> {
    let mut groups: BTreeMap<G, Vec<(u64, &Record)>> = BTreeMap::new();
    for record in history.iter().filter(|r| r.outcome == Outcome::Ok && !r.writes().is_empty()) {
        match record.timestamp {
            Some(timestamp) => groups.entry(group(record)).or_default().push((timestamp, record)),
            None => return Err(Violation::new("an acknowledged write has no timestamp", &[record])),
        }
    }
    groups.into_values().try_for_each(check_group)
}

fn check_group(mut asked: Vec<(u64, &Record)>) -> Result<(), Violation> {
    let mut acknowledged = asked.clone();
    asked.sort_by_key(|(_, record)| record.invoked_ns);
    acknowledged.sort_by_key(|(_, record)| record.completed_ns);

    let mut acknowledged = acknowledged.into_iter().peekable();
    let mut largest: Option<(u64, &Record)> = None;
    for (timestamp, record) in asked {
        while let Some(earlier) = acknowledged.next_if(|(_, earlier)| earlier.completed_ns < record.invoked_ns) {
            if largest.is_none_or(|(most, _)| earlier.0 > most) {
                largest = Some(earlier);
            }
        }
        if let Some((most, earlier)) = largest.filter(|(most, _)| *most >= timestamp) {
            let message = format!("acknowledged at {most}, then asked for and committed at {timestamp}");
            return Err(Violation::new(message, &[earlier, record]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{LARGE, Shape, generate};
    use crate::sample::{get, history, put};

    #[test]
    fn order_in_time_is_order_of_timestamps_across_keys_and_tables() {
        let first = put(1, "k", "a").at(0, 10).ts(100);
        for (second, holds) in [
            (put(2, "l", "b").at(11, 20).ts(101), true),
            (put(2, "l", "b").at(11, 20).ts(99), false),
            (put(2, "l", "b").at(11, 20).ts(100), false),
            (put(2, "l", "b").table("other").at(11, 20).ts(99), false),
            (put(2, "l", "b").at(10, 20).ts(99), true),
            (put(2, "l", "b").at(11, 20).unknown(), true),
            (get(2, "k", None).at(11, 20).ts(50), true),
        ] {
            assert_eq!(check(&history([first.clone(), second.clone()])).is_ok(), holds, "{second:?}");
        }
    }

    #[test]
    fn within_groups_only_their_own_order_counts() {
        let ops = |second: crate::sample::Sample| history([put(1, "k", "a").at(0, 10).ts(100), second]);
        let by_key = |ops: &[Record]| check_within(ops, |r| r.key.as_str()).is_ok();
        assert!(by_key(&ops(put(2, "l", "b").at(11, 20).ts(99))));
        assert!(!by_key(&ops(put(2, "k", "b").at(11, 20).ts(99))));
    }

    #[test]
    fn a_write_far_back_is_remembered() {
        let mut ops = vec![put(9, "z", "late").at(0, 5).ts(1000)];
        ops.extend((0..50).map(|i| put(1, "k", &format!("v{i}")).at(0, 100).ts(i + 1)));
        assert!(check(&history(ops.clone())).is_ok());
        ops.push(put(2, "k", "w").at(6, 200).ts(999));
        assert!(check(&history(ops)).is_err());
    }

    #[test]
    fn a_hundred_thousand_operations_are_checked() {
        let mut history = generate(11, &LARGE);
        check(&history).unwrap();
        assert!(crate::sample::swapped_timestamps_of_some_writes(&mut history, 11));
        assert!(check(&history).is_err());
    }

    #[test]
    fn random_valid_histories_pass_and_swapped_timestamps_are_refused() {
        for seed in 0..40 {
            let mut history = generate(seed, &Shape::default());
            check(&history).unwrap();
            assert!(crate::sample::swapped_timestamps_of_some_writes(&mut history, seed));
            assert!(check(&history).is_err(), "seed {seed}");
        }
    }
}
