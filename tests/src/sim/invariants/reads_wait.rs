//! A linearizable read waits for every write that may have been acknowledged before it began.
//!
//! * A leader's read, or read index, covers every entry that this leadership had stamped when the read began, if it may
//!   touch what is read and was not refused: committed or not, whatever became of its request (I1, I2, I3). A read of
//!   the newest state has it applied.
//! * A leader answers after its barrier is applied (I1, S4).
//! * Whoever serves, a follower by a read index too: every entry that any leader had called committed when the read
//!   began is covered (R2, R6). For a follower's read, "began" is before it asked for the read index.
//!
//! None of this needs clocks: a leader that has no lease proves its leadership by a quorum. Where the leader closes ahead of
//! its clock, a read leaves out again what is above the reader's clock: whether that is right is `lead_time`'s to say, and
//! what counts here is what it had waited for.
//!
//! Source: rules I1 to I3, R2, R6, S4.

use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::{Event, ReadKind};
use meridian_types::{KeySpan, LeaderId, LogId, NodeId, ShardId, Timestamp};
use std::collections::BTreeMap;
use std::rc::Rc;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct ReadsWait {
    /// Under which leadership a node leads now.
    leading: BTreeMap<(NodeId, ShardId), LeaderId>,
    leaderships: Table<(ShardId, LeaderId), Leadership>,
    /// First stamps of the entries that their own leader has appended and not called committed yet.
    appended: Table<(ShardId, LogId), Timestamp>,
    committed: BTreeMap<ShardId, BTreeMap<Timestamp, Committed>>,
}

#[derive(Default)]
struct Leadership {
    open: bool,
    /// In the order of their stamps. Refused ones are taken out.
    stamped: Vec<Stamped>,
}

struct Stamped {
    number: u64,
    first: Timestamp,
    last: Timestamp,
    span: Rc<KeySpan>,
}

/// An entry by its last stamp.
struct Committed {
    number: u64,
    id: LogId,
    span: Rc<KeySpan>,
}

/// A read as it was answered.
struct Read<'a> {
    kind: ReadKind,
    at: Timestamp,
    /// What it has surely seen, or makes a follower see.
    covers: Timestamp,
    span: &'a KeySpan,
    began: u64,
}

impl Leadership {
    fn find(&self, first: Timestamp) -> Option<usize> {
        self.stamped.binary_search_by_key(&first, |s| s.first).ok()
    }

    /// An entry that the read had to wait for and did not.
    fn missed(&self, read: &Read<'_>) -> Option<&Stamped> {
        let above = self.stamped.partition_point(|s| s.last <= read.covers);
        let in_flight = self.stamped.iter().skip(above).take_while(|s| s.number <= read.began);
        in_flight.into_iter().find(|s| s.span.touches(read.span))
    }
}

impl ReadsWait {
    fn committed(&mut self, number: u64, shard: ShardId, id: LogId) {
        let Some(first) = self.appended.remove(&(shard, id)) else { return };
        let Some(leadership) = self.leaderships.get(&(shard, id.leader)) else { return };
        let Some(entry) = leadership.find(first).and_then(|at| leadership.stamped.get(at)) else { return };
        let committed = Committed { number, id, span: entry.span.clone() };
        self.committed.entry(shard).or_default().insert(entry.last, committed);
    }

    fn led_read(&self, node: NodeId, shard: ShardId, read: &Read<'_>) -> Result<(), String> {
        // A leadership that ended while the answer was on its way: what was committed still has to be covered.
        let Some(leader) = self.leading.get(&(node, shard)) else { return Ok(()) };
        let Some(leadership) = self.leaderships.get(&(shard, *leader)).filter(|l| l.open) else {
            let kind = read.kind;
            return Err(format!("{leader} answered a {kind:?} read of {shard} before its barrier was applied"));
        };
        match leadership.missed(read) {
            None => Ok(()),
            Some(s) => Err(format!(
                "{leader} answered a {:?} read of {shard} at {}, which covers {} and began at event {}; an entry that \
                 touches it was stamped {} to {} in event {}",
                read.kind, read.at, read.covers, read.began, s.first, s.last, s.number
            )),
        }
    }

    fn read(&self, node: NodeId, shard: ShardId, read: &Read<'_>) -> Result<(), String> {
        if read.kind != ReadKind::Followed {
            self.led_read(node, shard, read)?;
        }
        let Some(committed) = self.committed.get(&shard) else { return Ok(()) };
        let missed = |c: &Committed| c.number <= read.began && c.span.touches(read.span);
        match committed.range(read.covers.next()..).find(|(_, c)| missed(c)) {
            None => Ok(()),
            Some((last, c)) => Err(format!(
                "{node} answered a {:?} read of {shard} at {}, which began at event {}; {}, stamped up to {last}, was \
                 committed in event {}",
                read.kind, read.at, read.began, c.id, c.number
            )),
        }
    }
}

