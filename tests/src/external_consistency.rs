//! External consistency (G2): if one write was acknowledged before another was asked for, anywhere, on whatever key,
//! table or region, then its commit timestamp is smaller.
//!
//! Checked of every pair of acknowledged writes by one sweep over real time: each write's timestamp must exceed the
//! largest one acknowledged before it was asked for. Equal times count as overlapping. All times must be of one
//! monotonic clock.

use crate::Violation;
use meridian_bench::history::{Outcome, Record};

/// Checks a history; takes time in proportion to its length, times its logarithm.
pub fn check(history: &[Record]) -> Result<(), Violation> {
    let mut asked = Vec::new();
    for record in history.iter().filter(|r| r.outcome == Outcome::Ok && !r.writes().is_empty()) {
        match record.timestamp {
            Some(timestamp) => asked.push((timestamp, record)),
            None => return Err(Violation::new("an acknowledged write has no timestamp", &[record])),
        }
    }
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
    use crate::generate::{Shape, generate};
    use crate::sample::{get, history, put};
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

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
    fn a_write_far_back_is_remembered() {
        let mut ops = vec![put(9, "z", "late").at(0, 5).ts(1000)];
        ops.extend((0..50).map(|i| put(1, "k", &format!("v{i}")).at(0, 100).ts(i + 1)));
        assert!(check(&history(ops.clone())).is_ok());
        ops.push(put(2, "k", "w").at(6, 200).ts(999));
        assert!(check(&history(ops)).is_err());
    }

    #[test]
    fn random_valid_histories_pass_and_swapped_timestamps_are_refused() {
        for seed in 0..40 {
            let mut history = generate(seed, &Shape::default());
            check(&history).unwrap();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let writes: Vec<usize> = (0..history.len())
                .filter(|i| history[*i].outcome == Outcome::Ok && !history[*i].writes().is_empty())
                .collect();
            let (a, b) = loop {
                let (a, b) = (writes[rng.random_range(0..writes.len())], writes[rng.random_range(0..writes.len())]);
                if history[a].completed_ns < history[b].invoked_ns {
                    break (a, b);
                }
            };
            (history[a].timestamp, history[b].timestamp) = (history[b].timestamp, history[a].timestamp);
            assert!(check(&history).is_err(), "seed {seed}");
        }
    }
}
