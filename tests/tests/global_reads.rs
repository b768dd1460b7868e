//! Tables of the placement `global-reads` (rules K1 to K4): every region serves linearizable reads from its own replica and
//! asks nobody; writes are stamped ahead and waited out; none of it is lost with a leader, a restart or a cut.

use meridian_client::{Consistency, Fate, Reason, ScanOptions};
use meridian_tests::harness::{History, Level, Load, Mix, REGIONS, TestCluster, nothing_lost, until};
use meridian_types::{NodeId, ShardId, Timestamp};
use std::time::Duration;

const TABLE: &str = "t";
/// A publication of closed timestamps, and what a busy machine may add to it.
const CLOSED_LATELY: Duration = Duration::from_millis(35);

fn lead_time(cluster: &TestCluster, node: NodeId, shard: ShardId) -> Duration {
    cluster.node(node).context().replicas.get(shard).map(|r| r.lead_time()).unwrap_or_default()
}

/// Whether the nodes of these regions may answer at their own clocks now.
fn are_ahead(cluster: &TestCluster, regions: &[&str], shard: ShardId) -> bool {
    regions.iter().all(|region| {
        let ctx = cluster.node(TestCluster::node_in(region)).context();
        ctx.replicas.get(shard).is_some_and(|r| r.safe_time().safe() > ctx.clock.now().latest)
    })
}

