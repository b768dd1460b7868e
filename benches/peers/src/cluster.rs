//! A running cluster of either system.

use crate::etcd::EtcdCluster;
use crate::meridian::MeridianCluster;
use crate::nodes::Nodes;
use crate::session::Connection;
use crate::system::{Contender, System};

/// Three nodes as processes, and connections to them. Dropping it kills the processes.
#[derive(Debug)]
pub(crate) enum Cluster {
    /// Of etcd.
    Etcd(EtcdCluster),
    /// Of Meridian.
    Meridian(MeridianCluster),
}

impl Cluster {
    /// Which system it is.
    pub(crate) fn system(&self) -> System {
        match self {
            Self::Etcd(_) => System::Etcd,
            Self::Meridian(_) => System::Meridian,
        }
    }

    /// Its processes.
    pub(crate) fn nodes(&self) -> &Nodes {
        match self {
            Self::Etcd(cluster) => &cluster.nodes,
            Self::Meridian(cluster) => &cluster.nodes,
        }
    }

    /// For each node its connections, of the kind that a contender talks through.
    pub(crate) fn connections(&self, contender: Contender) -> &[Vec<Connection>] {
        match self {
            Self::Etcd(cluster) => &cluster.connections,
            Self::Meridian(cluster) if contender == Contender::MeridianUnary => &cluster.unary,
            Self::Meridian(cluster) => &cluster.gathering,
        }
    }

    /// The place of the node that leads.
    pub(crate) async fn leader(&self) -> anyhow::Result<Option<usize>> {
        match self {
            Self::Etcd(cluster) => cluster.leader().await,
            Self::Meridian(cluster) => cluster.leader().await,
        }
    }

    /// Fails if a process has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Etcd(cluster) => cluster.check(),
            Self::Meridian(cluster) => cluster.check(),
        }
    }

    /// Stops the processes.
    pub(crate) async fn stop(self) {
        match self {
            Self::Etcd(cluster) => cluster.stop().await,
            Self::Meridian(cluster) => cluster.stop().await,
        }
    }
}
