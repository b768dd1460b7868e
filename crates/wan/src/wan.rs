//! An emulated network: the paths of a topology, and the links that run over them.

use crate::link::Link;
use crate::path::Path;
use crate::{Endpoint, Place, Topology};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A request that the network cannot follow.
#[derive(Debug, thiserror::Error)]
pub enum WanError {
    /// No such place in the topology.
    #[error("there is no place `{0}` in this topology; there are {1}")]
    UnknownPlace(Place, String),
    /// Nothing lies between the two places.
    #[error("there is no link between `{0}` and `{1}`: they are the same zone")]
    SamePlace(Place, Place),
    /// An address on which the proxy cannot listen.
    #[error("link cannot listen on {listen}: {source}")]
    Listen {
        /// Which address.
        listen: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// The links of one emulated network. Clones are the same network; it ends with the last one.
///
/// State belongs to the ordered pair of endpoints, not to the link: it holds for all links between the two, those made
/// later included.
#[derive(Clone, Debug)]
pub struct Wan {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    topology: Topology,
    seed: u64,
    /// One path for each ordered pair of different endpoints.
    paths: BTreeMap<(Endpoint, Endpoint), Arc<Path>>,
    links: Mutex<Vec<Placed>>,
}

#[derive(Debug)]
struct Placed {
    from: Endpoint,
    to: Endpoint,
    link: Link,
}

/// One link, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Where connections come from, as `region/zone`.
    pub from: Place,
    /// Where they go.
    pub to: Place,
    /// The address that stands for the target at `from`.
    pub listen: SocketAddr,
    /// The target's own address.
    pub target: SocketAddr,
    /// Open connections.
    pub connections: usize,
    /// Connections there ever were.
    pub connections_total: u64,
    /// Towards the target.
    pub out: DirectionStatus,
    /// Towards the clients.
    pub back: DirectionStatus,
}

/// One direction of a link, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionStatus {
    /// Bytes that this link has delivered.
    pub bytes: u64,
    /// Bytes that all links over the same path have delivered.
    pub path_bytes: u64,
    /// Whether nothing gets through.
    pub blocked: bool,
    /// One-way delay in microseconds.
    pub delay_us: u64,
    /// Largest random lateness on top, in microseconds.
    pub jitter_us: u64,
    /// Bytes per second, if limited.
    pub bandwidth_bytes_per_s: Option<u64>,
}

impl Wan {
    /// The network of a topology, all up; `seed` decides the jitter.
    pub fn new(topology: Topology, seed: u64) -> Self {
        let endpoints = topology.endpoints();
        let path = |a: &Endpoint, b: &Endpoint| {
            let bandwidth = topology.bandwidth(&a.region, &b.region);
            Arc::new(Path::new(topology.rtt_between(a, b) / 2, topology.jitter, bandwidth))
        };
        let pairs = endpoints.iter().flat_map(|a| endpoints.iter().filter(move |b| a != *b).map(move |b| (a, b)));
        let paths = pairs.map(|(a, b)| ((a.clone(), b.clone()), path(a, b))).collect();
        Self { inner: Arc::new(Inner { topology, seed, paths, links: Mutex::default() }) }
    }

    /// The topology that it was made from; delays may have been changed since.
    pub fn topology(&self) -> &Topology {
        &self.inner.topology
    }

