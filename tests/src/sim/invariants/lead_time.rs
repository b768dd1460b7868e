//! Lead times are replicated state, and linearizable reads at the reader's clock see all that they have to.
//!
//! * An entry changes the lead time to the same value on every replica (K1, A1).
//! * A linearizable read that stops at a timestamp, because a replica answers it at its own clock or leaves out what is ahead
//!   of that clock, stops at no time before it began, as long as clocks keep their bounds (K3). Everything that was
//!   acknowledged by then had a smaller timestamp (`commit_wait`); that nothing below is missing is `served_reads`.
//!
//! Source: rules K1, K3.

use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::{Event, ReadKind};
use meridian_types::{NodeId, ShardId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct LeadTimes {
    /// By the entry's stamp.
    changes: BTreeMap<(ShardId, Timestamp), (NodeId, Duration)>,
    /// The first event at each instant of true time.
    instants: Vec<(u64, u64)>,
}

impl LeadTimes {
    /// True time at an event; 0 before the first.
    fn true_at(&self, number: u64) -> u64 {
        let after = self.instants.partition_point(|(first, _)| *first <= number);
        after.checked_sub(1).and_then(|at| self.instants.get(at)).map_or(0, |(_, true_ns)| *true_ns)
    }
}

/// Whether a linearizable read stopped at a timestamp.
fn stops(kind: ReadKind, at: Timestamp, applied: Timestamp) -> bool {
    match kind {
        ReadKind::Ahead => true,
        ReadKind::Linearizable | ReadKind::Followed => at < applied,
        ReadKind::ReadIndex | ReadKind::Snapshot | ReadKind::Bounded | ReadKind::Causal | ReadKind::Local => false,
    }
}

impl Invariant for LeadTimes {
    fn name(&self) -> &'static str {
        "lead-time"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        // What is no event has the number of the one before it, and may be later.
        let What::Event(event) = seen.what else { return Ok(()) };
        if self.instants.last().is_none_or(|(_, true_ns)| *true_ns != seen.true_ns) {
            self.instants.push((seen.number, seen.true_ns));
        }
        match event {
            Event::LeadTime { shard, ts, lead } => {
                let (node, other) = *self.changes.entry((*shard, *ts)).or_insert((seen.node, *lead));
                if other != *lead {
                    let here = seen.node;
                    return Err(format!(
                        "the entry {ts} of {shard} sets a lead time of {lead:?} on {here}, {other:?} on {node}"
                    ));
                }
            }
            Event::Read { shard, kind, at, applied, began, .. } if seen.clocks_good && stops(*kind, *at, *applied) => {
                let true_ns = self.true_at(*began);
                if at.0 < true_ns {
                    let node = seen.node;
                    return Err(format!(
                        "{node} answered a {kind:?} read of {shard} at {at}, which began at event {began}, at true time {true_ns}"
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
    use ReadKind::{Ahead, Followed, Linearizable, Local};

    fn script() -> Script {
        let mut s = Script::new(LeadTimes::default());
        s.now = 100;
        s.ok(1, lead_time(50, 20));
        s.now = 200;
        s.ok(2, lead_time(50, 20));
        s
    }

    #[test]
    fn reads_stop_at_or_after_the_time_at_which_they_began() {
        let mut s = script();
        let began = s.mark();
        s.now = 300;
        s.ok(1, read(Ahead, 200, 90, key("a"), began));
        s.ok(1, read(Followed, 250, 260, key("a"), began));
        s.ok(1, read(Local, 10, 260, key("a"), began));
        s.ok(1, read(Linearizable, 150, 150, key("a"), began)); // everything that is applied
        s.end();
    }

    #[test]
    fn a_read_that_stops_before_it_began_is_found() {
        for (kind, applied) in [(Ahead, 90), (Linearizable, 260), (Followed, 260)] {
            let mut s = script();
            let began = s.mark();
            s.now = 300;
            s.bad(1, read(kind, 199, applied, key("a"), began), "at true time 200");
            s.clocks_good = false;
            s.ok(1, read(kind, 199, applied, key("a"), began));
        }
    }

    #[test]
    fn replicas_that_disagree_are_found() {
        let mut s = script();
        s.bad(3, lead_time(50, 21), "20ns on n1");
    }
}
