//! What can be wrong with a topology.

use crate::{Place, Topology};
use meridian_types::{RegionId, ZoneId};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// The longest RTT accepted: beyond it Raft's timers would be measured in minutes.
const RTT_MAX: Duration = Duration::from_secs(10);

/// One fault of a topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There are no regions.
    #[error("there is no region: add a [[regions]] entry")]
    NoRegions,
    /// A region or zone has no name, or one that contains `/`.
    #[error("`{0}` is no name for a region or zone: it is empty or contains `/`")]
    BadName(String),
    /// Two regions have the same name.
    #[error("region `{0}` appears twice")]
    DuplicateRegion(RegionId),
    /// A region has no zone.
    #[error("region `{0}` has no zone")]
    NoZones(RegionId),
    /// Two zones of a region have the same name.
    #[error("zone `{1}` appears twice in region `{0}`")]
    DuplicateZone(RegionId, ZoneId),
    /// A region has no node.
    #[error("region `{0}` has no node: set nodes to at least 1")]
    NoNodes(RegionId),
    /// An RTT names a region that does not exist.
    #[error("an rtt names region `{0}`, which does not exist")]
    UnknownRttRegion(RegionId),
    /// An RTT from a region to itself.
    #[error("an rtt is from region `{0}` to itself: use intra_rtt")]
    RttToItself(RegionId),
    /// Two RTTs for one pair.
    #[error("the rtt between `{0}` and `{1}` is given twice")]
    DuplicateRtt(RegionId, RegionId),
    /// No RTT for a pair.
    #[error("the rtt between `{0}` and `{1}` is missing")]
    MissingRtt(RegionId, RegionId),
    /// An RTT that is too long.
    #[error("the rtt between `{0}` and `{1}` is {2:?}: at most {RTT_MAX:?}")]
    LongRtt(RegionId, RegionId, Duration),
    /// A bandwidth of zero.
    #[error("bandwidth_bytes_per_s is 0: leave it out for no limit")]
    NoBandwidth,
    /// A clock bound of zero.
    #[error("clock_bound is 0: no clock is perfect, say e.g. \"1ms\"")]
    NoClockBound,
    /// Shard 0 has no voters.
    #[error("shard0 has no voters")]
    NoVoters,
    /// A voter's place has no node.
    #[error("shard0 has a voter in `{0}`, where there is no node")]
    NoVoterNode(Place),
    /// Two voters' places stand for the same node.
    #[error("shard0's voter in `{0}` would be on the same node as another")]
    DuplicateVoter(Place),
    /// The leader's region has no voter.
    #[error("shard0's leader region `{0}` has no voter")]
    LeaderWithoutVoter(RegionId),
}

/// A topology that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The file cannot be read.
    #[error("cannot read topology {path}: {source}; presets are three, five and lan")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is no TOML of this shape.
    #[error("not a topology: {0}")]
    Syntax(#[from] toml::de::Error),
    /// It makes no sense; every fault is listed.
    #[error("the topology has {} fault(s): {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Faults(Vec<Fault>),
}

pub(crate) fn validate(t: &Topology) -> Vec<Fault> {
    let mut faults = Vec::new();
    regions(t, &mut faults);
    rtts(t, &mut faults);
    shard0(t, &mut faults);
    let pairs = t.rtt.iter().map(|pair| pair.bandwidth_bytes_per_s);
    if pairs.chain([t.bandwidth_bytes_per_s]).any(|bandwidth| bandwidth == Some(0)) {
        faults.push(Fault::NoBandwidth);
    }
    if t.clock_bound.is_zero() {
        faults.push(Fault::NoClockBound);
    }
    faults
}

fn regions(t: &Topology, faults: &mut Vec<Fault>) {
    if t.regions.is_empty() {
        faults.push(Fault::NoRegions);
    }
    let bad = |name: &str| name.is_empty() || name.contains('/');
    let mut seen = BTreeSet::new();
    for region in &t.regions {
        let name = &region.name;
        if bad(name.as_str()) {
            faults.push(Fault::BadName(name.0.clone()));
        }
        if !seen.insert(name) {
            faults.push(Fault::DuplicateRegion(name.clone()));
        }
        if region.zones.is_empty() {
            faults.push(Fault::NoZones(name.clone()));
        }
        if region.nodes == 0 {
            faults.push(Fault::NoNodes(name.clone()));
        }
        let mut zones = BTreeSet::new();
        for zone in &region.zones {
            if bad(zone.as_str()) {
                faults.push(Fault::BadName(zone.0.clone()));
            }
            if !zones.insert(zone) {
                faults.push(Fault::DuplicateZone(name.clone(), zone.clone()));
            }
        }
    }
}

