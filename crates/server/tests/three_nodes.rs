//! Three real nodes on loopback, without emulated distances: the shortest way through everything.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_client::{Client, ClientConfig, Gateway};
use meridian_clock::ClockConfig;
use meridian_server::config::{FormConfig, FormMember, FormRtt, NodeConfig};
use meridian_server::{Listeners, RunningNode, start};
use meridian_types::{Consistency, NodeId, Placement, RegionId};
use std::time::Duration;

const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-northeast"];

struct Cluster {
    nodes: Vec<RunningNode>,
    _dir: tempfile::TempDir,
}

async fn cluster() -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners: Vec<Listeners> = REGIONS.iter().map(|_| Listeners { grpc: bind(), http: bind() }).collect();
    let addresses: Vec<String> = listeners.iter().map(|l| l.grpc.local_addr().unwrap().to_string()).collect();
    let member =
        |i: usize| FormMember { node: NodeId(i as u64 + 1), region: REGIONS[i].into(), address: addresses[i].clone() };
    let mut rtts = Vec::new();
    for (i, a) in REGIONS.iter().enumerate() {
        for b in &REGIONS[i + 1..] {
            rtts.push(FormRtt { a: (*a).into(), b: (*b).into(), rtt: Duration::from_millis(1) });
        }
    }
    let form = FormConfig {
        cluster_id: "test".into(),
        first: NodeId(1),
        voters: (0..3).map(member).collect(),
        rtts,
        max_clock_offset: Duration::from_millis(500),
    };
    let mut starting = Vec::new();
    for (i, l) in listeners.into_iter().enumerate() {
        let config = NodeConfig {
            node: NodeId(i as u64 + 1),
            region: REGIONS[i].into(),
            zone: "a".into(),
            data_dir: dir.path().join(format!("node{}", i + 1)),
            listen: addresses[i].clone(),
            clock: ClockConfig::fixed(Duration::from_millis(1)),
            form: Some(form.clone()),
            ..NodeConfig::default()
        };
        starting.push(start(config, l));
    }
    let mut nodes = Vec::new();
    for node in starting {
        nodes.push(node.await.unwrap());
    }
    for node in &nodes {
        tokio::time::timeout(Duration::from_secs(20), node.ready()).await.unwrap();
    }
    Cluster { nodes, _dir: dir }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_read_at_every_level_in_every_region() {
    let _ = tracing_subscriber::fmt().with_env_filter("info").with_test_writer().try_init();
    let cluster = cluster().await;
    let gateways = |i: usize| {
        let n = &cluster.nodes[i];
        vec![Gateway { address: n.grpc_address().to_string(), region: Some(RegionId::from(REGIONS[i])) }]
    };
    let client = Client::connect(ClientConfig::new(gateways(0))).await.unwrap();
    let placement = Placement::parse("global:us-east").unwrap();
    client.create_table("t", &placement, Vec::new()).await.unwrap();
    let session = client.session();
    let written = session.put("t", "k", "v").await.unwrap();
    for (i, region) in REGIONS.into_iter().enumerate() {
        let client = Client::connect(ClientConfig::new(gateways(i))).await.unwrap();
        let session = client.session();
        let levels = [
            Consistency::Linearizable,
            Consistency::Snapshot(written.timestamp),
            Consistency::Causal(written.token),
            Consistency::BoundedStaleness(Duration::from_secs(60)),
        ];
        for level in levels {
            let read = session.get("t", "k", level.clone()).await.unwrap();
            match level {
                Consistency::BoundedStaleness(bound) => assert!(read.staleness <= bound, "{read:?}"),
                _ => assert_eq!(read.value.as_ref().unwrap().value, "v", "{level:?} in {region}"),
            }
        }
        let status = client.status(false).await.unwrap();
        assert!(status.nodes.iter().all(|n| n.reachable), "{status:?}");
    }
    for node in cluster.nodes {
        node.stop().await;
    }
}
