//! The heart of a lab's router: which frame is where, and when it goes on. It reads no clock and does no I/O.
//!
//! A frame comes from a host, is given to the way between the two hosts' endpoints, and waits in one queue for the whole
//! lab, ordered by when it is due and then by when it came. As a way never lets anything overtake, each of them delivers
//! in order. Memory is bounded twice: each way has its limit (`way.rs`), and the lab as a whole has [`LAB_BYTES_MAX`].

use super::frame::{destination, packet_bytes};
use super::plan::Plan;
use super::way::{Way, WayStatus};
use crate::wan::{WanError, known};
use crate::{Endpoint, Place};
use meridian_clock::Mono;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The most that is on its way in the whole lab.
pub(crate) const LAB_BYTES_MAX: usize = 512 << 20;

const _: () = assert!(super::way::WAY_BYTES_MAX <= LAB_BYTES_MAX);

/// A frame on its way.
#[derive(Debug)]
struct Waiting {
    due: Mono,
    /// Frames that are due at the same instant go in the order in which they came.
    number: u64,
    way: usize,
    to: usize,
    frame: Box<[u8]>,
}

impl Waiting {
    fn key(&self) -> (Mono, u64) {
        (self.due, self.number)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// A frame that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// For which host, by its place in the plan.
    pub to: usize,
    pub frame: Box<[u8]>,
    way: usize,
}

/// Everything between the hosts of a lab.
#[derive(Debug)]
pub(crate) struct Switch {
    plan: Plan,
    endpoints: Vec<Endpoint>,
    /// For each host the place of its endpoint.
    at: Vec<usize>,
    by_address: HashMap<Ipv4Addr, usize>,
    /// The way from endpoint `a` to endpoint `b` is at `a * endpoints.len() + b`.
    ways: Vec<Way>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    waiting_bytes: usize,
    accepted: u64,
    unroutable: u64,
    rng: ChaCha8Rng,
}

impl Switch {
    /// All ways open, with the topology's distances.
    pub(crate) fn new(plan: Plan) -> Self {
        let topology = &plan.topology;
        let endpoints = topology.endpoints();
        let way = |a: &Endpoint, b: &Endpoint| {
            // Inside a zone the network is the machine's own.
            let outside = a != b;
            let bandwidth = topology.bandwidth(&a.region, &b.region).filter(|_| outside);
            let jitter = if outside { topology.jitter } else { Duration::ZERO };
            Way::new((a.clone(), b.clone()), topology.rtt_between(a, b) / 2, jitter, bandwidth)
        };
        let ways = endpoints.iter().flat_map(|a| endpoints.iter().map(move |b| way(a, b))).collect();
        let of = |host: &super::Host| endpoints.iter().position(|e| *e == host.endpoint()).unwrap_or_default();
        let at = plan.hosts.iter().map(of).collect();
        let by_address = plan.hosts.iter().enumerate().map(|(i, host)| (host.address, i)).collect();
        let rng = ChaCha8Rng::seed_from_u64(plan.seed);
        let (waiting, waiting_bytes, accepted, unroutable) = (BinaryHeap::new(), 0, 0, 0);
        Self { plan, endpoints, at, by_address, ways, waiting, waiting_bytes, accepted, unroutable, rng }
    }

    /// The lab's plan.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes a frame that a host has sent. Only IPv4 is carried.
    pub(crate) fn accept(&mut self, from: usize, frame: &[u8], now: Mono) {
        // Every host looks for IPv6 routers now and then; that there is none is no loss.
        let Some(address) = destination(frame) else { return };
        let (Some(to), Some(a)) = (self.by_address.get(&address).copied(), self.at.get(from)) else {
            self.unroutable += 1;
            return;
        };
        let number = a * self.endpoints.len() + self.at[to];
        let way = &mut self.ways[number];
        if self.waiting_bytes + frame.len() > LAB_BYTES_MAX {
            way.counts.lost_full += 1;
            return;
        }
        if let Some(due) = way.depart(packet_bytes(frame), now, &mut self.rng) {
            self.waiting_bytes += frame.len();
            self.accepted += 1;
            self.waiting.push(Reverse(Waiting { due, number: self.accepted, way: number, to, frame: frame.into() }));
        }
    }

    /// When the next frame arrives.
    pub(crate) fn next_due(&self) -> Option<Mono> {
        self.waiting.peek().map(|Reverse(next)| next.due)
    }

