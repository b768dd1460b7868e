//! Bounded staleness (G6): a read says how stale it may be, and tells the truth.
//!
//! Checked of every successful read that names its staleness s and read timestamp t:
//! 1. It sees the newest version at or below t.
//! 2. No write of its key with a timestamp above t was acknowledged more than s before the read was asked for.
//!
//! Why the second follows from correct clocks: s is at least the reader's clock at its start less t, so t is at least
//! the true time of asking less s; and a write is acknowledged only once true time has passed its timestamp.

use crate::Violation;
use crate::index::{Index, KeyId, KeyWrites};
use crate::observe::{Observation, check_newest_at, observations};
use meridian_bench::history::Record;
use std::collections::HashMap;

/// Checks a history; takes time in proportion to its length, times its logarithm.
pub fn check(history: &[Record]) -> Result<(), Violation> {
    let index = Index::new(history)?;
    let mut keys: HashMap<KeyId<'_>, Vec<Later<'_>>> = HashMap::new();
    for record in history {
        let (Some(at), Some(claimed)) = (record.timestamp, record.staleness_ns) else { continue };
        for seen in observations(record, &index) {
            check_newest_at(&seen, at, &index)?;
            let later = keys.entry(seen.id()).or_insert_with(|| index.key(seen.id()).map_or(Vec::new(), later));
            check_claim(&seen, at, claimed, later)?;
        }
    }
    Ok(())
}

/// Of the writes at this timestamp or a later one: the one that was acknowledged first.
struct Later<'a> {
    from: u64,
    first: &'a Record,
}

/// All of them, in order of their timestamps.
fn later<'a>(writes: &KeyWrites<'a>) -> Vec<Later<'a>> {
    let mut later: Vec<Later<'a>> = Vec::with_capacity(writes.acknowledged.len());
    for (from, write) in writes.acknowledged.iter().rev() {
        let earlier = later.last().map(|next| next.first).filter(|r| r.completed_ns <= write.record.completed_ns);
        later.push(Later { from: *from, first: earlier.unwrap_or(write.record) });
    }
    later.reverse();
    later
}

fn check_claim<'a>(seen: &Observation<'a>, at: u64, claimed: u64, writes: &[Later<'a>]) -> Result<(), Violation> {
    // Before the recording clock began nothing was acknowledged.
    let Some(fresh_from) = seen.record.invoked_ns.checked_sub(claimed) else { return Ok(()) };
    let missed = writes.get(writes.partition_point(|write| write.from <= at));
    match missed.map(|missed| missed.first).filter(|write| write.completed_ns < fresh_from) {
        None => Ok(()),
        Some(write) => {
            let real = seen.record.invoked_ns - write.completed_ns;
            let message = format!(
                "a read of key {} claims to be at most {claimed} ns stale and misses a write acknowledged {real} ns before",
                seen.key
            );
            Err(Violation::new(message, &[seen.record, write]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{LARGE, Shape, generate};
    use crate::sample::{get, history, put};

    #[test]
    fn a_claim_holds_against_what_was_acknowledged() {
        let writes = [put(1, "k", "a").at(100, 200).ts(150), put(1, "k", "b").at(300, 400).ts(350)];
        // Reads version a at 160, asked for at 1000: the write of b was acknowledged 600 before.
        for (claimed, holds) in [(600, true), (599, false), (0, false), (5000, true)] {
            let mut ops = writes.to_vec();
            ops.push(get(2, "k", Some(("a", 150))).level("bounded").stale(claimed).at(1000, 1010).ts(160));
            assert_eq!(check(&history(ops)).is_ok(), holds, "{claimed}");
        }
    }

    #[test]
    fn writes_of_other_keys_and_unacknowledged_ones_do_not_count() {
        let read = get(2, "k", None).level("local").stale(0).at(1000, 1010).ts(100);
        assert!(check(&history([put(1, "l", "a").at(300, 400).ts(350), read.clone()])).is_ok());
        assert!(check(&history([put(1, "k", "a").at(300, 400).unknown(), read.clone()])).is_ok());
        assert!(check(&history([put(1, "k", "a").at(300, 400).ts(350), read])).is_err());
    }

    #[test]
    fn a_version_at_or_below_the_read_timestamp_is_not_missed() {
        let ops = |seen| {
            history([
                put(1, "k", "a").at(0, 20).ts(10),
                put(1, "k", "b").at(30, 900).ts(40),
                get(2, "k", seen).level("local").stale(500).at(100, 110).ts(50),
            ])
        };
        assert!(check(&ops(Some(("b", 40)))).is_ok());
        assert!(check(&ops(Some(("a", 10)))).is_err(), "b is at 40, though it was acknowledged long after the read");
    }

    #[test]
    fn a_hundred_thousand_operations_are_checked() {
        let mut history = generate(11, &LARGE);
        check(&history).unwrap();
        assert!(crate::sample::too_fresh_a_claim_of_some_read(&mut history, 11));
        assert!(check(&history).is_err());
    }

    #[test]
    fn random_valid_histories_pass_and_smaller_claims_are_refused() {
        let mut refused = 0;
        for seed in 0..40 {
            let mut history = generate(seed, &Shape::default());
            check(&history).unwrap();
            for record in &mut history {
                record.staleness_ns = record.staleness_ns.map(|_| 0);
            }
            refused += u32::from(check(&history).is_err());
        }
        assert!(refused >= 35, "reads that are stale and say they are not: {refused} of 40 refused");
    }
}
