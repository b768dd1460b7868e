//! `cluster.json`: where the nodes of a running cluster are. Written by whatever started the cluster.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// The newest format that this build reads.
pub(crate) const SCHEMA: u32 = 1;

/// One running cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterFile {
    /// Format of the file.
    pub(crate) schema: u32,
    /// Every node.
    pub(crate) nodes: Vec<NodeAt>,
    /// The regions, in the topology's order.
    #[serde(default)]
    pub(crate) regions: Vec<String>,
    /// `host:port` of the control of the emulated links; absent where links are real.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link_control: Option<String>,
}

/// Where one node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeAt {
    /// Its id.
    pub(crate) node: u64,
    /// Its region.
    pub(crate) region: String,
    /// Its zone.
    #[serde(default)]
    pub(crate) zone: String,
    /// `host:port` of its gRPC listener.
    pub(crate) grpc: String,
    /// `host:port` of its HTTP listener, if it has one.
    #[serde(default)]
    pub(crate) http: Option<String>,
}

/// Why a cluster file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadClusterFile {
    /// It cannot be read.
    #[error("cannot read the cluster file {path}: {source}")]
    Unreadable { path: String, source: std::io::Error },
    /// It is not what it should be.
    #[error("{path} is not a cluster file: {source}")]
    Malformed { path: String, source: serde_json::Error },
    /// It was written by a newer build.
    #[error("{path} has format {found}, this build reads up to {SCHEMA}; use a newer meridian")]
    TooNew { path: String, found: u32 },
}

impl ClusterFile {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Result<Self, BadClusterFile> {
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
    fn reads_what_a_cluster_writes() {
        let file = read(
            r#"{"schema":1,"nodes":[{"node":1,"region":"us-east","zone":"a","grpc":"127.0.0.1:1","http":"127.0.0.1:2"}],
                "regions":["us-east"],"link_control":"127.0.0.1:3"}"#,
        )
        .unwrap();
        assert_eq!((file.nodes[0].grpc.as_str(), file.link_control.as_deref()), ("127.0.0.1:1", Some("127.0.0.1:3")));
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        assert!(matches!(read("{"), Err(BadClusterFile::Malformed { .. })));
        assert!(matches!(read(r#"{"schema":2,"nodes":[]}"#), Err(BadClusterFile::TooNew { found: 2, .. })));
        let absent = ClusterFile::read(Path::new("/nonexistent/cluster.json"));
        assert!(matches!(absent, Err(BadClusterFile::Unreadable { .. })));
    }
}
