//! The simulated network: gRPC calls as HTTP requests, whose frames travel with the delays and faults of links.
//!
//! A call behaves as it does over TCP: its frames keep their order, a lost packet costs a retransmission timeout, a link
//! that is cut holds frames back until it heals or the connection is given up, a process that is killed resets its
//! connections, a machine that loses its power says nothing. Between calls nothing is ordered. Unary requests may also
//! arrive twice, the second time much later: what a retry in some proxy or client makes of them.
//!
//! Everything is drawn from one seeded sequence and queued by (time, number), so runs repeat.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tonic::service::Routes;

/// A host of the simulation: nodes have their ids, clients come after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HostId(pub(crate) u64);

/// A connection whose packets are not answered is given up after this time.
const GIVE_UP_NS: u64 = 15_000_000_000;
/// What a lost packet costs at the least.
const RETRANSMIT_NS: u64 = 200_000_000;
/// Longest delay of a request's second copy.
const COPY_LATE_NS: u64 = 8_000_000_000;
/// A millisecond.
const MS: u64 = 1_000_000;

/// One direction between two hosts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Link {
    /// One-way delay.
    pub(crate) delay: Duration,
    /// Largest random addition to it.
    pub(crate) jitter: Duration,
    /// Packets of a thousand that are lost.
    pub(crate) lost_permille: u32,
    /// Unary requests of a thousand that arrive twice.
    pub(crate) doubled_permille: u32,
    /// Nothing passes.
    pub(crate) cut: bool,
}

/// A part of a call on its way.
#[derive(Debug)]
pub(crate) enum Frame {
    /// The request's head and whatever of its body goes with it; a second copy is not answered.
    Request(Box<http::request::Parts>, Option<Vec<bytes::Bytes>>),
    /// The response's head.
    Response(Box<http::response::Parts>),
    /// A piece of a body.
    Data(bytes::Bytes),
    /// The end of a body, with its trailers.
    End(Option<http::HeaderMap>),
    /// The connection broke, or the other side lost interest.
    Reset(&'static str),
    /// Nothing was sent, because no connection could be made.
    Refused(&'static str),
}

impl Frame {
    fn name(&self) -> &'static str {
        match self {
            Self::Request(..) => "request",
            Self::Response(_) => "response",
            Self::Data(_) => "data",
            Self::End(_) => "end",
            Self::Reset(why) | Self::Refused(why) => why,
        }
    }
}

/// Which side of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Who called.
    Caller,
    /// Who answers.
    Callee,
}

/// A call that is open on at least one side.
pub(crate) struct Call {
    pub(crate) from: HostId,
    pub(crate) to: HostId,
    from_boot: u64,
    to_boot: u64,
    pub(crate) path: String,
    /// Frames to the caller, until it loses interest.
    pub(crate) caller: Option<UnboundedSender<Frame>>,
    /// Frames to the callee, once the request has arrived.
    pub(crate) callee: Option<UnboundedSender<Frame>>,
    /// The callee's work, to be ended with the call.
    pub(crate) work: Option<tokio::task::AbortHandle>,
    /// Latest arrival queued, per direction: frames keep their order.
    last: [u64; 2],
}

/// What is to happen at a host.
pub(crate) struct Delivery {
    pub(crate) to: HostId,
    pub(crate) call: u64,
    pub(crate) side: Side,
    pub(crate) frame: Frame,
}

struct HostState {
    /// Number of the present run; frames for an earlier one get nowhere.
    boot: u64,
    up: bool,
    /// The machine has power: a process that is down refuses connections at once.
    powered: bool,
    routes: Option<Routes>,
}

