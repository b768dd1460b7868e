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
//!
//! There is no ratchet for snapshot reads (N2): a leader answers a read at `t` only after it closed `t`.
//!
//! Not here: proof of leadership (`lease.rs`), what a replica makes of a closed timestamp (`safe_time.rs`).

use meridian_probe::{Sabotage, sabotaged};
use meridian_types::{KeySpan, LeaderId, Timestamp};
use std::collections::VecDeque;

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
    barrier: Option<Timestamp>,
    barrier_applied: bool,
    in_flight: VecDeque<InFlight>,
}

impl Sequencer {
    /// For a new leader whose log has stamps up to `last`, applied or not.
    pub fn new(leader: LeaderId, last: Timestamp) -> Self {
        Self {
            leader,
            last,
            closed: Timestamp::ZERO,
            barrier: None,
            barrier_applied: false,
            in_flight: VecDeque::new(),
        }
    }

    /// Stamps an entry of `count` mutations and puts it in flight. `latest` was sampled after the last of its
    /// requests was taken from the queue; the entry's first stamp exceeds `floor`. Returns the first stamp.
    pub fn stamp(&mut self, latest: Timestamp, floor: Timestamp, count: u64, span: KeySpan) -> Timestamp {
        let first = latest.max(self.last.next()).max(self.closed.next()).max(floor.next());
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

    /// Closes `upto`, which is below `earliest` at an instant at which the caller proves leadership *afterwards*.
    /// `None` before the barrier is applied. Closing less than before repeats what was closed before, with the
    /// newer position: still true (C4).
    pub fn close(&mut self, upto: Timestamp) -> Option<Closed> {
        if !self.barrier_applied && !sabotaged(Sabotage::CloseBeforeBarrier) {
            return None;
        }
        self.closed = self.closed.max(upto);
        Some(Closed { leader: self.leader, closed: self.closed, position: self.last })
    }

    /// Promises `upto` and no more, whatever was closed before: for a proof that is older than the last closing, and says
    /// nothing of that. `None` before the barrier is applied.
    pub fn promise(&mut self, upto: Timestamp) -> Option<Closed> {
        let closed = self.close(upto)?;
        Some(Closed { closed: upto, ..closed })
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
        let mut s = Sequencer::new(L, ts(last));
        let barrier = s.stamp_barrier(ts(last));
        s.applied(barrier);
        s
    }

    #[test]
    fn a_new_leader_stamps_above_its_whole_log_even_if_its_clock_is_behind() {
        let mut s = Sequencer::new(L, ts(500));
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
        let mut s = Sequencer::new(L, ts(10));
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
}
