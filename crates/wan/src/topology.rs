//! A topology: regions, their nodes, and how far they are from each other.

use crate::faults::{self, Fault, TopologyError};
use crate::{Endpoint, Place, presets};
use meridian_clock::{SourceKind, duration_text};
use meridian_types::{NodeId, RegionId, ZoneId};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// A cluster's shape and the network that it runs on.
///
/// ```toml
/// name = "three"
/// clock_bound = "1ms"
///
/// [shard0]
/// leader = "us-east"
/// voters = ["us-east", "eu-west", "ap-northeast"]
///
/// [[regions]]
/// name = "us-east"
/// nodes = 1
/// # ... the other regions
///
/// [[rtt]]
/// between = ["us-east", "eu-west"]
/// rtt = "70ms"
/// # ... the other pairs
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// What reports call it.
    pub name: String,
    /// The bound that the nodes' clocks declare.
    #[serde(with = "duration_text")]
    pub clock_bound: Duration,
    /// Where the nodes' clocks read the time; `clock_bound` counts unless the source knows better.
    #[serde(default = "fixed_clock")]
    pub clock_source: SourceKind,
    /// RTT between two zones of one region. Inside a zone the network is the machine's own.
    #[serde(with = "duration_text", default)]
    pub intra_rtt: Duration,
    /// Every byte is late by a random time from zero to this, in either direction, in order.
    #[serde(with = "duration_text", default)]
    pub jitter: Duration,
    /// Bytes per second in either direction of each pair of places; absent: as fast as the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Where the catalog's shard lives.
    pub shard0: Shard0Spec,
    /// The regions; node ids are given from 1 in this order.
    pub regions: Vec<RegionSpec>,
    /// One entry for each pair of regions.
    #[serde(default)]
    pub rtt: Vec<RttSpec>,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionSpec {
    /// Its name.
    pub name: RegionId,
    /// Its zones.
    #[serde(default = "one_zone")]
    pub zones: Vec<ZoneId>,
    /// How many nodes it has, given to its zones in turn.
    #[serde(default = "one_node")]
    pub nodes: u32,
}

fn fixed_clock() -> SourceKind {
    SourceKind::Fixed
}

fn one_zone() -> Vec<ZoneId> {
    vec!["a".into()]
}

fn one_node() -> u32 {
    1
}

/// The link between two regions. Either direction takes half the RTT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RttSpec {
    /// The two regions, in any order.
    pub between: [RegionId; 2],
    /// Round trip time.
    #[serde(with = "duration_text")]
    pub rtt: Duration,
    /// Bytes per second in either direction, if they differ from the topology's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_s: Option<u64>,
}

/// Placement of shard 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard0Spec {
    /// The region that should lead.
    pub leader: RegionId,
    /// Where it has voters: the first node of each place. All other nodes have learners.
    pub voters: Vec<Place>,
}

/// One node of a topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its id.
    pub id: NodeId,
    /// Its region.
    pub region: RegionId,
    /// Its zone.
    pub zone: ZoneId,
}

impl NodeSpec {
    /// Where its links begin and end.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { region: self.region.clone(), zone: self.zone.clone() }
    }
}

impl Topology {
    /// A preset: `three`, `five` or `lan`.
    pub fn preset(name: &str) -> Option<Self> {
        presets::preset(name)
    }

