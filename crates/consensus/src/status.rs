//! What one replica says about itself.

use crate::replica::Replica;
use meridian_types::{NodeId, RaftTiming, ShardId, Timestamp};
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use std::fmt;
use std::time::Duration;

/// A replica's part in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Stamps and proposes.
    Leader,
    /// Votes and receives the log.
    Follower,
    /// Stands for election.
    Candidate,
    /// Receives the log and does not count.
    Learner,
    /// Has stopped or failed.
    Stopped,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Stopped => "stopped",
        })
    }
}

/// A snapshot of one replica's state, for status pages and metrics.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// The shard.
    pub shard: ShardId,
    /// The replica's part.
    pub role: Role,
    /// The Raft term that it knows of.
    pub term: u64,
    /// The leader that it knows of.
    pub leader: Option<NodeId>,
    /// Whether it is a voter.
    pub voter: bool,
    /// The timers that it runs with.
    pub timing: RaftTiming,
    /// The timers that the group has agreed on, as far as this replica has applied.
    pub agreed: RaftTiming,
    /// The timers that the group was created with.
    pub created: RaftTiming,
    /// Last index in its log.
    pub log_last: u64,
    /// Last index known to be committed.
    pub committed: u64,
    /// Last index applied.
    pub applied: u64,
    /// Last index whose effects are durable in the data store.
    pub durable: u64,
    /// Last stamp applied.
    pub last_ts: Timestamp,
    /// Safe time.
    pub safe_ts: Timestamp,
    /// `latest - safe_ts`: how stale a read from here may be.
    pub safe_lag: Duration,
    /// What is left of the lease, at the leader.
    pub lease_left: Option<Duration>,
    /// Entries in flight, at the leader.
    pub in_flight: usize,
    /// How far ahead of its clock the leader closes, as far as this replica has applied; zero: it does not.
    pub lead_time: Duration,
}

impl Replica {
    /// The replica's state now.
    pub fn status(&self) -> ReplicaStatus {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let role = match (&metrics.running_state, metrics.state) {
            (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
            (_, ServerState::Leader) => Role::Leader,
            (_, ServerState::Candidate) => Role::Candidate,
            (_, ServerState::Follower) => Role::Follower,
            (_, ServerState::Learner) => Role::Learner,
        };
        let leadership = self.leadership();
        let safe_ts = self.safe_time().safe();
        ReplicaStatus {
            shard: self.shard(),
            role,
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            voter: metrics.membership_config.voter_ids().any(|v| v == metrics.id),
            timing: self.timing(),
            agreed: self.agreed_timing(),
            created: self.created_timing(),
            log_last: metrics.last_log_index.unwrap_or(0),
            committed: metrics.local_committed.as_ref().map_or(0, |id| id.index),
            applied: self.applied_index(),
            durable: self.durable_index(),
            last_ts: self.safe_time().applied(),
            safe_ts,
            safe_lag: self.clock().now().latest.since(safe_ts),
            lease_left: leadership.as_ref().and_then(|l| l.lease_left()),
            in_flight: leadership.map_or(0, |l| l.in_flight()),
            lead_time: self.lead_time(),
        }
    }
}
