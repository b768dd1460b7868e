//! A read at a timestamp has missed nothing, and never will have.
//!
//! A replica that has applied up to `applied` answers a read of some keys at `at`. Then no entry that may touch those
//! keys, with a stamp above `applied` and at or below `at`, is applied anywhere: not before (the replica lacked it), and
//! not afterwards (the answer would not be repeated). This holds at leaders and followers, for reads at a chosen
//! timestamp, within a bound, by a token, local ones, and linearizable ones at the reader's own clock (K3).
//!
//! It rests on closed timestamps, and so on the clocks' bounds (C1): demanded only while they hold. What an entry may
//! touch is what its sequencer was told; an entry that none stamped touches everything.
//!
//! Source: rules N2, N3, C2, C5, K3; guarantee G5.

use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::{Event, ReadKind};
use meridian_types::{KeySpan, LeaderId, LogId, NodeId, ShardId, Timestamp};
use std::collections::BTreeMap;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct ServedReads {
    /// What entries may touch that nobody has applied yet, by their first stamp.
    stamped: Table<(ShardId, LeaderId, Timestamp), KeySpan>,
    shards: BTreeMap<ShardId, Shard>,
}

#[derive(Default)]
struct Shard {
    /// Applied entries by their first stamp.
    applied: BTreeMap<Timestamp, Entry>,
    /// Reads above what their replica had applied, by timestamp and event.
    reads: BTreeMap<(Timestamp, u64), Read>,
}

struct Entry {
    last: Timestamp,
    id: LogId,
    span: KeySpan,
}

struct Read {
    node: NodeId,
    applied: Timestamp,
    span: KeySpan,
}

impl Shard {
    fn applied(&mut self, first: Timestamp, entry: Entry) -> Result<(), String> {
        let missed = |r: &Read| r.applied < entry.last && r.span.touches(&entry.span);
        if let Some(((at, event), read)) = self.reads.range((first, 0)..).find(|(_, r)| missed(r)) {
            return Err(format!(
                "{}, stamped {first} to {}, is applied; {} answered a read of its keys at {at} in event {event}, \
                 with everything up to {}",
                entry.id, entry.last, read.node, read.applied
            ));
        }
        self.applied.insert(first, entry);
        Ok(())
    }

    fn read(&mut self, at: Timestamp, event: u64, read: Read) -> Result<(), String> {
        // From the newest on, as far as stamps are above what the replica had.
        let above = self.applied.range(..=at).rev().take_while(|(_, e)| e.last > read.applied);
        for (first, entry) in above {
            if entry.span.touches(&read.span) {
                return Err(format!(
                    "{} answered a read at {at} with everything up to {}, and not {}, stamped {first}, which touches it",
                    read.node, read.applied, entry.id
                ));
            }
        }
        self.reads.insert((at, event), read);
        Ok(())
    }
}

fn is_at_timestamp(kind: ReadKind) -> bool {
    match kind {
        ReadKind::Ahead | ReadKind::Snapshot | ReadKind::Bounded | ReadKind::Causal | ReadKind::Local => true,
        ReadKind::Linearizable | ReadKind::ReadIndex | ReadKind::Followed => false,
    }
}

impl Invariant for ServedReads {
    fn name(&self) -> &'static str {
        "served-reads"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let What::Event(event) = seen.what else { return Ok(()) };
        let result = match event {
            Event::Stamped { shard, leader, first, span, .. } => {
                self.stamped.insert((*shard, *leader, *first), span.clone());
                Ok(())
            }
            Event::Refused { shard, leader, first } => {
                self.stamped.remove(&(*shard, *leader, *first));
                Ok(())
            }
            Event::Applied { shard, id, stamps: Some((first, last)), stale: false, .. } => {
                let known = self.shards.entry(*shard).or_default();
                // Elsewhere already, or a replay.
                if known.applied.get(first).is_some_and(|e| e.id == *id) {
                    return Ok(());
                }
                let span = self.stamped.remove(&(*shard, id.leader, *first)).unwrap_or_else(KeySpan::everything);
                known.applied(*first, Entry { last: *last, id: *id, span })
            }
            Event::Read { shard, kind, at, applied, span, .. } if is_at_timestamp(*kind) && at > applied => {
                let read = Read { node: seen.node, applied: *applied, span: span.clone() };
                self.shards.entry(*shard).or_default().read(*at, seen.number, read)
            }
            _ => Ok(()),
        };
        if seen.clocks_good { result } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;
    use ReadKind::{Bounded, Causal, Local, Snapshot};

