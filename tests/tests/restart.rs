//! Restarts: a cluster that is stopped and started again has everything it had and nothing that was dropped; a node
//! that was away for long catches up from a snapshot.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_client::{Client, Consistency, Row, ScanOptions};
use meridian_consensus::TransferStats;
use meridian_tests::exactly_once;
use meridian_tests::harness::{History, Load, Mix, REGIONS, TestCluster, until};
use meridian_types::{NodeId, ShardId};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use std::num::NonZeroU64;

/// So many entries the log has when its beginning is given up: a replica that ends there finds nothing to go on from.
const ENTRIES_PURGED: u64 = 600;

async fn all(client: &Client, table: &str) -> Vec<Row> {
    client.session().scan(table, ScanOptions::default()).collect().await.unwrap().value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_cluster_has_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = TestCluster::start_in(dir.path(), 71).await;
    cluster.create("global", "global:us-east", &["k003"]).await;
    cluster.create("regional", "regional:eu-west", &[]).await;
    let dropped = cluster.create("dropped", "global:us-east", &[]).await[0];
    let (history, clients) = (History::default(), cluster.clients().await);
    let load = Load::start(&history, &clients, &Mix { keys: 300, ..Mix::writes(&["global", "regional"]) }, 71);
    load.progress(20).await;
    load.finish().await;
    clients[0].1.session().put("dropped", "secret", "value").await.unwrap();
    clients[0].1.drop_table("dropped").await.unwrap();
    let tables = clients[0].1.list_tables().await.unwrap();
    let before = [all(&clients[0].1, "global").await, all(&clients[0].1, "regional").await];
    let names: Vec<_> = tables.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["global", "regional"]);
    cluster.stop().await;

    let cluster = TestCluster::start_in(dir.path(), 71).await;
    let clients = cluster.clients().await;
    for (region, client) in &clients {
        until("the restarted cluster serves", || async {
            let session = client.session();
            let reads = ["global", "regional"].map(|table| session.get(table, "k000", Consistency::Linearizable));
            futures::future::join_all(reads).await.iter().all(Result::is_ok)
        })
        .await;
        assert_eq!([all(client, "global").await, all(client, "regional").await], before, "in {region}");
        let mut again = client.list_tables().await.unwrap();
        for (was, is) in tables.iter().zip(&mut again) {
            for (was, is) in was.shards.iter().zip(&mut is.shards) {
                // Who leads may change with a restart, and how far that is from a quorum; nothing else may.
                (is.leader, is.quorum_rtt_ns) = (was.leader, was.quorum_rtt_ns);
            }
        }
        assert_eq!(again, tables, "in {region}");
    }
    let mut reader = history.process(REGIONS[0], &clients[0].1);
    let last = [reader.final_state("global").await, reader.final_state("regional").await];
    exactly_once::check(&history.records(), &last).unwrap();

    // The dropped table's data is gone from every store, and its name begins a new table.
    for node in [1, 2, 3].map(NodeId) {
        until("no replica of the dropped table is left", || async {
            let store = &cluster.node(node).context().store;
            !store.raft.shards().unwrap().contains(&dropped)
                && store.data.view().shard_state(dropped).unwrap().is_none()
        })
        .await;
    }
    cluster.create("dropped", "global:us-east", &[]).await;
    assert_eq!(all(&clients[1].1, "dropped").await, []);
    cluster.stop().await;
}

/// The first entry that a node's log of a shard still has.
fn log_begins(cluster: &TestCluster, node: u64, shard: ShardId) -> u64 {
    let log = cluster.node(NodeId(node)).context().store.raft.shard(shard);
    log.first_index().unwrap().unwrap_or_default()
}

/// The last entry that it has.
fn log_ends(cluster: &TestCluster, node: u64, shard: ShardId) -> u64 {
    let log = cluster.node(NodeId(node)).context().store.raft.shard(shard);
    log.last_index().unwrap().unwrap_or_default()
}

