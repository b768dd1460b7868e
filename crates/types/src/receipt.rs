//! The latency receipt: where one request's time went, next to what physics asks for it.

/// Who found that a write was committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitPath {
    /// The leader, which told the gateway.
    Leader,
    /// The gateway's node, which counted the voters that had it on their disks.
    OneRoundTrip,
    /// Nobody: it was a read, or who did is not said.
    #[default]
    NotSaid,
}

/// Nanoseconds of one request. The parts follow one another on the critical path, so they add up to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// In the gateway, before and after everything below.
    pub gateway: u64,
    /// Between the gateway and the replica that served it, both ways; zero when it is the gateway itself.
    pub forward: u64,
    /// At the serving replica, before the entry was stamped and handed to Raft (or the read point was known).
    pub queue: u64,
    /// From the hand-over until the leader's own log was synced, or the entry was committed, whichever came first.
    pub fsync: u64,
    /// From there until a quorum had acknowledged the entry. For a read: proving leadership, waiting for writes in
    /// flight, or waiting until the replica was fresh enough.
    pub quorum: u64,
    /// From commit to applied; for a read, reading the data.
    pub apply: u64,
    /// What was left of the commit wait when the entry was applied.
    pub commit_wait: u64,
    /// From arrival at the gateway until its reply left.
    pub total: u64,
    /// The least this request could take with this placement: round trips only, from the RTT matrix.
    pub floor: u64,
    /// For a write: which way it was acknowledged.
    pub path: CommitPath,
}

impl Receipt {
    /// The parts added up.
    pub fn parts(&self) -> u64 {
        self.gateway + self.forward + self.queue + self.fsync + self.quorum + self.apply + self.commit_wait
    }
}
