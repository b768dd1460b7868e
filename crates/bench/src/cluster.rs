//! A run against a real cluster: connect, prepare the table, learn floors, run.

use crate::client_session::ClientSession;
use crate::error::BenchError;
use crate::floors::{Floors, ShardPlacement};
use crate::options::BenchOptions;
use crate::report::Report;
use crate::run::{ClusterFacts, RegionSessions, run_sessions};
use bytes::Bytes;
use meridian_client::{Client, ClientConfig, Gateway, Placement, Reason};
use meridian_proto::v1 as pb;
use meridian_types::{RegionId, RttMatrix};
use std::future::Future;
use std::time::Duration;

/// A region to drive and its gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionTarget {
    /// The region; its clients name it as their own.
    pub region: RegionId,
    /// `host:port` of one or more nodes, of this region or another.
    pub gateways: Vec<String>,
}

/// How the table is created if it does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSettings {
    /// Where it lives.
    pub placement: Placement,
    /// Keys at which it is split into shards; key `n` is `user` and twelve digits.
    pub split_keys: Vec<Bytes>,
}

/// Connects to every region, creates the table if need be, runs the workload and reports. When `stop` completes
/// (say, on Ctrl-C), the run ends early and reports what it has.
pub async fn run(
    options: &BenchOptions,
    topology: &str,
    targets: Vec<RegionTarget>,
    table: &TableSettings,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<Report, BenchError> {
    options.validate()?;
    let mut regions = Vec::new();
    for target in targets {
        regions.push((target.region.clone(), connect(target, options.pipelining).await?));
    }
    let Some((_, first)) = regions.first() else { return Err(BenchError::NoRegion) };
    let failed = |source| BenchError::Table { table: options.table.clone(), source };
    let described = describe_or_create(first, &options.table, table).await.map_err(failed)?;
    let status = first.status(false).await.map_err(failed)?;
    let cluster = ClusterFacts {
        topology: topology.to_owned(),
        clock_bound: clock_bound(&status),
        floors: floors(&status, &described),
    };
    let session = |client: Client| move || ClientSession::new(client.session());
    let regions =
        regions.into_iter().map(|(region, client)| RegionSessions { region, session: session(client) }).collect();
    run_sessions(options, &cluster, regions, stop).await
}

async fn connect(target: RegionTarget, pipelining: bool) -> Result<Client, BenchError> {
    let gateways = target.gateways.iter().map(Gateway::new).collect();
    let config = ClientConfig::new(gateways).in_region(target.region.clone()).pipelining(pipelining);
    Client::connect(config).await.map_err(|source| BenchError::Connect { region: target.region, source })
}

async fn describe_or_create(
    client: &Client,
    name: &str,
    settings: &TableSettings,
) -> Result<pb::Table, meridian_client::Error> {
    match client.describe_table(name).await {
        Err(error) if error.reason() == Reason::UnknownTable => {}
        other => return other,
    }
    match client.create_table(name, &settings.placement, settings.split_keys.clone()).await {
        // Somebody else was faster, or the answer to our own request was lost: describe what is there.
        Err(error) if matches!(error.reason(), Reason::TableExists | Reason::OutcomeUnknown) => {
            client.describe_table(name).await
        }
        other => other,
    }
}

/// Half of the widest clock interval of a node that answered.
fn clock_bound(status: &pb::GetStatusReply) -> Option<Duration> {
    let clocks = status.nodes.iter().filter(|node| node.reachable).filter_map(|node| node.clock.as_ref());
    clocks.map(|c| Duration::from_nanos(c.latest.saturating_sub(c.earliest) / 2)).max()
}

fn floors(status: &pb::GetStatusReply, table: &pb::Table) -> Floors {
    let mut rtts = RttMatrix::default();
    for pair in &status.region_rtts {
        rtts.set(pair.from.as_str().into(), pair.to.as_str().into(), Duration::from_nanos(pair.rtt_ns));
    }
    let preset = table.placement.as_ref().and_then(|p| p.preset.as_ref());
    let lead_time = matches!(preset, Some(pb::placement::Preset::GlobalReads(_)));
    Floors { rtts, shards: table.shards.iter().map(placement).collect(), lead_time }
}

fn placement(shard: &pb::Shard) -> ShardPlacement {
    let region = |replica: &pb::Replica| RegionId::from(replica.region.as_str());
    ShardPlacement {
        leader: shard.replicas.iter().find(|r| r.node == shard.leader).map(region),
        voters: shard.replicas.iter().filter(|r| r.voter).map(region).collect(),
        replicas: shard.replicas.iter().map(region).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Measured;

    #[test]
    fn floors_come_from_the_cluster_itself() {
        let replica = |node, region: &str, voter| pb::Replica { node, region: region.into(), voter };
        let shard = pb::Shard {
            replicas: vec![
                replica(1, "us", true),
                replica(2, "eu", true),
                replica(3, "ap", true),
                replica(4, "sa", false),
            ],
            leader: 2,
            ..pb::Shard::default()
        };
        let rtt =
            |from: &str, to: &str, ms: u64| pb::RegionRtt { from: from.into(), to: to.into(), rtt_ns: ms * 1_000_000 };
        let node = |latest, reachable| pb::NodeStatus {
            reachable,
            clock: Some(pb::ClockStatus { earliest: 1000, latest, ..pb::ClockStatus::default() }),
            ..pb::NodeStatus::default()
        };
        let status = pb::GetStatusReply {
            nodes: vec![node(3000, true), node(5000, true), node(99_000, false)],
            region_rtts: vec![rtt("us", "eu", 70), rtt("us", "ap", 140), rtt("eu", "ap", 210), rtt("sa", "eu", 190)],
            ..pb::GetStatusReply::default()
        };
        let floors = floors(&status, &pb::Table { shards: vec![shard], ..pb::Table::default() });
        let floor = |region: &str, what, level| floors.floor(&region.into(), what, level).map(|d| d.as_millis());
        assert_eq!(floor("sa", Measured::Write, None), Some(190 + 70));
        assert_eq!(floor("ap", Measured::Read, Some("linearizable")), Some(210));
        assert_eq!(floor("sa", Measured::Read, Some("local")), Some(0));
        assert_eq!(clock_bound(&status), Some(Duration::from_nanos(2000)));
    }
}
