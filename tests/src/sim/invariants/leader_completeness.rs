//! A new leader's log has every entry that was committed under a smaller leader id.
//!
//! Committed is what the node whose entry it is says so of, and what any replica has applied. Who committed it, nobody
//! says: the greatest leadership seen so far, or a smaller one. It is enough to look at the last of them: what is below
//! is the same in all logs that have it (log matching). Entries that were given up, or came in a snapshot, are in the
//! state and need not be in the log.
//!
//! A leader that learns late that it was elected may lack what greater leaders committed meanwhile (Z0).
//!
//! Source: Raft, leader completeness; rules Z0, S4.

use super::logs::{Logs, Slot};
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_types::{LeaderId, LogId, NodeId, ShardId};
use std::collections::BTreeMap;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct LeaderCompleteness {
    logs: Logs<LogId>,
    shards: BTreeMap<ShardId, Shard>,
}

#[derive(Default)]
struct Shard {
    /// The greatest leadership that can have committed anything.
    greatest: LeaderId,
    /// By the leadership that committed it, or a greater one: the last committed entry.
    committed: BTreeMap<LeaderId, LogId>,
}

impl Shard {
    fn commit(&mut self, id: LogId) {
        let by = self.greatest.max(id.leader);
        let last = self.committed.entry(by).or_insert(id);
        if id.index > last.index {
            *last = id;
        }
    }
}

impl LeaderCompleteness {
    fn led(&self, node: NodeId, shard: ShardId, leader: LeaderId) -> Result<(), String> {
        let Some(committed) = self.shards.get(&shard).map(|s| &s.committed) else { return Ok(()) };
        for (by, id) in committed.range(..leader) {
            let has = match self.logs.get(node, shard).map_or(Slot::Missing, |log| log.get(id.index)) {
                Slot::Known(has) if has == id => continue,
                Slot::Gone | Slot::Doubtful => continue,
                Slot::Known(has) => has.to_string(),
                Slot::Missing => "nothing".to_owned(),
            };
            return Err(format!(
                "{node} leads {shard} as {leader} and has {has} at {}, where {id} was committed by {by} or before",
                id.index
            ));
        }
        Ok(())
    }
}

impl Invariant for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "leader-completeness"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen.what {
            What::Event(Event::Appended { shard, id, .. }) => {
                // Whether it belongs there is log matching's to say.
                let _ = self.logs.log(seen.node, *shard).append(id.index, *id);
                let shard = self.shards.entry(*shard).or_default();
                shard.greatest = shard.greatest.max(id.leader);
            }
            What::Event(Event::Committed { shard, id } | Event::Applied { shard, id, .. }) => {
                self.shards.entry(*shard).or_default().commit(*id);
            }
            What::Event(Event::Led { shard, leader, .. }) => {
                self.led(seen.node, *shard, *leader)?;
                let shard = self.shards.entry(*shard).or_default();
                shard.greatest = shard.greatest.max(*leader);
            }
            What::Event(Event::VoteSaved { shard, leader, committed: true }) => {
                let shard = self.shards.entry(*shard).or_default();
                shard.greatest = shard.greatest.max(*leader);
                self.logs.follow(seen);
            }
            _ => {
                self.logs.follow(seen);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;
    use crate::sim::invariant::Stop;

    /// Three nodes; the first leads and has one entry committed on itself and the second.
    fn script() -> Script {
        let mut s = Script::new(LeaderCompleteness::default());
        s.ok(1, led(leader(1, 1), 0));
        for node in [1, 2] {
            s.ok(node, appended(id(1, 1, 0), 10));
            s.ok(node, appended(id(1, 1, 1), 20));
        }
        s.ok(3, appended(id(1, 1, 0), 10));
        s.ok(1, committed(id(1, 1, 1)));
        s
    }

    #[test]
    fn a_leader_that_has_everything_may_lead() {
        let mut s = script();
        s.ok(2, led(leader(2, 2), 20));
        s.ok(3, appended(id(1, 1, 1), 20));
        s.ok(3, applied(id(1, 1, 1), 20));
        s.ok(3, led(leader(3, 3), 20));
        s.end();
    }

    #[test]
    fn a_leader_without_a_committed_entry_may_not() {
        let mut s = script();
        s.bad(3, led(leader(2, 3), 10), "has nothing at 1");
    }

    #[test]
    fn a_leader_with_another_entry_may_not() {
        let mut s = script();
        s.ok(3, appended(id(2, 3, 1), 15));
        s.bad(3, led(leader(3, 3), 15), "has T2/n3#1 at 1");
    }

    #[test]
    fn an_applied_entry_is_a_committed_one() {
        let mut s = Script::new(LeaderCompleteness::default());
        s.ok(1, led(leader(1, 1), 0));
        s.ok(1, appended(id(1, 1, 0), 10));
        s.ok(1, applied(id(1, 1, 0), 10));
        s.bad(2, led(leader(2, 2), 0), "has nothing");
    }

    #[test]
    fn one_who_learns_late_of_its_election_may_lack_what_came_since() {
        let mut s = script();
        s.ok(2, led(leader(3, 2), 20));
        s.ok(2, appended(id(3, 2, 2), 30));
        s.ok(2, applied(id(1, 1, 1), 20)); // committed by whom, nobody says: at most by T3/n2
        s.ok(2, applied(id(3, 2, 2), 30));
        s.ok(1, led(leader(2, 1), 20));
        s.bad(1, led(leader(4, 1), 20), "has nothing at 2");
    }

    #[test]
    fn what_came_in_a_snapshot_or_was_given_up_need_not_be_in_the_log() {
        let mut s = script();
        s.ok(3, installed(id(1, 1, 1), 20));
        s.ok(3, led(leader(2, 3), 20));
        s.ok(2, purged(1));
        s.ok(2, led(leader(3, 2), 20));
        s.end();
    }

    #[test]
    fn a_log_cut_by_a_power_loss_is_short() {
        let mut s = script();
        s.restart(2, Stop::PowerLost);
        s.ok(2, opened(1, 0));
        s.bad(2, led(leader(2, 2), 10), "has nothing at 1");
    }

    #[test]
    fn an_entry_that_may_have_come_back_proves_nothing() {
        let mut s = script();
        s.ok(3, appended(id(1, 1, 1), 20));
        s.ok(3, truncated(1));
        s.restart(3, Stop::PowerLost);
        s.ok(3, opened(2, 0));
        s.ok(3, led(leader(2, 3), 20));
        s.end();
    }
}
