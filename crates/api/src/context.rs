//! What all services of a node share.

use crate::demand::{Asked, Demand};
use crate::links::Links;
use crate::within::Recent;
use meridian_catalog::Catalog;
use meridian_clock::{Clock, Mono};
use meridian_consensus::{Acceptances, Gossip, Heartbeats, NodeMemory, Peers, Replica, Replicas, Transfers};
use meridian_probe::machine;
use meridian_proto::internal::v1 as internal;
use meridian_storage::Store;
use meridian_types::{Limits, NodeId, RegionId, RequestId, ShardId, Timestamp, ZoneId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a gateway tries.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// One request, all attempts together, unless the client's own deadline is shorter.
    pub request: Duration,
    /// One attempt at one replica. A replica that does not answer in this time may be cut off; the next attempt
    /// carries the same request id.
    pub attempt: Duration,
    /// A causal or snapshot read waits this long for its own replica before it asks another one.
    pub catch_up: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { request: Duration::from_secs(10), attempt: Duration::from_secs(3), catch_up: Duration::from_millis(100) }
    }
}

/// What all services of a node share. Cheap to clone; its parts are read through it.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    links: Links,
    demand: Demand,
    recent: Recent,
    /// Names this gateway in the ids that it gives to requests.
    client: u64,
    sequence: AtomicU64,
}

/// What a context is made of.
pub struct Parts {
    /// This node.
    pub me: NodeId,
    /// Its region.
    pub region: RegionId,
    /// Its zone.
    pub zone: ZoneId,
    /// `host:port` that clients and peers reach it on.
    pub grpc_address: String,
    /// `host:port` of health and metrics.
    pub http_address: String,
    /// Its clock.
    pub clock: Clock,
    /// Its store.
    pub store: Store,
    /// The catalog as this node's replica of shard 0 has it.
    pub catalog: Catalog,
    /// Its replicas.
    pub replicas: Replicas,
    /// The other nodes.
    pub peers: Peers,
    /// Round trips and closed timestamps.
    pub gossip: Gossip,
    /// What its requests and replicas may have in memory.
    pub memory: NodeMemory,
    /// What the snapshots that it sends share.
    pub transfers: Transfers,
    /// Its heartbeats.
    pub heartbeats: Heartbeats,
    /// Tells other nodes what this one's logs have accepted.
    pub acceptances: Acceptances,
    /// Limits of requests.
    pub limits: Limits,
    /// How long it tries.
    pub deadlines: Deadlines,
    /// When it started.
    pub started: Mono,
    /// Cancelled when the node stops: streams that would never end by themselves end then.
    pub stop: CancellationToken,
}

impl std::ops::Deref for Context {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.inner.parts
    }
}

impl Context {
    /// A node's context.
    pub fn new(parts: Parts) -> Self {
        let links = Links::new(parts.peers.clone(), parts.replicas.cluster().clone());
        Self {
            inner: Arc::new(Inner {
                parts,
                links,
                demand: Demand::default(),
                recent: Recent::default(),
                client: machine::random(),
                sequence: AtomicU64::new(0),
            }),
        }
    }

    /// Streams to the other nodes.
    pub(crate) fn links(&self) -> &Links {
        &self.inner.links
    }

    /// The gateway of node `from` has asked something of a replica here, which counts if the replica leads.
    pub(crate) fn asked(&self, replica: &Replica, from: NodeId, asked: Asked) {
        if replica.is_leader() {
            self.inner.demand.record(replica.shard(), from, asked, Mono::now());
        }
    }

    /// Where the requests of the shards that this node leads come from.
    pub fn demand(&self) -> &Demand {
        &self.inner.demand
    }

    /// What reads with a latency budget took lately.
    pub(crate) fn recent(&self) -> &Recent {
        &self.inner.recent
    }

    /// An id for a request that came without one: it makes the gateway's own retries exactly once.
    ///
    /// Its time is the clock's earliest bound, so that no leader finds it to be from the future.
    pub fn request_id(&self) -> RequestId {
        let sequence = self.inner.sequence.fetch_add(1, Ordering::Relaxed);
        RequestId { time: self.clock.now().earliest, client: self.inner.client, sequence }
    }

    /// The header of a message to another node about a shard.
    pub(crate) fn target(&self, to: NodeId, shard: ShardId) -> internal::Target {
        let cluster_id = self.replicas.cluster().to_string();
        internal::Target { cluster_id, from: self.me.0, to: to.0, shard: shard.0 }
    }

    /// `latest`: what a read timestamp chosen now may be at most.
    pub(crate) fn latest(&self) -> Timestamp {
        self.clock.now().latest
    }
}
