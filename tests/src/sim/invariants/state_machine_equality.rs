//! Replicas apply the same entries at the same indexes, in order, and come to the same results.
//!
//! * At an index, every replica applies the same log id, with the same stamps, guard verdict and outcomes; and it is
//!   the one that a leader called committed (A1, O5).
//! * A replica applies its indexes one after another. After a restart it goes on from the state that it found: it may
//!   repeat what it had applied before, and it may not leave anything stamped out that the found state lacks (D1).
//! * A snapshot ends at an entry that some replica has applied (D3).
//!
//! Source: Raft, state machine safety; rules A1, O5, D1, D3.

use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::{Digest, Event};
use meridian_types::{LogId, NodeId, ShardId, Timestamp};
use std::collections::BTreeMap;

/// What applying an entry came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Effect {
    stamps: Option<(Timestamp, Timestamp)>,
    stale: bool,
    outcomes: Digest,
}

/// What everybody has at an index.
#[derive(Clone, Copy)]
struct Agreed {
    id: LogId,
    effect: Option<Effect>,
}

/// Where a replica goes on.
#[derive(Clone, Copy)]
enum Next {
    /// At this index.
    Index(u64),
    /// Somewhere after a state that ends at this timestamp.
    After(Timestamp),
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct StateMachineEquality {
    agreed: Table<(ShardId, u64), Agreed>,
    shards: BTreeMap<ShardId, Shard>,
    replicas: Table<(NodeId, ShardId), Next>,
}

#[derive(Default)]
struct Shard {
    /// Index of an applied entry by its last stamp.
    stamped: BTreeMap<Timestamp, u64>,
    /// The index after the last one that anybody has applied.
    end: u64,
}

impl StateMachineEquality {
    fn agree(&mut self, node: NodeId, shard: ShardId, id: LogId, effect: Option<Effect>) -> Result<(), String> {
        let agreed = self.agreed.entry((shard, id.index)).or_insert(Agreed { id, effect });
        if agreed.id != id {
            let does = if effect.is_some() { "applies" } else { "commits" };
            return Err(format!("{node} {does} {id} in {shard}, where {} was before at that index", agreed.id));
        }
        match (agreed.effect, effect) {
            (Some(a), Some(b)) if a != b => {
                Err(format!("{id} of {shard} came to {b:?} on {node}, and to {a:?} elsewhere"))
            }
            (None, Some(_)) => {
                agreed.effect = effect;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_next(&self, node: NodeId, shard: ShardId, index: u64) -> Result<(), String> {
        let found = match self.replicas.get(&(node, shard)).copied().unwrap_or(Next::After(Timestamp::ZERO)) {
            Next::Index(next) if next == index => return Ok(()),
            Next::Index(next) => {
                return Err(format!("{node} applies index {index} of {shard}, and its next is {next}"));
            }
            Next::After(found) => found,
        };
        let known = self.shards.get(&shard);
        let end = known.map_or(0, |known| known.end);
        if index > end {
            return Err(format!("{node} goes on at index {index} of {shard}; nobody has applied {end}"));
        }
        match known.and_then(|known| known.stamped.range(found.next()..).next()) {
            Some((stamp, skipped)) if *skipped < index => Err(format!(
                "{node} found {shard} up to {found} and goes on at index {index}, without {skipped}, stamped {stamp}"
            )),
            _ => Ok(()),
        }
    }

    fn applied(&mut self, node: NodeId, shard: ShardId, id: LogId, effect: Effect) -> Result<(), String> {
        self.check_next(node, shard, id.index)?;
        self.agree(node, shard, id, Some(effect))?;
        self.replicas.insert((node, shard), Next::Index(id.index + 1));
        let known = self.shards.entry(shard).or_default();
        if id.index >= known.end {
            known.end = id.index + 1;
            if let Some((_, last)) = effect.stamps.filter(|_| !effect.stale) {
                known.stamped.insert(last, id.index);
            }
        }
        Ok(())
    }

    fn installed(&mut self, node: NodeId, shard: ShardId, id: LogId) -> Result<(), String> {
        match self.agreed.get(&(shard, id.index)) {
            Some(agreed) if agreed.id != id => {
                return Err(format!("{node} installed {shard} up to {id}, where {} was applied", agreed.id));
            }
            Some(Agreed { effect: Some(_), .. }) => {}
            _ => return Err(format!("{node} installed {shard} up to {id}, which nobody has applied")),
        }
        self.replicas.insert((node, shard), Next::Index(id.index + 1));
        Ok(())
    }
}

impl Invariant for StateMachineEquality {
    fn name(&self) -> &'static str {
        "state-machine-equality"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let node = seen.node;
        match seen.what {
            What::Event(Event::Opened { shard, applied, .. }) => {
                self.replicas.insert((node, *shard), Next::After(*applied));
                Ok(())
            }
            What::Event(Event::Committed { shard, id }) => self.agree(node, *shard, *id, None),
            What::Event(Event::Applied { shard, id, stamps, stale, digest }) => {
                self.applied(node, *shard, *id, Effect { stamps: *stamps, stale: *stale, outcomes: *digest })
            }
            What::Event(Event::Installed { shard, id: Some(id), .. }) => self.installed(node, *shard, *id),
            What::Event(Event::Installed { shard, id: None, last_ts }) => {
                self.replicas.insert((node, *shard), Next::After(*last_ts));
                Ok(())
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

    /// Two replicas that have applied a membership and entries with the stamps 10, 20 and 30.
    fn script() -> Script {
        let mut s = Script::new(StateMachineEquality::default());
        s.ok(1, opened(0, 0));
        s.ok(1, committed(id(1, 1, 1)));
        for node in [1, 2] {
            s.ok(node, applied(id(0, 1, 0), 0));
            for index in 1..=3 {
                s.ok(node, applied(id(1, 1, index), 10 * index));
            }
        }
        s
    }

    #[test]
    fn replicas_apply_the_same_and_repeat_it_after_a_restart() {
        let mut s = script();
        s.restart(2, Stop::PowerLost);
        s.ok(2, opened(4, 10));
        s.ok(2, applied(id(1, 1, 2), 20));
        s.ok(2, applied(id(1, 1, 3), 30));
        s.ok(2, applied(id(1, 1, 4), 40));
        s.restart(1, Stop::Killed);
        s.ok(1, opened(4, 0));
        s.ok(1, applied(id(0, 1, 0), 0));
        s.ok(1, applied(id(1, 1, 1), 10));
        s.end();
    }

    #[test]
    fn an_index_has_one_entry() {
        let mut s = script();
        s.ok(1, applied(id(1, 1, 4), 40));
        s.bad(2, applied(id(2, 2, 4), 40), "was before at that index");
    }

    #[test]
    fn what_is_applied_is_what_was_committed() {
        let mut s = script();
        s.ok(1, committed(id(1, 1, 4)));
        s.bad(2, applied(id(2, 2, 4), 40), "where T1/n1#4 was before");
        let mut s = script();
        s.bad(2, committed(id(2, 2, 3)), "n2 commits");
    }

    #[test]
    fn an_entry_has_one_result() {
        let mut s = script();
        s.ok(1, applied(id(1, 1, 4), 40));
        s.bad(2, applied_as(id(1, 1, 4), 40, 1), "elsewhere");
        let mut s = script();
        s.ok(1, applied(id(1, 1, 4), 40));
        s.bad(2, stale(id(1, 1, 4), 40), "elsewhere");
    }

    #[test]
    fn no_index_is_left_out_or_repeated() {
        let mut s = script();
        s.bad(1, applied(id(1, 1, 5), 50), "its next is 4");
        let mut s = script();
        s.bad(1, applied(id(1, 1, 3), 30), "its next is 4");
        let mut s = script();
        s.bad(3, applied(id(1, 1, 2), 20), "without 1, stamped 10");
    }

    #[test]
    fn a_restarted_replica_leaves_nothing_out_that_its_state_lacks() {
        let mut s = script();
        s.restart(2, Stop::PowerLost);
        s.ok(2, opened(4, 10));
        s.bad(2, applied(id(1, 1, 3), 30), "without 2, stamped 20");
        let mut s = script();
        s.restart(2, Stop::PowerLost);
        s.ok(2, opened(9, 30));
        s.bad(2, applied(id(1, 1, 8), 80), "nobody has applied 4");
    }

    #[test]
    fn a_snapshot_is_of_something_applied() {
        let mut s = script();
        s.ok(3, installed(id(1, 1, 3), 30));
        s.ok(3, applied(id(1, 1, 4), 40));
        s.bad(2, installed(id(2, 2, 4), 40), "where T1/n1#4 was applied");
        let mut s = script();
        s.bad(3, installed(id(1, 1, 4), 40), "nobody has applied");
        let mut s = script();
        s.ok(3, installed(id(1, 1, 3), 30));
        s.bad(3, applied(id(1, 1, 3), 30), "its next is 4");
    }
}
