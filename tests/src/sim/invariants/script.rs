//! Sequences of events, written down readably, for the invariants' own tests.
//!
//! Everything happens in [`SHARD`]; numbers stand for nodes, terms, indexes, stamps and instants.

use crate::sim::invariant::{Disks, Invariant, Seen, Stop, What};
use meridian_probe::{Digest, Event, ReadKind};
use meridian_storage::DiskLevel;
use meridian_types::{KeyRange, KeySpan, LeaderId, LogId, NodeId, RaftTiming, RequestId, ShardId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// The shard of every event made here.
pub(super) const SHARD: ShardId = ShardId(7);

/// The truth about disks, as a test sets it.
#[derive(Default)]
struct TestDisks {
    ends: BTreeMap<NodeId, u64>,
    floors: BTreeMap<NodeId, u64>,
}

impl Disks for TestDisks {
    fn synced_end(&self, node: NodeId, shard: ShardId) -> u64 {
        assert_eq!(shard, SHARD);
        self.ends.get(&node).copied().unwrap_or(0)
    }

    fn durable_floor(&self, node: NodeId, shard: ShardId) -> Timestamp {
        assert_eq!(shard, SHARD);
        ts(self.floors.get(&node).copied().unwrap_or(0))
    }
}

/// Feeds one invariant.
pub(super) struct Script {
    invariant: Box<dyn Invariant>,
    number: u64,
    /// True time.
    pub(super) now: u64,
    /// Whether every clock has kept its bound so far.
    pub(super) clocks_good: bool,
    disks: TestDisks,
}

impl Script {
    /// At instant 1,000,000, with good clocks and empty disks.
    pub(super) fn new(invariant: impl Invariant + 'static) -> Self {
        let disks = TestDisks::default();
        Self { invariant: Box::new(invariant), number: 0, now: 1_000_000, clocks_good: true, disks }
    }

    /// The number of the last event: what a read that begins now carries.
    pub(super) fn mark(&self) -> u64 {
        self.number
    }

    /// From now on a power loss leaves this node's log up to before `end`.
    pub(super) fn disk(&mut self, node: u64, end: u64) {
        self.disks.ends.insert(NodeId(node), end);
    }

    /// From now on a power loss leaves this node's shard with this GC floor.
    pub(super) fn durable_floor(&mut self, node: u64, floor: u64) {
        self.disks.floors.insert(NodeId(node), floor);
    }

    fn see(&mut self, node: u64, what: What<'_>) -> Result<(), String> {
        self.number += 1;
        let (number, true_ns, clocks_good) = (self.number, self.now, self.clocks_good);
        let seen = Seen { number, true_ns, node: NodeId(node), what, disks: &self.disks, clocks_good };
        self.invariant.see(&seen)
    }

    /// This happens at `node`, and is fine.
    #[track_caller]
    pub(super) fn ok(&mut self, node: u64, event: Event) {
        let result = self.see(node, What::Event(&event));
        assert_eq!(result, Ok(()), "refused at n{node}: {event:?}");
    }

    /// This happens at `node`, and is refused with a text that contains `why`.
    #[track_caller]
    pub(super) fn bad(&mut self, node: u64, event: Event, why: &str) {
        match self.see(node, What::Event(&event)) {
            Ok(()) => panic!("passed at n{node}: {event:?}"),
            Err(text) => assert!(text.contains(why), "another reason: {text}"),
        }
    }

    /// The node's disk becomes so full.
    #[track_caller]
    pub(super) fn space(&mut self, node: u64, level: DiskLevel) {
        assert_eq!(self.see(node, What::Disk(level)), Ok(()));
    }

    /// `node` is killed, or its machine loses its power, and it starts again.
    #[track_caller]
    pub(super) fn restart(&mut self, node: u64, stop: Stop) {
        assert_eq!(self.see(node, What::Stopped(stop)), Ok(()));
        assert_eq!(self.see(node, What::Started), Ok(()));
    }

    /// The simulation ends, and all is fine.
    #[track_caller]
    pub(super) fn end(mut self) {
        assert_eq!(self.invariant.end(), Ok(()));
    }
}

pub(super) fn ts(t: u64) -> Timestamp {
    Timestamp(t)
}

pub(super) fn leader(term: u64, node: u64) -> LeaderId {
    LeaderId { term, node: NodeId(node) }
}

pub(super) fn id(term: u64, node: u64, index: u64) -> LogId {
    LogId { leader: leader(term, node), index }
}

pub(super) fn key(k: &'static str) -> KeySpan {
    KeySpan::key(k.into())
}

pub(super) fn range(start: &'static str, end: &'static str) -> KeySpan {
    KeySpan::range(KeyRange::new(start.into(), Some(end.into())).unwrap())
}

fn stamps(stamp: u64) -> Option<(Timestamp, Timestamp)> {
    (stamp > 0).then_some((ts(stamp), ts(stamp)))
}

pub(super) fn opened(log_end: u64, applied: u64) -> Event {
    Event::Opened { shard: SHARD, log_end, applied: ts(applied) }
}

/// An entry with one stamp; 0: with none.
pub(super) fn appended(id: LogId, stamp: u64) -> Event {
    Event::Appended { shard: SHARD, id, stamps: stamps(stamp), digest: Digest(stamp), voters: None }
}

/// An entry with several stamps.
pub(super) fn appended_many(id: LogId, first: u64, last: u64) -> Event {
    let stamps = Some((ts(first), ts(last)));
    Event::Appended { shard: SHARD, id, stamps, digest: Digest(first), voters: None }
}

/// A membership entry; a slice for each half.
pub(super) fn voters(id: LogId, halves: &[&[u64]]) -> Event {
    let voters = halves.iter().map(|half| half.iter().copied().map(NodeId).collect()).collect();
    Event::Appended { shard: SHARD, id, stamps: None, digest: Digest::EMPTY, voters: Some(voters) }
}

pub(super) fn truncated(from: u64) -> Event {
    Event::Truncated { shard: SHARD, from }
}

pub(super) fn purged(upto: u64) -> Event {
    Event::Purged { shard: SHARD, upto }
}

pub(super) fn synced(upto: u64) -> Event {
    Event::Synced { shard: SHARD, upto }
}

pub(super) fn vote(leader: LeaderId) -> Event {
    Event::VoteSaved { shard: SHARD, leader, committed: false }
}

pub(super) fn led(leader: LeaderId, above: u64) -> Event {
    Event::Led { shard: SHARD, leader, above: ts(above) }
}

pub(super) fn deposed(leader: LeaderId) -> Event {
    Event::Deposed { shard: SHARD, leader }
}

pub(super) fn barrier(leader: LeaderId, stamp: u64) -> Event {
    Event::BarrierApplied { shard: SHARD, leader, ts: ts(stamp) }
}

pub(super) fn stamped(leader: LeaderId, stamp: u64, span: KeySpan) -> Event {
    Event::Stamped { shard: SHARD, leader, first: ts(stamp), last: ts(stamp), span }
}

pub(super) fn stamped_many(leader: LeaderId, first: u64, last: u64, span: KeySpan) -> Event {
    Event::Stamped { shard: SHARD, leader, first: ts(first), last: ts(last), span }
}

pub(super) fn refused(leader: LeaderId, first: u64) -> Event {
    Event::Refused { shard: SHARD, leader, first: ts(first) }
}

pub(super) fn committed(id: LogId) -> Event {
    Event::Committed { shard: SHARD, id }
}

/// An entry with one stamp, or none, applied; the outcome's digest is its stamp.
pub(super) fn applied(id: LogId, stamp: u64) -> Event {
    Event::Applied { shard: SHARD, id, stamps: stamps(stamp), stale: false, digest: Digest(stamp) }
}

pub(super) fn applied_many(id: LogId, first: u64, last: u64) -> Event {
    let stamps = Some((ts(first), ts(last)));
    Event::Applied { shard: SHARD, id, stamps, stale: false, digest: Digest(first) }
}

/// Like [`applied`], with another outcome.
pub(super) fn applied_as(id: LogId, stamp: u64, digest: u64) -> Event {
    Event::Applied { shard: SHARD, id, stamps: stamps(stamp), stale: false, digest: Digest(digest) }
}

/// Refused by the apply guard.
pub(super) fn stale(id: LogId, stamp: u64) -> Event {
    Event::Applied { shard: SHARD, id, stamps: stamps(stamp), stale: true, digest: Digest(stamp) }
}

pub(super) fn decided(sequence: u64, stamp: u64, committed: bool) -> Event {
    let request = RequestId { time: ts(1), client: 1, sequence };
    Event::Decided { shard: SHARD, request, ts: ts(stamp), committed }
}

pub(super) fn installed(id: LogId, last: u64) -> Event {
    Event::Installed { shard: SHARD, id: Some(id), last_ts: ts(last) }
}

pub(super) fn closed(leader: LeaderId, closed: u64, position: u64) -> Event {
    Event::Closed { shard: SHARD, leader, closed: ts(closed), position: ts(position) }
}

pub(super) fn lease(leader: LeaderId) -> Event {
    Event::LeaseValid { shard: SHARD, leader }
}

pub(super) fn transferring(leader: LeaderId, to: u64) -> Event {
    Event::Transferring { shard: SHARD, leader, to: NodeId(to) }
}

pub(super) fn transfer_given_up(leader: LeaderId) -> Event {
    Event::TransferGivenUp { shard: SHARD, leader }
}

pub(super) fn read(kind: ReadKind, at: u64, applied: u64, span: KeySpan, began: u64) -> Event {
    Event::Read { shard: SHARD, kind, at: ts(at), applied: ts(applied), span, began }
}

pub(super) fn floor_raised(stamp: u64, floor: u64) -> Event {
    Event::FloorRaised { shard: SHARD, ts: ts(stamp), floor: ts(floor) }
}

pub(super) fn lead_time(stamp: u64, lead: u64) -> Event {
    Event::LeadTime { shard: SHARD, ts: ts(stamp), lead: Duration::from_nanos(lead) }
}

/// An entry that brings timers with this promise.
pub(super) fn timers_agreed(stamp: u64, election_max_ms: u64) -> Event {
    let timing = RaftTiming { heartbeat_ms: 100, election_min_ms: 300, election_max_ms };
    Event::TimersAgreed { shard: SHARD, ts: ts(stamp), timing }
}

pub(super) fn collecting(floor: u64) -> Event {
    Event::Collecting { shard: SHARD, floor: ts(floor) }
}

pub(super) fn released(stamp: u64) -> Event {
    Event::Released { ts: ts(stamp) }
}

pub(super) fn clock(safe: bool) -> Event {
    Event::ClockSafe { safe }
}
