//! Connections that are there before they are needed.
//!
//! A connection is made by its first use, and that use waits for it: a round trip, between continents as long as a commit.
//! A node that begins to lead would pay it with its first entries, and a gateway with the first request that it sends to
//! another leader than before. So every connection that this may happen to is used now and then, by a call that says nothing;
//! in between HTTP/2 keeps it alive.

use crate::peers::{Class, Peers};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use meridian_proto::internal::v1::raft_client::RaftClient;
use meridian_types::NodeId;
use std::time::Duration;

/// Time between two uses of a connection.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long one may take: longer than between the farthest nodes, with a connection to be made.
const LIMIT: Duration = Duration::from_secs(5);
/// The classes whose first use must not wait. Those of control are never idle, and a snapshot is in no hurry.
const CLASSES: [Class; 2] = [Class::Log, Class::Request];

/// Keeps the connections to all other nodes that are known, until the future is dropped.
pub async fn keep_dialled(peers: &Peers) {
    loop {
        let others = peers.others().into_iter();
        let connections = others.flat_map(|(node, _)| CLASSES.map(|class| use_once(peers, node, class)));
        let mut used: FuturesUnordered<_> = connections.collect();
        while used.next().await.is_some() {}
        tokio::time::sleep(INTERVAL).await;
    }
}

/// An acceptance stream on which nothing is told.
async fn use_once(peers: &Peers, node: NodeId, class: Class) {
    let Ok(channel) = peers.channel(node, class) else { return };
    let mut client = RaftClient::new(channel);
    let call = async {
        let mut silence = client.accept(futures::stream::empty()).await?.into_inner();
        silence.message().await
    };
    match tokio::time::timeout(LIMIT, call).await {
        Ok(Ok(_)) => {}
        // Whoever needs it will say so louder.
        Ok(Err(e)) => tracing::debug!(%node, ?class, "no connection: {e}"),
        Err(_) => tracing::debug!(%node, ?class, "no connection in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::PeerAddress;
    use meridian_transport::{BoxCall, Carry, Channel, Connect, Meter};
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use tonic::Status;
    use tonic::body::Body;
    use tonic::transport::Endpoint;

    /// Counts the connections that are made, and on how many of them something was called.
    #[derive(Clone, Debug, Default)]
    struct Counted(Arc<Mutex<Vec<Arc<AtomicUsize>>>>);

    impl Counted {
        fn used(&self) -> Vec<usize> {
            self.0.lock().unwrap().iter().map(|used| used.load(Ordering::Relaxed)).collect()
        }
    }

    impl Connect for Counted {
        fn connect(&self, _: &Endpoint, _: &Meter) -> Channel {
            let used = Arc::<AtomicUsize>::default();
            self.0.lock().unwrap().push(used.clone());
            Channel::carried(Arc::new(Line(used)))
        }
    }

    #[derive(Debug)]
    struct Line(Arc<AtomicUsize>);

    impl Carry for Line {
        fn call(&self, _: tonic::codegen::http::Request<Body>) -> BoxCall {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::ready(Ok(Status::unavailable("nobody").into_http())))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_other_node_is_connected_to_before_anybody_asks() {
        let connect = Counted::default();
        let peers = Peers::new(NodeId(1), BTreeMap::new(), Arc::new(connect.clone()));
        for node in 1..=3 {
            peers.learn(NodeId(node), PeerAddress { region: "eu".into(), address: format!("host{node}:1") });
        }
        let kept = tokio::time::timeout(INTERVAL * 3 / 2, keep_dialled(&peers));
        assert!(kept.await.is_err(), "it goes on though nobody answers");
        assert_eq!(connect.used(), [2, 2, 2, 2], "two classes to each of two nodes, again after a while");
    }
}
