//! Linearizability (G4) of registers that all regions read, write, remove and swap, while their leader is moved, cut
//! off and stopped.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_tests::harness::{History, Level, Load, Mix, REGIONS, TestCluster};
use meridian_tests::linearizability::{Verdict, check};
use meridian_tests::{exactly_once, external_consistency};
use meridian_types::{NodeId, ShardId};

const TABLE: &str = "registers";

fn mix() -> Mix {
    let levels = vec![Level::Linearizable];
    Mix { keys: 5, puts: 4, deletes: 1, swaps: 3, gets: 6, scans: 1, levels, ..Mix::writes(&[TABLE]) }
}

/// The checks of a history that has ended, and of what is left in the table.
async fn holds(history: &History, cluster: &TestCluster) {
    let mut reader = history.process(REGIONS[0], &cluster.client(REGIONS[0]).await);
    let last = reader.final_state(TABLE).await;
    let records = history.records();
    match check(&records) {
        Verdict::Linearizable => {}
        Verdict::Violation(violation) => panic!("{violation}"),
        Verdict::Undecided { keys } => panic!("no answer within the budget for {keys:?}"),
    }
    exactly_once::check(&records, &[last]).unwrap();
    external_consistency::check(&records).unwrap();
    lie_is_refused(&records);
}

/// A read that goes back in time is refused: the checker can fail on this very history.
fn lie_is_refused(records: &[meridian_bench::history::Record]) {
    let mut records = records.to_vec();
    let is_read = |r: &&mut meridian_bench::history::Record| r.consistency.is_some() && r.scan.is_none();
    let read = records.iter_mut().filter(is_read).rfind(|r| r.value.is_some()).expect("a read that found a value");
    read.value = Some("nobody wrote this".to_owned());
    assert!(matches!(check(&records), Verdict::Violation(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn registers_are_linearizable_while_their_leader_moves() {
    let cluster = TestCluster::start(11).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    let (history, clients) = (History::default(), cluster.clients().await);
    let load = Load::start(&history, &clients, &mix(), 11);
    for to in [2, 3, 1, 3, 2, 1] {
        load.progress(8).await;
        cluster.move_leader(shard, NodeId(to)).await;
    }
    load.progress(8).await;
    load.finish().await;
    holds(&history, &cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registers_are_linearizable_while_their_leader_is_cut_off() {
    let cluster = TestCluster::start(12).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    let (history, clients) = (History::default(), cluster.clients().await);
    let load = Load::start(&history, &clients, &mix(), 12);
    for _ in 0..2 {
        load.progress(10).await;
        let cut_off = leaders_region(&cluster, shard).await;
        cluster.wan().isolate(&TestCluster::place(cut_off)).unwrap();
        load.progress_in(10, |region| region.as_str() != cut_off).await;
        cluster.wan().heal_all();
    }
    load.progress(10).await;
    load.finish().await;
    holds(&history, &cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registers_are_linearizable_while_their_leader_is_stopped() {
    let mut cluster = TestCluster::start(13).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    let (history, clients) = (History::default(), cluster.clients().await);
    let load = Load::start(&history, &clients, &mix(), 13);
    for _ in 0..2 {
        load.progress(10).await;
        let stopped = leaders_region(&cluster, shard).await;
        cluster.stop_node(TestCluster::node_in(stopped)).await;
        load.progress_in(10, |region| region.as_str() != stopped).await;
        cluster.restart_node(TestCluster::node_in(stopped)).await;
    }
    load.progress(10).await;
    load.finish().await;
    holds(&history, &cluster).await;
    cluster.stop().await;
}

async fn leaders_region(cluster: &TestCluster, shard: ShardId) -> &'static str {
    let leader = cluster.led(shard).await;
    REGIONS.into_iter().find(|region| TestCluster::node_in(region) == leader).expect("a region for every node")
}
