//! The plan of a lab: from a topology to hosts with addresses and namespaces.
//!
//! Every node of the topology is a host `n1`, `n2` and so on, at `10.77.REGION.HOST`, both counted from 1. Labs are not
//! connected with one another or with the machine, so that all of them use the same addresses.

use super::LabError;
use crate::{Endpoint, Place, Topology};
use meridian_types::{NodeId, RegionId, ZoneId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The name of a lab that is not given one.
pub const NAME_DEFAULT: &str = "wan";

/// The longest name of a lab: namespaces are files.
pub(crate) const NAME_BYTES_MAX: usize = 40;

/// Regions, and hosts of one region: what fits into a byte of an address, without the two that have other meanings.
const PER_BYTE_MAX: usize = 254;

/// Hosts of one lab: the router waits for all their devices at once.
const HOSTS_MAX: usize = 256;

/// The first two bytes of every address.
const NETWORK: [u8; 2] = [10, 77];

/// Bits that all addresses of a lab have in common.
pub(crate) const PREFIX_BITS: u8 = 16;

/// One emulated machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name: `n1` for the topology's first node.
    pub name: String,
    /// The node of the topology that it stands for.
    pub node: NodeId,
    /// Its region.
    pub region: RegionId,
    /// Its zone.
    pub zone: ZoneId,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network namespace, as `ip netns` knows it.
    pub namespace: String,
}

impl Host {
    /// Where its links begin and end.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { region: self.region.clone(), zone: self.zone.clone() }
    }
}

/// A lab as it is to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub name: String,
    pub seed: u64,
    pub topology: Topology,
    pub hosts: Vec<Host>,
}

impl Plan {
    /// Gives each node of a valid topology an address and a namespace.
    pub(crate) fn new(name: &str, topology: Topology, seed: u64) -> Result<Self, LabError> {
        check_name(name)?;
        let too_many = |count: usize, what: &str, max| LabError::TooMany { what: format!("{count} {what}"), max };
        if topology.regions.len() > PER_BYTE_MAX {
            return Err(too_many(topology.regions.len(), "regions", PER_BYTE_MAX));
        }
        // Counted before they are made: a topology may ask for billions.
        let nodes: usize = topology.regions.iter().map(|r| r.nodes as usize).sum();
        if nodes > HOSTS_MAX {
            return Err(too_many(nodes, "nodes", HOSTS_MAX));
        }
        let numbers: BTreeMap<_, _> = topology.regions.iter().map(|r| r.name.clone()).zip(1_u8..).collect();
        let mut used: BTreeMap<RegionId, u8> = BTreeMap::new();
        let mut hosts = Vec::with_capacity(nodes);
        for spec in topology.nodes() {
            let last = used.entry(spec.region.clone()).or_default();
            *last = last.checked_add(1).filter(|n| usize::from(*n) <= PER_BYTE_MAX).ok_or_else(|| {
                let what = format!("{nodes} nodes, more than {PER_BYTE_MAX} in {}", spec.region);
                LabError::TooMany { what, max: PER_BYTE_MAX }
            })?;
            let [a, b] = NETWORK;
            let host = format!("n{}", spec.id.0);
            hosts.push(Host {
                namespace: format!("{}{host}", namespace_prefix(name)),
                name: host,
                node: spec.id,
                address: Ipv4Addr::new(a, b, numbers.get(&spec.region).copied().unwrap_or_default(), *last),
                region: spec.region,
                zone: spec.zone,
            });
        }
        Ok(Self { name: name.to_owned(), seed, topology, hosts })
    }

    /// The host of this name, else the first host at the place of this name.
    pub(crate) fn host(&self, name: &str) -> Result<&Host, LabError> {
        find_host(&self.hosts, name)
    }
}

/// What the names of a lab's namespaces begin with.
pub(crate) fn namespace_prefix(lab: &str) -> String {
    format!("meridian-{lab}-")
}

/// Refuses a name that would not do as part of a path and of a namespace's name.
pub(crate) fn check_name(name: &str) -> Result<(), LabError> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-');
    if fits { Ok(()) } else { Err(LabError::BadName(name.to_owned())) }
}

/// The host of this name, else the first host at the place of this name.
pub fn find_host<'a>(hosts: &'a [Host], name: &str) -> Result<&'a Host, LabError> {
    let named = hosts.iter().find(|host| host.name == name);
    let place = name.parse::<Place>().ok();
    let there = || hosts.iter().find(|host| place.as_ref().is_some_and(|p| p.holds(&host.endpoint())));
    named.or_else(there).ok_or_else(|| {
        let known = hosts.iter().map(|host| format!("{} ({})", host.name, host.endpoint()));
        LabError::UnknownHost { host: name.to_owned(), known: known.collect::<Vec<_>>().join(", ") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(preset: &str, nodes: u32) -> Plan {
        Plan::new("t", Topology::preset(preset).unwrap().with_nodes_per_region(nodes), 0).unwrap()
    }

    #[test]
    fn addresses_say_region_and_host() {
        let plan = plan("three", 2);
        let of = |i: usize| {
            let Host { name, address, namespace, .. } = &plan.hosts[i];
            format!("{name} {address} {namespace}")
        };
        assert_eq!(of(0), "n1 10.77.1.1 meridian-t-n1");
        assert_eq!(of(1), "n2 10.77.1.2 meridian-t-n2");
        assert_eq!(of(5), "n6 10.77.3.2 meridian-t-n6");
    }

    #[test]
    fn hosts_are_found_by_name_and_by_place() {
        let lan = plan("lan", 6);
        for (name, host) in [("n5", "n5"), ("local", "n1"), ("local/b", "n2")] {
            assert_eq!(lan.host(name).unwrap().name, host, "{name}");
        }
        let error = lan.host("mars").unwrap_err().to_string();
        assert!(error.contains("n6 (local/c)"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let three = || Topology::preset("three").unwrap();
        for name in ["", "a/b", "a b", "-a", "a.b", &"x".repeat(41)] {
            assert!(matches!(Plan::new(name, three(), 0), Err(LabError::BadName(_))), "{name}");
        }
        for nodes in [255, u32::MAX] {
            let error = Plan::new("t", three().with_nodes_per_region(nodes), 0).unwrap_err();
            assert!(matches!(error, LabError::TooMany { .. }), "{error}");
        }
        let mut one = Topology::preset("lan").unwrap();
        one.regions[0].nodes = 255;
        assert!(matches!(Plan::new("t", one, 0), Err(LabError::TooMany { .. })));
    }
}
