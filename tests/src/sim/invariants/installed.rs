//! A snapshot brings the shard's last timestamp along.
//!
//! After a snapshot up to an entry is installed, the replica's last timestamp is not below any stamp that was applied
//! anywhere at or below that entry's index, and it applies stamps above it from there on: the apply guard guards as well
//! as it did before (S5).
//!
//! Source: rules D3, S5.

use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_types::{NodeId, ShardId, Timestamp};
use std::collections::BTreeMap;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Installed {
    /// Of each shard, the last stamp of applied entries by their index. Both go up together.
    stamps: BTreeMap<ShardId, BTreeMap<u64, Timestamp>>,
    /// What a replica has to exceed next.
    last: BTreeMap<(NodeId, ShardId), Timestamp>,
}

impl Invariant for Installed {
    fn name(&self) -> &'static str {
        "installed"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let node = seen.node;
        match seen.what {
            What::Event(Event::Applied { shard, id, stamps: Some((first, last)), stale: false, .. }) => {
                self.stamps.entry(*shard).or_default().insert(id.index, *last);
                match self.last.remove(&(node, *shard)) {
                    Some(above) if *first <= above => {
                        Err(format!("{node} applied {id} of {shard}, stamped {first}, after a snapshot up to {above}"))
                    }
                    _ => Ok(()),
                }
            }
            What::Event(Event::Opened { shard, .. }) => {
                self.last.remove(&(node, *shard));
                Ok(())
            }
            What::Event(Event::Installed { shard, id, last_ts }) => {
                self.last.insert((node, *shard), *last_ts);
                let Some(id) = id else { return Ok(()) };
                let applied = self.stamps.get(shard).and_then(|stamps| stamps.range(..=id.index).next_back());
                match applied {
                    Some((index, stamp)) if stamp > last_ts => Err(format!(
                        "{node} installed {shard} up to {id} with the last timestamp {last_ts}; {index} was applied \
                         with {stamp}"
                    )),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;

    fn script() -> Script {
        let mut s = Script::new(Installed::default());
        for index in 1..=3 {
            s.ok(1, applied(id(1, 1, index), 10 * index));
        }
        s.ok(1, applied(id(1, 1, 4), 0));
        s
    }

    #[test]
    fn a_whole_snapshot_is_fine() {
        let mut s = script();
        s.ok(2, installed(id(1, 1, 2), 20));
        s.ok(2, applied(id(1, 1, 3), 30));
        s.ok(3, installed(id(1, 1, 4), 30));
        s.ok(3, applied(id(1, 1, 5), 31));
        s.end();
    }

    #[test]
    fn a_snapshot_without_its_last_stamp_is_not() {
        let mut s = script();
        s.bad(2, installed(id(1, 1, 2), 0), "2 was applied with 20");
        let mut s = script();
        s.bad(2, installed(id(1, 1, 4), 29), "3 was applied with 30");
    }

    #[test]
    fn stamps_go_on_above_it() {
        let mut s = script();
        s.ok(2, installed(id(1, 1, 3), 30));
        s.bad(2, applied(id(1, 1, 5), 30), "after a snapshot up to 30");
    }
}
