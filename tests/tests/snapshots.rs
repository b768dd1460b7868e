//! Snapshot reads (G5): the same timestamp gives the same answer on every replica and for ever, while writes go on
//! and leaders move.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_client::{Client, Consistency, Row, ScanOptions, Timestamp};
use meridian_tests::harness::{History, Load, Mix, TestCluster};
use meridian_tests::snapshots::check;
use meridian_types::{KeyRange, NodeId, RegionId};

const TABLE: &str = "t";

/// Everything in the table at a timestamp, by one region's gateway.
async fn all_at(client: &Client, at: Timestamp) -> Vec<Row> {
    let consistency = Consistency::Snapshot(at);
    let options = ScanOptions { range: KeyRange::all(), consistency, ..ScanOptions::default() };
    let reply = client.session().scan(TABLE, options).collect().await.unwrap();
    assert_eq!(reply.timestamp, at);
    reply.value
}

async fn same_everywhere(clients: &[(RegionId, Client)], at: Timestamp) -> Vec<Row> {
    let first = all_at(&clients[0].1, at).await;
    for (region, client) in &clients[1..] {
        assert_eq!(all_at(client, at).await, first, "at {at} in {region}");
    }
    first
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_the_same_in_every_region_and_later() {
    let cluster = TestCluster::start(21).await;
    // Two shards: a snapshot is one point in the history of both.
    let shards = cluster.create(TABLE, "global:us-east", &["k010"]).await;
    let (history, clients) = (History::default(), cluster.clients().await);
    let load = Load::start(&history, &clients, &Mix { keys: 20, ..Mix::writes(&[TABLE]) }, 21);
    let mut seen = Vec::new();
    for round in 0..12_u64 {
        load.progress(5).await;
        if round % 4 == 3 {
            // Leaders move under the reads too.
            cluster.move_leader(shards[(round / 4) as usize % 2], NodeId(2 + round / 4 % 2)).await;
        }
        // The newest timestamp that anybody knows, which followers cannot vouch for yet, and an older one.
        let newest = history.records().iter().filter_map(|r| r.timestamp).max().map(Timestamp).unwrap();
        for at in [newest, newest.minus(std::time::Duration::from_millis(200))] {
            seen.push((at, same_everywhere(&clients, at).await));
        }
    }
    assert!(seen.windows(2).any(|w| w[0].1 != w[1].1), "the table changed meanwhile");
    load.finish().await;
    for shard in &shards {
        cluster.converged(*shard).await;
    }
    for (at, rows) in &seen {
        assert_eq!(same_everywhere(&clients, *at).await, *rows, "at {at}, later");
    }

    // Each is exactly what the acknowledged writes say; recorded reads of single keys at those timestamps agree.
    let mut readers: Vec<_> = clients.iter().map(|(region, client)| history.process(region.clone(), client)).collect();
    for (i, (at, rows)) in seen.iter().enumerate() {
        let key = format!("k{:03}", i % 20);
        let expected = rows.iter().find(|row| row.key == key).cloned();
        let got = readers[i % 3].get(TABLE, &key, Consistency::Snapshot(*at)).await.unwrap();
        assert_eq!(got.value, expected);
    }
    check(&history.records()).unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_below_a_timestamp_that_was_read() {
    // A read at the reader's present, and then writes everywhere: none of them may fall below it, whoever leads.
    let cluster = TestCluster::start(22).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    let (history, clients) = (History::default(), cluster.clients().await);
    let mut processes: Vec<_> =
        clients.iter().map(|(region, client)| history.process(region.clone(), client)).collect();
    for turn in 0..9_usize {
        let now = cluster.node(NodeId(1)).context().clock.now().latest;
        let read = processes[turn % 3].get(TABLE, "k", Consistency::Snapshot(now)).await.unwrap();
        assert_eq!(read.timestamp, now);
        if turn % 3 == 2 {
            cluster.move_leader(shard, NodeId(1 + (turn as u64 / 3 + 1) % 3)).await;
        }
        let written = processes[(turn + 1) % 3].put(TABLE, "k").await.unwrap();
        assert!(written.timestamp > now, "turn {turn}");
        let again = processes[(turn + 2) % 3].get(TABLE, "k", Consistency::Snapshot(now)).await.unwrap();
        assert_eq!(again.value, read.value, "turn {turn}");
    }
    check(&history.records()).unwrap();
    cluster.stop().await;
}
