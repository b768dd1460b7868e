//! Two logs that have an entry with the same log id have the same entry, and the same ones before it.
//!
//! * The same log id: the same bytes and stamps, on whatever node and after whatever restart.
//! * The same entry before it, and by induction everything below.
//! * A log has no holes, nothing in it is written over without being removed first, and the leaderships of its
//!   entries never go down.
//!
//! Source: Raft, log matching; rules Z0, A1.

use super::logs::{Logs, Slot};
use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::{Digest, Event};
use meridian_types::{LogId, ShardId, Timestamp};

/// What is known of an entry.
struct Entry {
    digest: Digest,
    stamps: Option<(Timestamp, Timestamp)>,
    /// The one before it, once a log was seen that has both.
    before: Option<LogId>,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct LogMatching {
    entries: Table<(ShardId, LogId), Entry>,
    logs: Logs<LogId>,
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log-matching"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let What::Event(Event::Appended { shard, id, stamps, digest, .. }) = seen.what else {
            self.logs.follow(seen);
            return Ok(());
        };
        let node = seen.node;
        let log = self.logs.log(node, *shard);
        let before = match log.before(id.index) {
            Some(Slot::Known(before)) => Some(*before),
            _ => None,
        };
        log.append(id.index, *id).map_err(|e| format!("{node}'s log of {shard}: {e}"))?;
        if let Some(before) = before.filter(|b| b.leader > id.leader) {
            return Err(format!("{node}'s log of {shard} has {id} after {before}"));
        }
        let new = Entry { digest: *digest, stamps: *stamps, before };
        let known = self.entries.entry((*shard, *id)).or_insert(new);
        if known.digest != *digest || known.stamps != *stamps {
            return Err(format!(
                "{id} of {shard} is {digest:?} with stamps {stamps:?} on {node}, and {:?} with stamps {:?} elsewhere",
                known.digest, known.stamps
            ));
        }
        match (known.before, before) {
            (Some(a), Some(b)) if a != b => {
                Err(format!("{id} of {shard} comes after {b} on {node}, and after {a} elsewhere"))
            }
            (None, Some(b)) => {
                known.before = Some(b);
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

    fn script() -> Script {
        let mut s = Script::new(LogMatching::default());
        for node in [1, 2] {
            s.ok(node, voters(id(0, 1, 0), &[&[1, 2, 3]]));
            s.ok(node, appended(id(1, 1, 1), 10));
        }
        s
    }

    #[test]
    fn logs_agree_and_uncommitted_tails_are_replaced() {
        let mut s = script();
        s.ok(1, appended(id(1, 1, 2), 20));
        s.ok(2, appended(id(2, 2, 2), 15));
        s.ok(1, truncated(2));
        s.ok(1, appended(id(2, 2, 2), 15));
        s.ok(1, purged(1));
        s.restart(1, Stop::Killed);
        s.ok(1, opened(3, 15));
        s.ok(1, appended(id(2, 2, 3), 17));
        s.end();
    }

    #[test]
    fn a_tail_that_was_lost_is_appended_anew() {
        let mut s = script();
        s.ok(2, appended(id(1, 1, 2), 20));
        s.restart(2, Stop::PowerLost);
        s.ok(2, opened(1, 0));
        s.ok(2, appended(id(1, 1, 1), 10));
        s.end();
    }

    #[test]
    fn a_snapshot_moves_a_log_ahead() {
        let mut s = script();
        s.ok(1, appended(id(1, 1, 2), 20));
        s.ok(1, appended(id(1, 1, 3), 30));
        s.ok(3, opened(0, 0));
        s.ok(3, installed(id(1, 1, 2), 20));
        s.ok(3, purged(2));
        s.ok(3, appended(id(1, 1, 3), 30));
        s.end();
    }

    #[test]
    fn one_log_id_is_one_entry() {
        let mut s = script();
        s.ok(1, appended(id(1, 1, 2), 20));
        s.bad(2, appended(id(1, 1, 2), 21), "elsewhere");
    }

    #[test]
    fn what_is_before_an_entry_is_the_same_everywhere() {
        let mut s = script();
        s.ok(1, appended(id(1, 1, 2), 20));
        s.ok(1, appended(id(3, 2, 3), 30));
        s.ok(2, appended(id(2, 2, 2), 15));
        s.bad(2, appended(id(3, 2, 3), 30), "comes after");
    }

    #[test]
    fn leaderships_do_not_go_down_in_a_log() {
        let mut s = script();
        s.ok(1, appended(id(2, 3, 2), 20));
        s.bad(1, appended(id(2, 2, 3), 30), "after T2/n3#2");
    }

    #[test]
    fn a_log_has_no_holes() {
        let mut s = script();
        s.bad(1, appended(id(1, 1, 3), 20), "ends before 2");
    }

    #[test]
    fn an_entry_is_not_written_over() {
        let mut s = script();
        s.bad(1, appended(id(2, 2, 1), 20), "has it");
    }
}
