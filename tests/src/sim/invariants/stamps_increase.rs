//! Stamps go up: along every log, at every replica, and under every leadership.
//!
//! * Along each node's log the stamps go up strictly, whatever the leader (S3).
//! * A leadership stamps above everything in its node's log, applied or not, above what it stamped before, and not
//!   below true time, as long as clocks keep their bounds (S2).
//! * A replica applies stamps that go up. The apply guard never fires, and never would have had to (S5).
//!
//! Source: rules S2, S3, S5.

use super::logs::{Logs, Slot};
use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_types::{LeaderId, LogId, NodeId, ShardId, Timestamp};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct StampsIncrease {
    /// For each entry the last stamp up to and including it.
    logs: Logs<Timestamp>,
    /// The last stamp of what is gone from a log.
    gone: Table<(NodeId, ShardId), Timestamp>,
    applied: Table<(NodeId, ShardId), Timestamp>,
    /// The last stamp that a leadership gave, or what it has to exceed.
    given: Table<(ShardId, LeaderId), Timestamp>,
}

impl StampsIncrease {
    /// The last stamp in the log before `index`. Zero where that is not known.
    fn last_before(&self, node: NodeId, shard: ShardId, index: u64) -> Timestamp {
        let Some(log) = self.logs.get(node, shard) else { return Timestamp::ZERO };
        match log.before(index) {
            Some(Slot::Known(last)) => *last,
            Some(Slot::Gone) => self.gone.get(&(node, shard)).copied().unwrap_or_default(),
            Some(Slot::Doubtful | Slot::Missing) | None => Timestamp::ZERO,
        }
    }

    fn appended(
        &mut self,
        node: NodeId,
        shard: ShardId,
        id: LogId,
        stamps: Option<(Timestamp, Timestamp)>,
    ) -> Result<(), String> {
        let before = self.last_before(node, shard, id.index);
        // Whether it belongs there is log matching's to say.
        let _ = self.logs.log(node, shard).append(id.index, stamps.map_or(before, |(_, last)| last));
        match stamps {
            Some((first, last)) if last < first => Err(format!("{id} of {shard} has the stamps {first} to {last}")),
            Some((first, _)) if first <= before => {
                Err(format!("{id} of {shard} is stamped {first}, and comes after {before} in {node}'s log"))
            }
            _ => Ok(()),
        }
    }

    fn led(&mut self, node: NodeId, shard: ShardId, leader: LeaderId, above: Timestamp) -> Result<(), String> {
        let end = self.logs.get(node, shard).map_or(0, |log| log.end());
        let last = self.last_before(node, shard, end);
        self.given.insert((shard, leader), above);
        if above < last {
            return Err(format!("{leader} will stamp above {above} in {shard}, and its log has {last}"));
        }
        Ok(())
    }

    fn stamped(
        &mut self,
        seen: &Seen<'_>,
        shard: ShardId,
        leader: LeaderId,
        (first, last): (Timestamp, Timestamp),
    ) -> Result<(), String> {
        let given = self.given.entry((shard, leader)).or_default();
        if first <= *given || last < first {
            return Err(format!("{leader} stamps {first} to {last} in {shard}, after {given}"));
        }
        *given = last;
        if seen.clocks_good && first.0 < seen.true_ns {
            let true_ns = seen.true_ns;
            return Err(format!("{leader} stamps {first} in {shard}, below true time {true_ns} and so below `latest`"));
        }
        Ok(())
    }

    fn applied(
        &mut self,
        node: NodeId,
        shard: ShardId,
        id: LogId,
        (first, last): (Timestamp, Timestamp),
        stale: bool,
    ) -> Result<(), String> {
        let applied = self.applied.entry((node, shard)).or_default();
        if stale {
            return Err(format!("{node} refused to apply {id} of {shard}, stamped {first}: it has applied {applied}"));
        }
        if first <= *applied {
            return Err(format!("{node} applied {id} of {shard}, stamped {first}, though it had applied {applied}"));
        }
        *applied = last;
        Ok(())
    }
}

