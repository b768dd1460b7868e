//! A table that names no region to be led from is led from where it is used.

#![expect(clippy::unwrap_used, reason = "a failure is the test's")]

use meridian_client::Consistency;
use meridian_tests::harness::{REGIONS, TestCluster, until};
use meridian_types::{NodeId, ShardId};
use std::time::Duration;

/// Linearizable reads from a region, a few at a time, until its node leads the shard.
async fn use_from(cluster: &TestCluster, region: &str, table: &str, shard: ShardId) {
    let session = cluster.client(region).await.session();
    until("the leadership to follow the requests", || async {
        for _ in 0..20 {
            session.get(table, "k", Consistency::Linearizable).await.unwrap();
        }
        cluster.leader(shard) == Some(TestCluster::node_in(region))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_follows_the_requests_unless_its_place_is_named() {
    let cluster = TestCluster::start(71).await;
    let free = cluster.create("free", "global", &[]).await[0];
    let named = cluster.create("named", "global:us-east", &[]).await[0];
    let far = *REGIONS.iter().find(|r| Some(TestCluster::node_in(r)) != cluster.leader(free)).unwrap();
    assert_eq!(cluster.led(named).await, NodeId(1));
    let client = cluster.client(far).await.session();
    // The table whose place is named is used just as much.
    let other = tokio::spawn(async move {
        loop {
            client.get("named", "k", Consistency::Linearizable).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    use_from(&cluster, far, "free", free).await;
    assert_eq!(cluster.leader(named), Some(NodeId(1)));
    other.abort();
    cluster.stop().await;
}