impl Invariant for ReadsWait {
    fn name(&self) -> &'static str {
        "reads-wait"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let (node, number) = (seen.node, seen.number);
        let event = match seen.what {
            What::Event(event) => event,
            What::Stopped(_) => {
                self.leading.retain(|(n, _), _| *n != node);
                return Ok(());
            }
            What::Started | What::Disk(_) => return Ok(()),
        };
        match event {
            Event::Led { shard, leader, .. } => {
                self.leading.insert((node, *shard), *leader);
            }
            Event::Deposed { shard, leader } if self.leading.get(&(node, *shard)) == Some(leader) => {
                self.leading.remove(&(node, *shard));
            }
            Event::BarrierApplied { shard, leader, .. } => {
                self.leaderships.entry((*shard, *leader)).or_default().open = true;
            }
            Event::Stamped { shard, leader, first, last, span } => {
                let stamped = Stamped { number, first: *first, last: *last, span: Rc::new(span.clone()) };
                self.leaderships.entry((*shard, *leader)).or_default().stamped.push(stamped);
            }
            Event::Refused { shard, leader, first } => {
                let leadership = self.leaderships.entry((*shard, *leader)).or_default();
                if let Some(at) = leadership.find(*first) {
                    leadership.stamped.remove(at);
                }
            }
            Event::Appended { shard, id, stamps: Some((first, _)), .. } if id.leader.node == node => {
                self.appended.insert((*shard, *id), *first);
            }
            Event::Committed { shard, id } => self.committed(number, *shard, *id),
            Event::Read { shard, kind, at, applied, span, began } => {
                let covers = match kind {
                    ReadKind::Linearizable => *applied,
                    ReadKind::ReadIndex => *at,
                    ReadKind::Followed => *at.max(applied),
                    ReadKind::Ahead | ReadKind::Snapshot | ReadKind::Bounded | ReadKind::Causal | ReadKind::Local => {
                        return Ok(());
                    }
                };
                return self.read(node, *shard, &Read { kind: *kind, at: *at, covers, span, began: *began });
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
    use crate::sim::invariant::Stop;
    use ReadKind::{Followed, Linearizable, ReadIndex};

    /// A leader with an applied barrier, and entries on `a`, stamped 110 to 112, and on `b`, stamped 120, in flight.
    fn script() -> Script {
        let mut s = Script::new(ReadsWait::default());
        s.ok(1, led(leader(1, 1), 0));
        s.ok(1, stamped(leader(1, 1), 100, KeySpan::default()));
        s.ok(1, appended(id(1, 1, 1), 100));
        s.ok(1, committed(id(1, 1, 1)));
        s.ok(1, barrier(leader(1, 1), 100));
        s.ok(1, stamped_many(leader(1, 1), 110, 112, key("a")));
        s.ok(1, stamped(leader(1, 1), 120, key("b")));
        s.ok(1, appended_many(id(1, 1, 2), 110, 112));
        s.ok(1, appended(id(1, 1, 3), 120));
        s
    }

    #[test]
    fn reads_that_wait_are_fine() {
        let mut s = script();
        s.ok(1, read(Linearizable, 112, 112, key("a"), s.mark()));
        s.ok(1, read(Linearizable, 100, 100, key("c"), s.mark()));
        s.ok(1, read(ReadIndex, 112, 100, key("a"), s.mark()));
        s.ok(1, committed(id(1, 1, 2)));
        s.ok(2, read(Followed, 112, 112, range("a", "b"), s.mark()));
        s.ok(2, read(Followed, 100, 100, range("b", "z"), s.mark()));
        s.end();
    }

    #[test]
    fn what_came_after_it_began_may_be_missed() {
        let mut s = script();
        let began = s.mark();
        s.ok(1, stamped(leader(1, 1), 130, key("a")));
        s.ok(1, appended(id(1, 1, 4), 130));
        s.ok(1, committed(id(1, 1, 4)));
        s.ok(1, read(Linearizable, 120, 120, key("a"), began));
        s.ok(2, read(Followed, 120, 120, key("a"), began));
        s.bad(2, read(Followed, 120, 120, key("a"), s.mark()), "was committed");
    }

    #[test]
    fn an_entry_in_flight_is_waited_for() {
        let mut s = script();
        s.bad(1, read(Linearizable, 111, 111, key("a"), s.mark()), "was stamped 110 to 112");
        let mut s = script();
        s.bad(1, read(ReadIndex, 100, 100, range("b", "c"), s.mark()), "was stamped 120");
        let mut s = script();
        s.bad(1, read(Linearizable, 120, 112, key("b"), s.mark()), "covers 112");
    }

    #[test]
    fn a_refused_entry_is_not_waited_for() {
        let mut s = script();
        s.ok(1, stamped(leader(1, 1), 130, key("c")));
        s.ok(1, refused(leader(1, 1), 130));
        s.ok(1, read(Linearizable, 120, 120, key("c"), s.mark()));
        s.end();
    }

    #[test]
    fn nothing_is_answered_before_the_barrier() {
        let mut s = script();
        s.ok(2, led(leader(2, 2), 120));
        s.bad(2, read(Linearizable, 120, 120, key("c"), s.mark()), "before its barrier");
        let mut s = script();
        s.ok(2, led(leader(2, 2), 120));
        s.ok(2, deposed(leader(2, 2)));
        s.ok(2, read(ReadIndex, 120, 120, key("c"), s.mark()));
        s.restart(1, Stop::Killed);
        s.ok(1, read(ReadIndex, 100, 100, key("b"), s.mark())); // not as a leader that anybody knows
    }

    #[test]
    fn what_another_leader_committed_is_not_missed() {
        let mut s = script();
        s.ok(2, led(leader(2, 2), 120));
        s.ok(2, stamped(leader(2, 2), 130, key("c")));
        s.ok(2, appended(id(2, 2, 4), 130));
        s.ok(2, committed(id(2, 2, 4)));
        s.ok(1, read(Linearizable, 120, 120, key("a"), s.mark()));
        s.bad(1, read(Linearizable, 120, 120, key("c"), s.mark()), "T2/n2#4");
    }
}
