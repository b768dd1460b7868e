//! Meridian: three nodes as child processes, and connections to each of them.

use crate::args::Args;
use crate::nodes::Nodes;
use crate::session::Connection;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::FutureExt as _;
use meridian_client::{Client, ClientConfig, Gateway, Placement};
use meridian_server::bootstrap::{BootstrapOptions, Bootstrapped, write};
use meridian_server::layout::Ports;
use meridian_server::processes::Processes;
use meridian_types::NodeId;
use meridian_wan::Topology;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The table that is read and written.
pub(crate) const TABLE: &str = "bench";
/// How long the nodes may take to form a cluster.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Syncs of a node's raft log, which all its shards share.
const SYNCS: &str = "meridian_log_syncs";

/// Three nodes and a table.
#[derive(Debug)]
pub(crate) struct MeridianCluster {
    /// Their processes and counters.
    pub(crate) nodes: Nodes,
    /// For each node its connections, whose sessions gather operations on a stream.
    pub(crate) gathering: Vec<Vec<Connection>>,
    /// For each node as many whose sessions make a call for each operation.
    pub(crate) unary: Vec<Vec<Connection>>,
    ids: Vec<NodeId>,
    client: Client,
    processes: Processes,
}

impl MeridianCluster {
    /// Starts a new cluster with its data in `dir`, creates the table and connects to each node.
    pub(crate) async fn start(program: &Path, dir: &Path, args: &Args) -> anyhow::Result<Self> {
        let topology = topology(args.clock_bound)?;
        let options = BootstrapOptions { topology, dir: dir.to_owned(), ports: Ports::Free, emulate_wan: None };
        let Bootstrapped { nodes: files, cluster, .. } = write(options)?;
        let mut processes = Processes::start(program, &files)?;
        processes.ready(READY_WITHIN).await?;
        let mut nodes = Nodes { pids: Vec::new(), metrics: Vec::new(), sync_counter: SYNCS };
        let (mut clients, mut unary) = (Vec::new(), Vec::new());
        for at in &cluster.nodes {
            nodes.pids.push(processes.pid(at.node).with_context(|| format!("node {} does not run", at.node.0))?);
            nodes.metrics.push(at.http.clone().with_context(|| format!("node {} has no metrics", at.node.0))?);
            let (mut gather, mut call) = (Vec::new(), Vec::new());
            for _ in 0..args.connections {
                // One gateway each: what a client asks goes to this node and no other.
                let gateway = Gateway::in_region(at.grpc.clone(), at.region.clone());
                let config = ClientConfig::new(vec![gateway]).in_region(at.region.clone());
                gather.push(Client::connect(config.clone()).await?);
                call.push(Client::connect(config.pipelining(false)).await?);
            }
            clients.push(gather);
            unary.push(call);
        }
        let client = clients.first().and_then(|of| of.first()).context("the cluster has no nodes")?.clone();
        let home = cluster.regions.first().map(|r| r.name.clone());
        let placement = Placement::Global { leader: home.into_iter().collect(), survive: 1 };
        client.create_table(TABLE, &placement, split_keys(args.keys, args.shards)).await?;
        let [gathering, unary] = [clients, unary].map(connections);
        let ids = cluster.nodes.iter().map(|at| at.node).collect();
        Ok(Self { nodes, gathering, unary, ids, client, processes })
    }

    /// The place of the node that leads the table's first shard, if it is known.
    pub(crate) async fn leader(&self) -> anyhow::Result<Option<usize>> {
        let table = self.client.describe_table(TABLE).await?;
        let leader = table.shards.first().map(|shard| shard.leader);
        Ok(leader.and_then(|leader| self.ids.iter().position(|id| id.0 == leader)))
    }

    /// Fails if a node has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.processes.died().now_or_never() {
            None => Ok(()),
            Some(died) => Err(died.into()),
        }
    }

    /// Stops the nodes.
    pub(crate) async fn stop(self) {
        drop((self.gathering, self.unary));
        let killed = self.processes.stop().await;
        if !killed.is_empty() {
            eprintln!("note: Meridian nodes {killed:?} did not end within their time and were killed");
        }
    }
}

fn connections(clients: Vec<Vec<Client>>) -> Vec<Vec<Connection>> {
    clients.into_iter().map(|of_node| of_node.into_iter().map(Connection::Meridian).collect()).collect()
}

/// The meridian program: the one that was named, else the one beside this program.
pub(crate) fn find_program(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let program = named.map_or_else(|| own.with_file_name("meridian"), Path::to_owned);
    if !program.is_file() {
        bail!(
            "there is no program {}: build it with `cargo build --release -p meridian-cli`, or name it with \
             --meridian FILE",
            program.display()
        );
    }
    Ok(program)
}

/// Three zones of one region, with nothing between them but the machine's own loopback.
fn topology(clock_bound: Duration) -> anyhow::Result<Topology> {
    let lan = Topology::preset("lan").context("the preset `lan` is gone")?;
    Ok(Topology { clock_bound, ..lan })
}

/// Keys that split `keys` keys of the load generator into `shards` equal ranges.
fn split_keys(keys: u64, shards: u32) -> Vec<Bytes> {
    let at = |i: u32| keys * u64::from(i) / u64::from(shards);
    let mut splits: Vec<_> = (1..shards).map(at).filter(|at| *at > 0).collect();
    splits.dedup();
    splits.into_iter().map(|at| Bytes::from(format!("user{at:012}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_split_the_keys_evenly() {
        assert!(split_keys(1000, 1).is_empty());
        assert_eq!(split_keys(1000, 4), ["user000000000250", "user000000000500", "user000000000750"]);
        assert_eq!(split_keys(2, 5), ["user000000000001"], "there are no more shards than keys");
    }

    #[test]
    fn the_topology_is_valid_with_any_bound() {
        let topology = topology(Duration::from_micros(50)).unwrap();
        assert_eq!(topology.validate(), []);
        assert_eq!(topology.nodes().len(), 3);
        assert_eq!(topology.clock_bound, Duration::from_micros(50));
    }
}
