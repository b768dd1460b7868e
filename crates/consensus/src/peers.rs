//! Where the other nodes are, and the connections to them.
//!
//! Each class of traffic has a connection of its own, so that a snapshot never delays a heartbeat. Connections
//! are made on first use and kept; HTTP/2 windows are sized for the bandwidth-delay product of a wide area.

use meridian_transport::{Channel, Connect, Meter};
use meridian_types::{NodeId, RegionId};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tonic::transport::Endpoint;
use tonic::{ConnectError, Status};

/// HTTP/2 window of a connection: 64 MiB are 300 MB/s at 200 ms.
pub const CONNECTION_WINDOW: u32 = 64 << 20;
/// HTTP/2 window of one stream.
pub const STREAM_WINDOW: u32 = 8 << 20;
/// Largest message between nodes: a full append request with one largest value, and room to spare.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Heartbeats, votes, closed timestamps.
    Control,
    /// Log streams.
    Log,
    /// Snapshots.
    Bulk,
    /// Forwarded requests.
    Request,
}

impl Class {
    /// What travels over its connections, in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "heartbeat",
            Self::Log => "log",
            Self::Bulk => "snapshot",
            Self::Request => "forward",
        }
    }
}

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The node's region.
    pub region: RegionId,
    /// The `host:port` that it advertises.
    pub address: String,
}

/// The node is not known here, or its address is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPeer {
    /// Nothing has told this node where that one is.
    #[error("{0} is not known here")]
    Unknown(NodeId),
    /// The advertised address is malformed.
    #[error("{node} advertises {address}, which is no address")]
    BadAddress {
        /// The node.
        node: NodeId,
        /// What it advertises.
        address: String,
    },
}

/// No connection was made, so nothing was sent.
impl From<NoPeer> for Status {
    fn from(e: NoPeer) -> Self {
        Self::from_error(Box::new(ConnectError(e.into())))
    }
}

struct Known {
    peer: PeerAddress,
    channels: BTreeMap<Class, Channel>,
    /// Outlive the connections.
    meters: BTreeMap<Class, Meter>,
}

/// What went over the connections of one class that this node made to another, since it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The other node.
    pub peer: NodeId,
    /// Its region.
    pub region: RegionId,
    /// What the connections are for.
    pub class: Class,
    /// Bytes that left this node: requests.
    pub sent: u64,
    /// Bytes that came back: answers.
    pub received: u64,
}

/// The address book of one node. Clones share it.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    me: NodeId,
    /// Advertised address -> where to dial it from here (address translation, private links, emulated networks).
    dial_via: BTreeMap<String, String>,
    connect: Arc<dyn Connect>,
    known: RwLock<BTreeMap<NodeId, Known>>,
}

impl Peers {
    /// An empty book of node `me`.
    pub fn new(me: NodeId, dial_via: BTreeMap<String, String>, connect: Arc<dyn Connect>) -> Self {
        Self { inner: Arc::new(Inner { me, dial_via, connect, known: RwLock::new(BTreeMap::new()) }) }
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.inner.me
    }

    /// Where to dial an advertised address from here.
    pub fn dial_address(&self, advertised: &str) -> String {
        self.inner.dial_via.get(advertised).cloned().unwrap_or_else(|| advertised.to_owned())
    }

    /// A connection to an address whose node is not known yet.
    pub fn dial(&self, advertised: &str) -> Result<Channel, tonic::transport::Error> {
        Ok(self.inner.connect.connect(&endpoint(&self.dial_address(advertised))?, &Meter::default()))
    }

    /// Learns where a node is. A changed address drops the connections to the old one.
    pub fn learn(&self, node: NodeId, peer: PeerAddress) {
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.get(&node).is_none_or(|k| k.peer != peer) {
            let meters = known.remove(&node).map(|k| k.meters).unwrap_or_default();
            known.insert(node, Known { peer, channels: BTreeMap::new(), meters });
        }
    }

    /// Learns where a node is, unless something better is known already.
    pub fn learn_if_unknown(&self, node: NodeId, peer: PeerAddress) {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner).contains_key(&node);
        if !known {
            self.learn(node, peer);
        }
    }

    /// Every other node that is known.
    pub fn others(&self) -> Vec<(NodeId, PeerAddress)> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter(|(id, _)| **id != self.inner.me).map(|(id, k)| (*id, k.peer.clone())).collect()
    }

    /// A node's region.
    pub fn region(&self, node: NodeId) -> Option<RegionId> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&node).map(|k| k.peer.region.clone())
    }

    /// What went to and fro over the connections that this node made, by node and class. What other nodes sent to it over
    /// connections that they made, they count.
    pub fn traffic(&self) -> Vec<Traffic> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        let of = |(peer, k): (&NodeId, &Known)| {
            let (peer, region) = (*peer, k.peer.region.clone());
            let rows = k.meters.iter().map(move |(class, meter)| Traffic {
                peer,
                region: region.clone(),
                class: *class,
                sent: meter.sent(),
                received: meter.received(),
            });
            rows.collect::<Vec<_>>()
        };
        known.iter().flat_map(of).collect()
    }

    /// The connection of a class to a node. Does not wait: it is established by its first use.
    pub fn channel(&self, node: NodeId, class: Class) -> Result<Channel, NoPeer> {
        {
            let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
            let known = known.get(&node).ok_or(NoPeer::Unknown(node))?;
            if let Some(channel) = known.channels.get(&class) {
                return Ok(channel.clone());
            }
        }
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_mut(&node).ok_or(NoPeer::Unknown(node))?;
        if let Some(channel) = known.channels.get(&class) {
            return Ok(channel.clone());
        }
        let address = self.dial_address(&known.peer.address);
        let endpoint = endpoint(&address).map_err(|_| NoPeer::BadAddress { node, address })?;
        let meter = known.meters.entry(class).or_default();
        let channel = self.inner.connect.connect(&endpoint, meter);
        known.channels.insert(class, channel.clone());
        Ok(channel)
    }
}

/// How nodes connect to one another: windows, keepalive, no delay.
pub fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW))
}
