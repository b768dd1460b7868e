//! What can go wrong with a request at one replica, and what that says about its effect.

use crate::backlog::FlushLags;
use meridian_types::{NodeId, Timestamp};

/// Another replica leads, or none: found before anything was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not lead the shard")]
pub struct NotLeader {
    /// Who may be leading.
    pub hint: Option<NodeId>,
}

/// Why a replica did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// Refused before anything was proposed; may be sent elsewhere.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// Refused before anything was proposed: the queue of proposals is full.
    #[error("the shard's proposal queue is full ({limit} requests)")]
    Overloaded {
        /// The queue's limit.
        limit: usize,
    },
    /// Refused before anything was proposed: this node's disk is nearly full.
    #[error(transparent)]
    DiskFull(#[from] meridian_storage::DiskFull),
    /// Refused before anything was proposed: flushes of this node's data lag behind its log.
    #[error(transparent)]
    FlushLags(#[from] FlushLags),
    /// Refused before anything was proposed: the timestamp is further ahead than clocks may differ.
    #[error("timestamp {ts} is ahead of {limit}, the latest that the clocks allow")]
    FutureTimestamp {
        /// The timestamp that was asked for.
        ts: Timestamp,
        /// The largest allowed now.
        limit: Timestamp,
    },
    /// Refused: this node's clock is unsafe (rule W3).
    #[error("this node's clock is unsafe")]
    ClockUnsafe,
    /// Handed over, then leadership or the group was lost: the entry may or may not be chosen.
    #[error("the entry was handed over and its result was lost")]
    Lost,
    /// A read: leadership could not be proven in time.
    #[error("leadership could not be proven in time")]
    NotProven,
    /// A transfer that was not begun: the node is no voter of the shard, lags, or has not been heard of lately.
    #[error("{to} cannot take over: it is no voter of the shard, lags behind, or has not answered lately")]
    UnfitToLead {
        /// The node.
        to: NodeId,
    },
    /// The replica is closed or has failed.
    #[error("the replica is not running: {0}")]
    Stopped(String),
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] meridian_storage::StorageError),
}