    /// The next frame that has arrived by now.
    pub(crate) fn take_due(&mut self, now: Mono) -> Option<Delivery> {
        while self.next_due()? <= now {
            let Reverse(Waiting { way, to, frame, .. }) = self.waiting.pop()?;
            self.waiting_bytes -= frame.len();
            if self.ways[way].arrive(packet_bytes(&frame)) {
                return Some(Delivery { to, frame, way });
            }
        }
        None
    }

    /// The host's kernel did not take it.
    pub(crate) fn refused(&mut self, delivery: &Delivery) {
        self.ways[delivery.way].refused(packet_bytes(&delivery.frame));
    }

    /// Cuts `a` and `b` off from each other, in both directions.
    pub(crate) fn partition(&mut self, a: &Place, b: &Place) -> Result<(), WanError> {
        self.partition_one_way(a, b)?;
        self.partition_one_way(b, a)
    }

    /// Loses what goes from `a` to `b`.
    pub(crate) fn partition_one_way(&mut self, a: &Place, b: &Place) -> Result<(), WanError> {
        self.between(a, b, |way| way.blocked = true)
    }

    /// Cuts a place off from everything outside it.
    pub(crate) fn isolate(&mut self, place: &Place) -> Result<(), WanError> {
        known(&self.endpoints, place)?;
        let leaves = |way: &&mut Way| place.holds(&way.from) != place.holds(&way.to);
        self.ways.iter_mut().filter(leaves).for_each(|way| way.blocked = true);
        Ok(())
    }

    /// Lets everything between `a` and `b` through again.
    pub(crate) fn heal(&mut self, a: &Place, b: &Place) -> Result<(), WanError> {
        self.between(a, b, |way| way.blocked = false)?;
        self.between(b, a, |way| way.blocked = false)
    }

    /// Lets everything through again. Changed delays stay.
    pub(crate) fn heal_all(&mut self) {
        self.ways.iter_mut().for_each(|way| way.blocked = false);
    }

    /// Changes the RTT between `a` and `b`: half of it in either direction, for what is sent from now on.
    pub(crate) fn set_delay(&mut self, a: &Place, b: &Place, rtt: Duration) -> Result<(), WanError> {
        self.between(a, b, |way| way.delay = rtt / 2)?;
        self.between(b, a, |way| way.delay = rtt / 2)
    }

    /// All ways that a frame can take, and how many frames had an IPv4 destination outside of the lab.
    pub(crate) fn status(&self) -> (Vec<WayStatus>, u64) {
        // Inside a zone there is a way only if there are two hosts.
        let hosts_at = |e: &Endpoint| self.plan.hosts.iter().filter(|host| host.endpoint() == *e).count();
        let used = self.ways.iter().filter(|way| way.from != way.to || hosts_at(&way.from) > 1);
        (used.map(Way::status).collect(), self.unroutable)
    }

