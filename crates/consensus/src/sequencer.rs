//! The sequencer's core: which stamp an entry gets, what is in flight, and what may be closed.
//!
//! One leader stamps every entry of its shard here, under its leader id. The core reads no clock and does no
//! I/O; the shell (`leadership.rs`) samples the clock *after* the last request of a batch was taken from the
//! queue, and hands the stamped entry to openraft, fenced to the leader id.
//!
//! Invariants, each with its rule in the design notes:
//! 1. Stamps go up: above the last stamp in the log, applied or not, above what was closed, above every floor
//!    (S2, S3). An entry with `n` mutations takes `n` consecutive stamps.
//! 2. Nothing is closed before the barrier, this leader's first own entry, is applied (S4, C3).
//! 3. A closed timestamp travels with the stamp of the last entry handed over: it covers a replica that has
//!    applied up to there (C2).
//! 4. An entry is in flight from before it is handed over until the leader has applied it, whatever becomes of
//!    the request (I2). Log order is stamp order, so that is: until the applied stamp has reached it.
//! 5. It closes at most the lead time in force ahead of `earliest` (C1, K1), and its first stamp is the lead time of its
//!    log ahead of `latest` (K2): see `lead_time.rs`.
//!
//! There is no ratchet for snapshot reads (N2): a leader answers a read at `t` only after it closed `t`.
//!
//! Not here: proof of leadership (`lease.rs`), what a replica makes of a closed timestamp (`safe_time.rs`).

use crate::lead_time::LeadTime;
use meridian_probe::{Sabotage, sabotaged};
use meridian_types::{KeySpan, LeaderId, Timestamp};
use std::collections::VecDeque;
use std::time::Duration;

/// A leader's promise not to stamp at or below `closed` any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Who promises.
    pub leader: LeaderId,
    /// The promise.
    pub closed: Timestamp,
    /// It covers a replica whose applied stamp has reached this.
    pub position: Timestamp,
}

/// An entry that was handed over and is not known to be applied.
#[derive(Debug)]
struct InFlight {
    /// Its first stamp.
    first: Timestamp,
    /// Its last stamp.
    ts: Timestamp,
    /// What it may touch.
    span: KeySpan,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Sequencer {
    leader: LeaderId,
    last: Timestamp,
    closed: Timestamp,
    lead: LeadTime,
    /// Nothing was stamped yet.
    fresh: bool,
    barrier: Option<Timestamp>,
    barrier_applied: bool,
    in_flight: VecDeque<InFlight>,
}

impl Sequencer {
    /// For a new leader whose log has stamps up to `last` and ends with the lead time `lead`, applied or not.
    pub fn new(leader: LeaderId, last: Timestamp, lead: Duration) -> Self {
        Self {
            leader,
            last,
            closed: Timestamp::ZERO,
            lead: LeadTime::of_log(lead),
            fresh: true,
            barrier: None,
            barrier_applied: false,
            in_flight: VecDeque::new(),
        }
    }

    /// Stamps an entry of `count` mutations and puts it in flight. `latest` was sampled after the last of its
    /// requests was taken from the queue; the entry's first stamp exceeds `floor`. Returns the first stamp.
    pub fn stamp(&mut self, latest: Timestamp, floor: Timestamp, count: u64, span: KeySpan) -> Timestamp {
        // Above what any older leader has closed (K2); everything later is above the first one.
        let fresh = std::mem::replace(&mut self.fresh, false);
        let ahead = if fresh && !sabotaged(Sabotage::IgnoreLeadTime) { self.lead.in_force() } else { Duration::ZERO };
        let first = latest.plus(ahead).max(self.last.next()).max(self.closed.next()).max(floor.next());
        self.last = Timestamp(first.0.saturating_add(count.max(1) - 1));
        self.in_flight.push_back(InFlight { first, ts: self.last, span });
        first
    }

    /// Stamps a barrier, which touches nothing. The first one opens closing and reading once it is applied.
    pub fn stamp_barrier(&mut self, latest: Timestamp) -> Timestamp {
        let ts = self.stamp(latest, Timestamp::ZERO, 1, KeySpan::default());
        self.barrier.get_or_insert(ts);
        ts
    }