async fn ahead(cluster: &TestCluster, regions: &[&str], shards: &[ShardId]) {
    for shard in shards {
        let what = format!("{shard} is safe beyond the clocks of {regions:?}");
        until(&what, || async { are_ahead(cluster, regions, *shard) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_region_reads_by_itself_and_sees_everything_acknowledged() {
    const ROUNDS: usize = 20;
    let cluster = TestCluster::start(91).await;
    let shard = cluster.create(TABLE, "global-reads:us-east", &[]).await[0];
    ahead(&cluster, &REGIONS, &[shard]).await;
    let mut local = [0_usize; 3];
    for round in 0..ROUNDS {
        let writer = cluster.client(REGIONS[round % 3]).await.session();
        let written = writer.put(TABLE, "k", format!("v{round}")).await.unwrap();
        for (at, region) in REGIONS.into_iter().enumerate() {
            let reader = cluster.client(region).await.session().with_receipts(true);
            let read = reader.get(TABLE, "k", Consistency::Linearizable).await.unwrap();
            let row = read.value.unwrap();
            assert_eq!(
                (row.value.as_ref(), row.version),
                (format!("v{round}").as_bytes(), written.timestamp),
                "{region}"
            );
            assert_eq!((read.staleness, read.timestamp >= written.timestamp), (Duration::ZERO, true), "{region}");
            let receipt = read.receipt.unwrap();
            assert_eq!((receipt.floor, receipt.parts()), (0, receipt.total), "{region}");
            let here = read.served_by == TestCluster::node_in(region) && read.region.as_str() == region;
            // Nobody was asked: a read index would be in `forward`.
            local[at] += usize::from(here && receipt.forward == 0);
        }
    }
    // A machine that stands still for longer than the slack sends a read to the leader now and then.
    assert!(local.iter().all(|count| *count * 3 > ROUNDS * 2), "reads that asked nobody, by region: {local:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_stamped_ahead_and_waited_out() {
    let cluster = TestCluster::start(92).await;
    let shard = cluster.create(TABLE, "global-reads:us-east", &[]).await[0];
    ahead(&cluster, &REGIONS, &[shard]).await;
    for region in REGIONS {
        let node = cluster.node(TestCluster::node_in(region)).context();
        let session = cluster.client(region).await.session().with_receipts(true);
        let mut led = 0;
        for i in 0..5 {
            let lead = lead_time(&cluster, NodeId(1), shard);
            let before = node.clock.now().earliest;
            let written = session.put(TABLE, format!("{region}/{i}"), "v").await.unwrap();
            assert!(node.clock.now().earliest > written.timestamp, "{region}: it is past when it is acknowledged");
            let receipt = written.receipt.unwrap();
            assert_eq!(receipt.parts(), receipt.total, "{region}");
            assert!(receipt.total >= receipt.floor, "{region}: {receipt:?}");
            let ahead = written.timestamp.since(before);
            led += usize::from(ahead + CLOSED_LATELY > lead && receipt.commit_wait > 0);
        }
        assert!(led >= 3, "{region}: {led} of 5 writes were stamped ahead and waited for");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_over_several_shards_and_bounded_reads_are_local_too() {
    let cluster = TestCluster::start(93).await;
    let shards = cluster.create(TABLE, "global-reads:us-east", &["h", "p"]).await;
    let writer = cluster.client(REGIONS[1]).await.session();
    for key in ["a", "i", "q"] {
        writer.put(TABLE, key, "v").await.unwrap();
    }
    ahead(&cluster, &REGIONS, &shards).await;
    for region in REGIONS {
        let reader = cluster.client(region).await.session();
        let mut local = 0;
        for _ in 0..6 {
            let scan = reader.scan(TABLE, ScanOptions::default()).collect().await.unwrap();
            assert_eq!((scan.value.len(), scan.staleness), (3, Duration::ZERO), "{region}");
            local += usize::from(scan.region.as_str() == region);
            // Nothing is staler than nothing, and nothing is read ahead of the clock.
            let bounded = Consistency::BoundedStaleness(Duration::ZERO);
            let read = reader.get(TABLE, "i", bounded).await.unwrap();
            assert!(read.value.is_some() && read.staleness.is_zero(), "{region}");
            let read = reader.get(TABLE, "i", Consistency::Local).await.unwrap();
            let now = cluster.node(TestCluster::node_in(region)).context().clock.now();
            assert!(read.timestamp < now.earliest, "{region}");
        }
        assert!(local >= 4, "{region}: {local} of 6 scans were served there");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_stamps_above_what_the_leader_had_closed_ahead() {
    let mut cluster = TestCluster::start(94).await;
    let shard = cluster.create(TABLE, "global-reads:us-east", &[]).await[0];
    ahead(&cluster, &REGIONS, &[shard]).await;
    let session = cluster.client(REGIONS[1]).await.session();
    session.put(TABLE, "k", "before").await.unwrap();
    // What a reader in the far region may have been promised, up to the last moment.
    let replica = cluster.node(NodeId(3)).context().replicas.get(shard).unwrap();
    cluster.stop_node(NodeId(1)).await;
    let promised: Timestamp = replica.safe_time().safe();
    let written = session.put(TABLE, "k", "after").await.unwrap();
    assert!(written.timestamp > promised, "{} after {promised}", written.timestamp);
    let others = &REGIONS[1..];
    ahead(&cluster, others, &[shard]).await;
    for region in others {
        let reader = cluster.client(region).await.session();
        let row = reader.get(TABLE, "k", Consistency::Linearizable).await.unwrap().value.unwrap();
        assert_eq!(row.value, "after", "{region}");
    }
    // The lead time is in the log, and in the state that it leads to.
    cluster.restart_node(NodeId(1)).await;
    until("the restarted node knows the lead time", || async { !lead_time(&cluster, NodeId(1), shard).is_zero() })
        .await;
    let state = cluster.node(NodeId(1)).context().store.data.view().shard_state(shard).unwrap().unwrap();
    assert!(state.lead_ns > 0, "{state:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_cut_off_answers_no_linearizable_read_by_itself() {
    let cluster = TestCluster::start(95).await;
    let shard = cluster.create(TABLE, "global-reads:us-east", &[]).await[0];
    ahead(&cluster, &REGIONS, &[shard]).await;
    let (history, clients) = (History::default(), cluster.clients().await);
    let mix = Mix {
        processes: 1,
        gets: 4,
        scans: 1,
        levels: vec![Level::Linearizable, Level::Linearizable, Level::Local, Level::Causal],
        ..Mix::writes(&[TABLE])
    };
    let load = Load::start(&history, &clients, &mix, 95);
    load.progress(12).await;
    let island = REGIONS[2];
    let inside = cluster.client(island).await.session();
    cluster.wan().isolate(&TestCluster::place(island)).unwrap();
    load.progress_in(12, |region| region.as_str() != island).await;
    let error = inside.get(TABLE, "k000", Consistency::Linearizable).await.unwrap_err();
    assert_eq!((error.reason(), error.fate()), (Reason::NoQuorum, Fate::NotApplied), "{error}");
    cluster.wan().heal_all();
    load.progress(12).await;
    cluster.move_leader(shard, NodeId(2)).await;
    load.progress(12).await;
    load.finish().await;
    cluster.converged(shard).await;
    nothing_lost(&history, &cluster, TABLE).await;
    cluster.stop().await;
}
