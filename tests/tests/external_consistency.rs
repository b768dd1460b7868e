//! External consistency (G2): timestamps are ordered with real time, across tables, leaders and regions, as long as
//! every clock keeps its bound; and a clock that does not is found out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_client::{Consistency, Reason};
use meridian_clock::{ClockConfig, SimulatedConfig, SourceKind};
use meridian_tests::external_consistency::check;
use meridian_tests::harness::{History, Level, Load, Mix, REGIONS, TestCluster, until};
use meridian_tests::{exactly_once, snapshots};
use meridian_types::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;

const TABLES: [&str; 3] = ["of_us", "of_eu", "at_ap"];

/// A clock that is wrong by `offset_us` and says that it is wrong by at most `bound`.
fn clock(bound: Duration, offset_us: i64) -> ClockConfig {
    let simulated = SimulatedConfig { offset_us, ..SimulatedConfig::default() };
    ClockConfig { source: SourceKind::Simulated, simulated, ..ClockConfig::fixed(bound) }
}

fn clocks(bound: Duration, offsets_us: [i64; 3]) -> BTreeMap<NodeId, ClockConfig> {
    (1..).map(NodeId).zip(offsets_us.map(|offset| clock(bound, offset))).collect()
}

/// Two tables with leaders in different regions, and one that lives in a third.
async fn create_tables(cluster: &TestCluster) {
    for (table, placement) in TABLES.into_iter().zip(["global:us-east", "global:eu-west", "regional:ap-northeast"]) {
        cluster.create(table, placement, &[]).await;
    }
}

/// Writes and reads everywhere, then everything is checked.
async fn ordered_with_real_time(cluster: TestCluster, seed: u64) -> History {
    create_tables(&cluster).await;
    let (history, clients) = (History::default(), cluster.clients().await);
    let levels = vec![Level::Linearizable, Level::Local];
    let mix = Mix { swaps: 2, gets: 3, levels, ..Mix::writes(&TABLES) };
    let load = Load::start(&history, &clients, &mix, seed);
    load.progress(60).await;
    load.finish().await;
    let mut reader = history.process(REGIONS[0], &clients[0].1);
    let mut tables = Vec::new();
    for table in TABLES {
        tables.push(reader.final_state(table).await);
    }
    let records = history.records();
    check(&records).unwrap();
    snapshots::check(&records).unwrap();
    exactly_once::check(&records, &tables).unwrap();
    cluster.stop().await;
    history
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_follow_real_time_across_tables_and_regions() {
    let history = ordered_with_real_time(TestCluster::start(1).await, 1).await;

    // The same history with one lie in it is refused: the checker can fail.
    let mut records = history.records();
    let mut writes: Vec<_> = records.iter_mut().filter(|r| !r.writes().is_empty() && r.timestamp.is_some()).collect();
    writes.sort_by_key(|r| r.completed_ns);
    let first = writes[0].timestamp;
    let last = writes.len() - 1;
    assert!(writes[last].invoked_ns > writes[0].completed_ns);
    writes[last].timestamp = first;
    assert!(check(&records).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_follow_real_time_with_skewed_clocks() {
    let clocks = clocks(Duration::from_millis(20), [-18_000, 18_000, 0]);
    ordered_with_real_time(TestCluster::with_clocks(2, clocks).await, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_leader_and_a_slow_one_keep_the_order() {
    // What the leader in the second region stamps would be far below what the first has acknowledged, if nobody
    // waited: a chain of writes, each asked for when the one before is acknowledged.
    let clocks = clocks(Duration::from_millis(20), [19_000, -19_000, 19_000]);
    let cluster = TestCluster::with_clocks(3, clocks).await;
    create_tables(&cluster).await;
    let (history, clients) = (History::default(), cluster.clients().await);
    let mut processes: Vec<_> =
        clients.iter().map(|(region, client)| history.process(region.clone(), client)).collect();
    let mut last = 0;
    for turn in 0..24 {
        let written = processes[turn % 3].put(TABLES[turn % 3], "k").await.unwrap();
        assert!(written.timestamp.0 > last, "turn {turn}: {} after {last}", written.timestamp.0);
        last = written.timestamp.0;
    }
    check(&history.records()).unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_beyond_its_bound_is_found_out() {
    // The second node is 300 ms behind and vouches for 20.
    let clocks = clocks(Duration::from_millis(20), [0, -300_000, 0]);
    let cluster = TestCluster::with_clocks(4, clocks).await;
    let liar = NodeId(2);
    until("the node with the wrong clock knows", || async { !cluster.node(liar).context().clock.is_safe() }).await;
    assert!(cluster.node(NodeId(1)).context().clock.is_safe());
    assert!(cluster.node(NodeId(3)).context().clock.is_safe());
    let shards = cluster.create("of_us", "global:us-east", &[]).await;
    assert_ne!(cluster.led(shards[0]).await, liar);

    // Its clock vouches for nothing: no reply of its gateway that rests on it, and no staleness.
    let theirs = cluster.client("eu-west").await;
    let session = theirs.session();
    let read = session.get("of_us", "k", Consistency::BoundedStaleness(Duration::from_secs(5))).await;
    assert_eq!(read.unwrap_err().reason(), Reason::ClockUnsafe);

    // The others go on.
    let history = History::default();
    let mut ours = history.process(REGIONS[0], &cluster.client(REGIONS[0]).await);
    for _ in 0..5 {
        ours.put("of_us", "k").await.unwrap();
    }
    check(&history.records()).unwrap();
    cluster.stop().await;
}
