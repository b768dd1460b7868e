//! A cluster whose nodes are processes, with emulated distance between them and clocks that can be set.

use crate::harness::near;
use crate::soak::run::SoakError;
use futures::FutureExt as _;
use meridian_client::{Client, ClientConfig, Gateway, RetryPolicy};
use meridian_clock::SourceKind;
use meridian_server::bootstrap::{BootstrapOptions, Bootstrapped, NodeFiles, write};
use meridian_server::config::NodeConfig;
use meridian_server::layout::Ports;
use meridian_server::processes::Processes;
use meridian_types::{NodeId, RegionId};
use meridian_wan::{LinkStatus, Place, Topology, WanControl};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::MutexGuard;

/// How far the nodes' clocks may be from true time: so far that a write in one region would be over long before its
/// timestamp is past, if it did not wait.
pub const CLOCK_BOUND: Duration = Duration::from_millis(15);

/// How long one operation of a client may take.
pub const PATIENT: Duration = Duration::from_secs(5);

/// The same of a client that would rather ask for something else.
pub const IMPATIENT: Duration = Duration::from_millis(400);

/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Three regions, 10, 20 and 30 ms apart, with so many nodes in all; the first regions have the most.
pub fn topology(nodes: u32) -> Topology {
    let mut topology = near();
    let regions = u32::try_from(topology.regions.len()).unwrap_or(1);
    for (i, region) in (0..).zip(&mut topology.regions) {
        region.nodes = (nodes + regions - 1 - i) / regions;
    }
    (topology.clock_source, topology.clock_bound) = (SourceKind::Simulated, CLOCK_BOUND);
    topology
}

/// The nodes. Each can be locked: whoever holds the lock decides what happens to that node.
#[derive(Debug)]
pub struct Nodes {
    program: PathBuf,
    files: Bootstrapped,
    control: WanControl,
    links: Vec<LinkStatus>,
    processes: BTreeMap<NodeId, tokio::sync::Mutex<Option<Processes>>>,
    /// What nodes did that nobody asked for.
    surprises: Mutex<Vec<String>>,
}

/// A node that somebody has locked; without a process while it is down.
pub type Locked<'a> = MutexGuard<'a, Option<Processes>>;

impl Nodes {
    /// Writes the cluster into a folder and starts it; returns when all nodes are ready.
    pub async fn start(program: &Path, dir: &Path, topology: Topology, seed: u64) -> Result<Self, SoakError> {
        let options = BootstrapOptions { topology, dir: dir.to_owned(), ports: Ports::Free, emulate_wan: Some(seed) };
        let files = write(options)?;
        let emulation = files.emulation.as_ref().ok_or(SoakError::NoLinks)?;
        let (control, links) = (WanControl::new(emulation.control()), emulation.wan().links());
        let mut processes = BTreeMap::new();
        for node in &files.nodes {
            let mut config = NodeConfig::load(&node.config).map_err(|e| SoakError::Config(e.to_string()))?;
            let clock = clock_file(node);
            std::fs::write(&clock, "0 0")?;
            config.clock.simulated.file = Some(clock);
            std::fs::write(&node.config, config.to_toml())?;
            let process = Processes::start(program, std::slice::from_ref(node))?;
            processes.insert(node.node, tokio::sync::Mutex::new(Some(process)));
        }
        let nodes = Self { program: program.to_owned(), files, control, links, processes, surprises: Mutex::default() };
        nodes.ready(READY_LIMIT).await?;
        Ok(nodes)
    }

    /// Waits until every running node is ready.
    pub async fn ready(&self, within: Duration) -> Result<(), SoakError> {
        for process in self.processes.values() {
            if let Some(process) = process.lock().await.as_mut() {
                process.ready(within).await?;
            }
        }
        Ok(())
    }

    /// Their ids.
    pub fn ids(&self) -> Vec<NodeId> {
        self.processes.keys().copied().collect()
    }

    /// The regions, in the topology's order.
    pub fn regions(&self) -> Vec<RegionId> {
        self.files.cluster.regions.iter().map(|r| r.name.clone()).collect()
    }

    /// The emulated network.
    pub fn control(&self) -> WanControl {
        self.control
    }

    /// The nodes' logs.
    pub fn logs(&self) -> Vec<(NodeId, PathBuf)> {
        self.files.nodes.iter().map(|n| (n.node, n.log.clone())).collect()
    }

    /// A client in this region whose gateways are these nodes, over the emulated links; an operation may take so long.
    pub async fn client(
        &self,
        region: &RegionId,
        gateways: &[NodeId],
        patience: Duration,
    ) -> Result<Client, SoakError> {
        let known = self.files.cluster.nodes.iter().filter(|n| gateways.contains(&n.node));
        let gateways = known.map(|n| Gateway::in_region(self.dial(region, &n.grpc), n.region.clone())).collect();
        let mut config = ClientConfig::new(gateways).in_region(region.clone());
        config.request_deadline = patience;
        config.retry = RetryPolicy { attempt_timeout: ATTEMPT_TIMEOUT, ..RetryPolicy::default() };
        Ok(Client::connect(config).await?)
    }

