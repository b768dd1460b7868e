//! Raft's timers for a shard, from the largest round trip among its members.
//!
//! The values are replicated and equal on all members: a voter that grants the leader a lease promises the same length that
//! the leader counts on (invariant R3). With R the round trip, H the heartbeat interval, and `min..max` the election timeout,
//! of which `max` is the lease:
//!
//! * `H = R / 2`, at least 100 ms: beats do not wait for one another's answers, so the distance does not bound it (see
//!   `heartbeats` of the consensus crate).
//! * `max = 2 R + 2 H + 200 ms`: the lease survives a packet that is lost. It is sent again after a retransmission timeout,
//!   a round trip and at least 200 ms in every TCP, and whatever was sent behind it waits for it; its answer takes R, and the
//!   beat before it was sent H earlier. Another H is for clocks that run at different speeds and a sync that stalls.
//! * `min = 2 R + 50 ms`: a vote's answer, which takes a round trip and a sync, arrives within its deadline.
//!
//! Candidates are not spread by `max - min`, as openraft's would have to be (`4 R`), but by their order: see `campaign.rs`
//! of the consensus crate. That makes the lease, and with it the time without a leader, less than half as long.

use meridian_types::RaftTiming;
use std::time::Duration;

/// The timers of nodes next to each other: processors and disks are what is waited for.
const NEAREST: RaftTiming = RaftTiming { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 };
/// Up to this round trip nodes are next to each other.
const NEAR_MS: u64 = 5;
/// The shortest retransmission timeout above the round trip.
const RETRANSMIT_MS: u64 = 200;
/// Room for an fsync that takes its time.
const VOTE_SLACK_MS: u64 = 50;

/// The timers for a shard whose members are at most `rtt` apart.
pub fn timing_for(rtt: Duration) -> RaftTiming {
    let rtt_ms = u64::try_from(rtt.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).min(u64::MAX / 100);
    if rtt_ms <= NEAR_MS {
        return NEAREST;
    }
    let heartbeat_ms = (rtt_ms / 2).max(NEAREST.heartbeat_ms);
    RaftTiming {
        heartbeat_ms,
        election_min_ms: (2 * rtt_ms + VOTE_SLACK_MS).max(NEAREST.election_min_ms),
        election_max_ms: (2 * rtt_ms + 2 * heartbeat_ms + RETRANSMIT_MS).max(NEAREST.election_max_ms),
    }
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
            assert!(timing_for(Duration::from_millis(rtt_ms)).is_ordered(), "{case}");
            // The leader counts on nine tenths of the promise.
            let answered = rtt_ms + 200 + rtt_ms + h;
            assert!(9 * max >= 10 * answered, "one lost packet, {case}");
            assert!(min >= 2 * rtt_ms + FSYNC_MS, "deadline of a vote, {case}");
            assert!(3 * min / 4 >= rtt_ms + h.min(FSYNC_MS), "deadline of a heartbeat, {case}");
        }
    }

    #[test]
    fn timers_grow_with_the_distance() {
        let timing = |us| {
            let t = timing_for(Duration::from_micros(us));
            (t.heartbeat_ms, t.election_min_ms, t.election_max_ms)
        };
        assert_eq!((timing(250), timing(5_000)), ((100, 300, 600), (100, 300, 600)));
        assert_eq!(timing(70_000), (100, 300, 600));
        assert_eq!(timing(210_000), (105, 470, 830));
        assert_eq!(timing(300_000), (150, 650, 1100));
        let mut last = timing(0);
        for ms in 0..=2000 {
            let next = timing(ms * 1000);
            assert!(next.0 >= last.0 && next.1 >= last.1 && next.2 >= last.2, "{ms}");
            last = next;
        }
    }
}
