//! The lead time of one leadership: how far ahead of its clock it may close, and what its entries say of that.
//!
//! The lead time is a part of the shard's replicated state. Every stamped entry carries the one that holds from it on, so
//! the last stamped entry of a log says what holds at its end, applied or not, and a change is an entry that carries
//! another one than those before it.
//!
//! Invariants:
//! 1. K1, raising: closed with the larger one only once the entry that brings it is known to be committed. Any later
//!    leader has that entry then.
//! 2. K1, lowering: the entry is stamped above everything that was closed before (every stamp is), and from its proposal
//!    on the leader closes with the smaller one. A successor with the entry stamps above it; one without it takes the
//!    larger one.
//! 3. K2: a new leader's first stamp is at or above `latest` plus the lead time at the end of its log. With 1 and 2 that
//!    exceeds everything that any older leader has closed, so it need not know what that was.
//!
//! One change at a time: what carries a change may get lost, and then nobody can tell two of them apart.
//!
//! Source: the schedule that breaks without each rule is with the sequencer's tests. CockroachDB leads its closed
//! timestamps by a setting that all nodes are assumed to agree on; here the log makes them agree.
//!
//! Not here: how much is needed (`lead_time.rs` of the types crate, K4), reading (K3, the api crate).

use meridian_probe::{Sabotage, sabotaged};
use std::time::Duration;

/// See the module's documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeadTime {
    /// Closed with.
    in_force: Duration,
    /// Carried by entries that are stamped now.
    carried: Duration,
    /// An entry that brings another one is on its way.
    changing: bool,
}

impl LeadTime {
    /// Of a new leader whose log ends with this one. Nothing is closed before the leader's barrier is applied, and with
    /// it everything before it is committed: so it is in force.
    pub(crate) fn of_log(lead: Duration) -> Self {
        Self { in_force: lead, carried: lead, changing: false }
    }

    /// What may be closed with now.
    pub(crate) fn in_force(&self) -> Duration {
        self.in_force
    }

    /// What an entry that is stamped now carries.
    pub(crate) fn carried(&self) -> Duration {
        self.carried
    }

    /// Whether a change is on its way.
    pub(crate) fn is_changing(&self) -> bool {
        self.changing
    }

    /// An entry that brings `to` was stamped, above everything that was closed.
    pub(crate) fn propose(&mut self, to: Duration) {
        let early = sabotaged(Sabotage::LeadBeforeCommit);
        self.in_force = if early { to } else { self.in_force.min(to) };
        self.carried = to;
        self.changing = true;
    }

    /// The entry that brings the change is committed, or it is lost: then what was not closed with yet never will be, and
    /// entries say so from now on.
    pub(crate) fn settle(&mut self, committed: bool) {
        if committed {
            self.in_force = self.carried;
        } else {
            self.carried = self.in_force;
        }
        self.changing = false;
    }
}

/// The lead time at the end of a log (rule K2).
///
/// * `last`: index and lead time of its last stamped entry, applied or not; `None`: it has none.
/// * `applied`, `state`: up to where the state goes, and its lead time. A snapshot may have brought it past that entry.
pub(crate) fn at_log_end(last: Option<(u64, Duration)>, applied: Option<u64>, state: Duration) -> Duration {
    last.filter(|(index, _)| applied.is_none_or(|applied| applied < *index)).map_or(state, |(_, lead)| lead)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_larger_one_is_closed_with_once_it_is_committed() {
        let mut lead = LeadTime::of_log(ms(200));
        lead.propose(ms(800));
        assert_eq!((lead.in_force(), lead.carried(), lead.is_changing()), (ms(200), ms(800), true));
        lead.settle(true);
        assert_eq!((lead.in_force(), lead.carried(), lead.is_changing()), (ms(800), ms(800), false));
    }

    #[test]
    fn a_smaller_one_is_closed_with_at_once() {
        let mut lead = LeadTime::of_log(ms(800));
        lead.propose(ms(200));
        assert_eq!((lead.in_force(), lead.carried()), (ms(200), ms(200)));
        lead.settle(true);
        assert_eq!(lead, LeadTime::of_log(ms(200)));
    }

    #[test]
    fn an_entry_that_is_not_applied_yet_counts_and_a_newer_state_does() {
        for (last, applied, state, expected, why) in [
            (None, None, 0, 0, "nothing was ever said"),
            (None, Some(9), 200, 200, "the log is purged"),
            (Some((5, 800)), None, 0, 800, "nothing is applied"),
            (Some((5, 800)), Some(4), 200, 800, "not applied yet"),
            (Some((5, 100)), Some(4), 200, 100, "lowered: everything closed before is below its stamp"),
            (Some((5, 200)), Some(5), 200, 200, "applied"),
            (Some((5, 200)), Some(90), 800, 800, "a snapshot has brought more"),
        ] {
            let last = last.map(|(index, lead)| (index, ms(lead)));
            assert_eq!(at_log_end(last, applied, ms(state)), ms(expected), "{why}");
        }
    }

    #[test]
    fn a_change_that_is_lost_is_taken_back_and_no_promise_with_it() {
        let mut lead = LeadTime::of_log(ms(200));
        lead.propose(ms(800));
        lead.settle(false);
        assert_eq!(lead, LeadTime::of_log(ms(200)));
        lead.propose(ms(100));
        lead.settle(false);
        assert_eq!(lead, LeadTime::of_log(ms(100)), "it may be in the log: whoever finds it there closes with no more");
    }
}
