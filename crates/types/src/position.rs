//! Positions in a shard's log. Always compared whole: two leaders may share a term, so neither a term nor an
//! index alone identifies anything (invariants, rule Z0).

use crate::NodeId;
use std::fmt;

/// A leadership: the term and the node that leads in it. Ordered by term, then node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderId {
    /// Raft term.
    pub term: u64,
    /// The leader.
    pub node: NodeId,
}

impl fmt::Display for LeaderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}/{}", self.term, self.node)
    }
}

/// The identity of a log entry: the leadership that proposed it, and its index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The leadership that proposed the entry.
    pub leader: LeaderId,
    /// Its place in the log, from 0.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.leader, self.index)
    }
}
