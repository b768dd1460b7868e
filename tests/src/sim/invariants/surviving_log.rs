//! A node that starts again finds what it had told others it has.
//!
//! * A log that is opened reaches as far as the node has said that it is synced, and as far as the disk had it when the
//!   power went (G1, O1). A vote that was told to be saved covers all entries before it (`openraft.md` section 1).
//!   Entries that were removed in between are excepted.
//! * The state that is found covers whatever was given up of the log (D1).
//!
//! Source: rules O1, D1; guarantee G1; `openraft.md` section 1.

use super::logs::Logs;
use crate::sim::invariant::{Invariant, Seen, Stop, What};
use meridian_probe::Event;
use meridian_types::{NodeId, ShardId, Timestamp};
use std::collections::BTreeMap;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct SurvivingLog {
    logs: Logs<()>,
    promises: BTreeMap<(NodeId, ShardId), Promise>,
    /// Of each shard, the last stamp of applied entries by their index.
    stamps: BTreeMap<ShardId, BTreeMap<u64, Timestamp>>,
}

#[derive(Default)]
struct Promise {
    /// The log was told to be durable up to before this.
    told: u64,
    /// What the disk had when the power went.
    on_disk: u64,
    /// The log was given up to before this.
    gone: u64,
}

impl SurvivingLog {
    fn opened(&self, node: NodeId, shard: ShardId, log_end: u64, applied: Timestamp) -> Result<(), String> {
        let Some(promise) = self.promises.get(&(node, shard)) else { return Ok(()) };
        let Promise { told, on_disk, gone } = *promise;
        // An empty log ends where it was given up.
        let end = log_end.max(gone);
        if end < told {
            return Err(format!("{node} found {shard}'s log up to before {end}; it had told that it has up to {told}"));
        }
        if end < on_disk {
            return Err(format!("{node} found {shard}'s log up to before {end}; the disk had it up to {on_disk}"));
        }
        let stamps = self.stamps.get(&shard);
        match stamps.and_then(|s| s.range(..gone).next_back()) {
            Some((index, stamp)) if *stamp > applied => Err(format!(
                "{node} found {shard}'s state up to {applied}; its log was given up to before {gone}, with {index} \
                 stamped {stamp}"
            )),
            _ => Ok(()),
        }
    }
}

impl Invariant for SurvivingLog {
    fn name(&self) -> &'static str {
        "surviving-log"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let node = seen.node;
        let vouched = self.logs.follow(seen);
        let event = match seen.what {
            What::Event(event) => event,
            What::Stopped(Stop::PowerLost) => {
                let of_node = (node, ShardId(0))..=(node, ShardId(u64::MAX));
                for ((_, shard), promise) in self.promises.range_mut(of_node) {
                    promise.on_disk = seen.disks.synced_end(node, *shard);
                }
                return Ok(());
            }
            What::Stopped(Stop::Killed) | What::Started | What::Disk(_) => return Ok(()),
        };
        match event {
            Event::Appended { shard, id, .. } => {
                // Whether it belongs there is log matching's to say.
                let _ = self.logs.log(node, *shard).append(id.index, ());
                self.promises.entry((node, *shard)).or_default();
            }
            Event::Truncated { shard, from } => {
                let promise = self.promises.entry((node, *shard)).or_default();
                promise.told = promise.told.min(*from);
            }
            Event::Purged { shard, upto } => {
                let promise = self.promises.entry((node, *shard)).or_default();
                promise.gone = promise.gone.max(*upto + 1);
            }
            Event::Synced { shard, .. } => {
                if let Some(upto) = vouched {
                    let promise = self.promises.entry((node, *shard)).or_default();
                    promise.told = promise.told.max(upto + 1);
                }
            }
            Event::VoteSaved { shard, .. } => {
                let end = self.logs.log(node, *shard).end();
                let promise = self.promises.entry((node, *shard)).or_default();
                promise.told = promise.told.max(end);
            }
            Event::Applied { shard, id, stamps: Some((_, last)), stale: false, .. } => {
                self.stamps.entry(*shard).or_default().insert(id.index, *last);
            }
            Event::Opened { shard, log_end, applied } => {
                self.opened(node, *shard, *log_end, *applied)?;
                self.promises.entry((node, *shard)).or_default().on_disk = 0;
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

    /// Entries 0 to 3; 0 and 1 are synced.
    fn script() -> Script {
        let mut s = Script::new(SurvivingLog::default());
        s.ok(1, opened(0, 0));
        for index in 0..4 {
            s.ok(1, appended(id(1, 1, index), 10 * index));
        }
        s.disk(1, 2);
        s.ok(1, synced(1));
        s
    }

    #[test]
    fn what_was_not_synced_may_be_lost() {
        let mut s = script();
        s.restart(1, Stop::PowerLost);
        s.ok(1, opened(2, 0));
        s.restart(1, Stop::PowerLost);
        s.ok(1, opened(2, 0));
        s.end();
    }

    #[test]
    fn what_was_told_to_be_synced_may_not() {
        let mut s = script();
        s.disk(1, 1);
        s.restart(1, Stop::PowerLost);
        s.bad(1, opened(1, 0), "told that it has up to 2");
        let mut s = script();
        s.ok(1, vote(leader(2, 2)));
        s.restart(1, Stop::PowerLost);
        s.bad(1, opened(3, 0), "told that it has up to 4");
    }

    #[test]
    fn what_was_on_disk_may_not() {
        let mut s = script();
        s.disk(1, 3);
        s.restart(1, Stop::PowerLost);
        s.bad(1, opened(2, 0), "the disk had it up to 3");
    }

    #[test]
    fn what_was_removed_is_not_missed() {
        let mut s = script();
        s.disk(1, 4);
        s.ok(1, synced(3));
        s.ok(1, truncated(2));
        s.disk(1, 2);
        s.restart(1, Stop::PowerLost);
        s.ok(1, opened(2, 0));
        s.end();
    }

    #[test]
    fn what_was_given_up_is_in_the_state() {
        let mut s = script();
        s.ok(1, applied(id(1, 1, 1), 10));
        s.ok(1, applied(id(1, 1, 2), 20));
        s.ok(1, purged(1));
        s.restart(1, Stop::PowerLost);
        s.ok(1, opened(4, 10));
        s.ok(1, purged(3));
        s.restart(1, Stop::PowerLost);
        s.bad(1, opened(0, 10), "with 2 stamped 20");
    }

    #[test]
    fn an_empty_log_ends_where_it_was_given_up() {
        let mut s = script();
        s.ok(1, vote(leader(2, 2)));
        s.ok(1, purged(3));
        s.disk(1, 4);
        s.restart(1, Stop::PowerLost);
        s.ok(1, opened(0, 30));
        s.end();
    }
}
