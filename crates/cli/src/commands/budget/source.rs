//! What a budget is made of: nodes, round trips and tables, of a running cluster or of a topology.

use crate::context::Context;
use anyhow::Context as _;
use meridian_catalog::budget::{Budget, Overheads, price};
use meridian_catalog::{Hosted, RttMatrix, Site, plan};
use meridian_proto::v1 as pb;
use meridian_types::{NodeId, Placement, RegionId};
use meridian_wan::Topology;
use std::collections::BTreeMap;
use std::time::Duration;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Source {
    sites: Vec<Site>,
    rtts: RttMatrix,
    tables: BTreeMap<String, Placement>,
}

impl Source {
    /// Of a preset, or of a topology's file.
    pub(super) fn of_topology(name_or_path: &str) -> anyhow::Result<Self> {
        let topology = Topology::preset_or_load(name_or_path)?;
        let sites: Vec<Site> =
            topology.nodes().into_iter().map(|n| Site { node: n.id, region: n.region, zone: n.zone }).collect();
        let mut rtts = RttMatrix::default();
        for a in &topology.regions {
            for b in &topology.regions {
                rtts.set(a.name.clone(), b.name.clone(), topology.rtt(&a.name, &b.name));
            }
        }
        Ok(Self { sites, rtts, tables: BTreeMap::new() })
    }

    /// Of the cluster that the command line names: its nodes, its tables, and round trips as its nodes measure them.
    pub(super) async fn of_cluster(context: &Context) -> anyhow::Result<Self> {
        let client = context.connect().await?;
        let status = client.status(false).await?;
        let tables = client.list_tables().await?.into_iter().map(|t| {
            let placement = meridian_wire::placement::decode(t.placement).map_err(|e| anyhow::anyhow!(e.message))?;
            Ok((t.name, placement))
        });
        let site = |n: &pb::NodeStatus| Site {
            node: NodeId(n.node),
            region: n.region.as_str().into(),
            zone: n.zone.as_str().into(),
        };
        let sites = status.nodes.iter().map(site).collect();
        Ok(Self { sites, rtts: measured(&status), tables: tables.collect::<anyhow::Result<_>>()? })
    }

    /// The tables there are.
    pub(super) fn tables(&self) -> impl Iterator<Item = (&str, &Placement)> {
        self.tables.iter().map(|(name, placement)| (name.as_str(), placement))
    }

    /// The placement of a table.
    pub(super) fn table(&self, name: &str) -> Option<&Placement> {
        self.tables.get(name)
    }

    /// Prices a placement, led from `leader` if that is given.
    pub(super) fn price(
        &self,
        placement: &Placement,
        leader: Option<&RegionId>,
        overheads: &Overheads,
    ) -> anyhow::Result<Budget> {
        let plan = plan(&self.sites, &self.rtts, placement, &mut Hosted::new());
        let plan = plan.map_err(|e| anyhow::anyhow!(e.message)).with_context(|| format!("{placement}"))?;
        let budget = price(&plan, &self.sites, &self.rtts, leader, overheads)?;
        if let Some(leader) = leader.filter(|l| **l != budget.leader) {
            anyhow::bail!("{placement} has no voter in {leader}, so it cannot be led from there");
        }
        Ok(budget)
    }
}

/// Round trips between regions: the smallest that two of their nodes have measured, else as the cluster was formed with.
fn measured(status: &pb::GetStatusReply) -> RttMatrix {
    let mut rtts = RttMatrix::default();
    for pair in &status.region_rtts {
        rtts.set(pair.from.as_str().into(), pair.to.as_str().into(), Duration::from_nanos(pair.rtt_ns));
    }
    let region_of: BTreeMap<u64, &str> = status.nodes.iter().map(|n| (n.node, n.region.as_str())).collect();
    let mut least: BTreeMap<(RegionId, RegionId), u64> = BTreeMap::new();
    for node in status.nodes.iter().filter(|n| n.reachable) {
        for peer in node.rtts.iter().filter(|p| p.rtt_ns > 0) {
            let Some(other) = region_of.get(&peer.node).filter(|r| **r != node.region) else { continue };
            let mut pair = [RegionId::from(node.region.as_str()), RegionId::from(*other)];
            pair.sort();
            let [a, b] = pair;
            let known = least.entry((a, b)).or_insert(peer.rtt_ns);
            *known = (*known).min(peer.rtt_ns);
        }
    }
    for ((a, b), ns) in least {
        rtts.set(a, b, Duration::from_nanos(ns));
    }
    rtts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_takes_the_place_of_what_was_configured() {
        let node = |id, region: &str, rtts: &[(u64, u64)]| pb::NodeStatus {
            node: id,
            region: region.into(),
            reachable: true,
            rtts: rtts.iter().map(|(node, rtt_ns)| pb::PeerRtt { node: *node, rtt_ns: *rtt_ns }).collect(),
            ..pb::NodeStatus::default()
        };
        let configured = |from: &str, to: &str, rtt_ns| pb::RegionRtt { from: from.into(), to: to.into(), rtt_ns };
        let status = pb::GetStatusReply {
            nodes: vec![node(1, "us", &[(2, 71), (3, 0)]), node(2, "eu", &[(1, 70)]), node(3, "ap", &[])],
            region_rtts: vec![configured("us", "eu", 99), configured("us", "ap", 140)],
            ..pb::GetStatusReply::default()
        };
        let rtts = measured(&status);
        let get = |a: &str, b: &str| rtts.get(&a.into(), &b.into()).map(|d| d.as_nanos());
        assert_eq!((get("us", "eu"), get("ap", "us"), get("eu", "ap")), (Some(70), Some(140), None));
    }

    #[test]
    fn a_leader_without_a_vote_is_refused() {
        let source = Source::of_topology("three").unwrap();
        let placement = Placement::parse("regional:eu-west").unwrap();
        let refused = source.price(&placement, Some(&"us-east".into()), &Overheads::default());
        assert!(refused.unwrap_err().to_string().contains("us-east"));
        assert!(Source::of_topology("no such thing").is_err());
    }
}