    /// Stamps an entry that brings another lead time, and touches nothing. From here on entries carry it, and the leader
    /// closes with no more (K1).
    pub fn stamp_lead(&mut self, latest: Timestamp, to: Duration) -> Timestamp {
        let ts = self.stamp(latest, Timestamp::ZERO, 1, KeySpan::default());
        self.lead.propose(to);
        ts
    }

    /// What has become of the entry that brought another lead time: committed, which lets the leader close with it (K1);
    /// or refused, or lost.
    pub fn lead_settled(&mut self, committed: bool) {
        self.lead.settle(committed);
    }

    /// The lead time that is closed with.
    pub fn lead(&self) -> Duration {
        self.lead.in_force()
    }

    /// The lead time that entries carry.
    pub fn carried_lead(&self) -> Duration {
        self.lead.carried()
    }

    /// Whether an entry that brings another lead time is on its way.
    pub fn is_lead_changing(&self) -> bool {
        self.lead.is_changing()
    }

    /// The leader's own state machine has applied everything up to `ts`. Returns the barrier's stamp if that was
    /// the first to cover it.
    pub fn applied(&mut self, ts: Timestamp) -> Option<Timestamp> {
        while self.in_flight.front().is_some_and(|e| e.ts <= ts) {
            self.in_flight.pop_front();
        }
        let opened = self.barrier.filter(|b| !self.barrier_applied && *b <= ts);
        self.barrier_applied |= opened.is_some();
        opened
    }

    /// Whether the barrier is applied: before that nothing is closed and nothing read.
    pub fn is_open(&self) -> bool {
        self.barrier_applied
    }

    /// Closes `past`, which is below `earliest` at an instant at which the caller proves leadership *afterwards*, and
    /// the lead time on top. `None` before the barrier is applied. Closing less than before repeats what was closed
    /// before, with the newer position: still true (C4).
    pub fn close(&mut self, past: Timestamp) -> Option<Closed> {
        if !self.barrier_applied && !sabotaged(Sabotage::CloseBeforeBarrier) {
            return None;
        }
        self.closed = self.closed.max(past.plus(self.lead.in_force()));
        Some(Closed { leader: self.leader, closed: self.closed, position: self.last })
    }

    /// Promises what `past` allows and no more, whatever was closed before: for a proof that is older than the last
    /// closing, and says nothing of that. `None` before the barrier is applied.
    pub fn promise(&mut self, past: Timestamp) -> Option<Closed> {
        let closed = self.close(past)?;
        Some(Closed { closed: past.plus(self.lead.in_force()), ..closed })
    }

    /// The last stamp of an entry in flight that may touch `span` and has any stamp at or below `upto`: an entry of many
    /// mutations may begin below it and end above.
    pub fn last_in_flight(&self, span: &KeySpan, upto: Timestamp) -> Option<Timestamp> {
        let keys_only;
        let span = if sabotaged(Sabotage::ForgetRanges) {
            keys_only = KeySpan { ranges: Vec::new(), ..span.clone() };
            &keys_only
        } else {
            span
        };
        let touching = |e: &&InFlight| e.first <= upto && e.span.touches(span);
        self.in_flight.iter().rev().find(touching).map(|e| e.ts)
    }

    /// The entry whose first stamp is `first` was refused before it was appended: it is not in flight any more. Its
    /// stamps are spent, and positions may point at them.
    pub fn refused(&mut self, first: Timestamp) {
        // Newest first: entries are refused soon or never.
        if let Some(at) = self.in_flight.iter().rposition(|e| e.first == first) {
            self.in_flight.remove(at);
        }
    }

    /// Forgets an entry although it may still be applied: what [`Sabotage::DropInFlight`] does.
    pub(crate) fn forget(&mut self, last: Timestamp) {
        self.in_flight.retain(|e| e.ts != last);
    }

    /// What the entry that was stamped last may touch; `None` once it is applied.
    pub fn last_span(&self) -> Option<&KeySpan> {
        self.in_flight.back().map(|e| &e.span)
    }

    /// Number of entries in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The last stamp given.
    pub fn last(&self) -> Timestamp {
        self.last
    }

