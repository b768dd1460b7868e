//! The server processes of a cluster as the system sees them.

use crate::metrics::Metrics;
use crate::procfs::{self, Usage};
use anyhow::Context as _;

/// Where to look.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    /// Process ids.
    pub(crate) pids: Vec<u32>,
    /// `host:port` of their metrics, in the same order.
    pub(crate) metrics: Vec<String>,
    /// Name of the metric that counts syncs of the log.
    pub(crate) sync_counter: &'static str,
}

/// All nodes at one moment, in the order of [`Nodes`].
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// What each process has used.
    pub(crate) usage: Vec<Usage>,
    /// How often each has synced its log.
    pub(crate) syncs: Vec<f64>,
}

impl Nodes {
    /// Reads usage and counters.
    pub(crate) async fn read(&self) -> anyhow::Result<Reading> {
        let mut syncs = Vec::with_capacity(self.metrics.len());
        for address in &self.metrics {
            let sum = Metrics::fetch(address).await?.sum(self.sync_counter);
            syncs.push(sum.with_context(|| format!("{address} has no metric {}", self.sync_counter))?);
        }
        Ok(Reading { usage: self.usage()?, syncs })
    }

    /// Reads usage only: asks no server.
    pub(crate) fn usage(&self) -> anyhow::Result<Vec<Usage>> {
        let of = |pid: &u32| {
            procfs::usage(&pid.to_string()).with_context(|| format!("cannot read /proc/{pid}; this needs Linux"))
        };
        self.pids.iter().map(of).collect()
    }
}
