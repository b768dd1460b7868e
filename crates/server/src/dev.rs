//! A whole cluster in one process: real nodes on loopback ports, with emulated distance between their sockets.
//!
//! `meridian dev`, the benchmark and the whole-cluster tests run on this. The folder of the data holds `dev.toml`
//! (topology, cluster id, ports), one folder for each node, and `cluster.json` for other programs.

use crate::cluster_file::{ClusterFile, NodeAt};
use crate::config::NodeConfig;
use crate::emulation::{Emulation, EmulationError};
use crate::files::FileError;
use crate::layout::{Held, Layout, LayoutError, Ports};
use crate::node::{self, Listeners, RunningNode, StartError};
use futures::future::join_all;
use meridian_clock::ClockConfig;
use meridian_types::NodeId;
use meridian_wan::{Topology, Wan};
use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The layout's name in the data's folder.
const LAYOUT_FILE: &str = "dev.toml";

/// The cluster file's name.
pub const CLUSTER_FILE: &str = "cluster.json";

/// How long a cluster may take from its nodes' start until all have joined it.
pub const READY_LIMIT: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct DevOptions {
    /// The topology; absent: the one that the data belongs to, else `three`.
    pub topology: Option<Topology>,
    /// Overrides the number of nodes in every region.
    pub nodes_per_region: Option<u32>,
    /// Where to keep data and ports; absent: in a temporary folder that is removed at the end.
    pub data: Option<PathBuf>,
    /// Decides the links' jitter.
    pub seed: u64,
    /// Clocks that differ from the topology's: to test what skew does.
    pub clocks: BTreeMap<NodeId, ClockConfig>,
    /// Where to write the cluster file; absent: `cluster.json` beside the data.
    pub cluster_file: Option<PathBuf>,
    /// Memory budget of each node, bytes; absent: an equal share of what one node on this machine would take.
    pub memory_bytes: Option<u64>,
    /// Bytes of snapshots that each node sends in a second; absent: as much as any node.
    pub snapshot_bytes_per_second: Option<NonZeroU64>,
}

/// Why a cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// Its folder or ports cannot be used.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Its network cannot be emulated.
    #[error(transparent)]
    Emulation(#[from] EmulationError),
    /// A file that cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// No temporary folder.
    #[error("cannot make a temporary folder for the data: {0}")]
    TempDir(io::Error),
    /// The data folder's path cannot be resolved.
    #[error("cannot use {path} as data folder: {source}")]
    DataDir {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A node that did not start.
    #[error("node {} did not start: {source}", node.0)]
    Node {
        /// Which one.
        node: NodeId,
        /// Why.
        source: StartError,
    },
    /// Nodes that started and did not become part of the cluster.
    #[error("not all nodes were ready within {READY_LIMIT:?}; MERIDIAN_LOG=info shows what they do")]
    NotReady,
    /// No such node, or it is not in the state that the request needs.
    #[error("there is no node {} that is {state}", node.0)]
    NoSuchNode {
        /// Which one was named.
        node: NodeId,
        /// What it should have been.
        state: &'static str,
    },
}

/// A running cluster. [`DevCluster::stop`] ends it cleanly; dropping it is like pulling the plug.
pub struct DevCluster {
    nodes: Vec<DevNode>,
    layout: Layout,
    emulation: Emulation,
    cluster_file: PathBuf,
    dir: PathBuf,
    // After the nodes: they write into it until they have ended.
    ephemeral: Option<TempDir>,
}

struct DevNode {
    config: NodeConfig,
    running: Option<RunningNode>,
}

impl DevCluster {
    /// Starts all nodes and returns when all of them are ready to serve.
    pub async fn start(options: DevOptions) -> Result<Self, DevError> {
        let ephemeral = match options.data {
            None => Some(tempfile::Builder::new().prefix("meridian-").tempdir().map_err(DevError::TempDir)?),
            Some(_) => None,
        };
        let dir = options.data.as_deref().or(ephemeral.as_ref().map(TempDir::path)).unwrap_or(Path::new("."));
        let dir = std::path::absolute(dir).map_err(|source| DevError::DataDir { path: dir.to_owned(), source })?;
        let (mut layout, held) = layout(&dir, options.topology, options.nodes_per_region)?;
        let emulation = Emulation::start(&mut layout, options.seed)?;
        layout.save(&dir, LAYOUT_FILE)?;

        let mut nodes = Vec::new();
        for mut config in layout.configs(&dir) {
            if let Some(clock) = options.clocks.get(&config.node) {
                config.clock = ClockConfig { max_offset: config.clock.max_offset, ..clock.clone() };
            }
            config.memory_bytes = options.memory_bytes.or(config.memory_bytes);
            config.snapshot_bytes_per_second = options.snapshot_bytes_per_second;
            nodes.push(DevNode { config, running: None });
        }
        let cluster_file = options.cluster_file.unwrap_or_else(|| dir.join(CLUSTER_FILE));
        let mut cluster = Self { nodes, layout, emulation, cluster_file, dir, ephemeral };
        match cluster.start_all(held).await {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.stop_nodes().await;
                Err(error)
            }
        }
    }

    async fn start_all(&mut self, held: Option<Vec<Held>>) -> Result<(), DevError> {
        let mut held = held.into_iter().flatten();
        let starts = self.nodes.iter_mut().map(|node| node.start(held.next()));
        // All of them are awaited, so that those that did start can be stopped if another did not.
        join_all(starts).await.into_iter().collect::<Result<(), _>>()?;
        let ready = join_all(self.nodes.iter().filter_map(|n| n.running.as_ref()).map(RunningNode::ready));
        tokio::time::timeout(READY_LIMIT, ready).await.map_err(|_| DevError::NotReady)?;
        Ok(self.describe().write(&self.cluster_file)?)
    }

    /// The nodes that run now, in the topology's order.
    pub fn nodes(&self) -> impl Iterator<Item = &RunningNode> {
        self.nodes.iter().filter_map(|node| node.running.as_ref())
    }

    /// A node that runs now.
    pub fn node(&self, node: NodeId) -> Option<&RunningNode> {
        self.nodes().find(|running| running.node() == node)
    }

    /// The network between the nodes.
    pub fn wan(&self) -> &Wan {
        self.emulation.wan()
    }

    /// The links and their control.
    pub fn emulation(&self) -> &Emulation {
        &self.emulation
    }

    /// Topology, cluster id and ports.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The folder with the nodes' data.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the cluster file is.
    pub fn cluster_file(&self) -> &Path {
        &self.cluster_file
    }

    /// What the cluster file says.
    pub fn describe(&self) -> ClusterFile {
        describe(&self.layout, Some(self.emulation.control().to_string()))
    }

    /// Stops one node cleanly; its data and its address stay its own.
    pub async fn stop_node(&mut self, node: NodeId) -> Result<(), DevError> {
        let slot = self.slot(node, "running", |n| n.running.is_some())?;
        if let Some(running) = slot.running.take() {
            running.stop().await;
        }
        Ok(())
    }

    /// Starts a node that was stopped, on its old address and data. Returns when it serves, before it has caught up.
    pub async fn restart_node(&mut self, node: NodeId) -> Result<(), DevError> {
        self.slot(node, "stopped", |n| n.running.is_none())?.start(None).await
    }

    /// Stops all nodes and removes what was temporary.
    pub async fn stop(mut self) {
        self.stop_nodes().await;
        let Some(dir) = self.ephemeral.take() else { return };
        // The file would lead to nothing. Whoever started another cluster meanwhile has written another.
        if ClusterFile::read(&self.cluster_file).is_ok_and(|file| file == self.describe()) {
            let _ = std::fs::remove_file(&self.cluster_file);
        }
        if let Err(error) = dir.close() {
            tracing::warn!("the temporary data folder stays: {error}");
        }
    }

    async fn stop_nodes(&mut self) {
        join_all(self.nodes.iter_mut().filter_map(|node| node.running.take()).map(RunningNode::stop)).await;
    }

    fn slot(
        &mut self,
        node: NodeId,
        state: &'static str,
        is: impl Fn(&DevNode) -> bool,
    ) -> Result<&mut DevNode, DevError> {
        let found = self.nodes.iter_mut().find(|n| n.config.node == node && is(n));
        found.ok_or(DevError::NoSuchNode { node, state })
    }
}

