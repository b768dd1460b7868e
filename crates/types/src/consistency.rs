//! How fresh a read must be.

use crate::{CausalityToken, Timestamp};
use std::fmt;
use std::time::Duration;

/// What a read promises about the versions that it returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write acknowledged before the read began, from any region. The default.
    #[default]
    Linearizable,
    /// The state at this timestamp: the same answer on every replica, for ever (until it is collected).
    Snapshot(Timestamp),
    /// The newest state that this region's replica can vouch for, at most this old.
    BoundedStaleness(Duration),
    /// A state that includes everything the token has seen.
    Causal(CausalityToken),
    /// Whatever the serving replica has; says how stale that may be.
    Local,
}

impl Consistency {
    /// The name used on the command line, in reports and histories.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Snapshot(_) => "snapshot",
            Self::BoundedStaleness(_) => "bounded",
            Self::Causal(_) => "causal",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
