//! Raft's timers for a shard, from the largest round trip among its members.
//!
//! The values are replicated with the shard's record and equal on all members: a voter that grants the leader a
//! lease promises the same length that the leader counts on (invariant R3). They are chosen so that, with R the
//! round trip, H the heartbeat interval, and `min..max` the election timeout:
//!
//! * `0.75 H >= R`: a heartbeat's answer arrives before its soft deadline;
//! * `max >= 2 * 1.2 H + R`: the lease, which is `max` long, survives one lost heartbeat;
//! * `max - min >= 4 R`: candidates are spread wider than a pre-vote and a vote take;
//! * `min >= 2 R`, and some room for an fsync: a vote's answer arrives within its deadline;
//! * `min > 2.2 H`: heartbeats that are skipped because an append was answered cannot start an election.

use meridian_proto::internal::v1 as wire;
use meridian_types::RaftTiming;
use std::time::Duration;

/// Classes of round trips: up to so many milliseconds, these timers.
const CLASSES: [(u64, RaftTiming); 4] = [
    (5, RaftTiming { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 }),
    (50, RaftTiming { heartbeat_ms: 200, election_min_ms: 600, election_max_ms: 1200 }),
    (100, RaftTiming { heartbeat_ms: 300, election_min_ms: 900, election_max_ms: 1800 }),
    (200, RaftTiming { heartbeat_ms: 450, election_min_ms: 1300, election_max_ms: 2600 }),
];

/// The round trip up to which the slowest class holds; beyond it the timers grow in proportion.
const SLOWEST_RTT_MS: u64 = 300;

/// The timers for a shard whose members are at most `rtt` apart.
pub fn timing_for(rtt: Duration) -> RaftTiming {
    let ms = u64::try_from(rtt.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    if let Some((_, timing)) = CLASSES.iter().find(|(up_to, _)| ms <= *up_to) {
        return *timing;
    }
    let r = ms.clamp(SLOWEST_RTT_MS, u64::MAX / 10);
    RaftTiming { heartbeat_ms: 2 * r, election_min_ms: 5 * r, election_max_ms: 10 * r }
}

/// The timers in their record's form.
pub fn timing_to_proto(timing: RaftTiming) -> wire::RaftTiming {
    let RaftTiming { heartbeat_ms, election_min_ms, election_max_ms } = timing;
    wire::RaftTiming { heartbeat_ms, election_min_ms, election_max_ms }
}

/// The timers of a record; `None` if they are not in order.
pub fn timing_from_proto(timing: &wire::RaftTiming) -> Option<RaftTiming> {
    let wire::RaftTiming { heartbeat_ms, election_min_ms, election_max_ms } = *timing;
    Some(RaftTiming { heartbeat_ms, election_min_ms, election_max_ms }).filter(RaftTiming::is_ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inequalities_hold_for_every_round_trip() {
        const FSYNC_MS: u64 = 50;
        for rtt_ms in 0..=2000 {
            let RaftTiming { heartbeat_ms: h, election_min_ms: min, election_max_ms: max } =
                timing_for(Duration::from_millis(rtt_ms));
            let case = format!("rtt {rtt_ms}: {h}/{min}/{max}");
            assert!(3 * h >= 4 * rtt_ms, "soft deadline of a heartbeat, {case}");
            assert!(10 * max >= 24 * h + 10 * rtt_ms, "one lost heartbeat, {case}");
            assert!(max - min >= 4 * rtt_ms, "spread of candidates, {case}");
            assert!(min >= 2 * rtt_ms + FSYNC_MS, "deadline of a vote, {case}");
            assert!(10 * min > 22 * h, "skipped heartbeats, {case}");
        }
    }

    #[test]
    fn classes_end_where_they_say() {
        let timing = |us| timing_for(Duration::from_micros(us)).heartbeat_ms;
        let table =
            [(250, 100), (5_000, 100), (5_001, 200), (50_000, 200), (63_000, 300), (140_000, 450), (200_000, 450)];
        for (us, heartbeat_ms) in table {
            assert_eq!(timing(us), heartbeat_ms, "{us} us");
        }
        let slowest = RaftTiming { heartbeat_ms: 600, election_min_ms: 1500, election_max_ms: 3000 };
        assert_eq!(
            (timing_for(Duration::from_millis(201)), timing_for(Duration::from_millis(300))),
            (slowest, slowest)
        );
    }

    #[test]
    fn disordered_timers_are_no_timing() {
        let timing = timing_for(Duration::from_millis(70));
        assert_eq!(timing_from_proto(&timing_to_proto(timing)), Some(timing));
        assert_eq!(timing_from_proto(&wire::RaftTiming::default()), None);
        let swapped = wire::RaftTiming { heartbeat_ms: 100, election_min_ms: 600, election_max_ms: 300 };
        assert_eq!(timing_from_proto(&swapped), None);
    }
}
