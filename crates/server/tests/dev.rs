//! Development clusters: real nodes in one process, with emulated distance, and everything found again afterwards.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_client::{Client, ClientConfig, Gateway};
use meridian_server::cluster_file::ClusterFile;
use meridian_server::dev::{DevCluster, DevError, DevOptions};
use meridian_types::{Consistency, NodeId, Placement};
use meridian_wan::{Topology, WanControl};
use std::path::Path;
use std::time::Duration;

/// Three regions, near enough for a quick test: 10, 20 and 30 ms.
fn near() -> Topology {
    let mut topology = Topology::preset("three").unwrap();
    for (pair, ms) in topology.rtt.iter_mut().zip([10, 20, 30]) {
        pair.rtt = Duration::from_millis(ms);
    }
    topology
}

fn at(dir: &Path) -> DevOptions {
    DevOptions { topology: Some(near()), data: Some(dir.to_owned()), ..DevOptions::default() }
}

async fn client(cluster: &DevCluster, node: u64) -> Client {
    let node = cluster.describe().nodes.into_iter().find(|n| n.node == NodeId(node)).unwrap();
    Client::connect(ClientConfig::new(vec![Gateway::in_region(node.grpc, node.region)])).await.unwrap()
}

fn global() -> Placement {
    Placement::parse("global:us-east").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_on_the_same_data_finds_everything_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let first = DevCluster::start(at(dir.path())).await.unwrap();
    let file = ClusterFile::read(first.cluster_file()).unwrap();
    assert_eq!(file, first.describe());
    assert_eq!(first.nodes().count(), 3);
    let writer = client(&first, 1).await;
    writer.create_table("t", &global(), Vec::new()).await.unwrap();
    let put = writer.session().put("t", "k", "v").await.unwrap();
    drop(writer);
    first.stop().await;

    let again = DevCluster::start(DevOptions { topology: None, ..at(dir.path()) }).await.unwrap();
    assert_eq!(again.describe().nodes, file.nodes);
    let reader = client(&again, 3).await;
    let found = reader.session().get("t", "k", Consistency::Linearizable).await.unwrap();
    assert_eq!(found.value.unwrap().version, put.timestamp);
    again.stop().await;

    let other = DevCluster::start(DevOptions { topology: Topology::preset("lan"), ..at(dir.path()) }).await;
    assert!(matches!(other, Err(DevError::Layout(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_talk_over_the_links_and_survive_the_loss_of_one() {
    let mut cluster = DevCluster::start(DevOptions { topology: Some(near()), ..DevOptions::default() }).await.unwrap();
    let dir = cluster.dir().to_owned();
    let links = WanControl::new(cluster.emulation().control()).links().await.unwrap();
    assert_eq!(links.len(), 6);
    assert!(links.iter().all(|l| l.connections > 0 && l.out.bytes > 0), "{links:?}");

    let writer = client(&cluster, 1).await;
    writer.create_table("t", &global(), Vec::new()).await.unwrap();
    cluster.stop_node(NodeId(3)).await.unwrap();
    assert!(matches!(cluster.stop_node(NodeId(3)).await, Err(DevError::NoSuchNode { .. })));
    writer.session().put("t", "k", "v").await.unwrap();
    cluster.restart_node(NodeId(3)).await.unwrap();
    cluster.node(NodeId(3)).unwrap().ready().await;
    let reader = client(&cluster, 3).await;
    let found = reader.session().get("t", "k", Consistency::Linearizable).await.unwrap();
    assert!(found.value.is_some());
    cluster.stop().await;
    assert!(!dir.exists(), "temporary data is removed");
}

/// Nodes that host no voter, and no replica at all of a table, are gateways like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_may_have_several_nodes_and_all_of_them_serve() {
    let options = DevOptions { topology: Some(near()), nodes_per_region: Some(2), ..DevOptions::default() };
    let cluster = DevCluster::start(options).await.unwrap();
    assert_eq!(cluster.nodes().count(), 6);
    client(&cluster, 1).await.create_table("t", &global(), Vec::new()).await.unwrap();
    for node in 1..=6 {
        let session = client(&cluster, node).await.session();
        let key = format!("from-{node}");
        let put = session.put("t", key.clone(), "v").await.unwrap();
        let levels = [Consistency::Linearizable, Consistency::Causal(put.token), Consistency::Snapshot(put.timestamp)];
        for level in levels {
            let found = session.get("t", key.clone(), level.clone()).await.unwrap();
            assert!(found.value.is_some(), "{level} at node {node}");
        }
        let stale = session.get("t", key, Consistency::Local).await.unwrap();
        let home = cluster.node(NodeId(node)).unwrap().context().region.clone();
        assert_eq!(stale.region, home, "a replica in the same region answers");
    }
    cluster.stop().await;
}