    /// The nodes of a region.
    pub fn in_region(&self, region: &RegionId) -> Vec<NodeId> {
        self.files.cluster.nodes.iter().filter(|n| n.region == *region).map(|n| n.node).collect()
    }

    /// Where a node is.
    pub fn region_of(&self, node: NodeId) -> Option<RegionId> {
        self.files.cluster.nodes.iter().find(|n| n.node == node).map(|n| n.region.clone())
    }

    fn dial(&self, from: &RegionId, grpc: &str) -> String {
        let from = Place::from(from.clone());
        let link = self.links.iter().find(|l| from.region == l.from.region && l.target.to_string() == grpc);
        link.map_or_else(|| grpc.to_owned(), |link| link.listen.to_string())
    }

    /// Takes a node for oneself; notes if it has ended without being asked to.
    pub async fn lock(&self, node: NodeId) -> Result<Locked<'_>, SoakError> {
        let mut locked = self.processes.get(&node).ok_or(SoakError::NoNode(node))?.lock().await;
        if let Some(died) = locked.as_mut().and_then(|p| p.died().now_or_never()) {
            self.surprise(died.to_string());
            *locked = None;
            self.start_node(node, &mut locked)?;
        }
        Ok(locked)
    }

    /// Kills it with `SIGKILL`.
    pub async fn kill(&self, node: NodeId, locked: &mut Locked<'_>) -> Result<(), SoakError> {
        if let Some(mut process) = locked.take() {
            process.kill(node).await?;
        }
        Ok(())
    }

    /// Ends it with `SIGTERM`.
    pub async fn stop_node(&self, locked: &mut Locked<'_>) {
        if let Some(process) = locked.take() {
            for node in process.stop().await {
                self.surprise(format!("node {} did not end when it was asked to and had to be killed", node.0));
            }
        }
    }

    /// Starts it again; does not wait until it is ready.
    pub fn start_node(&self, node: NodeId, locked: &mut Locked<'_>) -> Result<(), SoakError> {
        let files = self.files_of(node)?;
        **locked = Some(Processes::start(&self.program, std::slice::from_ref(files))?);
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, node: NodeId, locked: &Locked<'_>, signal: Signal) -> Result<(), SoakError> {
        let id = locked.as_ref().and_then(|p| p.pid(node)).and_then(|id| i32::try_from(id).ok());
        let pid = id.and_then(Pid::from_raw).ok_or(SoakError::NoNode(node))?;
        Ok(kill_process(pid, signal).map_err(std::io::Error::from)?)
    }

    /// Sets a node's clock off by so many microseconds, gaining so many more each second; also while it is down.
    pub fn set_clock(&self, node: NodeId, offset_us: i64, drift_ppm: i64) -> Result<(), SoakError> {
        let file = clock_file(self.files_of(node)?);
        let beside = file.with_extension("new");
        std::fs::write(&beside, format!("{offset_us} {drift_ppm}"))?;
        Ok(std::fs::rename(&beside, &file)?)
    }

    /// What nodes did that nobody asked for, what their logs say that must never happen included.
    pub fn surprises(&self) -> Result<Vec<String>, SoakError> {
        let mut surprises = self.surprises.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (node, log) in self.logs() {
            let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
            let bad = text.lines().filter(|line| NEVER_LOGGED.iter().any(|never| line.contains(never)));
            surprises.extend(bad.take(SURPRISES_MAX).map(|line| format!("node {} logs: {line}", node.0)));
        }
        Ok(surprises)
    }

    /// Stops all nodes cleanly.
    pub async fn stop(self) -> Result<Vec<String>, SoakError> {
        for node in self.ids() {
            let mut locked = self.lock(node).await?;
            self.stop_node(&mut locked).await;
        }
        self.surprises()
    }

    fn surprise(&self, text: String) {
        self.surprises.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    fn files_of(&self, node: NodeId) -> Result<&NodeFiles, SoakError> {
        self.files.nodes.iter().find(|n| n.node == node).ok_or(SoakError::NoNode(node))
    }
}

/// How long a new cluster's nodes have to become ready.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Lines of a node's log that mean a defect: rule S5, and a crash.
const NEVER_LOGGED: [&str; 4] =
    ["entry with a stale timestamp refused", "panicked at", "the group has stopped", "the raft log failed"];

/// Most such lines that are reported of one node.
const SURPRISES_MAX: usize = 5;

/// The file that a node's simulated clock follows.
fn clock_file(files: &NodeFiles) -> PathBuf {
    files.config.with_file_name("clock")
}
