//! `cluster.json`: where the nodes of a running cluster are, for other programs.
//!
//! Written by whatever started the cluster. Format 1; a reader ignores fields that it does not know, so fields may
//! be added without a new format.

use crate::files::{self, FileError};
use meridian_types::{NodeId, RegionId, ZoneId};
use meridian_wan::Topology;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The format that this build writes, and the newest that it reads.
pub const SCHEMA: u32 = 1;

/// One running cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// Format of the file.
    pub schema: u32,
    /// The topology's name.
    #[serde(default)]
    pub topology: String,
    /// The bound that the nodes' clocks declare, in nanoseconds; 0 if each node knows its own.
    #[serde(default)]
    pub clock_bound_ns: u64,
    /// The regions, in the topology's order.
    #[serde(default)]
    pub regions: Vec<RegionAt>,
    /// Round trips between regions.
    #[serde(default)]
    pub rtts: Vec<RttAt>,
    /// Every node.
    pub nodes: Vec<NodeAt>,
    /// `host:port` of the control of the emulated links; absent where links are real.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_control: Option<String>,
}

/// A region and its nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionAt {
    /// Its name.
    pub name: RegionId,
    /// Ids of its nodes.
    pub nodes: Vec<NodeId>,
}

/// The round trip between two regions, or between the zones of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RttAt {
    /// One region.
    pub a: RegionId,
    /// The other, or the same.
    pub b: RegionId,
    /// Round trip time in milliseconds.
    pub rtt_ms: f64,
}

/// Where one node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAt {
    /// Its id.
    pub node: NodeId,
    /// Its region.
    pub region: RegionId,
    /// Its zone.
    #[serde(default)]
    pub zone: ZoneId,
    /// `host:port` of its gRPC listener.
    pub grpc: String,
    /// `host:port` of its HTTP listener, if it has one.
    #[serde(default)]
    pub http: Option<String>,
}

/// Why a cluster file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadClusterFile {
    /// It cannot be read.
    #[error("cannot read the cluster file {path}: {source}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{path} is not a cluster file: {source}")]
    Malformed {
        /// Which file.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// It was written by a newer build.
    #[error("{path} has format {found}, this build reads up to {SCHEMA}; use a newer meridian")]
    TooNew {
        /// Which file.
        path: String,
        /// Its format.
        found: u32,
    },
}

impl ClusterFile {
    /// A cluster with this topology, its nodes at these places.
    pub fn new(topology: &Topology, nodes: Vec<NodeAt>, link_control: Option<String>) -> Self {
        let region = |name: &RegionId| {
            let here = nodes.iter().filter(|n| n.region == *name).map(|n| n.node).collect();
            RegionAt { name: name.clone(), nodes: here }
        };
        let rtt =
            |(a, b, rtt): (RegionId, RegionId, std::time::Duration)| RttAt { a, b, rtt_ms: rtt.as_secs_f64() * 1e3 };
        Self {
            schema: SCHEMA,
            topology: topology.name.clone(),
            clock_bound_ns: u64::try_from(topology.clock_bound.as_nanos()).unwrap_or(u64::MAX),
            regions: topology.regions.iter().map(|r| region(&r.name)).collect(),
            rtts: crate::layout::rtts(topology).into_iter().map(rtt).collect(),
            nodes,
            link_control,
        }
    }

    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, BadClusterFile> {
        let name = || path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| BadClusterFile::Unreadable { path: name(), source })?;
        let file: Self =
            serde_json::from_str(&text).map_err(|source| BadClusterFile::Malformed { path: name(), source })?;
        if file.schema > SCHEMA {
            return Err(BadClusterFile::TooNew { path: name(), found: file.schema });
        }
        Ok(file)
    }

    /// Writes the file; a reader sees the old one or the new one, never half of one.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let text = serde_json::to_string_pretty(self).expect("names and finite numbers can always be written as JSON");
        files::replace(path, &(text + "\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ClusterFile, BadClusterFile> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        std::fs::write(&path, text).unwrap();
        ClusterFile::read(&path)
    }

    #[test]
    fn what_is_written_is_what_other_programs_were_promised() {
        let at = |node, region: &str| NodeAt {
            node: NodeId(node),
            region: region.into(),
            zone: "a".into(),
            grpc: format!("127.0.0.1:{node}"),
            http: None,
        };
        let nodes = vec![at(1, "us-east"), at(2, "eu-west"), at(3, "ap-northeast")];
        let file = ClusterFile::new(&Topology::preset("three").unwrap(), nodes, Some("127.0.0.1:9".into()));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        file.write(&path).unwrap();
        assert_eq!(ClusterFile::read(&path).unwrap(), file);
        let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["topology"], "three");
        assert_eq!(json["clock_bound_ns"], 1_000_000);
        assert_eq!(json["regions"][1], serde_json::json!({"name": "eu-west", "nodes": [2]}));
        assert_eq!(json["rtts"][0], serde_json::json!({"a": "us-east", "b": "eu-west", "rtt_ms": 70.0}));
        assert_eq!(json["nodes"][0]["grpc"], "127.0.0.1:1");
        assert_eq!(json["link_control"], "127.0.0.1:9");
    }

    #[test]
    fn nodes_alone_are_enough() {
        let file = read(r#"{"schema":1,"nodes":[{"node":1,"region":"us-east","grpc":"127.0.0.1:1"}]}"#).unwrap();
        assert_eq!((file.nodes[0].grpc.as_str(), file.link_control), ("127.0.0.1:1", None));
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        assert!(matches!(read("{"), Err(BadClusterFile::Malformed { .. })));
        assert!(matches!(read(r#"{"schema":2,"nodes":[]}"#), Err(BadClusterFile::TooNew { found: 2, .. })));
        let absent = ClusterFile::read(Path::new("/nonexistent/cluster.json"));
        assert!(matches!(absent, Err(BadClusterFile::Unreadable { .. })));
    }
}
