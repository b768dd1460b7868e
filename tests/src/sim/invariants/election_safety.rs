//! A leader id starts to lead a shard once, and on the node that it names; a node never goes back on its vote.
//!
//! * A leadership that was lost, also by a restart, is never taken up again: the node that restarted may lack entries
//!   of its own that others acknowledged (`openraft.md` section 3).
//! * Leader ids are compared whole, so two leaders in one term are legal, and so is one that learns late that it was
//!   elected, after a greater one (Z0).
//! * What a node votes for or follows goes up, over restarts too: a vote is durable before it is told (G1).
//!
//! Source: Raft, election safety; rules Z0, G1; `openraft.md` sections 1 and 3.

use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_types::{LeaderId, NodeId, ShardId};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct ElectionSafety {
    /// The number of the event with which a leadership began.
    led: Table<(ShardId, LeaderId), u64>,
    votes: Table<(NodeId, ShardId), LeaderId>,
}

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election-safety"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let node = seen.node;
        match seen.what {
            What::Event(Event::Led { shard, leader, .. }) => {
                if leader.node != node {
                    return Err(format!("{node} leads {shard} as {leader}, which names another node"));
                }
                if let Some(before) = self.led.insert((*shard, *leader), seen.number) {
                    return Err(format!("{node} leads {shard} as {leader} again; it began to in event {before}"));
                }
            }
            What::Event(Event::VoteSaved { shard, leader, .. }) => {
                let vote = self.votes.entry((node, *shard)).or_insert(*leader);
                if *leader < *vote {
                    return Err(format!("{node} votes for {leader} in {shard}, after it voted for {vote}"));
                }
                *vote = *leader;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;
    use crate::sim::invariant::Stop;

    fn script() -> Script {
        Script::new(ElectionSafety::default())
    }

    #[test]
    fn leaders_follow_one_another_and_two_may_share_a_term() {
        let mut s = script();
        s.ok(1, led(leader(1, 1), 0));
        s.ok(1, deposed(leader(1, 1)));
        s.ok(2, led(leader(2, 2), 0));
        s.ok(3, led(leader(2, 3), 0));
        s.ok(1, led(leader(2, 1), 0)); // it learns late that it was elected
        s.restart(1, Stop::PowerLost);
        s.ok(1, led(leader(3, 1), 0));
        s.end();
    }

    #[test]
    fn a_restarted_leader_does_not_resume() {
        let mut s = script();
        s.ok(1, led(leader(1, 1), 0));
        s.restart(1, Stop::Killed);
        s.bad(1, led(leader(1, 1), 0), "again");
    }

    #[test]
    fn nobody_leads_under_another_name() {
        let mut s = script();
        s.bad(2, led(leader(1, 1), 0), "another node");
    }

    #[test]
    fn a_vote_survives_a_power_loss() {
        let mut s = script();
        s.ok(1, vote(leader(1, 2)));
        s.ok(1, vote(leader(1, 2)));
        s.ok(1, vote(leader(1, 3)));
        s.ok(2, vote(leader(1, 1)));
        s.restart(1, Stop::PowerLost);
        s.bad(1, vote(leader(1, 2)), "after it voted for T1/n3");
    }
}
