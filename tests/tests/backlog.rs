//! Raft log that waits for the data to be flushed: a flush is asked for when it is much, whatever the entries did, and
//! writes wait while it is too much.

use meridian_client::{Client, ClientConfig, Consistency, Gateway, Reason, RetryPolicy, Transaction};
use meridian_consensus::Backlog;
use meridian_tests::harness::{REGIONS, TestCluster, until};
use meridian_types::{NodeId, ShardId};

const MIB: usize = 1 << 20;

/// The last entry whose effects are durable on a node.
fn durable(cluster: &TestCluster, node: NodeId, shard: ShardId) -> u64 {
    let state = cluster.node(node).context().store.data.durable(shard);
    state.and_then(|state| state.applied).map_or(0, |id| id.index)
}

fn backlog(cluster: &TestCluster, node: NodeId) -> &Backlog {
    &cluster.node(node).context().memory.backlog
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_change_nothing_are_given_up_all_the_same() {
    let cluster = TestCluster::start_together(81).await;
    let shard = cluster.create("t", "regional:us-east", &[]).await[0];
    let leader = cluster.led(shard).await;
    let client = cluster.client(REGIONS[0]).await;
    let before = durable(&cluster, leader, shard);
    let mut held_max = 0;
    // Far fewer entries than are flushed for their number, and next to nothing for the memtables.
    for n in 0..90 {
        let refused = Transaction::new().if_exists("absent").put("k", vec![n; MIB - 4096]);
        let error = client.session().transact("t", &refused).await.unwrap_err();
        assert_eq!(error.reason(), Reason::PreconditionFailed, "{error}");
        held_max = held_max.max(backlog(&cluster, leader).held());
    }
    assert!(held_max > 40 << 20, "what is refused is in the log all the same: {held_max}");
    until("the data is flushed for the log's sake", || async { durable(&cluster, leader, shard) >= before + 40 }).await;
    until("what is durable waits no more", || async { backlog(&cluster, leader).held() < 64 << 20 }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_flushes_lag_refuses_writes_until_they_have_caught_up() {
    let cluster = TestCluster::start_together(82).await;
    let shard = cluster.create("t", "regional:us-east", &[]).await[0];
    let leader = cluster.led(shard).await;
    // No flush is fast enough for this.
    backlog(&cluster, leader).set_limit(0);
    let gateway = Gateway::in_region(cluster.node(leader).grpc_address().to_string(), REGIONS[0]);
    let config = ClientConfig { retry: RetryPolicy::never(), ..ClientConfig::new(vec![gateway]) };
    let once = Client::connect(config).await.unwrap().session();
    let refused = async {
        loop {
            if let Err(error) = once.put("t", "k", "v").await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(std::time::Duration::from_secs(30), refused).await.unwrap();
    assert_eq!(error.reason(), Reason::Overloaded, "{error}");
    assert!(error.to_string().contains("wait for the data to be flushed"), "{error}");
    // Reads go on, and so do writes that come again.
    once.get("t", "k", Consistency::Linearizable).await.unwrap();
    let patient = cluster.client(REGIONS[0]).await.session();
    for n in 0..20 {
        patient.put("t", format!("k{n}"), "v").await.unwrap();
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_whose_flushes_lag_take_entries_as_they_catch_up() {
    let cluster = TestCluster::start_together(83).await;
    let shard = cluster.create("t", "regional:us-east", &[]).await[0];
    let leader = cluster.led(shard).await;
    let followers = [1, 2, 3].map(NodeId).into_iter().filter(|node| *node != leader);
    followers.for_each(|node| backlog(&cluster, node).set_limit(0));
    let session = cluster.client(REGIONS[0]).await.session();
    for n in 0..20 {
        session.put("t", format!("k{n}"), vec![n; 1024]).await.unwrap();
    }
    cluster.converged(shard).await;
    for n in 0..20 {
        let row = session.get("t", format!("k{n}"), Consistency::Linearizable).await.unwrap().value.unwrap();
        assert_eq!(row.value, vec![n; 1024]);
    }
    cluster.stop().await;
}
