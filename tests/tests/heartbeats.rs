//! Heartbeats: a lease that does not depend on how far apart the nodes are compared with the interval, kept without anybody
//! writing; and that ends with its leader.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_client::Consistency;
use meridian_consensus::Replica;
use meridian_tests::harness::{REGIONS, TestCluster, until};
use meridian_types::{NodeId, ShardId};
use std::sync::Arc;
use std::time::Duration;

const TABLE: &str = "t";

fn replica(cluster: &TestCluster, node: NodeId, shard: ShardId) -> Arc<Replica> {
    cluster.node(node).context().replicas.get(shard).unwrap()
}

/// Whether the shard's leader could read without asking anybody.
fn has_lease(cluster: &TestCluster, leader: NodeId, shard: ShardId) -> bool {
    replica(cluster, leader, shard).status().lease_left.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_trip_longer_than_the_interval_locks_nobody_out() {
    // Not so long that other timers would be agreed on.
    const RTT: Duration = Duration::from_millis(140);
    // Formed 10 to 30 ms apart, so with beats every 100 ms.
    let cluster = TestCluster::start(191).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    let leader = cluster.led(shard).await;
    let term = replica(&cluster, leader, shard).status().term;
    let place = TestCluster::place;
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        cluster.wan().set_delay(&place(REGIONS[a]), &place(REGIONS[b]), RTT).unwrap();
    }
    let session = cluster.client(REGIONS[0]).await.session();
    session.put(TABLE, "k", "before").await.unwrap();
    // Nobody writes: every further credit is that of a beat.
    let credits = || {
        let leader = replica(&cluster, leader, shard);
        REGIONS[1..].iter().all(|region| leader.answers(TestCluster::node_in(region)))
    };
    for _ in 0..3 {
        // Longer than any promise: what is credited afterwards was sent while nobody wrote.
        tokio::time::sleep(Duration::from_secs(1)).await;
        until("both followers answer and the lease holds", || async {
            credits() && has_lease(&cluster, leader, shard)
        })
        .await;
    }
    session.put(TABLE, "k", "after").await.unwrap();
    let row = session.get(TABLE, "k", Consistency::Linearizable).await.unwrap().value.unwrap();
    assert_eq!(row.value, "after");
    let now = replica(&cluster, leader, shard).status();
    assert_eq!((now.term, cluster.leader(shard)), (term, Some(leader)), "it led all the time");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_nobody_hears_stops_to_have_a_lease_and_another_takes_over() {
    let cluster = TestCluster::start(192).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    let leader = cluster.led(shard).await;
    until("it has a lease", || async { has_lease(&cluster, leader, shard) }).await;
    cluster.wan().isolate(&TestCluster::place(REGIONS[0])).unwrap();
    until("the lease is over", || async { !has_lease(&cluster, leader, shard) }).await;
    let others = &REGIONS[1..];
    until("another leads", || async {
        others.iter().any(|region| replica(&cluster, TestCluster::node_in(region), shard).is_leader())
    })
    .await;
    cluster.wan().heal_all();
    until("the old one knows", || async { !replica(&cluster, leader, shard).is_leader() }).await;
    cluster.stop().await;
}
