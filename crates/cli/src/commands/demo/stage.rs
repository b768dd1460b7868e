//! The stage: a cluster in three regions, and clients that live in them.

use super::dataset::{COUNTRIES, LANGUAGES};
use anyhow::Context as _;
use meridian_client::{Client, ClientConfig, Gateway, Placement};
use meridian_server::dev::{DevCluster, DevOptions};
use meridian_types::RegionId;
use meridian_wan::{Place, Topology};
use std::time::Duration;

/// The topology that the demo runs on.
const TOPOLOGY: &str = "three";
/// The table of the writers, led from the first region.
pub(super) const PAYMENTS: &str = "payments";
/// How long one request may take where nothing is broken.
const PATIENT: Duration = Duration::from_secs(30);
/// How long one attempt at it may take.
const ATTEMPT: Duration = Duration::from_secs(4);

/// A running cluster.
pub(super) struct Stage {
    cluster: DevCluster,
    topology: Topology,
}

impl Stage {
    /// Starts the cluster; its data is temporary.
    pub(super) async fn start(memory_bytes: Option<u64>) -> anyhow::Result<Self> {
        let topology = Topology::preset(TOPOLOGY).context("the topology is built in")?;
        let options = DevOptions { topology: Some(topology.clone()), memory_bytes, ..DevOptions::default() };
        Ok(Self { cluster: DevCluster::start(options).await?, topology })
    }

    /// Stops it and removes its data.
    pub(super) async fn stop(self) {
        self.cluster.stop().await;
    }

    /// The regions and their distances.
    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The regions, in the topology's order.
    pub(super) fn regions(&self) -> Vec<RegionId> {
        self.topology.regions.iter().map(|r| r.name.clone()).collect()
    }

    /// The region that leads the global tables.
    pub(super) fn first(&self) -> RegionId {
        self.topology.shard0.leader.clone()
    }

    /// The home of the regional table: a region that is not the first.
    pub(super) fn home(&self) -> RegionId {
        let first = self.first();
        self.regions().into_iter().find(|r| *r != first).unwrap_or(first)
    }

    /// The region farthest from the first one.
    pub(super) fn farthest(&self) -> RegionId {
        let first = self.first();
        self.regions().into_iter().max_by_key(|r| self.topology.rtt(&first, r)).unwrap_or(first)
    }

    /// A client in `region`, which talks to that region's nodes only: their sockets are not behind emulated links,
    /// so a client that went elsewhere would be there in no time.
    pub(super) async fn client(&self, region: &RegionId) -> anyhow::Result<Client> {
        self.client_with(region, PATIENT, ATTEMPT).await
    }

    /// The same, with time limits for each request and for each attempt at it.
    pub(super) async fn client_with(
        &self,
        region: &RegionId,
        limit: Duration,
        attempt: Duration,
    ) -> anyhow::Result<Client> {
        let nodes = self.cluster.describe().nodes;
        let here = nodes.into_iter().filter(|n| n.region == *region);
        let gateways = here.map(|n| Gateway::in_region(n.grpc, n.region)).collect();
        let mut config = ClientConfig::new(gateways).in_region(region.clone());
        config.request_deadline = limit;
        config.retry.attempt_timeout = attempt;
        Client::connect(config).await.with_context(|| format!("no client in {region}"))
    }

    /// Creates the tables. Returns what each is for, with its placement.
    pub(super) async fn create_tables(&self) -> anyhow::Result<[(&'static str, Placement); 3]> {
        let client = self.client(&self.first()).await?;
        let global = Placement::Global { leader: vec![self.first()], survive: 1 };
        let regional = Placement::Regional { home: self.home() };
        let tables = [(COUNTRIES.table, global.clone()), (LANGUAGES.table, regional), (PAYMENTS, global)];
        for (name, placement) in &tables {
            client.create_table(name, placement, Vec::new()).await?;
        }
        Ok(tables)
    }

    /// Cuts a region off from all others.
    pub(super) fn isolate(&self, region: &RegionId) -> anyhow::Result<()> {
        Ok(self.cluster.wan().isolate(&Place::from(region.clone()))?)
    }

    /// Lets everything through again.
    pub(super) fn heal(&self) {
        self.cluster.wan().heal_all();
    }

    /// The region where the writers' table is led now, as `region`'s node knows it.
    pub(super) async fn payments_leader(&self, region: &RegionId) -> anyhow::Result<Option<RegionId>> {
        let table = self.client(region).await?.describe_table(PAYMENTS).await?;
        let led = table.shards.first().and_then(|s| s.replicas.iter().find(|r| r.node == s.leader));
        Ok(led.map(|replica| replica.region.as_str().into()))
    }
}
