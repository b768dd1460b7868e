//! Old versions go only below a floor that is durable, and nobody reads below it.
//!
//! * A compaction that leaves out old versions keeps to a floor that this node's disk would still have after a power loss
//!   (A2): otherwise a crash could take the floor back, and what admits reads would be below what is gone.
//! * Whoever has applied an entry that raises the floor answers no read below it, and all replicas alike (A2).
//! * A node answers no read below a floor that it has ever collected by, whatever became of it since.
//! * A floor is below the stamp of the entry that raises it, and the same on every replica (A1).
//!
//! That replicas hold the same above their floor is compared in the end, and all along by the outcomes of what they apply
//! (`state_machine_equality`): these may not depend on what is collected.
//!
//! Source: rules A1, A2.

use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::{Event, ReadKind};
use meridian_types::{NodeId, ShardId, Timestamp};
use std::collections::BTreeMap;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct CollectedVersions {
    /// Floors by the stamp of the entry that raised them: the highest up to it.
    raised: BTreeMap<ShardId, BTreeMap<Timestamp, Timestamp>>,
    /// The highest floor that a node has collected by.
    collected: Table<(NodeId, ShardId), Timestamp>,
}

impl CollectedVersions {
    fn raised(&mut self, node: NodeId, shard: ShardId, ts: Timestamp, floor: Timestamp) -> Result<(), String> {
        if floor >= ts {
            return Err(format!("{node} raises the floor of {shard} to {floor} by an entry stamped {ts}"));
        }
        let raised = self.raised.entry(shard).or_default();
        match raised.get(&ts) {
            Some(known) if *known != floor => {
                Err(format!("{node} raises the floor of {shard} to {floor} at {ts}, others to {known}"))
            }
            _ => {
                raised.insert(ts, floor);
                Ok(())
            }
        }
    }

    fn collecting(&mut self, seen: &Seen<'_>, shard: ShardId, floor: Timestamp) -> Result<(), String> {
        let durable = seen.disks.durable_floor(seen.node, shard);
        let highest = self.collected.entry((seen.node, shard)).or_insert(floor);
        *highest = floor.max(*highest);
        if floor > durable {
            return Err(format!("{} collects {shard} below {floor}; {durable} is durable", seen.node));
        }
        Ok(())
    }

    fn read(&self, node: NodeId, shard: ShardId, at: Timestamp, applied: Timestamp) -> Result<(), String> {
        let raised = self.raised.get(&shard).and_then(|raised| raised.range(..=applied).map(|(_, floor)| *floor).max());
        if let Some(floor) = raised.filter(|floor| at < *floor) {
            return Err(format!("{node} answers a read of {shard} at {at}, and has applied a floor of {floor}"));
        }
        match self.collected.get(&(node, shard)) {
            Some(floor) if at < *floor => {
                Err(format!("{node} answers a read of {shard} at {at}, and has collected below {floor}"))
            }
            _ => Ok(()),
        }
    }
}

impl Invariant for CollectedVersions {
    fn name(&self) -> &'static str {
        "collected-versions"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen.what {
            What::Event(Event::FloorRaised { shard, ts, floor }) => self.raised(seen.node, *shard, *ts, *floor),
            What::Event(Event::Collecting { shard, floor }) => self.collecting(seen, *shard, *floor),
            // An index is no read, and says nothing of a timestamp that is read at.
            What::Event(Event::Read { kind: ReadKind::ReadIndex, .. }) => Ok(()),
            What::Event(Event::Read { shard, at, applied, .. }) => self.read(seen.node, *shard, *at, *applied),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;
    use crate::sim::invariant::Stop;
    use ReadKind::{Linearizable, Local, ReadIndex, Snapshot};

    /// The floor is raised to 50 at 100 and to 80 at 200, and the first is durable on node 1.
    fn script() -> Script {
        let mut s = Script::new(CollectedVersions::default());
        for node in [1, 2] {
            s.ok(node, floor_raised(100, 50));
            s.ok(node, floor_raised(200, 80));
        }
        s.durable_floor(1, 50);
        s
    }

    #[test]
    fn collecting_and_reading_keep_to_the_floor() {
        let mut s = script();
        s.ok(1, collecting(50));
        s.ok(1, read(Snapshot, 80, 200, key("a"), 0));
        s.ok(2, read(Local, 50, 199, key("a"), 0)); // the second floor is not applied there
        s.ok(2, read(Snapshot, 1, 99, key("a"), 0));
        s.ok(1, read(ReadIndex, 1, 200, key("a"), 0));
        s.ok(1, read(Linearizable, 200, 200, key("a"), 0));
        s.end();
    }

    #[test]
    fn a_floor_that_is_not_durable_does_not_count() {
        let mut s = script();
        s.bad(1, collecting(80), "is durable");
        let mut s = script();
        s.bad(2, collecting(50), "is durable");
    }

    #[test]
    fn nobody_reads_below_the_floor() {
        let mut s = script();
        s.bad(2, read(Snapshot, 79, 200, key("a"), 0), "has applied a floor of");
        let mut s = script();
        s.bad(1, read(Local, 49, 150, key("a"), 0), "has applied a floor of");
    }

    #[test]
    fn what_was_collected_before_a_crash_stays_collected() {
        let mut s = script();
        s.ok(1, collecting(50));
        s.restart(1, Stop::PowerLost);
        s.ok(1, read(Snapshot, 50, 99, key("a"), 0));
        s.bad(1, read(Snapshot, 49, 99, key("a"), 0), "has collected below");
    }

    #[test]
    fn a_floor_is_the_same_everywhere_and_below_its_entry() {
        let mut s = script();
        s.bad(3, floor_raised(100, 51), "others to");
        let mut s = script();
        s.bad(1, floor_raised(300, 300), "by an entry stamped");
    }
}