impl Invariant for StampsIncrease {
    fn name(&self) -> &'static str {
        "stamps-increase"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let node = seen.node;
        let What::Event(event) = seen.what else {
            self.logs.follow(seen);
            return Ok(());
        };
        match event {
            Event::Appended { shard, id, stamps, .. } => return self.appended(node, *shard, *id, *stamps),
            Event::Led { shard, leader, above } => return self.led(node, *shard, *leader, *above),
            Event::Stamped { shard, leader, first, last, .. } => {
                return self.stamped(seen, *shard, *leader, (*first, *last));
            }
            Event::Applied { shard, id, stamps: Some(stamps), stale, .. } => {
                return self.applied(node, *shard, *id, *stamps, *stale);
            }
            Event::Opened { shard, applied, .. } => {
                self.applied.insert((node, *shard), *applied);
            }
            Event::Purged { shard, upto } => {
                let last = self.last_before(node, *shard, upto + 1);
                let gone = self.gone.entry((node, *shard)).or_default();
                *gone = last.max(*gone);
            }
            Event::Installed { shard, last_ts, .. } => {
                self.applied.insert((node, *shard), *last_ts);
                let gone = self.gone.entry((node, *shard)).or_default();
                *gone = (*last_ts).max(*gone);
            }
            _ => {}
        }
        self.logs.follow(seen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;
    use crate::sim::invariant::Stop;
    use meridian_types::KeySpan;

    const T: u64 = 1_000_000;

    fn script() -> Script {
        let mut s = Script::new(StampsIncrease::default());
        s.ok(1, led(leader(1, 1), 0));
        s.ok(1, appended(id(1, 1, 0), 0));
        s.ok(1, stamped_many(leader(1, 1), T, T + 9, KeySpan::default()));
        for node in [1, 2] {
            s.ok(node, appended_many(id(1, 1, 1), T, T + 9));
            s.ok(node, appended(id(1, 1, 2), 0));
        }
        s
    }

    #[test]
    fn stamps_that_go_up_are_fine() {
        let mut s = script();
        s.ok(1, appended(id(1, 1, 3), T + 30));
        s.ok(1, applied_many(id(1, 1, 1), T, T + 9));
        s.ok(2, led(leader(2, 2), T + 9));
        s.ok(2, stamped(leader(2, 2), T + 10, KeySpan::default()));
        s.ok(2, appended(id(2, 2, 3), T + 10));
        s.ok(1, truncated(3)); // takes the T + 30 with it
        s.ok(1, appended(id(2, 2, 3), T + 10));
        s.ok(1, applied(id(2, 2, 3), T + 10));
        s.ok(1, purged(3));
        s.ok(1, appended(id(2, 2, 4), T + 11));
        s.end();
    }

    #[test]
    fn entries_are_applied_again_after_a_restart() {
        let mut s = script();
        s.ok(2, applied_many(id(1, 1, 1), T, T + 9));
        s.restart(2, Stop::PowerLost);
        s.ok(2, opened(3, 0));
        s.ok(2, applied_many(id(1, 1, 1), T, T + 9));
        s.bad(2, applied(id(1, 1, 3), T + 9), "though it had applied");
    }

    #[test]
    fn a_later_leader_does_not_stamp_below_its_log() {
        let mut s = script();
        s.bad(2, led(leader(2, 2), T + 8), "its log has 1000009");
        let mut s = script();
        s.ok(2, purged(2));
        s.bad(2, led(leader(2, 2), T + 8), "its log has 1000009");
        let mut s = script();
        s.bad(2, appended(id(2, 2, 3), T + 9), "comes after 1000009");
        let mut s = script();
        s.ok(2, purged(2));
        s.bad(2, appended(id(2, 2, 3), T + 9), "comes after 1000009");
    }

    #[test]
    fn a_snapshot_carries_the_last_stamp() {
        let mut s = script();
        s.ok(3, installed(id(1, 1, 2), T + 9));
        s.ok(3, purged(2));
        s.bad(3, appended(id(2, 2, 3), T + 9), "comes after");
        let mut s = script();
        s.ok(3, installed(id(1, 1, 2), T + 9));
        s.bad(3, applied(id(2, 2, 3), T + 9), "though it had applied");
    }

    #[test]
    fn a_leadership_stamps_upwards() {
        let mut s = script();
        s.bad(1, stamped(leader(1, 1), T + 9, KeySpan::default()), "after 1000009");
        let mut s = script();
        s.ok(2, led(leader(2, 2), T + 9));
        s.bad(2, stamped(leader(2, 2), T + 9, KeySpan::default()), "after 1000009");
    }

    #[test]
    fn a_stamp_is_not_below_true_time() {
        let mut s = script();
        s.now = T + 100;
        s.bad(1, stamped(leader(1, 1), T + 99, KeySpan::default()), "below true time");
        let mut s = script();
        s.now = T + 100;
        s.clocks_good = false;
        s.ok(1, stamped(leader(1, 1), T + 99, KeySpan::default()));
    }

    #[test]
    fn the_guard_neither_fires_nor_would_have_had_to() {
        let mut s = script();
        s.ok(1, applied_many(id(1, 1, 1), T, T + 9));
        s.bad(1, stale(id(1, 1, 3), T + 9), "refused to apply");
        let mut s = script();
        s.ok(1, applied_many(id(1, 1, 1), T, T + 9));
        s.bad(1, applied(id(1, 1, 3), T + 5), "though it had applied");
    }
}
