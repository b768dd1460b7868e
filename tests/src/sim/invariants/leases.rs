//! A lease that is found valid belongs to the greatest leadership there is, and to none that is being handed over.
//!
//! * When a leader finds its lease valid, no greater leadership has begun on any node (R2, R3, R5, R6). So two nodes
//!   never have valid leases at once. This rests on the rate of the machines' monotonic clocks alone, and holds when the
//!   interval clocks break their bounds.
//! * An entry brings the same timers on every replica (R3).
//! * Once a transfer has begun under a leadership, its lease is gone (R4): for good, or until the transfer is given up
//!   before anybody was told of it.
//!
//! Source: rules R2 to R6, Z0.

use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_types::{LeaderId, NodeId, RaftTiming, ShardId, Timestamp};
use std::collections::BTreeMap;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Leases {
    greatest: BTreeMap<ShardId, LeaderId>,
    handed_over: Table<(ShardId, LeaderId), NodeId>,
    /// By the entry's stamp.
    timings: BTreeMap<(ShardId, Timestamp), (NodeId, RaftTiming)>,
}

impl Invariant for Leases {
    fn name(&self) -> &'static str {
        "leases"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let node = seen.node;
        match seen.what {
            What::Event(Event::Led { shard, leader, .. }) => {
                let greatest = self.greatest.entry(*shard).or_insert(*leader);
                *greatest = (*greatest).max(*leader);
            }
            What::Event(Event::Transferring { shard, leader, to }) => {
                self.handed_over.insert((*shard, *leader), *to);
            }
            What::Event(Event::TransferGivenUp { shard, leader }) => {
                self.handed_over.remove(&(*shard, *leader));
            }
            What::Event(Event::TimersAgreed { shard, ts, timing }) => {
                let (other, before) = *self.timings.entry((*shard, *ts)).or_insert((node, *timing));
                if before != *timing {
                    return Err(format!(
                        "the entry {ts} of {shard} brings {timing:?} on {node}, {before:?} on {other}"
                    ));
                }
            }
            What::Event(Event::LeaseValid { shard, leader }) => {
                if leader.node != node {
                    return Err(format!("{node} finds the lease of {leader} in {shard} valid"));
                }
                if let Some(greater) = self.greatest.get(shard).filter(|g| *g > leader) {
                    return Err(format!("{node} finds its lease as {leader} in {shard} valid; {greater} leads"));
                }
                if let Some(to) = self.handed_over.get(&(*shard, *leader)) {
                    return Err(format!(
                        "{node} finds its lease as {leader} in {shard} valid, while it hands over to {to}"
                    ));
                }
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

    fn script() -> Script {
        let mut s = Script::new(Leases::default());
        s.ok(1, led(leader(1, 1), 0));
        s.ok(1, lease(leader(1, 1)));
        s
    }

    #[test]
    fn a_transfer_ends_the_lease_until_it_is_given_up() {
        let mut s = script();
        s.ok(1, transferring(leader(1, 1), 2));
        s.ok(1, transfer_given_up(leader(1, 1)));
        s.ok(1, lease(leader(1, 1)));
        s.ok(1, transferring(leader(1, 1), 2));
        s.bad(1, lease(leader(1, 1)), "while it hands over");
    }

    #[test]
    fn leases_follow_one_another() {
        let mut s = script();
        s.ok(1, transferring(leader(1, 1), 2));
        s.ok(2, led(leader(2, 2), 0));
        s.ok(2, lease(leader(2, 2)));
        s.ok(1, led(leader(1, 1), 0)); // late, and without a lease
        s.ok(2, lease(leader(2, 2)));
        s.end();
    }

    #[test]
    fn a_lease_ends_before_the_next_leadership() {
        let mut s = script();
        s.ok(2, led(leader(1, 2), 0));
        s.bad(1, lease(leader(1, 1)), "T1/n2 leads");
    }

    #[test]
    fn a_transfer_ends_the_lease() {
        let mut s = script();
        s.ok(1, transferring(leader(1, 1), 2));
        s.bad(1, lease(leader(1, 1)), "hands over to n2");
    }

    #[test]
    fn an_entry_brings_the_same_timers_everywhere() {
        let mut s = script();
        s.ok(1, timers_agreed(50, 600));
        s.ok(2, timers_agreed(50, 600));
        s.ok(2, timers_agreed(60, 900));
        s.bad(1, timers_agreed(60, 600), "brings");
    }

    #[test]
    fn a_lease_is_the_leaders_own() {
        let mut s = script();
        s.bad(2, lease(leader(1, 1)), "finds the lease of T1/n1");
    }
}
