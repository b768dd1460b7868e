//! What a leader calls committed is on the disks of a majority; what a node calls synced is on its disk; what it has
//! applied is there too.
//!
//! * When a leader says that one of its entries is committed, a majority of every half of the membership has that very
//!   entry in its log, on its disk (G1, O1). The membership is the one in force at the entry's index in the leader's
//!   log, or a later one of that log: openraft counts by the newest, and consecutive ones share a half. Learners never
//!   count (O2).
//! * When a node says that its log is synced up to an index, a power loss leaves at least that much of it. What was
//!   removed in between is excepted.
//! * Whatever a replica applies, a power loss leaves it in its own log, unless it was given up (D1).
//!
//! Source: rules O1, O2, D1; guarantee G1; `openraft.md` section 1.

use super::memberships::{Holders, Memberships};
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_types::{LogId, ShardId};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct DurableCommit {
    holders: Holders,
    memberships: Memberships,
}

impl DurableCommit {
    fn committed(&self, seen: &Seen<'_>, shard: ShardId, id: LogId) -> Result<(), String> {
        let node = seen.node;
        if self.holders.is_doubtful(node, shard) {
            return Ok(());
        }
        let Some(membership) = self.memberships.in_force(node, shard, id.index) else {
            return Err(format!("{node} calls {id} of {shard} committed, and its log has no membership"));
        };
        let mut later = self.memberships.above(node, shard, id.index);
        let chosen = |m| self.holders.is_chosen(seen.disks, shard, id, m);
        if chosen(&membership.voters) || later.any(|m| chosen(&m.voters)) {
            return Ok(());
        }
        let voters = &membership.voters;
        let holders = self.holders.among(seen.disks, shard, id, voters);
        Err(format!("{node} calls {id} of {shard} committed; of the voters {voters:?} it is durable on {holders:?}"))
    }
}

