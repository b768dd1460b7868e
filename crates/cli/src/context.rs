//! From options to a connection.

use crate::args::Global;
use crate::output::Format;
use anyhow::Context as _;
use meridian_client::{Client, ClientConfig, Gateway, Reason};
use meridian_server::cluster_file::ClusterFile;

/// What every command gets.
#[derive(Debug)]
pub(crate) struct Context {
    global: Global,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        Self { global }
    }

    /// How to print results.
    pub(crate) fn format(&self) -> Format {
        self.global.format
    }

    /// The cluster file that `--cluster` names, if it names one.
    pub(crate) fn named_cluster(&self) -> anyhow::Result<Option<ClusterFile>> {
        Ok(self.global.cluster.as_deref().map(ClusterFile::read).transpose()?)
    }

    /// The cluster file that `--cluster` names.
    pub(crate) fn cluster(&self) -> anyhow::Result<ClusterFile> {
        let path = self.global.cluster.as_deref();
        let path = path.context("this needs the cluster's file: pass --cluster FILE (or set MERIDIAN_CLUSTER)")?;
        Ok(ClusterFile::read(path)?)
    }

    /// Connects to the nearest gateway.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        let client = Client::connect(self.client_config()?).await;
        if client.as_ref().is_err_and(|e| e.reason() == Reason::NoQuorum) {
            return client.context("not connected; name a running node with --gateway or --cluster");
        }
        Ok(client?)
    }

    fn client_config(&self) -> anyhow::Result<ClientConfig> {
        let gateways = match &self.global.cluster {
            Some(path) => {
                let file = ClusterFile::read(path)?;
                if let Some(region) = &self.global.region
                    && !file.nodes.iter().any(|n| n.region.as_str() == region)
                {
                    anyhow::bail!("no node of the cluster is in region {region}; its regions: {}", regions(&file));
                }
                file.nodes.into_iter().map(|n| Gateway::in_region(n.grpc, n.region)).collect()
            }
            None => self.global.gateway.iter().map(Gateway::new).collect(),
        };
        let mut config = ClientConfig::new(gateways);
        config.region = self.global.region.clone().map(Into::into);
        config.request_deadline = self.global.timeout;
        Ok(config)
    }
}

fn regions(file: &ClusterFile) -> String {
    let mut names: Vec<_> = file.nodes.iter().map(|n| n.region.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser as _;

    fn config(options: &[&str]) -> anyhow::Result<ClientConfig> {
        let line = ["meridian", "status"].iter().chain(options);
        Context::new(Cli::try_parse_from(line).unwrap().global).client_config()
    }

    #[test]
    fn gateways_come_from_the_option_or_from_the_cluster_file() {
        let named = config(&["--gateway", "a:1,b:2", "--timeout", "3s"]).unwrap();
        assert_eq!(named.gateways, [Gateway::new("a:1"), Gateway::new("b:2")]);
        assert_eq!(named.request_deadline.as_secs(), 3);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        std::fs::write(&path, r#"{"schema":1,"nodes":[{"node":1,"region":"eu","grpc":"c:3"}]}"#).unwrap();
        let path = path.to_str().unwrap();
        let listed = config(&["--cluster", path, "--region", "eu"]).unwrap();
        assert_eq!(listed.gateways, [Gateway::in_region("c:3", "eu")]);
        assert_eq!(listed.region, Some("eu".into()));
        let error = config(&["--cluster", path, "--region", "mars"]).unwrap_err().to_string();
        assert!(error.contains("mars") && error.contains("eu"), "{error}");
    }
}
