//! A cluster in this process: real nodes on loopback, three regions apart.

use meridian_client::{Client, ClientConfig, Gateway, RetryPolicy};
use meridian_clock::ClockConfig;
use meridian_server::RunningNode;
use meridian_server::dev::{DevCluster, DevOptions};
use meridian_types::{NodeId, Placement, RegionId, ShardId, Timestamp};
use meridian_wan::{Place, Topology, Wan};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

/// The regions, in the order of their nodes: node 1 is in the first.
pub const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-northeast"];

/// How long a condition may take before the test fails. Far above what anything takes.
const PATIENCE: Duration = Duration::from_secs(90);

/// Time between looks at a condition.
const LOOK: Duration = Duration::from_millis(10);

/// How long one operation of a test's client may take: beyond the longest election of [`near`].
const REQUEST_DEADLINE: Duration = Duration::from_secs(8);

/// How long one attempt of it may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// Three regions as in the preset `three`, seven times nearer to each other, so that elections are quick.
pub fn near() -> Topology {
    let mut topology = Topology::preset("three").expect("one of the presets");
    topology.name = "near".to_owned();
    for (pair, ms) in topology.rtt.iter_mut().zip([10, 20, 30]) {
        pair.rtt = Duration::from_millis(ms);
    }
    topology
}

/// Three nodes in one zone: nothing emulated lies between them, so a stopped node refuses connections at once.
fn together() -> Topology {
    let mut topology = near();
    topology.name = "together".to_owned();
    topology.regions.truncate(1);
    topology.regions[0].nodes = 3;
    topology.rtt.clear();
    topology.shard0.voters.truncate(1);
    topology
}

/// Writes the nodes' logs where the test's output goes, as `MERIDIAN_LOG` says; errors only unless it is set.
pub fn logging() {
    let level = std::env::var("MERIDIAN_LOG").unwrap_or_else(|_| "error".to_owned());
    let _ = tracing_subscriber::fmt().with_env_filter(level).with_test_writer().try_init();
}

/// Waits until `holds` says so.
///
/// # Panics
/// When it does not come to hold.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited {PATIENCE:?} until {what}");
}

/// A client in `region` whose only gateway is the one at `address`.
pub async fn client_at(address: &str, region: &str) -> Client {
    let mut config = ClientConfig::new(vec![Gateway::in_region(address, region)]).in_region(region);
    config.request_deadline = REQUEST_DEADLINE;
    config.retry = RetryPolicy { attempt_timeout: ATTEMPT_TIMEOUT, ..RetryPolicy::default() };
    Client::connect(config).await.expect("a gateway that answers")
}

/// A running cluster of three nodes, one in each of [`REGIONS`].
pub struct TestCluster {
    dev: DevCluster,
}

impl TestCluster {
    /// A cluster on the [`near`] topology.
    pub async fn start(seed: u64) -> Self {
        Self::with(DevOptions { topology: Some(near()), seed, ..DevOptions::default() }).await
    }

    /// The same, as far apart as in the preset `three`: 70 and 140 ms from the first region.
    pub async fn start_far(seed: u64) -> Self {
        let topology = Topology::preset("three");
        Self::with(DevOptions { topology, seed, ..DevOptions::default() }).await
    }

    /// A cluster on the [`near`] topology with its data in `dir`, which may hold that cluster's data already.
    pub async fn start_in(dir: &Path, seed: u64) -> Self {
        let data = Some(dir.to_owned());
        Self::with(DevOptions { topology: Some(near()), data, seed, ..DevOptions::default() }).await
    }

    /// A cluster with these clocks, whose largest bound the topology declares.
    pub async fn with_clocks(seed: u64, clocks: BTreeMap<NodeId, ClockConfig>) -> Self {
        let mut topology = near();
        topology.clock_bound = clocks.values().map(|c| c.bound).max().unwrap_or(topology.clock_bound);
        Self::with(DevOptions { topology: Some(topology), seed, clocks, ..DevOptions::default() }).await
    }

    /// A cluster on the [`near`] topology whose nodes send so many bytes of snapshots in a second.
    pub async fn with_snapshot_rate(seed: u64, rate: NonZeroU64) -> Self {
        let snapshot_bytes_per_second = Some(rate);
        Self::with(DevOptions { topology: Some(near()), seed, snapshot_bytes_per_second, ..DevOptions::default() })
            .await
    }