    /// An entry on `a`, stamped 100, that is applied; and one on `b`, stamped 110 to 119, in flight.
    fn script() -> Script {
        let mut s = Script::new(ServedReads::default());
        s.ok(1, stamped(leader(1, 1), 100, key("a")));
        s.ok(1, stamped_many(leader(1, 1), 110, 119, key("b")));
        s.ok(1, applied(id(1, 1, 1), 100));
        s
    }

    #[test]
    fn reads_see_what_there_is() {
        let mut s = script();
        s.ok(1, read(Snapshot, 115, 100, key("a"), 0)); // the entry on b may be in flight
        s.ok(2, read(Bounded, 99, 0, key("a"), 0));
        s.ok(2, read(Local, 90, 100, range("a", "z"), 0));
        s.ok(1, applied_many(id(1, 1, 2), 110, 119));
        s.ok(2, applied(id(1, 1, 1), 100));
        s.ok(2, read(Causal, 109, 100, key("b"), 0));
        s.ok(2, read(Snapshot, 130, 119, range("a", "z"), 0));
        s.ok(1, stamped(leader(1, 1), 131, key("b")));
        s.ok(1, applied(id(1, 1, 3), 131));
        s.end();
    }

    #[test]
    fn an_entry_in_flight_is_waited_for() {
        let mut s = script();
        s.ok(1, read(Snapshot, 110, 100, key("b"), 0));
        s.bad(1, applied_many(id(1, 1, 2), 110, 119), "answered a read of its keys at 110");
        let mut s = script();
        s.ok(1, read(Local, 200, 100, range("a", "c"), 0));
        s.bad(2, applied_many(id(1, 1, 2), 110, 119), "answered a read");
        let mut s = script();
        s.ok(1, read(Snapshot, 150, 115, key("b"), 0));
        s.bad(1, applied_many(id(1, 1, 2), 110, 119), "with everything up to 115");
    }

    #[test]
    fn a_replica_that_lags_does_not_answer_above_its_safe_time() {
        let mut s = script();
        s.bad(2, read(Bounded, 100, 0, key("a"), 0), "and not T1/n1#1");
        let mut s = script();
        s.ok(1, applied_many(id(1, 1, 2), 110, 119));
        s.bad(2, read(Causal, 200, 99, range("a", "b"), 0), "and not T1/n1#1");
        let mut s = script();
        s.ok(1, applied_many(id(1, 1, 2), 110, 119));
        s.bad(2, read(Snapshot, 112, 111, key("b"), 0), "and not T1/n1#2");
    }

    #[test]
    fn nobody_writes_into_what_was_read_not_even_a_later_leader() {
        let mut s = script();
        s.ok(2, read(Snapshot, 300, 100, key("c"), 0));
        s.ok(3, stamped(leader(2, 3), 250, range("b", "d")));
        s.bad(3, applied(id(2, 3, 2), 250), "answered a read");
        let mut s = script();
        s.ok(2, read(Snapshot, 300, 100, key("c"), 0));
        s.bad(3, applied(id(2, 3, 2), 250), "answered a read"); // nobody knows what it touches
    }

    #[test]
    fn broken_clocks_break_it() {
        let mut s = script();
        s.clocks_good = false;
        s.ok(2, read(Bounded, 100, 0, key("a"), 0));
        s.end();
    }

    #[test]
    fn a_refused_entry_and_other_kinds_of_reads_do_not_count() {
        let mut s = script();
        s.ok(2, read(ReadKind::Followed, 100, 0, key("a"), 0));
        s.ok(1, refused(leader(1, 1), 110));
        s.end();
    }
}
