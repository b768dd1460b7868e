//! Both clusters in the lab, one node in each region, and connections to them from each region.

use super::site::Site;
use crate::args::Args;
use crate::etcd::{Addresses, Members, connect, lead_at, prepare};
use crate::meridian::TABLE;
use crate::metrics::Metrics;
use crate::session::Connection;
use crate::system::System;
use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use futures::future::try_join_all;
use meridian_client::{Client, ClientConfig, Gateway, Placement};
use meridian_clock::Mono;
use meridian_server::bootstrap::{BootstrapOptions, write};
use meridian_server::config::PORT_DEFAULT;
use meridian_server::layout::Ports;
use meridian_server::processes::Processes;
use meridian_types::NodeId;
use meridian_wan::Topology;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// How long a cluster may take until it has a leader in the right region.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(200);

/// etcd's registered ports. Every member has an address of its own.
const ETCD_CLIENT_PORT: u16 = 2379;
const ETCD_PEER_PORT: u16 = 2380;
/// etcd's timers, milliseconds: its documentation asks for a heartbeat of about the longest round trip between members,
/// and ten times that until an election. Its defaults, 100 and 1000, are for one region.
pub(super) const ETCD_HEARTBEAT_MS: u32 = 150;
pub(super) const ETCD_ELECTION_MS: u32 = 1500;

/// A running cluster of either system. Dropping it kills its processes.
#[derive(Debug)]
pub(crate) struct WanCluster {
    /// Whose it is.
    pub(crate) system: System,
    /// For each site its connections, all to the node there.
    pub(crate) connections: Vec<Vec<Connection>>,
    nodes: Nodes,
}

#[derive(Debug)]
enum Nodes {
    Etcd { members: Members, addresses: Vec<String> },
    Meridian { processes: Vec<Processes>, ids: Vec<NodeId>, client: Client },
}

impl WanCluster {
    /// Starts either system with its leader at `home`. Has to be called inside the runtime of a site.
    pub(crate) async fn start(
        system: System,
        program: &Path,
        dir: &Path,
        args: &Args,
        topology: &Topology,
        sites: &[Site],
        home: usize,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        match system {
            System::Etcd => etcd(program, dir, args, sites, home).await,
            System::Meridian => meridian(program, dir, args, topology, sites, home).await,
        }
    }

    /// The place of the node that leads, if it is known.
    pub(crate) async fn leader(&self) -> anyhow::Result<Option<usize>> {
        match &self.nodes {
            Nodes::Etcd { addresses, .. } => {
                for (i, address) in addresses.iter().enumerate() {
                    if Metrics::fetch(address).await?.sum("etcd_server_is_leader") == Some(1.0) {
                        return Ok(Some(i));
                    }
                }
                Ok(None)
            }
            Nodes::Meridian { ids, client, .. } => {
                let table = client.describe_table(TABLE).await?;
                let leader = table.shards.first().map(|shard| shard.leader);
                Ok(leader.and_then(|leader| ids.iter().position(|id| id.0 == leader)))
            }
        }
    }

    /// Fails if a process has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match &mut self.nodes {
            Nodes::Etcd { members, .. } => members.check(),
            Nodes::Meridian { processes, .. } => {
                let died = processes.iter_mut().find_map(|node| node.died().now_or_never());
                died.map_or(Ok(()), |error| Err(error.into()))
            }
        }
    }

    /// Stops the processes.
    pub(crate) async fn stop(self) {
        drop(self.connections);
        match self.nodes {
            Nodes::Etcd { members, .. } => members.stop().await,
            Nodes::Meridian { processes, .. } => {
                let killed = futures::future::join_all(processes.into_iter().map(Processes::stop)).await.concat();
                if !killed.is_empty() {
                    eprintln!("note: Meridian nodes {killed:?} did not end within their time and were killed");
                }
            }
        }
    }

    /// Waits until the node at `home` leads.
    async fn led_from(&self, home: usize) -> anyhow::Result<()> {
        let start = Mono::now();
        let mut seen = None;
        while seen != Some(home) {
            if start.elapsed() > READY_WITHIN {
                bail!("{}: not led from its home region within {READY_WITHIN:?}", self.system.name());
            }
            tokio::time::sleep(LOOK).await;
            seen = self.leader().await?;
        }
        Ok(())
    }
}

