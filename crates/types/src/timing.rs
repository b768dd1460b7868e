//! A Raft group's timers.

use std::time::Duration;

/// Part of the promised lease that a leader does not use: bounds the drift of monotonic clocks (rule R2).
pub const LEASE_MARGIN_PERCENT: u64 = 10;

/// A group's timers, in milliseconds. Replicated shard configuration: `election_max_ms` is the lease that a voter promises
/// (rule R3). The catalog has those that a shard was created with; an entry of the shard's log may bring others, which its
/// members then run with one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftTiming {
    /// Between heartbeats of an idle leader; none waits for the answer to the one before, so it may be shorter than an RTT.
    pub heartbeat_ms: u64,
    /// Shortest election timeout: how long a voter's answer may take.
    pub election_min_ms: u64,
    /// Longest election timeout, and the lease that every voter promises.
    pub election_max_ms: u64,
}

impl RaftTiming {
    /// Whether the timers are in order: heartbeats, then the shortest election timeout, then the longest.
    pub fn is_ordered(&self) -> bool {
        0 < self.heartbeat_ms
            && self.heartbeat_ms < self.beat_answer_ms()
            && self.beat_answer_ms() < self.election_min_ms
            && self.election_min_ms < self.election_max_ms
    }

    /// For how long openraft waits for a heartbeat's answer: for less than the shortest election timeout.
    pub fn beat_answer_ms(&self) -> u64 {
        self.election_min_ms * 3 / 4
    }

    /// Between two voters that stand for election, one after the other: more than a round trip.
    pub fn turn(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.max(self.election_min_ms * 2 / 3))
    }

    /// What every voter promises after it has heard from a leader.
    pub fn promise(&self) -> Duration {
        Duration::from_millis(self.election_max_ms)
    }

    /// What a leader uses of that promise.
    pub fn lease(&self) -> Duration {
        usable_lease(self.promise())
    }
}

/// What a leader uses of a promise, in whole milliseconds (rule R2).
pub fn usable_lease(promise: Duration) -> Duration {
    let promise_ms = u64::try_from(promise.as_millis()).unwrap_or(u64::MAX / 100).min(u64::MAX / 100);
    Duration::from_millis(promise_ms * (100 - LEASE_MARGIN_PERCENT) / 100)
}