fn rtts(t: &Topology, faults: &mut Vec<Fault>) {
    let known: BTreeSet<_> = t.regions.iter().map(|r| &r.name).collect();
    let mut seen = BTreeSet::new();
    for pair in &t.rtt {
        let [a, b] = &pair.between;
        for name in [a, b] {
            if !known.contains(name) {
                faults.push(Fault::UnknownRttRegion(name.clone()));
            }
        }
        if a == b {
            faults.push(Fault::RttToItself(a.clone()));
        } else if !seen.insert((a.min(b), a.max(b))) {
            faults.push(Fault::DuplicateRtt(a.clone(), b.clone()));
        }
        if pair.rtt > RTT_MAX {
            faults.push(Fault::LongRtt(a.clone(), b.clone(), pair.rtt));
        }
    }
    let known: Vec<_> = known.into_iter().collect();
    for (i, a) in known.iter().enumerate() {
        for b in &known[i + 1..] {
            if !seen.contains(&(*a, *b)) {
                faults.push(Fault::MissingRtt((*a).clone(), (*b).clone()));
            }
        }
    }
}

fn shard0(t: &Topology, faults: &mut Vec<Fault>) {
    let nodes = t.nodes();
    let mut taken = BTreeSet::new();
    for place in &t.shard0.voters {
        match nodes.iter().find(|n| place.holds(&n.endpoint())) {
            None => faults.push(Fault::NoVoterNode(place.clone())),
            Some(node) if !taken.insert(node.id) => faults.push(Fault::DuplicateVoter(place.clone())),
            Some(_) => {}
        }
    }
    if t.shard0.voters.is_empty() {
        faults.push(Fault::NoVoters);
    } else if !t.shard0.voters.iter().any(|place| place.region == t.shard0.leader) {
        faults.push(Fault::LeaderWithoutVoter(t.shard0.leader.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Topology {
        Topology::preset("three").unwrap()
    }

    #[test]
    fn each_fault_is_found() {
        type Break = fn(&mut Topology);
        let cases: &[(Break, Fault)] = &[
            (|t| t.regions[0].nodes = 0, Fault::NoNodes("us-east".into())),
            (|t| t.regions[0].zones.clear(), Fault::NoZones("us-east".into())),
            (|t| t.regions[0].zones.push("a".into()), Fault::DuplicateZone("us-east".into(), "a".into())),
            (|t| t.regions[0].zones.push("x/y".into()), Fault::BadName("x/y".into())),
            (|t| t.regions[1].name = "us-east".into(), Fault::DuplicateRegion("us-east".into())),
            (|t| t.rtt[0].between[0] = "mars".into(), Fault::UnknownRttRegion("mars".into())),
            (|t| t.rtt[0].between[0] = "eu-west".into(), Fault::RttToItself("eu-west".into())),
            (|t| drop(t.rtt.remove(0)), Fault::MissingRtt("eu-west".into(), "us-east".into())),
            (|t| t.rtt.push(t.rtt[0].clone()), Fault::DuplicateRtt("us-east".into(), "eu-west".into())),
            (|t| t.rtt[0].rtt = 2 * RTT_MAX, Fault::LongRtt("us-east".into(), "eu-west".into(), 2 * RTT_MAX)),
            (|t| t.rtt[0].bandwidth_bytes_per_s = Some(0), Fault::NoBandwidth),
            (|t| t.clock_bound = Duration::ZERO, Fault::NoClockBound),
            (|t| t.shard0.voters.clear(), Fault::NoVoters),
            (|t| t.shard0.voters[2] = "mars".parse().unwrap(), Fault::NoVoterNode("mars".parse().unwrap())),
            (|t| t.shard0.voters[2] = "us-east/a".parse().unwrap(), {
                Fault::DuplicateVoter("us-east/a".parse().unwrap())
            }),
            (|t| t.shard0.leader = "mars".into(), Fault::LeaderWithoutVoter("mars".into())),
            (|t| t.regions.clear(), Fault::NoRegions),
        ];
        for (break_it, fault) in cases {
            let mut t = three();
            break_it(&mut t);
            assert!(t.validate().contains(fault), "{fault} not in {:?}", t.validate());
        }
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let mut t = three();
        t.clock_bound = Duration::ZERO;
        t.regions[2].nodes = 0;
        t.rtt.pop();
        let error = Topology::parse_toml(&t.to_toml()).unwrap_err();
        let TopologyError::Faults(faults) = &error else { panic!("{error}") };
        assert_eq!(faults.len(), 4, "{error}"); // The missing node also takes shard 0's voter away.
        assert!(error.to_string().contains("4 fault(s)"));
        assert!(matches!(Topology::parse_toml("name = 3"), Err(TopologyError::Syntax(_))));
    }
}
