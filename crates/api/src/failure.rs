//! Errors of the layers below as the client sees them.

use meridian_consensus::{ConsensusError, OverBudget};
use meridian_proto::internal::v1 as internal;
use meridian_storage::{DiskFull, StorageError};
use meridian_types::{Error, Fate, NodeId, Reason};

/// Why one replica gave no answer.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    /// It does not lead; nothing was proposed. Ask the hint, or others.
    NotLeader(Option<NodeId>),
    /// It is not fresh enough for this read; ask another one.
    NotFresh,
    /// An answer, though not the one hoped for.
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

impl From<ConsensusError> for Refusal {
    fn from(e: ConsensusError) -> Self {
        match e {
            ConsensusError::NotLeader(n) => Self::NotLeader(n.hint),
            ConsensusError::Overloaded { .. } | ConsensusError::FlushLags(_) => {
                Error::new(Reason::Overloaded, format!("{e}; slow down and try again")).into()
            }
            ConsensusError::DiskFull(e) => disk_full(&e).into(),
            ConsensusError::FutureTimestamp { .. } => {
                let text = format!("{e}; use a timestamp from a reply, or correct the client's clock");
                Error::new(Reason::TimestampInFuture, text).into()
            }
            ConsensusError::ClockUnsafe => clock_unsafe().into(),
            ConsensusError::Lost => lost().into(),
            ConsensusError::NotProven => Self::NotLeader(None),
            ConsensusError::UnfitToLead { .. } => Error::new(Reason::BadRequest, e.to_string()).into(),
            ConsensusError::Stopped(why) => {
                tracing::warn!("a replica is not running: {why}");
                Self::NotLeader(None)
            }
            ConsensusError::Storage(e) => storage(&e).into(),
        }
    }
}

/// This node's clock may be wrong by more than its bound, and the request rests on it.
pub(crate) fn clock_unsafe() -> Error {
    Error::new(Reason::ClockUnsafe, "the node's clock is unsafe; ask another node, and see its status")
}

/// The leader's disk is nearly full; found before anything was proposed.
pub(crate) fn disk_full(e: &DiskFull) -> Error {
    let text = format!("{e}; give the node room or move the shard's leader, writes go on by themselves then");
    Error::new(Reason::DiskFull, text)
}

/// The disks of most voters are nearly full; found before anything was proposed.
pub(crate) fn disks_full(full: &[NodeId]) -> Error {
    let full: Vec<String> = full.iter().map(ToString::to_string).collect();
    let text = "the disks of too many of the shard's voters are nearly full to write to most of them";
    Error::new(
        Reason::DiskFull,
        format!("{text}: {}; give them room, writes go on by themselves then", full.join(", ")),
    )
}

/// The node has no memory left for the request; found before anything was done.
pub(crate) fn over_budget(over: &OverBudget) -> Error {
    Error::new(Reason::Overloaded, format!("{over}; slow down and try again"))
}

/// The answer to a request was lost.
pub(crate) fn lost() -> Error {
    Error::new(
        Reason::OutcomeUnknown,
        "the request was handed over and its result was lost; try again under the same request id to learn it",
    )
}

/// Nobody could be asked, or nobody led.
pub(crate) fn no_quorum(what: &str) -> Error {
    let text = format!("{what}: no quorum could be reached in time; nothing was done; see `meridian status`");
    Error::new(Reason::NoQuorum, text)
}

/// The store failed while reading.
pub(crate) fn storage(e: &StorageError) -> Error {
    tracing::error!("the store failed: {e}");
    let reason = if matches!(e, StorageError::Corrupt { .. }) { Reason::Corruption } else { Reason::Internal };
    Error::new(reason, "the node's store failed; see its log, and ask another node").with_fate(Fate::Unknown)
}

/// An error between nodes.
pub(crate) fn to_pb(e: &Error) -> internal::Failure {
    internal::Failure {
        reason: e.reason.name().to_owned(),
        outcome_unknown: e.fate == Fate::Unknown,
        message: e.message.clone(),
    }
}

/// An error from another node. A reason that this version does not know is kept as text.
pub(crate) fn from_pb(f: internal::Failure) -> Error {
    let fate = if f.outcome_unknown { Fate::Unknown } else { Fate::NotApplied };
    let reason = Reason::from_name(&f.reason).unwrap_or(Reason::Internal);
    Error::new(reason, f.message).with_fate(fate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_keep_reason_fate_and_text_between_nodes() {
        for reason in Reason::ALL {
            for fate in [Fate::NotApplied, Fate::Unknown] {
                let error = Error::new(reason, "why").with_fate(fate);
                assert_eq!(from_pb(to_pb(&error)), error);
            }
        }
    }
}