    /// Names of the presets.
    pub fn preset_names() -> &'static [&'static str] {
        &presets::NAMES
    }

    /// Reads and validates a topology.
    pub fn parse_toml(text: &str) -> Result<Self, TopologyError> {
        let topology: Self = toml::from_str(text)?;
        match topology.validate() {
            faults if faults.is_empty() => Ok(topology),
            faults => Err(TopologyError::Faults(faults)),
        }
    }

    /// Reads and validates a topology file.
    pub fn load(path: &Path) -> Result<Self, TopologyError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| TopologyError::Read { path: path.to_owned(), source })?;
        Self::parse_toml(&text)
    }

    /// A preset by this name, else the file at this path.
    pub fn preset_or_load(name_or_path: &str) -> Result<Self, TopologyError> {
        Self::preset(name_or_path).map_or_else(|| Self::load(Path::new(name_or_path)), Ok)
    }

    /// Every fault there is; empty if the topology can be used.
    pub fn validate(&self) -> Vec<Fault> {
        faults::validate(self)
    }

    /// The form that [`Topology::parse_toml`] reads.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("names, numbers and texts can always be written as TOML")
    }

    /// The same topology with so many nodes in every region, but at least one in each zone.
    #[must_use]
    pub fn with_nodes_per_region(mut self, nodes: u32) -> Self {
        for region in &mut self.regions {
            region.nodes = nodes.max(u32::try_from(region.zones.len()).unwrap_or(u32::MAX));
        }
        self
    }

    /// All nodes: ids from 1, in the order of regions.
    pub fn nodes(&self) -> Vec<NodeSpec> {
        let places = self.regions.iter().flat_map(|region| {
            let zones = region.zones.iter().cycle();
            zones.take(region.nodes as usize).map(|zone| (region.name.clone(), zone.clone()))
        });
        (1..).zip(places).map(|(id, (region, zone))| NodeSpec { id: NodeId(id), region, zone }).collect()
    }

    /// All zones of all regions.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let of = |r: &RegionSpec| {
            let region = r.name.clone();
            r.zones.clone().into_iter().map(move |zone| Endpoint { region: region.clone(), zone })
        };
        self.regions.iter().flat_map(of).collect()
    }

    /// The voters of shard 0: the first node of each place that it names.
    pub fn shard0_voters(&self) -> Vec<NodeId> {
        let nodes = self.nodes();
        let first = |place: &Place| nodes.iter().find(|n| place.holds(&n.endpoint())).map(|n| n.id);
        self.shard0.voters.iter().filter_map(first).collect()
    }

    /// RTT between two regions, or between the zones of one. Zero for a pair that is not in the matrix.
    pub fn rtt(&self, a: &RegionId, b: &RegionId) -> Duration {
        if a == b {
            return self.intra_rtt;
        }
        self.pair(a, b).map_or(Duration::ZERO, |pair| pair.rtt)
    }

    /// RTT between two endpoints: zero inside a zone.
    pub fn rtt_between(&self, a: &Endpoint, b: &Endpoint) -> Duration {
        if a == b { Duration::ZERO } else { self.rtt(&a.region, &b.region) }
    }

    /// Bytes per second from one region to another, or between the zones of one.
    pub fn bandwidth(&self, a: &RegionId, b: &RegionId) -> Option<u64> {
        self.pair(a, b).and_then(|pair| pair.bandwidth_bytes_per_s).or(self.bandwidth_bytes_per_s)
    }

    fn pair(&self, a: &RegionId, b: &RegionId) -> Option<&RttSpec> {
        self.rtt.iter().find(|pair| {
            let [x, y] = &pair.between;
            (x, y) == (a, b) || (x, y) == (b, a)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_numbered_in_region_order_and_spread_over_zones() {
        let of = |t: &Topology| -> Vec<(u64, String)> {
            t.nodes().iter().map(|n| (n.id.0, n.endpoint().to_string())).collect()
        };
        let three = Topology::preset("three").unwrap();
        let text = |list: &[(u64, &str)]| list.iter().map(|(id, at)| (*id, (*at).to_owned())).collect::<Vec<_>>();
        assert_eq!(of(&three), text(&[(1, "us-east/a"), (2, "eu-west/a"), (3, "ap-northeast/a")]));
        assert_eq!(three.shard0_voters(), [1, 2, 3].map(NodeId));
        let two_each = three.with_nodes_per_region(2);
        assert_eq!(of(&two_each)[1..3], text(&[(2, "us-east/a"), (3, "eu-west/a")]));
        assert_eq!(two_each.shard0_voters(), [1, 3, 5].map(NodeId));
        let lan = Topology::preset("lan").unwrap().with_nodes_per_region(4);
        assert_eq!(of(&lan), text(&[(1, "local/a"), (2, "local/b"), (3, "local/c"), (4, "local/a")]));
        assert_eq!(lan.shard0_voters(), [1, 2, 3].map(NodeId));
    }

    #[test]
    fn toml_round_trips() {
        for name in Topology::preset_names() {
            let topology = Topology::preset(name).unwrap();
            assert_eq!(Topology::parse_toml(&topology.to_toml()).unwrap(), topology, "{}", topology.to_toml());
        }
        let mut odd = Topology::preset("three").unwrap();
        odd.bandwidth_bytes_per_s = Some(125_000_000);
        odd.rtt[0].bandwidth_bytes_per_s = Some(1_000_000);
        odd.jitter = Duration::from_micros(1_500);
        assert_eq!(Topology::parse_toml(&odd.to_toml()).unwrap(), odd);
        assert_eq!(odd.bandwidth(&"eu-west".into(), &"us-east".into()), Some(1_000_000));
        assert_eq!(odd.bandwidth(&"eu-west".into(), &"ap-northeast".into()), Some(125_000_000));
    }

    #[test]
    fn files_are_read_and_their_absence_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        let error = Topology::load(&path).unwrap_err();
        assert!(error.to_string().contains("t.toml"), "{error}");
        std::fs::write(&path, Topology::preset("five").unwrap().to_toml()).unwrap();
        assert_eq!(Topology::preset_or_load(path.to_str().unwrap()).unwrap().name, "five");
        assert_eq!(Topology::preset_or_load("three").unwrap().name, "three");
    }
}
