//! All replicas of one node, by shard.

use crate::replica::Replica;
use meridian_proto::internal::v1 as pb;
use meridian_types::{NodeId, ShardId};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use tonic::Status;

/// The registry of a node's replicas. Clones share it.
#[derive(Clone)]
pub struct Replicas {
    me: NodeId,
    cluster: Arc<str>,
    by_shard: Arc<RwLock<BTreeMap<ShardId, Arc<Replica>>>>,
}

impl Replicas {
    /// No replicas yet.
    pub fn new(me: NodeId, cluster: Arc<str>) -> Self {
        Self { me, cluster, by_shard: Arc::default() }
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// The cluster's id.
    pub fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// Adds a replica.
    pub fn insert(&self, replica: Arc<Replica>) {
        self.by_shard.write().unwrap_or_else(PoisonError::into_inner).insert(replica.shard(), replica);
    }

    /// Takes a replica out; its caller stops it.
    pub fn remove(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.by_shard.write().unwrap_or_else(PoisonError::into_inner).remove(&shard)
    }

    /// The replica of a shard.
    pub fn get(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.by_shard.read().unwrap_or_else(PoisonError::into_inner).get(&shard).cloned()
    }

    /// All replicas, by shard.
    pub fn all(&self) -> Vec<Arc<Replica>> {
        self.by_shard.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Checks that a message is meant for this node of this cluster.
    pub fn check_node(&self, target: Option<&pb::Target>) -> Result<(), Status> {
        let target = target.ok_or_else(|| Status::invalid_argument("a message without a target"))?;
        if target.cluster_id != *self.cluster {
            return Err(Status::failed_precondition(format!("this node belongs to cluster {}", self.cluster)));
        }
        if target.to != self.me.0 {
            return Err(Status::failed_precondition(format!("this is node {}, not {}", self.me, target.to)));
        }
        Ok(())
    }

    /// The replica that a message is meant for.
    pub fn addressed(&self, target: Option<pb::Target>) -> Result<Arc<Replica>, Status> {
        self.check_node(target.as_ref())?;
        let shard = ShardId(target.map_or(0, |t| t.shard));
        self.get(shard).ok_or_else(|| Status::unavailable(format!("no replica of shard {shard} here (yet)")))
    }
}
