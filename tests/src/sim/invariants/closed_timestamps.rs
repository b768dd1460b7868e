//! Nothing is ever applied at or below a closed timestamp, above its position.
//!
//! * After `closed` was promised with `position`, and before, no replica applies an entry with a stamp above
//!   `position` and at or below `closed`, whoever leads (C2, C4). Towards later leaders that rests on the clocks' bounds
//!   (C1), so it is demanded only while they hold; towards the promising leader and those before it, always.
//! * A leader closes after its barrier is applied (C3), and below true time, plus the largest lead time that any replica of
//!   the shard has applied an entry of: no other is known to be committed (C1, K1). It has
//!   given no stamp above the position and at or below what it closes, but for refused entries (C2), and gives none
//!   afterwards (S2).
//!
//! A promise counts from its event on: it is told to others, or served by, so leadership has been proven by then. Entries
//! may have been stamped between the promise and its proof.
//!
//! That a successor does not know what was closed ahead of a clock, and stamps above it all the same, is K2: the first point.
//!
//! Source: rules C1 to C4, K1, K2, S2, S4.

use super::tables::Table;
use crate::sim::invariant::{Invariant, Seen, What};
use meridian_probe::Event;
use meridian_types::{LeaderId, LogId, ShardId, Timestamp};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct ClosedTimestamps {
    shards: BTreeMap<ShardId, Shard>,
    leaderships: Table<(ShardId, LeaderId), Leadership>,
}

#[derive(Default)]
struct Leadership {
    open: bool,
    closed: Timestamp,
    /// Stamps given and not refused, first and last of each entry.
    stamped: Vec<(Timestamp, Timestamp)>,
}

#[derive(Clone, Copy)]
struct Promise {
    leader: LeaderId,
    closed: Timestamp,
}

#[derive(Default)]
struct Shard {
    /// Applied entries: last stamp and log id by first stamp.
    applied: BTreeMap<Timestamp, (Timestamp, LogId)>,
    /// By position: of the promises at this position or before, the one that reaches farthest. A promise at or below
    /// its own position says nothing.
    promises: BTreeMap<Timestamp, Promise>,
    /// The largest lead time that was applied anywhere.
    lead: Duration,
}

impl Shard {
    /// Returns the applied entry that the promise denies.
    fn promise(&mut self, position: Timestamp, promise: Promise) -> Option<(Timestamp, LogId)> {
        if promise.closed <= position {
            return None;
        }
        let best = self.promises.range(..=position).next_back().map(|(_, p)| *p);
        if best.is_none_or(|best| best.closed < promise.closed) {
            self.promises.insert(position, promise);
            // Those behind it that reach less far are outdone.
            let behind = (Bound::Excluded(position), Bound::Unbounded);
            for (_, outdone) in self.promises.range_mut(behind).take_while(|(_, p)| p.closed < promise.closed) {
                *outdone = promise;
            }
        }
        let (first, (last, id)) = self.applied.range(..=promise.closed).next_back()?;
        (*last > position).then_some((*first, *id))
    }

    /// Returns the promise that denies the entry.
    fn apply(&mut self, id: LogId, first: Timestamp, last: Timestamp) -> Option<Promise> {
        if self.applied.insert(first, (last, id)).is_some() {
            return None;
        }
        let (_, promise) = self.promises.range(..last).next_back()?;
        (promise.closed >= first).then_some(*promise)
    }
}

/// Whether the promise binds the entry's leader in this run.
fn binds(promise: LeaderId, entry: LeaderId, clocks_good: bool) -> bool {
    clocks_good || entry <= promise
}