impl DevNode {
    async fn start(&mut self, held: Option<Held>) -> Result<(), DevError> {
        let failed = |source| DevError::Node { node: self.config.node, source };
        let listeners = match held {
            Some(Held { grpc, http }) => Listeners { grpc, http },
            None => Listeners::bind(&self.config).map_err(failed)?,
        };
        self.running = Some(node::start(self.config.clone(), listeners).await.map_err(failed)?);
        Ok(())
    }
}

fn three() -> Topology {
    Topology::preset("three").expect("one of the presets")
}

/// The folder's layout, or a new one with its sockets still held.
fn layout(
    dir: &Path,
    topology: Option<Topology>,
    nodes_per_region: Option<u32>,
) -> Result<(Layout, Option<Vec<Held>>), LayoutError> {
    let known = Layout::load(dir, LAYOUT_FILE)?;
    let asked = topology.or_else(|| known.as_ref().map(|layout| layout.topology.clone()));
    let asked = asked.unwrap_or_else(three);
    let asked = match nodes_per_region {
        Some(nodes) => asked.with_nodes_per_region(nodes),
        None => asked,
    };
    if let Some(layout) = known {
        layout.check_topology(&asked, dir)?;
        return Ok((layout, None));
    }
    let (layout, held) = Layout::claim(asked, Ports::Free)?;
    Ok((layout, Some(held)))
}

/// The cluster file of a layout.
pub(crate) fn describe(layout: &Layout, link_control: Option<String>) -> ClusterFile {
    let at = |spec: meridian_wan::NodeSpec| {
        let ports = layout.ports(spec.id)?;
        Some(NodeAt {
            node: spec.id,
            region: spec.region,
            zone: spec.zone,
            grpc: ports.grpc.to_string(),
            http: Some(ports.http.to_string()),
        })
    };
    ClusterFile::new(&layout.topology, layout.topology.nodes().into_iter().filter_map(at).collect(), link_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_finds_the_same_ports_and_needs_no_topology() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let five = Topology::preset("five").unwrap();
        let (first, held) = layout(dir, Some(five.clone()), Some(2)).unwrap();
        assert_eq!(held.map(|h| h.len()), Some(10));
        first.save(dir, LAYOUT_FILE).unwrap();
        for (topology, nodes) in [(None, None), (Some(five.clone()), Some(2)), (None, Some(2))] {
            let (again, held) = layout(dir, topology, nodes).unwrap();
            assert!(again == first && held.is_none());
        }
        for (topology, nodes) in [(Some(five), None), (Some(three()), None), (None, Some(1))] {
            assert!(matches!(layout(dir, topology, nodes), Err(LayoutError::OtherCluster { .. })));
        }
    }

    #[test]
    fn the_default_is_three_regions() {
        let dir = tempfile::tempdir().unwrap();
        let (new, _) = layout(dir.path(), None, None).unwrap();
        let file = describe(&new, None);
        assert_eq!((file.topology.as_str(), file.nodes.len(), file.regions.len()), ("three", 3, 3));
        assert_eq!(file.nodes[2].grpc, new.nodes[2].grpc.to_string());
        assert_eq!(file.regions[2].nodes, [NodeId(3)]);
    }
}
