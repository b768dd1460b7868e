//! Places replicas: from the nodes there are, the round trips between their regions and a placement rule, to the
//! replicas of one shard, the voter that should lead it, and its timers. Pure: the same input gives the same plan.
//!
//! A *domain* is what a global table must survive the loss of: a region, or, where all nodes are in one region, a
//! zone of it. A `global` shard has one voter in each of `2 * survive + 1` domains and one learner in every other,
//! so every domain reads from a replica of its own. A `global-reads` shard is placed like a `global` one. A `regional`
//! shard has its voters in the home region, in different zones as far as there are, and one learner in every other region.
//!
//! The leader of a global shard goes to the first preference that has a node, else to the domain from which a
//! majority is nearest; the other voters go to the domains nearest to the leader. That minimizes the quorum RTT,
//! and among equals the sum of the round trips. Inside a domain the node with the fewest replicas is taken.

use crate::timing::timing_for;
use meridian_types::RttMatrix;
use meridian_types::{Error, NodeId, Placement, RaftTiming, Reason, RegionId, ZoneId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Voters of a regional shard whose home has enough nodes.
const REGIONAL_VOTERS: usize = 3;

/// A node as the planner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The node.
    pub node: NodeId,
    /// Its region.
    pub region: RegionId,
    /// Its zone in that region.
    pub zone: ZoneId,
}

/// How many replicas each node hosts; absent: none.
pub type Hosted = BTreeMap<NodeId, usize>;

/// Where the replicas of one shard go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The replicas: voters first, the preferred leader before all others.
    pub replicas: Vec<PlannedReplica>,
    /// The voter that should lead.
    pub preferred_leader: NodeId,
    /// Timers for these members.
    pub timing: RaftTiming,
    /// The leader closes ahead of its clock, and every replica serves linearizable reads by itself.
    pub lead_time: bool,
}

/// One replica of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedReplica {
    /// The node that will host it.
    pub node: NodeId,
    /// Counts towards the quorum; a learner otherwise.
    pub voter: bool,
}

/// Plans one shard of a table.
///
/// * `hosted`: what the nodes host already; counts up by this plan, so that shards planned in turn spread out.
/// * Errors: [`Reason::BadPlacement`], and what is missing.
pub fn plan(sites: &[Site], rtts: &RttMatrix, placement: &Placement, hosted: &mut Hosted) -> Result<Plan, Error> {
    let (voters, learners) = match placement {
        Placement::Global { leader, survive } | Placement::GlobalReads { leader, survive } => {
            plan_global(sites, rtts, leader, *survive, hosted)?
        }
        Placement::Regional { home } => plan_regional(sites, home, hosted)?,
    };
    for site in voters.iter().chain(&learners) {
        *hosted.entry(site.node).or_default() += 1;
    }
    Ok(Plan { lead_time: placement.has_lead_time(), ..assemble(&voters, &learners, rtts)? })
}

/// Plans shard 0: a replica on every node. With too few domains for a global shard, as in a cluster of one node,
/// the first node votes alone.
pub fn plan_catalog(sites: &[Site], rtts: &RttMatrix, leader: &[RegionId]) -> Result<Plan, Error> {
    let Some(first) = sites.iter().min_by_key(|site| site.node) else {
        return Err(bad("the cluster has no node"));
    };
    let voters = match domains(sites, rtts).len() {
        0..=2 => vec![first],
        _ => plan_global(sites, rtts, leader, 1, &Hosted::new())?.0,
    };
    let is_voter = |site: &Site| voters.iter().any(|voter| voter.node == site.node);
    let learners: Vec<_> = sites.iter().filter(|site| !is_voter(site)).collect();
    assemble(&voters, &learners, rtts)
}

type Sites<'a> = Vec<&'a Site>;

/// A region, or a zone where there is only one region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Domain {
    region: RegionId,
    zone: Option<ZoneId>,
}

impl Domain {
    fn is_named(&self, name: &RegionId) -> bool {
        self.region == *name || self.zone.as_ref().is_some_and(|zone| zone.0 == name.0)
    }
}

fn domains<'a>(sites: &'a [Site], rtts: &RttMatrix) -> BTreeMap<Domain, Sites<'a>> {
    // Regions that the matrix names but where no node has joined yet count too: this is a wide-area cluster.
    let mut regions = rtts.regions();
    regions.extend(sites.iter().map(|site| site.region.clone()));
    let mut domains: BTreeMap<_, Sites<'a>> = BTreeMap::new();
    for site in sites {
        let zone = (regions.len() == 1).then(|| site.zone.clone());
        domains.entry(Domain { region: site.region.clone(), zone }).or_default().push(site);
    }
    domains
}