/// See the module's documentation.
pub(crate) struct NetState {
    pub(crate) now: u64,
    rng: ChaCha8Rng,
    next_call: u64,
    next_number: u64,
    queue: BTreeMap<(u64, u64), Delivery>,
    /// Held back by a cut link, by its direction.
    held: BTreeMap<(HostId, HostId), Vec<(u64, Delivery)>>,
    links: BTreeMap<(HostId, HostId), Link>,
    addresses: BTreeMap<String, HostId>,
    hosts: BTreeMap<HostId, HostState>,
    pub(crate) calls: BTreeMap<u64, Call>,
    /// Says what travels, if anybody wants to know.
    pub(crate) tracing: Option<Vec<String>>,
    pub(crate) messages: u64,
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<NetState>>);

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").finish_non_exhaustive()
    }
}

impl Net {
    /// Without hosts.
    pub(crate) fn new(seed: u64, now: u64) -> Self {
        Self(Arc::new(Mutex::new(NetState {
            now,
            rng: ChaCha8Rng::seed_from_u64(seed),
            next_call: 1,
            next_number: 0,
            queue: BTreeMap::new(),
            held: BTreeMap::new(),
            links: BTreeMap::new(),
            addresses: BTreeMap::new(),
            hosts: BTreeMap::new(),
            calls: BTreeMap::new(),
            tracing: None,
            messages: 0,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, NetState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NetState {
    /// Adds a host that is up, under an address if it serves.
    pub(crate) fn add_host(&mut self, host: HostId, address: Option<String>) {
        self.hosts.insert(host, HostState { boot: 0, up: true, powered: true, routes: None });
        if let Some(address) = address {
            self.addresses.insert(address, host);
        }
    }

    /// Sets one direction.
    pub(crate) fn set_link(&mut self, from: HostId, to: HostId, link: Link) {
        self.links.insert((from, to), link);
    }

    /// Changes one direction; frames that a cut has held back go on their way when it is healed.
    pub(crate) fn change_link(&mut self, from: HostId, to: HostId, change: impl FnOnce(&mut Link)) {
        let Some(link) = self.links.get_mut(&(from, to)) else { return };
        let was_cut = link.cut;
        change(link);
        let link = *link;
        if was_cut && !link.cut {
            for (since, delivery) in self.held.remove(&(from, to)).unwrap_or_default() {
                // The connection was given up meanwhile.
                if self.now.saturating_sub(since) < GIVE_UP_NS {
                    let retransmit = RETRANSMIT_NS + self.rng.random_range(0..RETRANSMIT_NS);
                    let arrives = self.now + nanos(link.delay) + retransmit;
                    self.enqueue_at(delivery.call, delivery.side, delivery.frame, arrives);
                }
            }
        }
    }

    /// Gives up connections whose packets have not been answered for too long. Called now and then.
    pub(crate) fn give_up(&mut self) {
        let now = self.now;
        let old = |held: &Vec<(u64, Delivery)>| held.iter().any(|(since, _)| now.saturating_sub(*since) >= GIVE_UP_NS);
        if !self.held.values().any(old) {
            return;
        }
        let mut lost = Vec::new();
        for held in self.held.values_mut() {
            let (gone, kept) = std::mem::take(held).into_iter().partition(|(since, _)| now - *since >= GIVE_UP_NS);
            *held = kept;
            lost.extend(Vec::into_iter(gone).map(|(_, delivery)| delivery.call));
        }
        for id in lost {
            for side in [Side::Caller, Side::Callee] {
                self.enqueue_at(id, side, Frame::Reset("the connection was given up"), now);
            }
        }
    }

    /// All directions between hosts, for whoever changes many.
    pub(crate) fn directions(&self) -> Vec<(HostId, HostId)> {
        self.links.keys().copied().collect()
    }

    /// The host serves these from now on.
    pub(crate) fn serve(&mut self, host: HostId, routes: Routes) {
        if let Some(state) = self.hosts.get_mut(&host) {
            state.routes = Some(routes);
        }
    }

    pub(crate) fn routes(&self, host: HostId) -> Option<Routes> {
        self.hosts.get(&host)?.routes.clone()
    }

    /// A host's process has ended. Unless it lost its power, its peers hear of it at once.
    pub(crate) fn host_down(&mut self, host: HostId, powered: bool) {
        let Some(state) = self.hosts.get_mut(&host) else { return };
        (state.up, state.powered, state.routes) = (false, powered, None);
        state.boot += 1;
        let open: Vec<u64> =
            self.calls.iter().filter(|(_, c)| c.from == host || c.to == host).map(|(id, _)| *id).collect();
        for id in open {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            let side = if call.from == host { Side::Callee } else { Side::Caller };
            if powered {
                self.send(id, side, Frame::Reset("the peer's process has ended"));
            } else {
                let late = self.now + GIVE_UP_NS;
                self.enqueue_at(id, side, Frame::Reset("the peer does not answer"), late);
            }
        }
    }

    /// A host's process runs again.
    pub(crate) fn host_up(&mut self, host: HostId) {
        if let Some(state) = self.hosts.get_mut(&host) {
            (state.up, state.powered) = (true, true);
        }
        // What was on its way to the earlier run is answered with a reset now.
        let stale: Vec<u64> =
            self.calls.iter().filter(|(_, c)| c.from == host || c.to == host).map(|(id, _)| *id).collect();
        for id in stale {
            let Some(call) = self.calls.get(&id) else { continue };
            let side = if call.from == host { Side::Callee } else { Side::Caller };
            self.send(id, side, Frame::Reset("the peer was started again"));
        }
    }

    /// Opens a call; the caller's frames arrive through `caller`.
    pub(crate) fn open(
        &mut self,
        from: HostId,
        address: &str,
        connected: bool,
        head: http::request::Parts,
        body: Option<Vec<bytes::Bytes>>,
        caller: UnboundedSender<Frame>,
    ) -> u64 {
        let id = self.next_call;
        self.next_call += 1;
        let to = self.addresses.get(address).copied();
        let path = head.uri.path().to_owned();
        let boot = |host: Option<HostId>| host.and_then(|h| self.hosts.get(&h)).map_or(0, |h| h.boot);
        let (from_boot, to_boot) = (boot(Some(from)), boot(to));
        let target = to.unwrap_or(HostId(0));
        let call = Call {
            from,
            to: target,
            from_boot,
            to_boot,
            path,
            caller: Some(caller),
            callee: None,
            work: None,
            last: [self.now; 2],
        };
        self.calls.insert(id, call);
        let there = self.links.get(&(from, target)).copied();
        let back = self.links.get(&(target, from)).copied();
        let (Some(there), Some(back)) = (there, back) else {
            self.enqueue_at(id, Side::Caller, Frame::Refused("no such address"), self.now + MS);
            return id;
        };
        let round_trip = nanos(there.delay) + nanos(back.delay);
        let state = self.hosts.get(&target);
        if state.is_none_or(|h| !h.up) {
            let (text, wait) = match state {
                Some(h) if h.powered => ("connection refused", round_trip),
                _ => ("connecting timed out", 5_000 * MS),
            };
            self.enqueue_at(id, Side::Caller, Frame::Refused(text), self.now + wait);
            return id;
        }
        if !connected && (there.cut || back.cut) {
            self.enqueue_at(id, Side::Caller, Frame::Refused("connecting timed out"), self.now + 5_000 * MS);
            return id;
        }
        if !connected {
            // The handshake of a new connection.
            if let Some(call) = self.calls.get_mut(&id) {
                call.last[0] += round_trip;
            }
        }
        let doubled = body.is_some() && self.rng.random_range(0..1_000) < there.doubled_permille;
        if doubled {
            self.double(id, &head, body.as_ref());
        }
        self.send(id, Side::Callee, Frame::Request(Box::new(head), body));
        id
    }

    /// Sends a unary request a second time, later, as a call that nobody waits for.
    fn double(&mut self, original: u64, head: &http::request::Parts, body: Option<&Vec<bytes::Bytes>>) {
        let Some(call) = self.calls.get(&original) else { return };
        let (from, to, path) = (call.from, call.to, call.path.clone());
        let (from_boot, to_boot) = (call.from_boot, call.to_boot);
        let id = self.next_call;
        self.next_call += 1;
        let last = [self.now + self.rng.random_range(0..COPY_LATE_NS), self.now];
        let copy = Call { from, to, from_boot, to_boot, path, caller: None, callee: None, work: None, last };
        self.calls.insert(id, copy);
        let mut request = http::Request::new(());
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
        let (parts, ()) = request.into_parts();
        self.send(id, Side::Callee, Frame::Request(Box::new(parts), body.cloned()));
    }

    /// Sends a frame to one side of a call.
    pub(crate) fn send(&mut self, id: u64, side: Side, frame: Frame) {
        let Some(call) = self.calls.get(&id) else { return };
        let way = match side {
            Side::Callee => (call.from, call.to),
            Side::Caller => (call.to, call.from),
        };
        let Some(link) = self.links.get(&way).copied() else { return };
        self.messages += 1;
        if link.cut {
            if let Some(lines) = &mut self.tracing {
                let (from, to) = (way.0.0, way.1.0);
                lines.push(format!("     h{from} -> h{to} call {id} {} {} (held back)", call.path, frame.name()));
            }
            self.held.entry(way).or_default().push((self.now, Delivery { to: way.1, call: id, side, frame }));
            return;
        }
        let mut arrives = self.now + nanos(link.delay);
        if !link.jitter.is_zero() {
            arrives += self.rng.random_range(0..=nanos(link.jitter));
        }
        if link.lost_permille > 0 && self.rng.random_range(0..1_000) < link.lost_permille {
            arrives += RETRANSMIT_NS + self.rng.random_range(0..RETRANSMIT_NS);
        }
        self.enqueue_at(id, side, frame, arrives);
    }

    fn enqueue_at(&mut self, id: u64, side: Side, frame: Frame, arrives: u64) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let (to, direction) = match side {
            Side::Callee => (call.to, 0),
            Side::Caller => (call.from, 1),
        };
        let arrives = arrives.max(call.last[direction]).max(self.now + MS);
        call.last[direction] = arrives;
        if let Some(lines) = &mut self.tracing {
            let (from, to) = if direction == 0 { (call.from.0, call.to.0) } else { (call.to.0, call.from.0) };
            let late = (arrives - self.now) / 1_000;
            lines.push(format!(
                "     h{from} -> h{to} call {id} {} {} (arrives in {late} us)",
                call.path,
                frame.name()
            ));
        }
        self.enqueue(arrives, Delivery { to, call: id, side, frame });
    }

    fn enqueue(&mut self, at: u64, delivery: Delivery) {
        self.next_number += 1;
        self.queue.insert((at, self.next_number), delivery);
    }

    /// Takes what arrives before `until`, in order.
    pub(crate) fn due(&mut self, until: u64) -> Vec<(u64, Delivery)> {
        let later = self.queue.split_off(&(until, 0));
        let due = std::mem::replace(&mut self.queue, later);
        due.into_iter().map(|((at, _), delivery)| (at, delivery)).collect()
    }

    /// Whether the run of the host that a delivery was meant for is still the present one.
    pub(crate) fn is_current(&self, delivery: &Delivery) -> bool {
        let Some(call) = self.calls.get(&delivery.call) else { return false };
        let meant = match delivery.side {
            Side::Callee => call.to_boot,
            Side::Caller => call.from_boot,
        };
        self.hosts.get(&delivery.to).is_some_and(|h| h.up && h.boot == meant)
    }

    /// Ends a call on both sides.
    pub(crate) fn close(&mut self, id: u64) {
        self.calls.remove(&id);
    }
}

pub(crate) fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
