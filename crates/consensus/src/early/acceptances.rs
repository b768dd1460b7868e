//! Telling other nodes what this one has accepted, for all shards over one stream per node.
//!
//! Only the last acceptance of each shard is kept while a stream is busy or broken: it says everything that the earlier
//! ones did. What gets lost costs nothing but time, because the leader's own answer is on its way too.

use crate::codec::known_leader_to_pb;
use crate::peers::{Class, Peers};
use futures::{Stream, StreamExt};
use meridian_proto::internal::v1 as pb;
use meridian_proto::internal::v1::raft_client::RaftClient;
use meridian_types::{LogId, NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Pause before a broken stream is opened again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// What one node is to be told.
#[derive(Debug, Default)]
struct Outbox {
    waiting: Mutex<BTreeMap<ShardId, LogId>>,
    wake: Notify,
}

impl Outbox {
    fn put(&self, shard: ShardId, id: LogId) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, id);
        self.wake.notify_one();
    }

    fn take(&self) -> BTreeMap<ShardId, LogId> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
struct Inner {
    me: NodeId,
    outboxes: RwLock<BTreeMap<NodeId, Arc<Outbox>>>,
    /// An outbox is new.
    added: Notify,
}

/// What a node tells others of what its replicas have accepted. Clones share it.
#[derive(Clone, Debug)]
pub struct Acceptances {
    inner: Arc<Inner>,
}

impl Acceptances {
    /// Of node `me`; [`run`](Self::run) does the telling.
    pub fn new(me: NodeId) -> Self {
        Self { inner: Arc::new(Inner { me, outboxes: RwLock::default(), added: Notify::new() }) }
    }

    /// What waits to be told to a node.
    #[cfg(test)]
    pub(crate) fn waiting(&self, node: NodeId) -> Vec<(ShardId, LogId)> {
        let outboxes = self.inner.outboxes.read().unwrap_or_else(PoisonError::into_inner);
        outboxes.get(&node).map(|o| o.waiting.lock().unwrap().clone().into_iter().collect()).unwrap_or_default()
    }

    /// Has `node` told that this one has accepted up to `id`. Does not block; any thread may call it.
    pub(crate) fn tell(&self, node: NodeId, shard: ShardId, id: LogId) {
        if node == self.inner.me {
            return;
        }
        let known = self.inner.outboxes.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned();
        let outbox = known.unwrap_or_else(|| {
            let mut outboxes = self.inner.outboxes.write().unwrap_or_else(PoisonError::into_inner);
            let outbox = outboxes.entry(node).or_default().clone();
            self.inner.added.notify_one();
            outbox
        });
        outbox.put(shard, id);
    }

    /// Tells until the future is dropped.
    pub async fn run(&self, cluster: Arc<str>, peers: Peers) {
        let mut streams = JoinSet::new();
        let mut open = BTreeSet::new();
        loop {
            let outboxes = self.inner.outboxes.read().unwrap_or_else(PoisonError::into_inner).clone();
            for (node, outbox) in outboxes {
                if open.insert(node) {
                    streams.spawn(keep_telling(cluster.clone(), peers.clone(), node, outbox));
                }
            }
            self.inner.added.notified().await;
        }
    }
}

async fn keep_telling(cluster: Arc<str>, peers: Peers, node: NodeId, outbox: Arc<Outbox>) {
    loop {
        let target = pb::Target { cluster_id: cluster.to_string(), from: peers.me().0, to: node.0, shard: 0 };
        if let Err(e) = tell_all(&peers, node, messages(target, outbox.clone())).await {
            tracing::debug!(%node, "the stream of acceptances ended: {e}");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Sends until the stream ends.
async fn tell_all(
    peers: &Peers,
    node: NodeId,
    messages: impl Stream<Item = pb::Acceptances> + Send + 'static,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let channel = peers.channel(node, Class::Control)?;
    let mut replies = RaftClient::new(channel).accept(messages).await?.into_inner();
    while replies.message().await?.is_some() {}
    Ok(())
}

/// A message whenever there is something to tell.
fn messages(target: pb::Target, outbox: Arc<Outbox>) -> impl Stream<Item = pb::Acceptances> {
    futures::stream::unfold((Some(target), outbox), |(mut target, outbox)| async move {
        let waiting = loop {
            let waiting = outbox.take();
            if !waiting.is_empty() {
                break waiting;
            }
            outbox.wake.notified().await;
        };
        let accepted = waiting.into_iter().map(|(shard, id)| acceptance_to_pb(shard, id)).collect();
        Some((pb::Acceptances { target: target.take(), accepted }, (None, outbox)))
    })
    .boxed()
}

fn acceptance_to_pb(shard: ShardId, id: LogId) -> pb::Acceptance {
    pb::Acceptance { shard: shard.0, leader: Some(known_leader_to_pb(id.leader)), index: id.index }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::LeaderId;

    fn id(index: u64) -> LogId {
        LogId { leader: LeaderId { term: 1, node: NodeId(1) }, index }
    }

    #[tokio::test]
    async fn what_waits_together_goes_together_and_the_last_says_it_all() {
        let tell = Acceptances::new(NodeId(1));
        tell.tell(NodeId(2), ShardId(7), id(3));
        tell.tell(NodeId(2), ShardId(8), id(4));
        tell.tell(NodeId(2), ShardId(7), id(5));
        tell.tell(NodeId(1), ShardId(7), id(5));
        assert_eq!(tell.waiting(NodeId(2)), [(ShardId(7), id(5)), (ShardId(8), id(4))]);
        assert_eq!(tell.waiting(NodeId(1)), [], "nobody tells itself");
        let outbox = tell.inner.outboxes.read().unwrap()[&NodeId(2)].clone();
        let target = pb::Target { to: 2, ..Default::default() };
        let mut messages = messages(target.clone(), outbox.clone());
        let first = messages.next().await.unwrap();
        assert_eq!((first.target, first.accepted.len()), (Some(target), 2));
        tell.tell(NodeId(2), ShardId(7), id(6));
        let second = messages.next().await.unwrap();
        assert_eq!(second, pb::Acceptances { target: None, accepted: vec![acceptance_to_pb(ShardId(7), id(6))] });
    }
}
