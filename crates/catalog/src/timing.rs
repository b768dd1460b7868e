//! Raft's timers for a shard, from the largest round trip among its members.
//!
//! The values are replicated with the shard's record and equal on all members: a voter that grants the leader a
//! lease promises the same length that the leader counts on (invariant R3). With R the round trip, H the heartbeat
//! interval, and `min..max` the election timeout, of which `max` is the lease:
//!
//! * `H = 4/3 R + 60 ms`: `0.75 H >= R`, so a heartbeat's answer arrives before its soft deadline, with 60 ms to spare
//!   before the hard one, which is H. A leader whose heartbeats are cut short while nobody writes locks itself out.
//! * `max = 2.4 H + R + 150 ms`: the lease survives one lost heartbeat (`2 * 1.2 H + R`), and a stalled fsync.
//! * `min = 2.2 H + 20 ms`: heartbeats that are skipped because an append was answered cannot start an election; it is
//!   also above `2 R` and an fsync, so a vote's answer arrives within its deadline.
//!
//! Candidates are not spread by `max - min`, as openraft's would have to be (`4 R`), but by their order: see `campaign.rs`
//! of the consensus crate. That makes the lease, and with it the time without a leader, less than half as long.

use meridian_proto::internal::v1 as wire;
use meridian_types::RaftTiming;
use std::time::Duration;

/// The timers of nodes next to each other: processors and disks are what is waited for.
const NEAREST: RaftTiming = RaftTiming { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 };
/// Up to this round trip nodes are next to each other.
const NEAR_MS: u64 = 5;
/// Room for the hard deadline of a heartbeat.
const HEARTBEAT_SLACK_MS: u64 = 60;
/// Room for an fsync that takes its time.
const LEASE_SLACK_MS: u64 = 150;
/// Room above the heartbeats that may be skipped.
const ELECTION_SLACK_MS: u64 = 20;

/// The timers for a shard whose members are at most `rtt` apart.
pub fn timing_for(rtt: Duration) -> RaftTiming {
    let rtt_ms = u64::try_from(rtt.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).min(u64::MAX / 100);
    if rtt_ms <= NEAR_MS {
        return NEAREST;
    }
    let heartbeat_ms = (4 * rtt_ms).div_ceil(3) + HEARTBEAT_SLACK_MS;
    let election_min_ms = (22 * heartbeat_ms).div_ceil(10) + ELECTION_SLACK_MS;
    let election_max_ms = (24 * heartbeat_ms).div_ceil(10) + rtt_ms + LEASE_SLACK_MS;
    RaftTiming {
        heartbeat_ms: heartbeat_ms.max(NEAREST.heartbeat_ms),
        election_min_ms: election_min_ms.max(NEAREST.election_min_ms),
        election_max_ms: election_max_ms.max(NEAREST.election_max_ms),
    }
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
            assert!(min >= 2 * rtt_ms + FSYNC_MS, "deadline of a vote, {case}");
            assert!(10 * min > 22 * h, "skipped heartbeats, {case}");
        }
    }

    #[test]
    fn timers_grow_with_the_distance() {
        let timing = |us| {
            let t = timing_for(Duration::from_micros(us));
            (t.heartbeat_ms, t.election_min_ms, t.election_max_ms)
        };
        assert_eq!((timing(250), timing(5_000)), ((100, 300, 600), (100, 300, 600)));
        assert_eq!(timing(70_000), (154, 359, 600));
        assert_eq!(timing(210_000), (340, 768, 1176));
        assert_eq!(timing(300_000), (460, 1032, 1554));
        let mut last = timing(0);
        for ms in 0..=2000 {
            let next = timing(ms * 1000);
            assert!(next.0 >= last.0 && next.1 >= last.1 && next.2 >= last.2, "{ms}");
            last = next;
        }
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
