//! A node whose disk is nearly full writes only what it must.
//!
//! * Its leaders stamp no requests of clients. Barriers are small, and stay; so do changes of the catalog, until the disk is
//!   fuller than nearly full.
//! * With a critical disk it takes no entry of another leader, however small: a log that cannot be written ends the process.
//!
//! What was under way when the disk filled up, or when the node or its disk went on after standing still, has a moment to
//! end. Source: `storage/src/space.rs`.

use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_storage::DiskLevel;
use meridian_types::{KeySpan, NodeId, ShardId};

/// How long what is under way may take, in nanoseconds.
const GRACE_NS: u64 = 1_000_000_000;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct FullDisk {
    /// How full each node's disk is, and since when; what is not here has room.
    disks: Table<NodeId, (DiskLevel, u64)>,
}

impl FullDisk {
    /// The level that the node has had long enough to heed.
    fn level(&self, seen: &Seen<'_>) -> DiskLevel {
        match self.disks.get(&seen.node) {
            Some((level, since)) if seen.true_ns >= since + GRACE_NS => *level,
            Some(_) | None => DiskLevel::Enough,
        }
    }
}

impl Invariant for FullDisk {
    fn name(&self) -> &'static str {
        "full-disk"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen.what {
            What::Disk(level) => {
                self.disks.insert(seen.node, (level, seen.true_ns));
            }
            What::Event(Event::Stamped { shard, first, span, .. }) => {
                let level = self.level(seen);
                let worst = if *shard == ShardId::CATALOG { DiskLevel::NearlyFull } else { DiskLevel::Enough };
                if level > worst && *span != KeySpan::default() {
                    return Err(format!(
                        "{} stamps a request of {shard} at {first} with a disk that is {level:?}",
                        seen.node
                    ));
                }
            }
            What::Event(Event::Appended { shard, id, .. }) => {
                if self.level(seen) == DiskLevel::Critical && id.leader.node != seen.node {
                    return Err(format!("{} takes {id} of {shard} with a disk that is critically full", seen.node));
                }
            }
            What::Started | What::Stopped(_) | What::Event(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;

    fn script(level: DiskLevel) -> Script {
        let mut s = Script::new(FullDisk::default());
        s.ok(1, stamped(leader(1, 1), 10, key("a")));
        s.space(1, level);
        // Under way.
        s.ok(1, stamped(leader(1, 1), 20, key("a")));
        s.ok(1, appended(id(1, 2, 1), 20));
        s.now += GRACE_NS;
        s
    }

    #[test]
    fn a_nearly_full_node_stamps_barriers_and_takes_entries() {
        let mut s = script(DiskLevel::NearlyFull);
        s.ok(1, stamped(leader(1, 1), 30, KeySpan::default()));
        s.ok(1, appended(id(1, 2, 2), 30));
        s.ok(2, stamped(leader(1, 2), 30, key("a")));
        s.end();
    }

    #[test]
    fn a_nearly_full_node_stamps_no_requests() {
        let mut s = script(DiskLevel::NearlyFull);
        s.bad(1, stamped(leader(1, 1), 30, key("a")), "NearlyFull");
    }

    #[test]
    fn a_critically_full_node_takes_only_its_own_entries() {
        let mut s = script(DiskLevel::Critical);
        s.ok(1, appended(id(1, 1, 2), 30));
        s.bad(1, appended(id(1, 2, 2), 0), "critically full");
    }

    #[test]
    fn with_room_again_everything_is_fine() {
        let mut s = script(DiskLevel::Critical);
        s.space(1, DiskLevel::Enough);
        s.now += GRACE_NS;
        s.ok(1, stamped(leader(1, 1), 30, key("a")));
        s.ok(1, appended(id(1, 2, 2), 0));
        s.end();
    }
}
