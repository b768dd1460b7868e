//! The running cluster and the connections to it.

use super::members::{MEMBERS, Members};
use super::session::KvClient;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::session::Connection;
use std::path::Path;
use std::time::Duration;
use tonic::transport::Endpoint;

/// How long the members may take to elect a leader.
const READY_WITHIN: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 windows of the Meridian client.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// One for each sync of a member's write-ahead log.
const SYNCS: &str = "etcd_disk_wal_fsync_duration_seconds_count";

/// Three members.
#[derive(Debug)]
pub(crate) struct EtcdCluster {
    /// Their processes and counters.
    pub(crate) nodes: Nodes,
    /// For each member its connections.
    pub(crate) connections: Vec<Vec<Connection>>,
    members: Members,
}

impl EtcdCluster {
    /// Starts a new cluster with its data in `dir` and connects to each member `connections` times.
    pub(crate) async fn start(program: &Path, dir: &Path, connections: u32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut members = Members::start(program, dir)?;
        members.ready(READY_WITHIN).await?;
        let addresses = members.addresses();
        let mut connected = Vec::with_capacity(MEMBERS);
        for address in &addresses {
            let mut of_member = Vec::new();
            for _ in 0..connections {
                of_member.push(Connection::Etcd(connect(address).await?));
            }
            connected.push(of_member);
        }
        let nodes = Nodes { pids: members.pids(), metrics: addresses, sync_counter: SYNCS };
        Ok(Self { nodes, connections: connected, members })
    }

    /// The place of the member that leads, if one says so.
    pub(crate) async fn leader(&self) -> anyhow::Result<Option<usize>> {
        for (i, address) in self.nodes.metrics.iter().enumerate() {
            if Metrics::fetch(address).await?.sum("etcd_server_is_leader") == Some(1.0) {
                return Ok(Some(i));
            }
        }
        Ok(None)
    }

    /// Fails if a member has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.members.check()
    }

    /// Stops the members.
    pub(crate) async fn stop(self) {
        drop(self.connections);
        self.members.stop().await;
    }
}

/// The settings of the Meridian client, but for its keep-alive pings: etcd ends connections that ping as often.
pub(crate) async fn connect(address: &str) -> anyhow::Result<KvClient> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    Ok(KvClient::new(endpoint.connect().await?))
}
