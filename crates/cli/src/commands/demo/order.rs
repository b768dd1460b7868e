//! Whether commit timestamps agree with real time (guarantee G2): a write that began after another was acknowledged,
//! anywhere, must have the larger timestamp. All clients run in one process, so one monotonic clock saw them all.

use super::account::{Attempt, Outcome};
use meridian_client::Timestamp;
use meridian_clock::Mono;

/// Two writes whose timestamps contradict real time: the first was acknowledged before the second began.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inversion<'a> {
    pub(super) earlier: &'a str,
    pub(super) later: &'a str,
}

/// The first contradiction among the acknowledged writes, by the beginning of the later one.
///
/// For every write it is enough to compare with the largest timestamp acknowledged before it began: O(n log n).
pub(super) fn inversion(attempts: &[Attempt]) -> Option<Inversion<'_>> {
    let acknowledged = |a| match a {
        &Attempt { outcome: Outcome::Acknowledged(at), .. } => Some((a, at)),
        _ => None,
    };
    let mut by_start: Vec<(&Attempt, Timestamp)> = attempts.iter().filter_map(acknowledged).collect();
    let mut by_end = by_start.clone();
    by_start.sort_by_key(|(a, _)| a.invoked);
    by_end.sort_by_key(|(a, _)| a.completed);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<(&Attempt, Timestamp)> = None;
    for (later, at) in by_start {
        while let Some(earlier) = ended.next_if(|(a, _)| precedes(a.completed, later.invoked)) {
            newest = newest.into_iter().chain([earlier]).max_by_key(|(_, at)| *at);
        }
        if let Some((earlier, before)) = newest
            && before >= at
        {
            return Some(Inversion { earlier: &earlier.key, later: &later.key });
        }
    }
    None
}

/// Equal instants are not ordered: the clock did not tell them apart.
fn precedes(completed: Mono, invoked: Mono) -> bool {
    completed < invoked
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_client::Reason;

    fn write(key: &str, (invoked, completed): (u64, u64), at: u64) -> Attempt {
        let outcome = Outcome::Acknowledged(Timestamp(at));
        Attempt { key: key.into(), value: String::new(), invoked: Mono(invoked), completed: Mono(completed), outcome }
    }

    #[test]
    fn writes_one_after_another_must_have_growing_timestamps() {
        let sound = [write("a", (0, 10), 5), write("b", (11, 20), 6)];
        assert_eq!(inversion(&sound), None);
        for at in [4, 5] {
            let broken = [write("b", (11, 20), at), write("a", (0, 10), 5)];
            assert_eq!(inversion(&broken), Some(Inversion { earlier: "a", later: "b" }), "{at}");
        }
    }

    #[test]
    fn overlapping_writes_may_have_either_order() {
        assert_eq!(inversion(&[write("a", (0, 10), 9), write("b", (10, 20), 3)]), None);
        assert_eq!(inversion(&[write("a", (0, 30), 9), write("b", (5, 20), 3)]), None);
    }

    #[test]
    fn the_largest_earlier_timestamp_counts_not_the_last() {
        let attempts = [write("a", (0, 10), 9), write("b", (0, 12), 2), write("c", (13, 20), 5)];
        assert_eq!(inversion(&attempts), Some(Inversion { earlier: "a", later: "c" }));
    }

    #[test]
    fn what_was_not_acknowledged_has_no_place_in_the_order() {
        let mut refused = write("a", (0, 10), 9);
        refused.outcome = Outcome::Refused(Reason::NoQuorum);
        assert_eq!(inversion(&[refused, write("b", (11, 20), 3)]), None);
    }
}
