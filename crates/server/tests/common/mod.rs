//! A cluster of three nodes on loopback.

use meridian_client::Gateway;
use meridian_clock::ClockConfig;
use meridian_server::config::{FormConfig, FormMember, FormRtt, NodeConfig};
use meridian_server::{Listeners, RunningNode, start};
use meridian_types::{NodeId, RegionId};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-northeast"];

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<RunningNode>,
    pub(crate) dir: tempfile::TempDir,
}

impl Cluster {
    /// The gateway of one of its nodes.
    pub(crate) fn gateway(&self, i: usize) -> Vec<Gateway> {
        let address = self.nodes[i].grpc_address().to_string();
        vec![Gateway { address, region: Some(RegionId::from(REGIONS[i])) }]
    }
}

/// The data directory of one of its nodes.
pub(crate) fn data_dir(dir: &tempfile::TempDir, i: usize) -> PathBuf {
    dir.path().join(format!("node{}", i + 1))
}

pub(crate) async fn cluster() -> Cluster {
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
            data_dir: data_dir(&dir, i),
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
    Cluster { nodes, dir }
}