impl Invariant for DurableCommit {
    fn name(&self) -> &'static str {
        "durable-commit"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let node = seen.node;
        self.memberships.follow(seen);
        let vouched = self.holders.follow(seen);
        match seen.what {
            What::Event(Event::Committed { shard, id }) => self.committed(seen, *shard, *id),
            What::Event(Event::Synced { shard, upto }) => {
                if vouched.is_none_or(|vouched| self.holders.is_durable(seen.disks, node, *shard, vouched)) {
                    return Ok(());
                }
                let end = seen.disks.synced_end(node, *shard);
                Err(format!(
                    "{node} calls its log of {shard} synced up to {upto}; a power loss would leave it up to before {end}"
                ))
            }
            What::Event(Event::Applied { shard, id, .. }) => {
                if self.holders.is_durable(seen.disks, node, *shard, id.index) {
                    return Ok(());
                }
                let end = seen.disks.synced_end(node, *shard);
                Err(format!("{node} applied {id} of {shard}; a power loss would leave its log up to before {end}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;
    use crate::sim::invariant::Stop;

    /// Three voters and a learner with the membership entry on disk, and another entry that is not synced yet.
    fn script() -> Script {
        let mut s = Script::new(DurableCommit::default());
        for node in [1, 2, 3, 4] {
            s.ok(node, voters(id(0, 1, 0), &[&[1, 2, 3]]));
            s.disk(node, 1);
            s.ok(node, appended(id(1, 1, 1), 10));
        }
        s
    }

    fn sync(s: &mut Script, node: u64, upto: u64) {
        s.disk(node, upto + 1);
        s.ok(node, synced(upto));
    }

    #[test]
    fn a_majority_commits() {
        let mut s = script();
        sync(&mut s, 2, 1);
        sync(&mut s, 3, 1); // the leader's own disk is not needed
        s.ok(1, committed(id(1, 1, 1)));
        s.ok(2, applied(id(1, 1, 1), 10));
        s.ok(2, purged(1));
        s.ok(1, committed(id(1, 1, 1)));
        s.end();
    }

    #[test]
    fn a_minority_does_not() {
        let mut s = script();
        sync(&mut s, 2, 1);
        s.bad(1, committed(id(1, 1, 1)), "durable on [NodeId(2)]");
    }

    #[test]
    fn a_learner_does_not_count() {
        let mut s = script();
        sync(&mut s, 1, 1);
        sync(&mut s, 4, 1);
        s.bad(1, committed(id(1, 1, 1)), "durable on [NodeId(1)]");
    }

    #[test]
    fn another_entry_at_the_index_does_not_count() {
        let mut s = script();
        s.ok(3, truncated(1));
        s.ok(3, appended(id(2, 3, 1), 11));
        sync(&mut s, 1, 1);
        sync(&mut s, 3, 1);
        s.bad(1, committed(id(1, 1, 1)), "durable on [NodeId(1)]");
    }

    #[test]
    fn both_halves_have_to_agree() {
        let joint = |s: &mut Script| {
            for node in [1, 2, 3, 4] {
                s.ok(node, voters(id(1, 1, 2), &[&[1, 2, 3], &[2, 3, 4]]));
            }
        };
        let mut s = script();
        joint(&mut s);
        sync(&mut s, 1, 2);
        sync(&mut s, 3, 2);
        s.bad(1, committed(id(1, 1, 2)), "durable on [NodeId(1), NodeId(3)]");
        sync(&mut s, 4, 2);
        s.ok(1, committed(id(1, 1, 2)));
        s.end();
    }

    #[test]
    fn a_later_membership_of_the_log_may_count() {
        let mut s = script();
        for node in [1, 2, 3, 4] {
            s.ok(node, voters(id(1, 1, 2), &[&[1, 2, 3], &[1, 4]]));
            sync(&mut s, node, 2);
            s.ok(node, appended(id(1, 1, 3), 30));
        }
        s.ok(1, voters(id(1, 1, 4), &[&[1, 4]]));
        sync(&mut s, 1, 4);
        sync(&mut s, 4, 3);
        s.ok(1, committed(id(1, 1, 3)));
        s.end();
    }

    #[test]
    fn a_membership_may_come_in_a_snapshot() {
        let mut s = script();
        sync(&mut s, 2, 1);
        s.ok(2, applied(id(0, 1, 0), 0));
        s.ok(5, installed(id(1, 1, 1), 10));
        s.ok(5, purged(1));
        for node in [5, 3] {
            if node == 3 {
                sync(&mut s, node, 1);
            }
            s.ok(node, appended(id(2, 5, 2), 20));
        }
        sync(&mut s, 5, 2);
        sync(&mut s, 3, 2);
        s.bad(5, committed(id(2, 5, 2)), "durable on [NodeId(3)]"); // n5 is no voter
    }

    #[test]
    fn a_membership_that_a_snapshot_has_replaced_counts_no_more() {
        let mut s = script();
        sync(&mut s, 2, 1);
        s.ok(2, applied(id(0, 1, 0), 0));
        // Nobody else has it, and the next leader's log has something else there.
        s.ok(1, voters(id(1, 1, 2), &[&[1, 2, 3], &[1, 4]]));
        for node in [1, 3] {
            s.ok(node, installed(id(2, 2, 3), 20));
            s.ok(node, purged(3));
            s.ok(node, appended(id(3, 1, 4), 30));
            sync(&mut s, node, 4);
        }
        s.ok(1, committed(id(3, 1, 4)));
        s.end();
    }

    #[test]
    fn synced_means_on_disk() {
        let mut s = script();
        s.bad(2, synced(1), "up to before 1");
    }

    #[test]
    fn a_sync_of_what_was_removed_since_is_not_held_against_anybody() {
        let mut s = script();
        s.ok(2, appended(id(1, 1, 2), 20));
        s.ok(2, truncated(2));
        s.disk(2, 2);
        s.ok(2, appended(id(2, 3, 2), 15));
        s.ok(2, synced(2)); // the removed one
        s.bad(2, synced(2), "up to before 2");
    }

    #[test]
    fn a_node_whose_shard_was_removed_had_it_on_disk() {
        let mut s = script();
        sync(&mut s, 2, 1);
        sync(&mut s, 3, 1);
        s.disk(2, 0);
        s.ok(1, committed(id(1, 1, 1)));
        s.restart(2, Stop::PowerLost);
        s.ok(2, opened(0, 0));
        s.bad(1, committed(id(1, 1, 1)), "durable on [NodeId(3)]");
    }

    #[test]
    fn nothing_is_applied_that_is_not_on_disk() {
        let mut s = script();
        s.bad(2, applied(id(1, 1, 1), 10), "n2 applied");
    }
}
