//! The error that a client sees: a reason it can act on, the fate of its request, and a sentence that says
//! what to do. The layers below have typed errors of their own and turn them into this one at the API's edge.

use crate::Achievable;
use std::fmt;

/// Shorthand for results of requests.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What became of the request that failed (guarantee G10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It had no effect and never will.
    NotApplied,
    /// It may or may not have taken effect. A retry under the same request id is safe and will tell.
    Unknown,
}

/// Why a request failed. Stable: clients match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Something in the request is malformed.
    BadRequest,
    /// A key is over its limit.
    KeyTooLarge,
    /// A value is over its limit.
    ValueTooLarge,
    /// The request as a whole is over its limit.
    RequestTooLarge,
    /// A range ends before it starts.
    BadRange,
    /// The table does not exist.
    UnknownTable,
    /// A table of this name exists already.
    TableExists,
    /// The placement cannot be satisfied with the nodes there are.
    BadPlacement,
    /// A precondition did not hold; nothing was written.
    PreconditionFailed,
    /// The keys live in several shards.
    CrossShard,
    /// A timestamp further in the future than the clocks allow.
    TimestampInFuture,
    /// A timestamp below the GC floor: its versions are gone.
    TimestampCollected,
    /// The request id was used for another request.
    RequestIdReused,
    /// The request id is older than the ledger remembers.
    RequestIdExpired,
    /// No quorum, or no leader, could be reached in time. Nothing was proposed.
    NoQuorum,
    /// The request was handed over, then the answer was lost or came too late.
    OutcomeUnknown,
    /// The node has as much work as it accepts.
    Overloaded,
    /// The disk of the shard's leader, or of most of its voters, is nearly full: writes are refused until there is room.
    DiskFull,
    /// This node's clock is unsafe and the request rests on it.
    ClockUnsafe,
    /// No level that the read accepts fits into its latency budget; nothing was tried.
    BudgetTooSmall,
    /// A level that the read accepts seemed to fit into its latency budget, and nobody has answered within it.
    BudgetSpent,
    /// The data is not what was written: a checksum failed, or an entry could not be read.
    Corruption,
    /// A defect of Meridian.
    Internal,
}

impl Reason {
    /// Every reason, for tables and tests.
    pub const ALL: [Self; 23] = [
        Self::BadRequest,
        Self::KeyTooLarge,
        Self::ValueTooLarge,
        Self::RequestTooLarge,
        Self::BadRange,
        Self::UnknownTable,
        Self::TableExists,
        Self::BadPlacement,
        Self::PreconditionFailed,
        Self::CrossShard,
        Self::TimestampInFuture,
        Self::TimestampCollected,
        Self::RequestIdReused,
        Self::RequestIdExpired,
        Self::NoQuorum,
        Self::OutcomeUnknown,
        Self::Overloaded,
        Self::DiskFull,
        Self::ClockUnsafe,
        Self::BudgetTooSmall,
        Self::BudgetSpent,
        Self::Corruption,
        Self::Internal,
    ];

    /// The name on the wire, e.g. `UNKNOWN_TABLE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "BAD_REQUEST",
            Self::KeyTooLarge => "KEY_TOO_LARGE",
            Self::ValueTooLarge => "VALUE_TOO_LARGE",
            Self::RequestTooLarge => "REQUEST_TOO_LARGE",
            Self::BadRange => "BAD_RANGE",
            Self::UnknownTable => "UNKNOWN_TABLE",
            Self::TableExists => "TABLE_EXISTS",
            Self::BadPlacement => "BAD_PLACEMENT",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::CrossShard => "CROSS_SHARD",
            Self::TimestampInFuture => "TIMESTAMP_IN_FUTURE",
            Self::TimestampCollected => "TIMESTAMP_COLLECTED",
            Self::RequestIdReused => "REQUEST_ID_REUSED",
            Self::RequestIdExpired => "REQUEST_ID_EXPIRED",
            Self::NoQuorum => "NO_QUORUM",
            Self::OutcomeUnknown => "OUTCOME_UNKNOWN",
            Self::Overloaded => "OVERLOADED",
            Self::DiskFull => "DISK_FULL",
            Self::ClockUnsafe => "CLOCK_UNSAFE",
            Self::BudgetTooSmall => "BUDGET_TOO_SMALL",
            Self::BudgetSpent => "BUDGET_SPENT",
            Self::Corruption => "CORRUPTION",
            Self::Internal => "INTERNAL",
        }
    }

    /// The reason with this wire name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.name() == name)
    }

    /// The fate that this reason implies unless the error says otherwise.
    pub fn fate(self) -> Fate {
        match self {
            Self::OutcomeUnknown | Self::RequestIdExpired | Self::Internal | Self::Corruption => Fate::Unknown,
            _ => Fate::NotApplied,
        }
    }

    /// Whether the same request, under the same request id, may succeed if it is sent again. A latency budget is over by
    /// then: only its owner can say whether another one is worth it.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::NoQuorum | Self::OutcomeUnknown | Self::Overloaded | Self::DiskFull | Self::ClockUnsafe)
    }
}

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What a program acts on.
    pub reason: Reason,
    /// What became of the request.
    pub fate: Fate,
    /// What a person reads: the cause and what to do about it.
    pub message: String,
    /// Of [`Reason::BudgetTooSmall`] and [`Reason::BudgetSpent`]: what could be had instead.
    pub achievable: Vec<Achievable>,
}

impl Error {
    /// An error whose fate is the usual one for its reason.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, fate: reason.fate(), message: message.into(), achievable: Vec::new() }
    }

    /// The same error with what could be had instead.
    #[must_use]
    pub fn with_achievable(mut self, achievable: Vec<Achievable>) -> Self {
        self.achievable = achievable;
        self
    }

    /// The same error with another fate.
    #[must_use]
    pub fn with_fate(mut self, fate: Fate) -> Self {
        self.fate = fate;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason.name())?;
        match self.fate {
            Fate::NotApplied => Ok(()),
            Fate::Unknown => f.write_str("; outcome unknown"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_differ() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_name(reason.name()), Some(reason));
        }
    }
}