    /// The leadership that stamps.
    pub fn leader(&self) -> LeaderId {
        self.leader
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::NodeId;

    const L: LeaderId = LeaderId { term: 1, node: NodeId(1) };

    fn ts(t: u64) -> Timestamp {
        Timestamp(t)
    }

    fn open(last: u64) -> Sequencer {
        let mut s = Sequencer::new(L, ts(last), Duration::ZERO);
        let barrier = s.stamp_barrier(ts(last));
        s.applied(barrier);
        s
    }

    #[test]
    fn a_new_leader_stamps_above_its_whole_log_even_if_its_clock_is_behind() {
        let mut s = Sequencer::new(L, ts(500), Duration::ZERO);
        assert_eq!(s.stamp_barrier(ts(100)), ts(501));
    }

    #[test]
    fn stamps_exceed_the_clock_the_last_stamp_what_was_closed_and_the_floor() {
        let mut s = open(10);
        assert_eq!(s.stamp(ts(100), ts(0), 1, KeySpan::default()), ts(100));
        assert_eq!(s.stamp(ts(90), ts(0), 3, KeySpan::default()), ts(101));
        assert_eq!(s.stamp(ts(90), ts(0), 1, KeySpan::default()), ts(104), "three stamps were taken");
        s.close(ts(200));
        assert_eq!(s.stamp(ts(150), ts(0), 1, KeySpan::default()), ts(201));
        assert_eq!(s.stamp(ts(150), ts(300), 1, KeySpan::default()), ts(301));
    }

    #[test]
    fn nothing_is_closed_before_the_barrier_is_applied() {
        let mut s = Sequencer::new(L, ts(10), Duration::ZERO);
        let barrier = s.stamp_barrier(ts(20));
        assert_eq!(s.close(ts(15)), None);
        s.applied(barrier.prev());
        assert_eq!(s.close(ts(15)), None);
        s.applied(barrier);
        assert_eq!(s.close(ts(15)), Some(Closed { leader: L, closed: ts(15), position: barrier }));
    }

    #[test]
    fn a_closed_timestamp_carries_the_last_stamp_handed_over() {
        let mut s = open(10);
        let first = s.stamp(ts(100), ts(0), 2, KeySpan::default());
        assert_eq!(s.close(ts(50)).unwrap().position, first.next());
        assert_eq!(s.close(ts(40)).unwrap().closed, ts(50), "a promise is not taken back");
    }

    #[test]
    fn a_promise_says_no_more_than_was_proven() {
        let mut s = open(10);
        s.close(ts(200));
        assert_eq!(s.promise(ts(150)).unwrap().closed, ts(150), "200 is not proven by what proves 150");
        assert_eq!(s.stamp(ts(100), ts(0), 1, KeySpan::default()), ts(201), "and is closed all the same");
    }

    #[test]
    fn an_entry_that_begins_below_a_read_and_ends_above_it_is_waited_for() {
        let mut s = open(10);
        let first = s.stamp(ts(100), ts(0), 3, KeySpan::key("a".into()));
        assert_eq!(s.last_in_flight(&KeySpan::key("a".into()), first), Some(ts(102)), "its first stamp is in the read");
        assert_eq!(s.last_in_flight(&KeySpan::key("a".into()), first.prev()), None);
    }

    #[test]
    fn a_refused_entry_is_not_in_flight_and_its_stamp_is_spent() {
        let mut s = open(10);
        let a = s.stamp(ts(100), ts(0), 3, KeySpan::key("a".into()));
        let b = s.stamp(ts(110), ts(0), 1, KeySpan::key("a".into()));
        s.refused(a);
        assert_eq!(s.last_in_flight(&KeySpan::everything(), Timestamp::MAX), Some(b));
        s.refused(b);
        assert_eq!((s.in_flight(), s.last()), (0, b));
    }

    #[test]
    fn entries_are_in_flight_until_applied_and_found_by_key() {
        let mut s = open(10);
        let a = s.stamp(ts(100), ts(0), 1, KeySpan::key("a".into()));
        let b = s.stamp(ts(110), ts(0), 1, KeySpan::key("b".into()));
        let find = |s: &Sequencer, key: &'static str, upto| s.last_in_flight(&KeySpan::key(key.into()), upto);
        assert_eq!(find(&s, "a", Timestamp::MAX), Some(a));
        assert_eq!(find(&s, "b", Timestamp::MAX), Some(b));
        assert_eq!(find(&s, "b", a), None, "stamped above the read");
        assert_eq!(find(&s, "c", Timestamp::MAX), None);
        assert_eq!(s.last_in_flight(&KeySpan::everything(), Timestamp::MAX), Some(b));
        s.applied(a);
        assert_eq!(find(&s, "a", Timestamp::MAX), None);
        assert_eq!(s.in_flight(), 1);
    }
    /// The schedule of K2: the older leader has closed its clock and 800, and its successor does not know.
    #[test]
    fn a_new_leaders_first_stamp_leaps_over_what_an_older_one_may_have_closed() {
        let mut older = Sequencer::new(L, ts(10), Duration::from_nanos(800));
        let barrier = older.stamp_barrier(ts(100));
        assert_eq!(barrier, ts(900), "so did it");
        older.applied(barrier);
        let closed = older.close(ts(1_000)).unwrap().closed;
        assert_eq!(closed, ts(1_800));
        let later = LeaderId { term: 2, node: NodeId(2) };
        let mut new = Sequencer::new(later, barrier, Duration::from_nanos(800));
        let first = new.stamp(ts(1_001), ts(0), 1, KeySpan::default());
        assert!(first > closed, "{first} after {closed}");
        assert_eq!(new.stamp(ts(1_002), ts(0), 1, KeySpan::default()), first.next(), "only the first one leaps");
    }

    /// The schedule of K1, raising: the larger lead time is closed with, and its entry gets lost with the leader.
    #[test]
    fn a_raised_lead_time_is_closed_with_once_its_entry_is_committed() {
        let mut s = open(10);
        let entry = s.stamp_lead(ts(100), Duration::from_nanos(800));
        assert_eq!(s.carried_lead(), Duration::from_nanos(800));
        // A successor without the entry stamps at its clock.
        assert_eq!(s.close(ts(110)).unwrap().closed, ts(110));
        assert_eq!(s.promise(ts(110)).unwrap().closed, ts(110));
        s.applied(entry);
        assert_eq!(s.close(ts(111)).unwrap().closed, ts(111), "an older leader's entries are applied too");
        s.lead_settled(true);
        assert_eq!(s.close(ts(112)).unwrap().closed, ts(912));
        assert_eq!(s.stamp(ts(120), ts(0), 1, KeySpan::default()), ts(913), "writes are stamped above it");
    }

    /// The schedule of K1, lowering: c = t + 800 is out; a transfer 100 later; the successor stamps t + 310.
    #[test]
    fn a_lowered_lead_time_comes_above_everything_that_was_closed_with_the_larger_one() {
        let mut s = Sequencer::new(L, ts(10), Duration::from_nanos(800));
        let barrier = s.stamp_barrier(ts(20));
        s.applied(barrier);
        let closed = s.close(ts(1_000)).unwrap().closed;
        let entry = s.stamp_lead(ts(1_005), Duration::from_nanos(200));
        assert!(entry > closed, "{entry} after {closed}");
        let after = s.close(ts(1_900)).unwrap().closed;
        assert_eq!(after, ts(2_100), "the smaller one only, committed or not");
        // With the entry in its log the successor is above both; without it, it takes the larger one.
        let later = LeaderId { term: 2, node: NodeId(2) };
        let with = Sequencer::new(later, entry, Duration::from_nanos(200)).stamp_barrier(ts(1_901));
        let without = Sequencer::new(later, barrier, Duration::from_nanos(800)).stamp_barrier(ts(1_901));
        assert!(with > after && without > after && with > closed, "{with} and {without}");
    }

    #[test]
    fn a_lead_time_that_is_lost_is_not_closed_with() {
        let mut s = open(10);
        let entry = s.stamp_lead(ts(100), Duration::from_nanos(800));
        assert!(s.is_lead_changing());
        s.refused(entry);
        s.lead_settled(false);
        assert!(!s.is_lead_changing());
        assert_eq!((s.lead(), s.carried_lead()), (Duration::ZERO, Duration::ZERO));
        assert_eq!(s.close(ts(150)).unwrap().closed, ts(150));
    }
}