impl ClosedTimestamps {
    fn closed(&mut self, seen: &Seen<'_>, shard: ShardId, promise: Promise, position: Timestamp) -> Result<(), String> {
        let Promise { leader, closed } = promise;
        let leadership = self.leaderships.entry((shard, leader)).or_default();
        leadership.closed = leadership.closed.max(closed);
        if !leadership.open {
            return Err(format!("{leader} closes {closed} in {shard} before its barrier is applied"));
        }
        let upto = leadership.stamped.partition_point(|(first, _)| *first <= closed);
        if let Some((first, _)) = leadership.stamped[..upto].last().filter(|(_, last)| *last > position) {
            return Err(format!(
                "{leader} closes {closed} in {shard} at position {position}, after it stamped {first}"
            ));
        }
        let known = self.shards.entry(shard).or_default();
        if seen.clocks_good && closed >= Timestamp(seen.true_ns).plus(known.lead) {
            let (true_ns, lead) = (seen.true_ns, known.lead);
            return Err(format!(
                "{leader} closes {closed} in {shard}, and true time is {true_ns}, lead time {lead:?}: not past yet"
            ));
        }
        match known.promise(position, promise) {
            Some((first, id)) if binds(leader, id.leader, seen.clocks_good) => Err(format!(
                "{leader} closes {closed} in {shard} at position {position}; {id}, stamped {first}, was applied"
            )),
            _ => Ok(()),
        }
    }
}

