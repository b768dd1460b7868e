//! Backups of real nodes: as new as when they stopped, equal on all replicas, and what may start on what is restored.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{cluster, data_dir};
use meridian_client::{Client, ClientConfig, Gateway};
use meridian_clock::ClockConfig;
use meridian_proto::internal::v1 as pb;
use meridian_server::config::NodeConfig;
use meridian_server::{Listeners, StartError, start};
use meridian_storage::backup::{self, BackedUp};
use meridian_storage::inspect::StoppedNode;
use meridian_types::{NodeId, Placement, ShardId, TableId, Timestamp};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROWS: usize = 50;

/// A backup of a stopped node, as new as all of its shards permit, or at a timestamp.
fn back_up(node: &Path, at: Option<Timestamp>, to: &Path) -> BackedUp {
    let node = StoppedNode::open(node).unwrap();
    let shards = node.shard_scopes().unwrap();
    let newest = node.newest_closed(&shards).unwrap().0;
    node.back_up(&shards, at.unwrap_or(newest), to, |_| {}).unwrap()
}

/// Key, timestamp and value of every row of a table in a restored directory.
fn rows(dir: &Path, table: TableId) -> Vec<(Vec<u8>, u64, Option<Vec<u8>>)> {
    let (node, mut rows) = (StoppedNode::open(dir).unwrap(), Vec::new());
    node.versions(table, &meridian_types::KeyRange::all(), None, |version| {
        rows.push((version.key.to_vec(), version.ts.0, version.value.map(|value| value.to_vec())));
        Ok::<_, meridian_storage::StorageError>(())
    })
    .unwrap();
    rows
}

/// Starts a node that was never part of the cluster on a directory.
async fn start_on(dir: PathBuf) -> Result<(meridian_server::RunningNode, String), StartError> {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = Listeners { grpc: bind(), http: bind() };
    let listen = listeners.grpc.local_addr().unwrap().to_string();
    let config = NodeConfig {
        node: NodeId(7),
        region: common::REGIONS[0].into(),
        zone: "a".into(),
        data_dir: dir,
        listen: listen.clone(),
        clock: ClockConfig::fixed(Duration::from_millis(1)),
        ..NodeConfig::default()
    };
    Ok((start(config, listeners).await?, listen))
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_stopped_nodes_go_together_and_go_on_only_with_members() {
    let cluster = cluster().await;
    let client = Client::connect(ClientConfig::new(cluster.gateway(0))).await.unwrap();
    let table = client.create_table("t", &Placement::parse("global:us-east").unwrap(), Vec::new()).await.unwrap();
    let (table, session) = (TableId(table.id), client.session());
    let mut last = Timestamp::ZERO;
    for n in 0..ROWS {
        last = session.put("t", format!("k{n:02}"), format!("v{n}")).await.unwrap().timestamp;
    }
    // Every replica may serve at a timestamp above the last write, though nothing else was ever written to the catalog.
    for node in &cluster.nodes {
        for replica in node.context().replicas.all() {
            tokio::time::timeout(Duration::from_secs(20), replica.safe_time().wait_safe(last)).await.unwrap();
        }
    }
    drop(client);
    for node in cluster.nodes {
        node.stop().await;
    }
    let place = |name: &str| cluster.dir.path().join(name);
    let dirs: Vec<PathBuf> = (0..3).map(|i| data_dir(&cluster.dir, i)).collect();
    let first = back_up(&dirs[0], None, &place("backup-0"));
    let at = Timestamp(first.manifest.at);
    assert!(at >= last, "what was closed when the node stopped counts: {at} < {last}");
    let catalog = first.manifest.shards[0].source.clone().unwrap();
    assert!(catalog.last_ts < last.0, "without that the catalog would have held it back");
    // At one timestamp that all have, every replica has the same.
    let at = last;
    let made: Vec<BackedUp> = (0..3).map(|i| back_up(&dirs[i], Some(at), &place(&format!("equal-{i}")))).collect();
    for i in 0..3 {
        backup::restore(&place(&format!("equal-{i}")), &place(&format!("restored-{i}")), |_| None, |_| {}).unwrap();
    }
    let restored: Vec<_> = (0..3).map(|i| rows(&place(&format!("restored-{i}")), table)).collect();
    assert_eq!(restored[0].len(), ROWS);
    assert_eq!(restored[0][ROWS - 1].2.as_deref(), Some(format!("v{}", ROWS - 1).as_bytes()));
    assert!(restored[1] == restored[0] && restored[2] == restored[0]);
    assert_eq!(made[0].manifest.shards.len(), 2);

    // Nobody starts on what has no members.
    let refused = start_on(place("restored-0")).await.err().unwrap();
    assert!(matches!(refused, StartError::NoMembers { shard: ShardId::CATALOG }), "{refused}");

    // With members they go on: the catalog is led, and written to, by a node that the old cluster never knew.
    let voter = pb::membership::VoterSet { nodes: vec![7] };
    let alone = |address: &str| pb::Membership {
        configs: vec![voter.clone()],
        members: vec![pb::Member { node: 7, region: common::REGIONS[0].into(), address: address.into() }],
    };
    let named = alone("127.0.0.1:1");
    backup::restore(&place("equal-0"), &place("again"), |_| Some(named.clone()), |_| {}).unwrap();
    let (node, address) = start_on(place("again")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), node.ready()).await.unwrap();
    let client = Client::connect(ClientConfig::new(vec![Gateway { address, region: None }])).await.unwrap();
    let tables = client.list_tables().await.unwrap();
    assert_eq!(tables.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["t"]);
    let catalog = node.context().replicas.get(ShardId::CATALOG).unwrap();
    assert!(catalog.is_leader() && catalog.safe_time().applied() > at, "its own writes are above the backup");
    node.stop().await;
}
