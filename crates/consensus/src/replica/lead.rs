//! The lead time, as a replica knows it, and changing it at the leader.

use super::Replica;
use crate::error::ConsensusError;
use crate::lead_time::at_log_end;
use std::time::Duration;

impl Replica {
    /// The lead time of what is applied: how far ahead of its clock a leader may close. Zero: it does not.
    pub fn lead_time(&self) -> Duration {
        self.position().lead
    }

    /// The lead time at the end of the log, applied or not: what a new leader has to leap over (rule K2).
    pub(super) fn lead_in_log(&self) -> Duration {
        // In this order: an entry that is applied in between counts either way.
        let last = self.cache.last_lead();
        let position = self.position();
        at_log_end(last, position.applied.map(|id| id.index), position.lead)
    }

    /// At the leader: the lead time that its entries carry, a change that is on its way included.
    pub fn leading_by(&self) -> Option<Duration> {
        self.leadership().map(|l| l.carried_lead())
    }

    /// At the leader: the lead time that it closes with.
    pub fn closing_by(&self) -> Option<Duration> {
        self.leadership().map(|l| l.lead())
    }

    /// At the leader: has the lead time changed by an entry of the log (rule K1), unless a change is on its way. Nobody is
    /// told what becomes of it.
    pub fn change_lead_time(&self, to: Duration) -> Result<(), ConsensusError> {
        self.leadership().ok_or_else(|| self.not_leader())?.change_lead(to);
        Ok(())
    }
}