    /// Does it to every way from `a` to `b`.
    fn between(&mut self, a: &Place, b: &Place, f: impl Fn(&mut Way)) -> Result<(), WanError> {
        known(&self.endpoints, a)?;
        known(&self.endpoints, b)?;
        let leads = |way: &&mut Way| way.from != way.to && a.holds(&way.from) && b.holds(&way.to);
        let mut ways = self.ways.iter_mut().filter(leads).peekable();
        if ways.peek().is_none() {
            return Err(WanError::SamePlace(a.clone(), b.clone()));
        }
        ways.for_each(f);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::frame_to;
    use super::*;
    use crate::Topology;

    const MS: Duration = Duration::from_millis(1);
    const NOW: Mono = Mono(1_000_000_000);
    const US: [u8; 4] = [10, 77, 1, 1];
    const EU: [u8; 4] = [10, 77, 2, 1];
    const AP: [u8; 4] = [10, 77, 3, 1];

    fn three() -> Switch {
        Switch::new(Plan::new("t", Topology::preset("three").unwrap(), 1).unwrap())
    }

    fn place(text: &str) -> Place {
        text.parse().unwrap()
    }

    /// Hosts that got something by then, in order, with the bytes of its payload.
    fn delivered(switch: &mut Switch, by: Duration) -> Vec<(usize, usize)> {
        let due = std::iter::from_fn(|| switch.take_due(NOW.plus(by)));
        due.map(|d| (d.to, packet_bytes(&d.frame) - 20)).collect()
    }

    #[test]
    fn frames_arrive_half_a_round_trip_later() {
        let mut switch = three();
        switch.accept(0, &frame_to(AP, 1), NOW);
        switch.accept(0, &frame_to(EU, 2), NOW);
        switch.accept(1, &frame_to(AP, 3), NOW);
        switch.accept(0, &frame_to(EU, 4), NOW);
        assert_eq!(switch.next_due(), Some(NOW.plus(35 * MS)));
        assert_eq!(delivered(&mut switch, 35 * MS - Duration::from_nanos(1)), []);
        assert_eq!(delivered(&mut switch, 70 * MS), [(1, 2), (1, 4), (2, 1)]);
        assert_eq!(delivered(&mut switch, 105 * MS), [(2, 3)]);
        assert_eq!(switch.next_due(), None);
        assert_eq!(switch.waiting_bytes, 0);
    }

    #[test]
    fn what_is_meant_for_nobody_is_counted() {
        let mut switch = three();
        switch.accept(0, &frame_to([8, 8, 8, 8], 1), NOW);
        switch.accept(0, &[], NOW);
        switch.accept(99, &frame_to(US, 1), NOW);
        assert_eq!((switch.next_due(), switch.status().1), (None, 2));
    }

    #[test]
    fn partitions_isolations_and_heals() {
        let mut switch = three();
        let all = |switch: &mut Switch| {
            for from in 0..3 {
                for to in [US, EU, AP] {
                    switch.accept(from, &frame_to(to, from), NOW);
                }
            }
            let mut got = delivered(switch, 1000 * MS);
            got.retain(|(to, from)| to != from);
            got.sort_unstable();
            got
        };
        let everything = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
        assert_eq!(all(&mut switch), everything);
        switch.partition(&place("us-east"), &place("eu-west")).unwrap();
        assert_eq!(all(&mut switch), [(0, 2), (1, 2), (2, 0), (2, 1)]);
        switch.heal(&place("eu-west"), &place("us-east/a")).unwrap();
        switch.partition_one_way(&place("us-east"), &place("eu-west")).unwrap();
        assert_eq!(all(&mut switch), [(0, 1), (0, 2), (1, 2), (2, 0), (2, 1)]);
        switch.heal_all();
        switch.isolate(&place("ap-northeast")).unwrap();
        assert_eq!(all(&mut switch), [(0, 1), (1, 0)]);
        switch.heal_all();
        assert_eq!(all(&mut switch), everything);
        assert!(matches!(switch.isolate(&place("mars")), Err(WanError::UnknownPlace(..))));
        assert!(matches!(switch.partition(&place("us-east"), &place("us-east/a")), Err(WanError::SamePlace(..))));
    }

    #[test]
    fn a_partition_loses_what_is_on_its_way() {
        let mut switch = three();
        switch.accept(0, &frame_to(EU, 1), NOW);
        switch.isolate(&place("eu-west")).unwrap();
        assert_eq!(delivered(&mut switch, 1000 * MS), []);
        let (ways, _) = switch.status();
        let way = ways.iter().find(|w| w.from == place("us-east/a") && w.to == place("eu-west/a")).unwrap();
        assert_eq!((way.blocked, way.lost_blocked, way.packets), (true, 1, 0));
        assert_eq!(ways.len(), 6);
    }

    #[test]
    fn delays_can_be_changed_and_refusals_are_counted() {
        let mut switch = three();
        switch.set_delay(&place("us-east"), &place("eu-west"), 150 * MS).unwrap();
        switch.accept(1, &frame_to(US, 9), NOW);
        assert_eq!(switch.next_due(), Some(NOW.plus(75 * MS)));
        let delivery = switch.take_due(NOW.plus(75 * MS)).unwrap();
        switch.refused(&delivery);
        let lost: Vec<_> =
            switch.status().0.iter().map(|w| (w.packets, w.lost_host)).filter(|l| *l != (0, 0)).collect();
        assert_eq!(lost, [(0, 1)]);
    }

    #[test]
    fn hosts_of_one_zone_are_next_to_each_other() {
        let topology = Topology { jitter: 9 * MS, ..Topology::preset("three").unwrap() };
        let mut switch = Switch::new(Plan::new("t", topology.with_nodes_per_region(2), 1).unwrap());
        switch.accept(0, &frame_to([10, 77, 1, 2], 5), NOW);
        assert_eq!(delivered(&mut switch, Duration::ZERO), [(1, 5)]);
        assert_eq!(switch.status().0.len(), 9);
    }
}