fn plan_global<'a>(
    sites: &'a [Site],
    rtts: &RttMatrix,
    preferences: &[RegionId],
    survive: u32,
    hosted: &Hosted,
) -> Result<(Sites<'a>, Sites<'a>), Error> {
    let domains = domains(sites, rtts);
    let survive = survive.max(1) as usize;
    let wanted = 2 * survive + 1;
    if domains.len() < wanted {
        let kind = if domains.keys().any(|d| d.zone.is_some()) { "zones" } else { "regions" };
        return Err(bad(&format!(
            "to survive the loss of {survive}, a global table needs nodes in {wanted} {kind}, and there are nodes in \
             {} ({}); start nodes in more of them, or use `regional:REGION`",
            domains.len(),
            names(domains.keys()),
        )));
    }
    let regions: BTreeSet<_> = rtts.regions().into_iter().chain(sites.iter().map(|s| s.region.clone())).collect();
    let is_known = |name: &RegionId| regions.contains(name) || domains.keys().any(|d| d.is_named(name));
    if let Some(unknown) = preferences.iter().find(|name| !is_known(name)) {
        return Err(bad(&format!("no region `{unknown}` to lead from; there are {}", names(domains.keys()))));
    }
    let candidates = domains.keys().map(|domain| Ok((cost(domain, &domains, rtts, survive)?, domain)));
    let candidates = candidates.collect::<Result<Vec<_>, Error>>()?;
    let preferred = preferences.iter().find_map(|name| candidates.iter().filter(|(_, d)| d.is_named(name)).min());
    let Some((_, leader)) = preferred.or(candidates.iter().min()) else {
        return Err(bad("there are no nodes"));
    };
    let mut others = distances(leader, &domains, rtts)?;
    others.truncate(wanted - 1);
    let voting: Vec<_> = std::iter::once(*leader).chain(others.into_iter().map(|(_, domain)| domain)).collect();
    let pick = |domain: &Domain| domains.get(domain).and_then(|sites| least_loaded(sites, hosted));
    let voters = voting.iter().filter_map(|domain| pick(domain)).collect();
    let learners = domains.keys().filter(|domain| !voting.contains(domain)).filter_map(pick).collect();
    Ok((voters, learners))
}

/// What a leader in this domain costs: its quorum RTT, then the sum of the round trips to the other voters.
fn cost(
    leader: &Domain,
    domains: &BTreeMap<Domain, Sites<'_>>,
    rtts: &RttMatrix,
    survive: usize,
) -> Result<(Duration, Duration), Error> {
    let others: Vec<_> = distances(leader, domains, rtts)?.into_iter().map(|(rtt, _)| rtt).take(2 * survive).collect();
    let quorum = others.get(survive - 1).copied().unwrap_or_default();
    Ok((quorum, others.iter().sum()))
}

/// All other domains, the nearest first.
fn distances<'d>(
    from: &Domain,
    domains: &'d BTreeMap<Domain, Sites<'_>>,
    rtts: &RttMatrix,
) -> Result<Vec<(Duration, &'d Domain)>, Error> {
    let others = domains.keys().filter(|domain| *domain != from);
    let mut found =
        others.map(|to| Ok((rtt(rtts, &from.region, &to.region)?, to))).collect::<Result<Vec<_>, Error>>()?;
    found.sort_unstable();
    Ok(found)
}

fn plan_regional<'a>(sites: &'a [Site], home: &RegionId, hosted: &Hosted) -> Result<(Sites<'a>, Sites<'a>), Error> {
    let mut regions: BTreeMap<&RegionId, Sites<'a>> = BTreeMap::new();
    for site in sites {
        regions.entry(&site.region).or_default().push(site);
    }
    let Some(mut at_home) = regions.remove(home) else {
        return Err(bad(&format!("no node in the home region `{home}`; there are nodes in {}", list(regions.keys()))));
    };
    at_home.sort_by_key(|site| load(site, hosted));
    // The first of each zone before the second of any. Two voters would be less available than one.
    let mut seen: BTreeMap<&ZoneId, usize> = BTreeMap::new();
    let mut ranked: Vec<_> = at_home
        .iter()
        .map(|site| {
            let rank = seen.entry(&site.zone).or_default();
            *rank += 1;
            (*rank, *site)
        })
        .collect();
    ranked.sort_by_key(|(rank, site)| (*rank, load(site, hosted)));
    let count = if ranked.len() < REGIONAL_VOTERS { 1 } else { REGIONAL_VOTERS };
    let voters = ranked.into_iter().take(count).map(|(_, site)| site).collect();
    let learners = regions.values().filter_map(|sites| least_loaded(sites, hosted)).collect();
    Ok((voters, learners))
}

/// The order in which nodes are taken: the fewest replicas first, then by number.
fn load(site: &Site, hosted: &Hosted) -> (usize, NodeId) {
    (hosted.get(&site.node).copied().unwrap_or_default(), site.node)
}

fn least_loaded<'a>(sites: &Sites<'a>, hosted: &Hosted) -> Option<&'a Site> {
    sites.iter().copied().min_by_key(|site| load(site, hosted))
}

fn assemble(voters: &[&Site], learners: &[&Site], rtts: &RttMatrix) -> Result<Plan, Error> {
    let Some(leader) = voters.first() else { return Err(bad("there is no node to vote")) };
    let members: Vec<_> = voters.iter().chain(learners).collect();
    let mut largest = Duration::ZERO;
    for (i, a) in members.iter().enumerate() {
        for b in members.iter().skip(i + 1) {
            largest = largest.max(rtt(rtts, &a.region, &b.region)?);
        }
    }
    let replica = |voter| move |site: &&Site| PlannedReplica { node: site.node, voter };
    Ok(Plan {
        replicas: voters.iter().map(replica(true)).chain(learners.iter().map(replica(false))).collect(),
        preferred_leader: leader.node,
        timing: timing_for(largest),
        lead_time: false,
    })
}

fn rtt(rtts: &RttMatrix, a: &RegionId, b: &RegionId) -> Result<Duration, Error> {
    rtts.get(a, b).ok_or_else(|| bad(&format!("the round trip between `{a}` and `{b}` is not known")))
}

fn bad(why: &str) -> Error {
    Error::new(Reason::BadPlacement, why)
}

fn names<'d>(domains: impl Iterator<Item = &'d Domain>) -> String {
    list(domains.map(|d| d.zone.as_ref().map_or(d.region.as_str(), ZoneId::as_str)))
}

fn list(names: impl Iterator<Item = impl std::fmt::Display>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