    /// Three nodes in one zone of the first region.
    pub async fn start_together(seed: u64) -> Self {
        Self::with(DevOptions { topology: Some(together()), seed, ..DevOptions::default() }).await
    }

    async fn with(options: DevOptions) -> Self {
        logging();
        Self { dev: DevCluster::start(options).await.expect("a cluster that starts") }
    }

    /// Stops all nodes cleanly.
    pub async fn stop(self) {
        self.dev.stop().await;
    }

    /// Stops a node cleanly.
    pub async fn stop_node(&mut self, node: NodeId) {
        self.dev.stop_node(node).await.expect("a running node");
    }

    /// Starts a node that was stopped, and waits until it is part of the cluster again.
    pub async fn restart_node(&mut self, node: NodeId) {
        self.dev.restart_node(node).await.expect("a stopped node");
        self.node(node).ready().await;
    }

    /// The emulated network.
    pub fn wan(&self) -> &Wan {
        self.dev.wan()
    }

    /// A running node.
    pub fn node(&self, node: NodeId) -> &RunningNode {
        self.dev.node(node).expect("a running node")
    }

    /// The node of a region, running or not.
    pub fn node_in(region: &str) -> NodeId {
        let place = REGIONS.iter().position(|r| *r == region).expect("one of the regions");
        NodeId(place as u64 + 1)
    }

    /// A client in a region, whose gateway is that region's node.
    pub async fn client(&self, region: &str) -> Client {
        client_at(&self.node(Self::node_in(region)).grpc_address().to_string(), region).await
    }

    /// One client in each region, in their order.
    pub async fn clients(&self) -> Vec<(RegionId, Client)> {
        let mut clients = Vec::new();
        for region in REGIONS {
            clients.push((region.into(), self.client(region).await));
        }
        clients
    }

    /// Creates a table; returns its shards.
    pub async fn create(&self, table: &str, placement: &str, split_keys: &[&str]) -> Vec<ShardId> {
        let placement = Placement::parse(placement).expect("a placement");
        let splits = split_keys.iter().map(|key| bytes::Bytes::copy_from_slice(key.as_bytes())).collect();
        let client = self.client(REGIONS[0]).await;
        let created = client.create_table(table, &placement, splits).await.expect("a table that can be created");
        created.shards.iter().map(|shard| ShardId(shard.id)).collect()
    }

    /// The node that leads a shard and may serve, if there is exactly one.
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        let leads = |node: &&RunningNode| node.context().replicas.get(shard).is_some_and(|r| r.is_leader());
        let mut leaders = self.dev.nodes().filter(leads);
        leaders.next().map(RunningNode::node).filter(|_| leaders.next().is_none())
    }

    /// Waits until a shard has one leader; returns it.
    pub async fn led(&self, shard: ShardId) -> NodeId {
        until(&format!("shard {shard} has one leader"), || async { self.leader(shard).is_some() }).await;
        self.leader(shard).expect("nothing happened in between that takes a leadership away")
    }

    /// Moves a shard's leadership and waits until it has moved. It comes back by itself after a while, when the node
    /// is not the preferred one.
    pub async fn move_leader(&self, shard: ShardId, to: NodeId) {
        let client = self.client(REGIONS[0]).await;
        let moved = format!("shard {shard} is led by {to}");
        until(&moved, || async { client.transfer_leader(shard, to).await.is_ok() }).await;
    }

    /// Waits until every running replica of a shard has applied everything that the leader has, and can serve reads
    /// up to there.
    pub async fn converged(&self, shard: ShardId) {
        let leader = self.led(shard).await;
        let replica = self.node(leader).context().replicas.get(shard).expect("the leader's replica");
        let all: Timestamp = replica.safe_time().applied();
        until(&format!("all replicas of {shard} have applied {all}"), || async {
            self.dev.nodes().all(|n| n.context().replicas.get(shard).is_some_and(|r| r.safe_time().applied() >= all))
        })
        .await;
    }

    /// The place of a region in the emulated network.
    pub fn place(region: &str) -> Place {
        RegionId::from(region).into()
    }
}
