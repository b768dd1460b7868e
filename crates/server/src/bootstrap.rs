//! From a topology to a folder with a cluster: one folder and one configuration for each node.
//!
//! `DIR/bootstrap.toml` is the [`Layout`]; `DIR/nodeN/node.toml` is what `meridian start --config` takes;
//! `DIR/cluster.json` is for other programs. Written again over the same cluster it changes nothing but the
//! addresses of emulated links.

use crate::cluster_file::ClusterFile;
use crate::config::NodeConfig;
use crate::dev::{CLUSTER_FILE, describe};
use crate::emulation::{Emulation, EmulationError};
use crate::files::{self, FileError};
use crate::layout::{Layout, LayoutError, Ports, node_dir};
use meridian_types::NodeId;
use meridian_wan::Topology;
use std::io;
use std::path::{Path, PathBuf};

/// The layout's name in the cluster's folder.
const LAYOUT_FILE: &str = "bootstrap.toml";

/// What to write.
#[derive(Clone, Debug)]
pub struct BootstrapOptions {
    /// Regions, nodes, distances, clocks, and where shard 0 lives.
    pub topology: Topology,
    /// The cluster's folder.
    pub dir: PathBuf,
    /// The nodes' ports, if the cluster is new.
    pub ports: Ports,
    /// Puts emulated distance between the nodes, for as long as the [`Bootstrapped`] lives; the seed of its jitter.
    pub emulate_wan: Option<u64>,
}

/// Why there is no cluster in the folder.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The folder or the ports cannot be used.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The network cannot be emulated.
    #[error(transparent)]
    Emulation(#[from] EmulationError),
    /// A file that cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder's path cannot be resolved.
    #[error("cannot use {path}: {source}")]
    Dir {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A cluster whose folder is written.
#[derive(Debug)]
pub struct Bootstrapped {
    /// The nodes, in the topology's order.
    pub nodes: Vec<NodeFiles>,
    /// The contents of the cluster file.
    pub cluster: ClusterFile,
    /// Where the cluster file is.
    pub cluster_file: PathBuf,
    /// The emulated links, if asked for.
    pub emulation: Option<Emulation>,
}

/// The files of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFiles {
    /// Which node.
    pub node: NodeId,
    /// Its configuration.
    pub config: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
}

/// The configurations of all nodes of a topology, as [`write()`] would write them.
pub fn plan(layout: &Layout, dir: &Path) -> Vec<NodeConfig> {
    layout.configs(dir)
}

/// Writes the folder, or writes it again if it holds this very topology. Refuses a folder with another cluster.
/// With emulated links it has to be called inside a tokio runtime.
pub fn write(options: BootstrapOptions) -> Result<Bootstrapped, BootstrapError> {
    let BootstrapOptions { topology, dir, ports, emulate_wan } = options;
    let dir = std::path::absolute(&dir).map_err(|source| BootstrapError::Dir { path: dir, source })?;
    let mut layout = match Layout::load(&dir, LAYOUT_FILE)? {
        Some(layout) => {
            layout.check_topology(&topology, &dir)?;
            layout
        }
        // The sockets are released: the nodes are other processes, and bind their own.
        None => Layout::claim(topology, ports)?.0,
    };
    let emulation = emulate_wan.map(|seed| Emulation::start(&mut layout, seed)).transpose()?;
    layout.save(&dir, LAYOUT_FILE)?;
    if emulation.is_none() {
        // Links of an earlier run do not work without that run.
        layout.links.clear();
    }
    let mut nodes = Vec::new();
    for config in plan(&layout, &dir) {
        let folder = node_dir(&dir, config.node);
        files::make_dir(&folder)?;
        let files = NodeFiles { node: config.node, config: folder.join("node.toml"), log: folder.join("log") };
        files::replace(&files.config, &config.to_toml())?;
        nodes.push(files);
    }
    let cluster = describe(&layout, emulation.as_ref().map(|e| e.control().to_string()));
    let cluster_file = dir.join(CLUSTER_FILE);
    cluster.write(&cluster_file)?;
    Ok(Bootstrapped { nodes, cluster, cluster_file, emulation })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &Path) -> BootstrapOptions {
        let topology = Topology::preset("three").unwrap();
        BootstrapOptions { topology, dir: dir.to_owned(), ports: Ports::Free, emulate_wan: None }
    }

    fn configs(written: &Bootstrapped) -> Vec<NodeConfig> {
        written.nodes.iter().map(|n| NodeConfig::load(&n.config).unwrap()).collect()
    }

    #[test]
    fn the_folder_has_a_sound_configuration_for_each_node() {
        let dir = tempfile::tempdir().unwrap();
        let written = write(options(dir.path())).unwrap();
        let configs = configs(&written);
        assert_eq!(configs.iter().map(|c| c.node.0).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(configs.iter().all(|c| c.validate().is_empty() && c.data_dir.starts_with(dir.path())));
        assert!(configs.iter().all(|c| c.dial_via.is_empty()));
        let file = ClusterFile::read(&written.cluster_file).unwrap();
        assert_eq!(file, written.cluster);
        assert_eq!(file.nodes[1].grpc, configs[1].listen);
        assert_eq!(file.link_control, None);
    }

    #[test]
    fn the_same_cluster_may_be_written_again_and_another_may_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = configs(&write(options(dir.path())).unwrap());
        assert_eq!(configs(&write(options(dir.path())).unwrap()), first);
        let other = BootstrapOptions { topology: Topology::preset("five").unwrap(), ..options(dir.path()) };
        let error = write(other).unwrap_err();
        assert!(matches!(error, BootstrapError::Layout(LayoutError::OtherCluster { .. })), "{error}");
        let left = NodeConfig::load(&dir.path().join("node1/node.toml")).unwrap();
        assert_eq!(left, first[0], "a refusal leaves everything as it was");
    }

    #[tokio::test]
    async fn emulated_distance_is_only_for_the_run_that_asked_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let emulated = write(BootstrapOptions { emulate_wan: Some(1), ..options(dir.path()) }).unwrap();
        let far = configs(&emulated);
        assert!(far.iter().all(|c| c.dial_via.len() == 2));
        assert!(emulated.cluster.link_control.is_some());
        drop(emulated);
        let near = write(options(dir.path())).unwrap();
        assert!(configs(&near).iter().all(|c| c.dial_via.is_empty()));
        assert_eq!(near.cluster.link_control, None);
    }
}
