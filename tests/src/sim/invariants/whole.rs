//! All invariants together, over the events of a small made-up cluster: nothing that is right is refused, and looking
//! costs little.

use super::all;
use super::script::*;
use crate::sim::invariant::{Disks, Invariant, Seen, Stop, What};
use meridian_probe::{Event, ReadKind};
use meridian_types::{KeySpan, LeaderId, LogId, NodeId, ShardId, Timestamp};

const NODES: [u64; 3] = [1, 2, 3];

/// A group that replicates without delay, for as long as nobody interferes.
struct Group {
    invariants: Vec<Box<dyn Invariant>>,
    number: u64,
    now: u64,
    synced_end: u64,
}

struct SameEverywhere(u64);

impl Disks for SameEverywhere {
    fn synced_end(&self, _: NodeId, _: ShardId) -> u64 {
        self.0
    }

    fn durable_floor(&self, _: NodeId, _: ShardId) -> Timestamp {
        Timestamp::MAX
    }
}

impl Group {
    fn see(&mut self, node: u64, what: What<'_>) {
        if matches!(what, What::Event(_)) {
            self.number += 1;
        }
        let disks = SameEverywhere(self.synced_end);
        let (number, true_ns) = (self.number, self.now);
        let seen = Seen { number, true_ns, node: NodeId(node), what, disks: &disks, clocks_good: true };
        for invariant in &mut self.invariants {
            let result = invariant.see(&seen);
            assert_eq!(result, Ok(()), "{} at event {number}: {what:?}", invariant.name());
        }
    }

    fn event(&mut self, node: u64, event: Event) {
        self.see(node, What::Event(&event));
    }

    /// An entry reaches all logs and disks.
    fn replicate(&mut self, id: LogId, event: &Event) {
        for node in NODES {
            self.event(node, event.clone());
        }
        self.synced_end = id.index + 1;
        for node in NODES {
            self.event(node, synced(id.index));
        }
    }

    /// A leader stamps, replicates, commits and applies an entry; returns its stamp.
    fn write(&mut self, leader: LeaderId, index: u64, span: KeySpan) -> u64 {
        self.now += 1_000;
        let (stamp, id) = (self.now + 100, LogId { leader, index });
        let me = leader.node.0;
        self.event(me, stamped(leader, stamp, span));
        self.replicate(id, &appended(id, stamp));
        self.event(me, committed(id));
        for node in NODES {
            self.event(node, applied(id, stamp));
            self.event(node, decided(index, stamp, true));
        }
        self.now = stamp + 1;
        self.event(me, released(stamp));
        stamp
    }

    /// One leadership of `writes` entries, with reads of all kinds; returns the index after the last
    /// and its stamp.
    fn lead(&mut self, leader: LeaderId, start: u64, writes: u64, last: u64) -> (u64, u64) {
        let me = leader.node.0;
        let blank = LogId { leader, index: start };
        for node in NODES {
            self.event(node, vote(leader));
        }
        self.replicate(blank, &appended(blank, 0));
        for node in NODES {
            self.event(node, applied(blank, 0));
        }
        self.event(me, led(leader, last));
        let mut stamp = self.write(leader, start + 1, KeySpan::default());
        self.event(me, barrier(leader, stamp));
        for index in start + 2..start + 2 + writes {
            let span = if index % 2 == 0 { key("a") } else { range("b", "d") };
            stamp = self.write(leader, index, span);
            let began = self.number;
            self.event(me, lease(leader));
            self.event(me, read(ReadKind::Linearizable, stamp, stamp, key("a"), began));
            self.event(me, read(ReadKind::ReadIndex, stamp, stamp, key("c"), began));
            self.event(me % 3 + 1, read(ReadKind::Followed, stamp, stamp, key("c"), began));
            self.now += 500;
            self.event(me, closed(leader, stamp + 100, stamp));
            self.event(me % 3 + 1, read(ReadKind::Bounded, stamp + 50, stamp, range("a", "z"), began));
        }
        self.event(me, transferring(leader, me % 3 + 1));
        self.event(me, deposed(leader));
        (start + 2 + writes, stamp)
    }
}

fn group() -> Group {
    let mut group = Group { invariants: all(), number: 0, now: 1_000_000, synced_end: 0 };
    for node in NODES {
        group.see(node, What::Started);
        group.event(node, opened(0, 0));
    }
    let first = id(0, 1, 0);
    group.replicate(first, &voters(first, &[&NODES]));
    for node in NODES {
        group.event(node, applied(first, 0));
    }
    group
}

#[test]
fn leaderships_follow_one_another_over_restarts_and_purges() {
    let mut group = group();
    let (mut index, mut last) = (1, 0);
    for term in 1..=6 {
        (index, last) = group.lead(leader(term, term % 3 + 1), index, 20, last);
        let (node, stop) = (term % 3 + 1, if term % 2 == 0 { Stop::Killed } else { Stop::PowerLost });
        group.event(node, purged(index - 5));
        group.see(node, What::Stopped(stop));
        group.see(node, What::Started);
        group.event(node, opened(index, last));
    }
    for invariant in &mut group.invariants {
        assert_eq!(invariant.end(), Ok(()));
    }
}

#[test]
fn thousands_of_entries_cost_little() {
    let mut group = group();
    let start = meridian_clock::Mono::now();
    group.lead(leader(1, 1), 1, 5_000, 0);
    let each = meridian_clock::Mono::now().since(start).as_nanos() / u128::from(group.number);
    println!("{} events, {each} ns each", group.number);
    assert!(each < 50_000, "{each} ns for an event");
}