fn replica_applied(cluster: &TestCluster, node: u64, shard: ShardId) -> u64 {
    let replica = cluster.node(NodeId(node)).context().replicas.get(shard);
    replica.map_or(0, |r| r.safe_time().applied().0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_far_behind_catches_up_from_a_snapshot() {
    let mut cluster = TestCluster::start(72).await;
    // The stopped node has a learner of the one and a voter of the other.
    let regional = cluster.create("regional", "regional:us-east", &[]).await[0];
    let global = cluster.create("global", "global:us-east", &[]).await[0];
    let client = cluster.client(REGIONS[0]).await;
    let history = History::default();
    let mut writer = history.process(REGIONS[0], &client);
    for table in ["regional", "global"] {
        writer.put(table, "before").await.unwrap();
    }
    cluster.converged(regional).await;
    cluster.converged(global).await;
    let had = [regional, global].map(|shard| log_ends(&cluster, 3, shard));
    cluster.stop_node(NodeId(3)).await;
    for table in ["regional", "global"] {
        writer.put(table, "while").await.unwrap();
        fill(&client, table).await;
        writer.delete(table, "before").await.unwrap();
    }
    for ((table, shard), had) in [("regional", regional), ("global", global)].into_iter().zip(had) {
        let replica = cluster.node(NodeId(1)).context().replicas.get(shard).unwrap();
        until("the leader has purged what the stopped node lacks", || async {
            // By itself it would once there is enough to flush. What it tries to send just then it keeps until it has
            // something new to send.
            replica.compact().await.unwrap();
            client.session().put(table, "fill00-00-00", "again").await.unwrap();
            log_begins(&cluster, 1, shard) > had + 1
        })
        .await;
    }
    cluster.restart_node(NodeId(3)).await;
    for shard in [regional, global] {
        cluster.converged(shard).await;
        assert!(replica_applied(&cluster, 3, shard) >= replica_applied(&cluster, 1, shard));
    }
    let far = cluster.client("ap-northeast").await;
    for table in ["regional", "global"] {
        let rows = all(&client, table).await;
        let at = Consistency::Causal(client.session().get(table, "k", Consistency::Linearizable).await.unwrap().token);
        let options = ScanOptions { consistency: at, ..ScanOptions::default() };
        let theirs = far.session().scan(table, options).collect().await.unwrap();
        assert_eq!(theirs.region.as_str(), "ap-northeast");
        assert_eq!(theirs.value, rows);
    }
    // What it was sent as a snapshot it goes on from: new entries reach it.
    for (table, shard) in [("regional", regional), ("global", global)] {
        writer.put(table, "after").await.unwrap();
        cluster.converged(shard).await;
    }
    let mut reader = history.process("ap-northeast", &far);
    let mut last = [reader.final_state("regional").await, reader.final_state("global").await];
    for table in &mut last {
        table.rows.retain(|row| !row.key.starts_with("fill"));
    }
    exactly_once::check(&records_without_fill(&history), &last).unwrap();
    cluster.stop().await;
}

/// Bytes of snapshots that a node sends in a second where one has to break in the middle.
const SLOWLY: NonZeroU64 = NonZeroU64::new(8 << 20).expect("it is not zero");
/// Rows of about a mebibyte: more than one file of a snapshot, which has 64 of them.
const LARGE_ROWS: u64 = 104;
/// Bytes of one of them.
const LARGE: usize = (1 << 20) - 64;

/// Bytes that no compression makes smaller.
fn large_row(row: u64) -> Vec<u8> {
    let mut value = vec![0; LARGE];
    SmallRng::seed_from_u64(row).fill_bytes(&mut value);
    value
}

/// Names of the files of received snapshots that a node holds whole.
fn staged_files(cluster: &TestCluster, node: u64) -> Vec<String> {
    let files = |dir: std::fs::DirEntry| std::fs::read_dir(dir.path()).into_iter().flatten().flatten();
    let received = std::fs::read_dir(cluster.node(NodeId(node)).context().store.snapshots_dir()).unwrap().flatten();
    let received = received.filter(|dir| dir.file_name().to_string_lossy().contains("-in-"));
    let names = received.flat_map(files).map(|file| file.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".sst")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_broke_off_goes_on_with_the_files_that_are_lacking() {
    let mut cluster = TestCluster::with_snapshot_rate(73, SLOWLY).await;
    let shard = cluster.create("t", "global:us-east", &[]).await[0];
    let client = cluster.client(REGIONS[0]).await;
    client.session().put("t", "before", "").await.unwrap();
    cluster.converged(shard).await;
    let had = log_ends(&cluster, 3, shard);
    cluster.stop_node(NodeId(3)).await;
    for row in 0..LARGE_ROWS {
        client.session().put("t", format!("large{row:03}"), large_row(row)).await.unwrap();
    }
    let replica = cluster.node(NodeId(1)).context().replicas.get(shard).unwrap();
    until("the leader has purged what the stopped node lacks", || async {
        replica.compact().await.unwrap();
        client.session().put("t", "again", "").await.unwrap();
        log_begins(&cluster, 1, shard) > had + 1
    })
    .await;
    drop(replica);
    cluster.restart_node(NodeId(3)).await;
    until("one file of the snapshot has arrived", || async { !staged_files(&cluster, 3).is_empty() }).await;

    // Nothing of it is in the receiver's memory any more.
    cluster.stop_node(NodeId(3)).await;
    cluster.restart_node(NodeId(3)).await;
    cluster.converged(shard).await;
    let all = [1, 2].map(|node| cluster.node(NodeId(node)).context().transfers.stats());
    let sum = |of: fn(&TransferStats) -> u64| all.iter().map(of).sum::<u64>();
    let whole = LARGE_ROWS * LARGE as u64;
    assert_eq!(sum(|s| s.cuts), 1, "{all:?}");
    assert!(sum(|s| s.resumed_bytes) >= 64 << 20, "a whole file was not sent again: {all:?}");
    assert!(sum(|s| s.sent_bytes) < whole * 3 / 2, "{all:?}");
    assert_eq!(staged_files(&cluster, 3), [""; 0], "they are the database's now");

    let far = cluster.client("ap-northeast").await;
    let token = client.session().get("t", "before", Consistency::Linearizable).await.unwrap().token;
    for row in [0, LARGE_ROWS / 2, LARGE_ROWS - 1] {
        let read = far.session().get("t", format!("large{row:03}"), Consistency::Causal(token)).await.unwrap();
        assert_eq!(read.region.as_str(), "ap-northeast");
        assert!(read.value.is_some_and(|found| found.value == large_row(row)), "row {row}");
    }
    cluster.stop().await;
}

/// The history without its closing scans, which list the rows that were written unrecorded.
fn records_without_fill(history: &History) -> Vec<meridian_bench::history::Record> {
    history.records().into_iter().filter(|r| r.scan.is_none()).collect()
}

/// Writes until the table's log has that many entries.
async fn fill(client: &Client, table: &str) {
    let shard = client.describe_table(table).await.unwrap().shards[0].id;
    let mut round = 0;
    loop {
        let status = client.status(true).await.unwrap();
        let here = status.nodes.iter().find(|n| n.node == status.served_by).unwrap();
        let last = here.shards.iter().find(|s| s.shard == shard).map_or(0, |s| s.log_last);
        if last >= ENTRIES_PURGED {
            return;
        }
        // Many sessions at once; entries are shared by what arrives together.
        let sessions: Vec<_> = (0..8).map(|_| client.session()).collect();
        let writes = sessions.iter().enumerate().map(|(i, session)| async move {
            for j in 0..16 {
                session.put(table, format!("fill{:02}-{i:02}-{j:02}", round % 4), format!("{round}")).await.unwrap();
            }
        });
        futures::future::join_all(writes).await;
        round += 1;
    }
}