async fn etcd(program: &Path, dir: &Path, args: &Args, sites: &[Site], home: usize) -> anyhow::Result<WanCluster> {
    let at = |site: &Site| Addresses {
        client: format!("{}:{ETCD_CLIENT_PORT}", site.host.address),
        peer: format!("{}:{ETCD_PEER_PORT}", site.host.address),
    };
    let addresses: Vec<_> = sites.iter().map(at).collect();
    let options = ["--heartbeat-interval", &ETCD_HEARTBEAT_MS.to_string(), "--election-timeout"].map(str::to_owned);
    let options: Vec<_> = options.into_iter().chain([ETCD_ELECTION_MS.to_string()]).collect();
    let prepared = prepare(program, dir, &addresses, &options)?;
    let launched = sites.iter().zip(prepared).map(|(site, member)| site.run(async move { member.launch() }));
    let mut members = Members::launched(try_join_all(launched).await?);
    members.ready(READY_WITHIN).await?;
    let addresses = members.addresses();
    lead_at(&addresses, home).await?;
    let connected = sites.iter().zip(&addresses).map(|(site, address)| {
        let (address, count) = (address.clone(), args.connections);
        site.run(async move {
            let each = (0..count).map(|_| async { connect(&address).await.map(Connection::Etcd) });
            try_join_all(each).await
        })
    });
    let connections = try_join_all(connected).await?;
    let cluster = WanCluster { system: System::Etcd, connections, nodes: Nodes::Etcd { members, addresses } };
    cluster.led_from(home).await?;
    Ok(cluster)
}

async fn meridian(
    program: &Path,
    dir: &Path,
    args: &Args,
    topology: &Topology,
    sites: &[Site],
    home: usize,
) -> anyhow::Result<WanCluster> {
    let hosts = sites.iter().map(|site| IpAddr::from(site.host.address)).collect();
    let topology = Topology { clock_bound: args.clock_bound, ..topology.clone() };
    let survive = u32::try_from(sites.len() / 2)?;
    let leader = vec![topology.shard0.leader.clone()];
    let ports = Ports::OnHosts(hosts, PORT_DEFAULT);
    let written = write(BootstrapOptions { topology, dir: dir.to_owned(), ports, emulate_wan: None })?;
    let started = sites.iter().zip(written.nodes).map(|(site, files)| {
        let program = program.to_owned();
        site.run(async move { Ok(Processes::start(&program, &[files])?) })
    });
    let mut processes = try_join_all(started).await?;
    try_join_all(processes.iter_mut().map(|node| node.ready(READY_WITHIN))).await?;
    let connected = sites.iter().zip(&written.cluster.nodes).map(|(site, at)| {
        let (count, region) = (args.connections, at.region.clone());
        // One gateway each: what a client asks goes to the node of its region.
        let config = ClientConfig::new(vec![Gateway::in_region(at.grpc.clone(), region.clone())]).in_region(region);
        site.run(async move {
            let each = (0..count).map(|_| Client::connect(config.clone()));
            Ok(try_join_all(each).await?)
        })
    });
    let clients = try_join_all(connected).await?;
    let client = clients.get(home).and_then(|of| of.first()).context("there is no node in the home region")?.clone();
    client.create_table(TABLE, &Placement::Global { leader, survive }, Vec::new()).await?;
    let ids = written.cluster.nodes.iter().map(|at| at.node).collect();
    let connections = clients.into_iter().map(|of| of.into_iter().map(Connection::Meridian).collect()).collect();
    let nodes = Nodes::Meridian { processes, ids, client };
    let cluster = WanCluster { system: System::Meridian, connections, nodes };
    cluster.led_from(home).await?;
    Ok(cluster)
}