    /// The address to dial at `from` in order to reach `target` at `to`: a link's, made or reused, or `target` itself if
    /// both are in the same zone. Has to be called inside a tokio runtime, which then runs the link.
    pub fn link(&self, from: &Endpoint, to: &Endpoint, target: SocketAddr) -> Result<SocketAddr, WanError> {
        self.link_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), from, to, target)
    }

    /// The same, with the link's address chosen: it can be the same after a restart. Port 0 takes any.
    pub fn link_on(
        &self,
        listen: SocketAddr,
        from: &Endpoint,
        to: &Endpoint,
        target: SocketAddr,
    ) -> Result<SocketAddr, WanError> {
        self.check(&from.clone().into())?;
        self.check(&to.clone().into())?;
        let path = |a: &Endpoint, b: &Endpoint| self.inner.paths.get(&(a.clone(), b.clone())).cloned();
        let (Some(out), Some(back)) = (path(from, to), path(to, from)) else {
            return Ok(target); // The same zone.
        };
        let mut links = self.placed();
        let reused = |l: &&Placed| l.from == *from && l.to == *to && l.link.target == target;
        if let Some(placed) = links.iter().find(reused) {
            return Ok(placed.link.listen);
        }
        let failed = |source| WanError::Listen { listen, source };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        let seed = self.inner.seed.wrapping_add(links.len() as u64);
        let link = Link::start(listener, target, (out, back), seed).map_err(failed)?;
        let listen = link.listen;
        links.push(Placed { from: from.clone(), to: to.clone(), link });
        Ok(listen)
    }

    /// Cuts `a` and `b` off from each other, in both directions.
    pub fn partition(&self, a: &Place, b: &Place) -> Result<(), WanError> {
        self.between(a, b, Path::block)?;
        self.between(b, a, Path::block)
    }

    /// Blocks what goes from `a` to `b`; the other direction stays as it is.
    pub fn partition_one_way(&self, a: &Place, b: &Place) -> Result<(), WanError> {
        self.between(a, b, Path::block)
    }

    /// Cuts a place off from everything outside it.
    pub fn isolate(&self, place: &Place) -> Result<(), WanError> {
        self.check(place)?;
        let leaves = |a: &Endpoint, b: &Endpoint| place.holds(a) != place.holds(b);
        self.inner.paths.iter().filter(|((a, b), _)| leaves(a, b)).for_each(|(_, path)| path.block());
        Ok(())
    }

    /// Lets everything between `a` and `b` through again.
    pub fn heal(&self, a: &Place, b: &Place) -> Result<(), WanError> {
        self.between(a, b, Path::heal)?;
        self.between(b, a, Path::heal)
    }

    /// Lets everything through again. Changed delays stay.
    pub fn heal_all(&self) {
        self.inner.paths.values().for_each(|path| path.heal());
    }

    /// Changes the RTT between `a` and `b`: half of it in either direction, for what is sent from now on.
    pub fn set_delay(&self, a: &Place, b: &Place, rtt: Duration) -> Result<(), WanError> {
        self.between(a, b, |path| path.set_delay(rtt / 2))?;
        self.between(b, a, |path| path.set_delay(rtt / 2))
    }

    /// All links, in the order in which they were made.
    pub fn links(&self) -> Vec<LinkStatus> {
        self.placed().iter().map(|placed| self.status(placed)).collect()
    }

    fn status(&self, Placed { from, to, link }: &Placed) -> LinkStatus {
        let direction = |a: &Endpoint, b: &Endpoint, bytes: u64| {
            let path = &self.inner.paths[&(a.clone(), b.clone())];
            let state = path.state();
            DirectionStatus {
                bytes,
                path_bytes: path.delivered_bytes(),
                blocked: state.blocked_since.is_some(),
                delay_us: micros(state.delay),
                jitter_us: micros(state.jitter),
                bandwidth_bytes_per_s: state.bandwidth,
            }
        };
        LinkStatus {
            from: from.clone().into(),
            to: to.clone().into(),
            listen: link.listen,
            target: link.target,
            connections: link.counts.open.load(Ordering::Relaxed),
            connections_total: link.counts.total.load(Ordering::Relaxed),
            out: direction(from, to, link.counts.out_bytes.load(Ordering::Relaxed)),
            back: direction(to, from, link.counts.back_bytes.load(Ordering::Relaxed)),
        }
    }

    /// Does it to every path from `a` to `b`.
    fn between(&self, a: &Place, b: &Place, f: impl Fn(&Path)) -> Result<(), WanError> {
        self.check(a)?;
        self.check(b)?;
        let mut paths = self.inner.paths.iter().filter(|((x, y), _)| a.holds(x) && b.holds(y)).peekable();
        if paths.peek().is_none() {
            return Err(WanError::SamePlace(a.clone(), b.clone()));
        }
        paths.for_each(|(_, path)| f(path));
        Ok(())
    }

    fn check(&self, place: &Place) -> Result<(), WanError> {
        known(&self.inner.topology.endpoints(), place)
    }

    fn placed(&self) -> MutexGuard<'_, Vec<Placed>> {
        self.inner.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a place where none of the endpoints is.
pub(crate) fn known(endpoints: &[Endpoint], place: &Place) -> Result<(), WanError> {
    if endpoints.iter().any(|e| place.holds(e)) {
        return Ok(());
    }
    let known: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
    Err(WanError::UnknownPlace(place.clone(), known.join(", ")))
}

pub(crate) fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