impl Invariant for ClosedTimestamps {
    fn name(&self) -> &'static str {
        "closed-timestamps"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let What::Event(event) = seen.what else { return Ok(()) };
        match event {
            Event::BarrierApplied { shard, leader, .. } => {
                self.leaderships.entry((*shard, *leader)).or_default().open = true;
            }
            Event::Stamped { shard, leader, first, last, .. } => {
                let leadership = self.leaderships.entry((*shard, *leader)).or_default();
                leadership.stamped.push((*first, *last));
                if *first <= leadership.closed {
                    let closed = leadership.closed;
                    return Err(format!("{leader} stamps {first} in {shard}, after it closed {closed}"));
                }
            }
            Event::Refused { shard, leader, first } => {
                let stamped = &mut self.leaderships.entry((*shard, *leader)).or_default().stamped;
                if let Ok(at) = stamped.binary_search_by_key(first, |(first, _)| *first) {
                    stamped.remove(at);
                }
            }
            Event::Closed { shard, leader, closed, position } => {
                let promise = Promise { leader: *leader, closed: *closed };
                return self.closed(seen, *shard, promise, *position);
            }
            Event::LeadTime { shard, lead, .. } => {
                let known = self.shards.entry(*shard).or_default();
                known.lead = known.lead.max(*lead);
            }
            Event::Applied { shard, id, stamps: Some((first, last)), stale: false, .. } => {
                let promise = self.shards.entry(*shard).or_default().apply(*id, *first, *last);
                if let Some(Promise { leader, closed }) =
                    promise.filter(|p| binds(p.leader, id.leader, seen.clocks_good))
                {
                    let node = seen.node;
                    return Err(format!(
                        "{node} applied {id} of {shard}, stamped {first}, after {leader} had closed {closed}"
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

    /// A leader whose barrier, stamped 100, is applied.
    fn script() -> Script {
        let mut s = Script::new(ClosedTimestamps::default());
        s.ok(1, stamped(leader(1, 1), 100, key("a")));
        s.ok(1, applied(id(1, 1, 1), 100));
        s.ok(1, barrier(leader(1, 1), 100));
        s
    }

    #[test]
    fn promises_follow_the_stamps() {
        let mut s = script();
        s.ok(1, closed(leader(1, 1), 90, 100));
        s.ok(1, closed(leader(1, 1), 150, 100));
        s.ok(1, stamped_many(leader(1, 1), 160, 170, key("a")));
        s.ok(1, closed(leader(1, 1), 165, 170)); // in flight below it, and covered only with it
        s.ok(1, applied_many(id(1, 1, 2), 160, 170));
        s.ok(1, closed(leader(1, 1), 200, 170));
        s.ok(1, closed(leader(1, 1), 200, 170));
        s.ok(2, stamped(leader(2, 2), 201, key("a")));
        s.ok(2, applied(id(2, 2, 3), 201));
        s.ok(2, barrier(leader(2, 2), 201));
        s.ok(2, closed(leader(2, 2), 300, 201));
        s.ok(1, applied_many(id(1, 1, 2), 160, 170)); // a replay
        s.end();
    }

    #[test]
    fn nothing_is_applied_below_a_promise_afterwards() {
        let mut s = script();
        s.ok(1, closed(leader(1, 1), 150, 100));
        s.bad(2, applied(id(2, 2, 2), 150), "had closed 150");
        let mut s = script();
        s.ok(1, closed(leader(1, 1), 150, 100));
        s.bad(2, applied_many(id(2, 2, 2), 150, 160), "had closed 150");
    }

    #[test]
    fn an_old_promise_reaches_beyond_newer_positions() {
        let mut s = script();
        s.ok(1, closed(leader(1, 1), 300, 100));
        s.ok(2, barrier(leader(2, 2), 60));
        s.ok(2, closed(leader(2, 2), 210, 200));
        s.bad(2, applied(id(2, 2, 2), 250), "T1/n1 had closed 300");
        let mut s = script();
        s.ok(2, barrier(leader(2, 2), 60));
        s.ok(2, closed(leader(2, 2), 210, 200));
        s.ok(1, closed(leader(1, 1), 300, 100)); // the same, later
        s.bad(2, applied(id(2, 2, 2), 250), "T1/n1 had closed 300");
    }

    #[test]
    fn nothing_was_applied_below_a_promise_before() {
        let mut s = script();
        s.ok(2, applied(id(2, 2, 2), 150));
        s.bad(1, closed(leader(1, 1), 160, 100), "was applied");
        let mut s = script();
        s.ok(2, applied_many(id(2, 2, 2), 110, 150));
        s.bad(1, closed(leader(1, 1), 160, 120), "was applied");
    }

    #[test]
    fn later_leaders_are_bound_by_good_clocks_only() {
        let mut s = script();
        s.ok(1, closed(leader(1, 1), 150, 100));
        s.clocks_good = false;
        s.ok(2, applied(id(2, 2, 2), 140));
        s.bad(2, applied(id(1, 1, 2), 130), "had closed 150");
    }

    #[test]
    fn nobody_closes_before_the_barrier() {
        let mut s = script();
        s.bad(2, closed(leader(2, 2), 50, 100), "before its barrier");
    }

    #[test]
    fn a_position_covers_what_was_stamped_below_the_promise() {
        let mut s = script();
        s.ok(1, stamped_many(leader(1, 1), 160, 170, key("a")));
        s.bad(1, closed(leader(1, 1), 165, 100), "after it stamped 160");
        let mut s = script();
        s.ok(1, stamped_many(leader(1, 1), 160, 170, key("a")));
        s.bad(1, closed(leader(1, 1), 200, 169), "after it stamped 160");
        let mut s = script();
        s.ok(1, stamped(leader(1, 1), 160, key("a")));
        s.ok(1, stamped(leader(1, 1), 170, key("a")));
        s.ok(1, refused(leader(1, 1), 170));
        s.ok(1, closed(leader(1, 1), 180, 160));
        s.ok(1, stamped(leader(1, 1), 190, key("a")));
        s.ok(1, closed(leader(1, 1), 185, 160)); // promised before that stamp, proven after it
        s.end();
    }

    #[test]
    fn only_the_past_is_closed_and_it_stays_closed() {
        let mut s = script();
        s.now = 150;
        s.bad(1, closed(leader(1, 1), 150, 100), "not past yet");
        let mut s = script();
        s.ok(1, closed(leader(1, 1), 150, 100));
        s.bad(1, stamped(leader(1, 1), 150, key("a")), "after it closed");
    }
    #[test]
    fn a_lead_time_counts_once_its_entry_is_applied_somewhere() {
        let mut s = script();
        s.now = 150;
        s.bad(1, closed(leader(1, 1), 199, 100), "lead time 0ns: not past yet");
        let mut s = script();
        s.now = 150;
        s.ok(2, lead_time(120, 50));
        s.ok(1, closed(leader(1, 1), 199, 100));
        s.bad(1, closed(leader(1, 1), 200, 100), "lead time 50ns: not past yet");
    }

    #[test]
    fn a_successor_stamps_above_what_was_closed_ahead() {
        let mut s = script();
        s.ok(1, lead_time(120, 500));
        s.ok(1, closed(leader(1, 1), 600, 100));
        s.bad(2, applied(id(2, 2, 2), 600), "T1/n1 had closed 600");
    }
}
