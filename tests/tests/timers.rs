//! Timers follow what is measured while clients write (rule R3): the members of a shard agree through its log, take the new
//! timers over one after another, and nobody is told of it by an error.

use meridian_bench::history::{OpKind, Outcome, Record};
use meridian_consensus::Replica;
use meridian_tests::harness::{History, Level, Load, Mix, REGIONS, TestCluster, nothing_lost, until};
use meridian_types::{NodeId, RaftTiming, ShardId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const TABLE: &str = "t";

fn replicas(cluster: &TestCluster, shard: ShardId) -> Vec<Arc<Replica>> {
    (1..=3).filter_map(|n| cluster.node(NodeId(n)).context().replicas.get(shard)).collect()
}

/// Whether all members run with the same timers, those agreed on, and `wanted` says yes to them.
fn all_run(cluster: &TestCluster, shard: ShardId, wanted: impl Fn(&RaftTiming) -> bool) -> bool {
    let replicas = replicas(cluster, shard);
    let first = replicas[0].timing();
    wanted(&first) && replicas.iter().all(|r| r.timing() == first && r.agreed_timing() == first && !r.is_outdated())
}

/// Operations that were told anything but what their conditions came to.
fn errors(records: &[Record]) -> Vec<String> {
    let refused = |r: &&Record| r.op == OpKind::Txn && r.outcome == Outcome::Fail;
    let failed = records.iter().filter(|r| r.outcome != Outcome::Ok && !refused(r));
    failed.map(|r| format!("{} {:?} {:?}: {:?}", r.region, r.op, r.outcome, r.error)).collect()
}

/// Looks at every replica all the time: at most one of a shard has a valid lease, and it never exceeds what a quorum promises
/// of the timers that are in force anywhere.
async fn watch_leases(replicas: Vec<Arc<Replica>>, until: Arc<AtomicBool>) {
    while !until.load(Ordering::Relaxed) {
        let longest = replicas.iter().map(|r| r.timing().lease()).max().unwrap_or_default();
        for replica in &replicas {
            if let Some(left) = replica.status().lease_left {
                assert!(left <= longest, "{} of {:?}", replica.node(), left);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_distance_that_grows_gives_longer_timers_and_no_error() {
    let cluster = TestCluster::start(131).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    cluster.led(shard).await;
    let before = replicas(&cluster, shard)[0].timing();
    let (history, clients) = (History::default(), cluster.clients().await);
    let mix = Mix {
        processes: 1,
        gets: 5,
        swaps: 2,
        scans: 1,
        levels: vec![Level::Linearizable, Level::Linearizable, Level::Causal],
        ..Mix::writes(&[TABLE])
    };
    let load = Load::start(&history, &clients, &mix, 131);
    load.progress(5).await;
    let (done, watched) = (Arc::new(AtomicBool::new(false)), replicas(&cluster, shard));
    let watch = tokio::spawn(watch_leases(watched, done.clone()));
    // Farther than the promises that the table was created with are good for.
    let far = Duration::from_millis(300);
    for region in &REGIONS[1..] {
        cluster.wan().set_delay(&TestCluster::place(REGIONS[0]), &TestCluster::place(region), far).unwrap();
    }
    let long_enough = |t: &RaftTiming| t.heartbeat_ms >= 150 && t.election_max_ms > before.election_max_ms;
    for shard in [shard, ShardId::CATALOG] {
        let what = format!("all members of {shard} run with longer timers");
        until(&what, || async { all_run(&cluster, shard, long_enough) }).await;
    }
    load.progress(5).await;
    until("the leader is where it is preferred", || async { cluster.leader(shard) == Some(NodeId(1)) }).await;
    load.progress(5).await;
    load.finish().await;
    done.store(true, Ordering::Relaxed);
    watch.await.unwrap();
    cluster.converged(shard).await;
    nothing_lost(&history, &cluster, TABLE).await;
    assert_eq!(errors(&history.records()), Vec::<String>::new());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_agreed_on_outlives_restarts_and_a_shorter_promise_is_taken_over_too() {
    let mut cluster = TestCluster::start(132).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    cluster.led(shard).await;
    let created = replicas(&cluster, shard)[0].timing();
    let to = RaftTiming { election_max_ms: created.election_max_ms * 9 / 10, ..created };
    let session = cluster.client(REGIONS[1]).await.session();
    session.put(TABLE, "k", "before").await.unwrap();
    let agreed = || async {
        // Whoever leads now: a leadership that ends takes the entry with it.
        let leader = replicas(&cluster, shard).into_iter().find(|r| r.is_leader());
        leader.is_some_and(|leader| leader.change_timing(to).is_ok() && leader.agreed_timing() == to)
    };
    until("the group agrees on other timers", agreed).await;
    until("all members run with them", || async { all_run(&cluster, shard, |t| *t == to) }).await;
    session.put(TABLE, "k", "after").await.unwrap();
    let noted = |n| cluster.node(NodeId(n)).context().store.raft.shard(shard).promise().unwrap();
    until("the longer promise is over", || async { (1..=3).all(|n| noted(n) == Some(to.promise())) }).await;
    cluster.stop_node(NodeId(2)).await;
    cluster.restart_node(NodeId(2)).await;
    let restarted = || cluster.node(NodeId(2)).context().replicas.get(shard);
    until("the restarted replica is open", || async { restarted().is_some() }).await;
    let restarted = restarted().unwrap();
    assert_eq!((restarted.timing(), restarted.created_timing()), (to, created));
    cluster.stop().await;
}
