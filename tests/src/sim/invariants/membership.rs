//! Memberships change in safe steps, one at a time.
//!
//! * Consecutive memberships of a log share a half: they are equal, or the next adds a second half, or it leaves a joint
//!   one for one of its halves. So a majority of the one meets every majority of the other.
//! * A leader appends the next one only once the one before it is committed: a majority of it has it on disk.
//!
//! Source: `openraft.md` section 6; Raft, joint consensus; rule O2.

use super::memberships::{Holders, Membership, Memberships};
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_types::{LogId, NodeId, ShardId};
use std::collections::BTreeSet;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct SafeMemberships {
    holders: Holders,
    memberships: Memberships,
}

/// Whether a majority of the one meets every majority of the other.
fn share_a_half(a: &[Vec<NodeId>], b: &[Vec<NodeId>]) -> bool {
    let sets = |halves: &[Vec<NodeId>]| -> Vec<BTreeSet<NodeId>> {
        halves.iter().map(|half| half.iter().copied().collect()).collect()
    };
    let b = sets(b);
    sets(a).iter().any(|half| b.contains(half))
}

impl SafeMemberships {
    fn appended(&self, seen: &Seen<'_>, shard: ShardId, id: LogId, next: &[Vec<NodeId>]) -> Result<(), String> {
        let node = seen.node;
        if next.is_empty() || next.iter().any(Vec::is_empty) {
            return Err(format!("{id} of {shard} leaves a half without voters: {next:?}"));
        }
        if self.holders.is_doubtful(node, shard) {
            return Ok(());
        }
        let before = id.index.checked_sub(1).and_then(|i| self.memberships.in_force(node, shard, i));
        let Some(before) = before else { return Ok(()) };
        if !share_a_half(&before.voters, next) {
            let (old, voters) = (before.id, &before.voters);
            return Err(format!("{id} of {shard} has the voters {next:?}; {old} before it has {voters:?}"));
        }
        if node == id.leader.node && !self.is_committed(seen, shard, before) {
            let (old, voters) = (before.id, &before.voters);
            let holders = self.holders.among(seen.disks, shard, old, voters);
            return Err(format!(
                "{node} appends {id} of {shard} with the voters {next:?}, and {old} is not committed: of {voters:?} it \
                 is durable on {holders:?}"
            ));
        }
        Ok(())
    }

    fn is_committed(&self, seen: &Seen<'_>, shard: ShardId, membership: &Membership) -> bool {
        self.memberships.is_applied(shard, membership)
            || self.holders.is_chosen(seen.disks, shard, membership.id, &membership.voters)
    }
}

impl Invariant for SafeMemberships {
    fn name(&self) -> &'static str {
        "membership"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let result = match seen.what {
            What::Event(Event::Appended { shard, id, voters: Some(voters), .. }) => {
                self.appended(seen, *shard, *id, voters)
            }
            _ => Ok(()),
        };
        self.memberships.follow(seen);
        self.holders.follow(seen);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;
    use crate::sim::invariant::Stop;

    /// Three voters, all with the first membership on disk.
    fn script() -> Script {
        let mut s = Script::new(SafeMemberships::default());
        for node in [1, 2, 3] {
            add(&mut s, node, id(0, node, 0), &[&[1, 2, 3]]);
        }
        for node in [2, 3] {
            s.ok(node, truncated(0));
            add(&mut s, node, id(0, 1, 0), &[&[1, 2, 3]]);
        }
        s
    }

    fn add(s: &mut Script, node: u64, id: LogId, halves: &[&[u64]]) {
        s.ok(node, voters(id, halves));
        s.disk(node, id.index + 1);
        s.ok(node, synced(id.index));
    }

    #[test]
    fn joint_steps_are_safe() {
        let mut s = script();
        let steps: [&[&[u64]]; 5] =
            [&[&[3, 2, 1]], &[&[1, 2, 3], &[2, 3, 4]], &[&[2, 3, 4]], &[&[2, 3, 4], &[4]], &[&[4]]];
        for (index, halves) in (1..).zip(steps) {
            for node in [1, 2, 3] {
                add(&mut s, node, id(1, 1, index), halves);
            }
            if index == 1 {
                for i in 0..=1 {
                    add(&mut s, 4, id(i, 1, i), steps[0]);
                }
            } else {
                add(&mut s, 4, id(1, 1, index), halves);
            }
        }
        s.end();
    }

    #[test]
    fn an_unsafe_step_is_refused_on_every_node() {
        let mut s = script();
        s.bad(1, voters(id(1, 1, 1), &[&[1, 2, 3, 4]]), "T0/n1#0 before it has");
        let mut s = script();
        s.bad(2, voters(id(1, 1, 1), &[&[2, 3, 4]]), "before it has");
        let mut s = script();
        s.bad(1, voters(id(1, 1, 1), &[&[1, 2], &[2, 3]]), "before it has");
        let mut s = script();
        s.bad(1, voters(id(1, 1, 1), &[&[1, 2, 3], &[]]), "without voters");
    }

    #[test]
    fn one_change_at_a_time() {
        let mut s = script();
        add(&mut s, 1, id(1, 1, 1), &[&[1, 2, 3], &[2, 3, 4]]);
        s.bad(1, voters(id(1, 1, 2), &[&[2, 3, 4]]), "is not committed");
        let mut s = script();
        add(&mut s, 1, id(1, 1, 1), &[&[1, 2, 3], &[2, 3, 4]]);
        s.ok(2, voters(id(1, 1, 1), &[&[1, 2, 3], &[2, 3, 4]]));
        s.ok(2, voters(id(1, 1, 2), &[&[2, 3, 4]])); // not the leader: it appends what it gets
        s.end();
    }

    #[test]
    fn an_applied_membership_is_committed() {
        let mut s = script();
        add(&mut s, 1, id(1, 1, 1), &[&[1, 2, 3], &[2, 3, 4]]);
        s.ok(1, applied(id(1, 1, 1), 0));
        s.ok(1, voters(id(1, 1, 2), &[&[2, 3, 4]]));
        s.end();
    }

    #[test]
    fn a_removed_membership_is_not_in_force() {
        let mut s = script();
        add(&mut s, 2, id(1, 1, 1), &[&[1, 2, 3], &[2, 3, 4]]);
        s.ok(2, truncated(1));
        s.ok(2, appended(id(2, 3, 1), 0));
        s.bad(2, voters(id(2, 3, 2), &[&[2, 3, 4]]), "before it has");
        let mut s = script();
        s.ok(2, voters(id(1, 1, 1), &[&[1, 2, 3], &[2, 3, 4]]));
        s.restart(2, Stop::PowerLost);
        s.ok(2, opened(1, 0));
        s.bad(2, voters(id(1, 1, 1), &[&[2, 3, 4]]), "before it has");
    }
}
