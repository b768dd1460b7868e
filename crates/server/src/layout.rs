//! The layout of a cluster on one machine: its topology, its id, and the port of everything in it.
//!
//! `meridian dev` and `meridian bootstrap` keep it as a TOML file in the cluster's folder, written before the first
//! node starts: a node's advertised address is replicated data, so a restart has to use the same ports.

use crate::config::{FormConfig, FormMember, FormRtt, NodeConfig};
use crate::files::{self, FileError};
use crate::memory::default_budget;
use crate::ports;
use meridian_clock::ClockConfig;
use meridian_types::{NodeId, RegionId};
use meridian_wan::{Endpoint, Place, Topology};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The format of the file.
const SCHEMA: u32 = 1;

/// From the ports of one node to those of the next.
const PORT_STEP: u16 = 10;

/// Everything about a local cluster that outlives its processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    schema: u32,
    /// The id that the cluster is formed with.
    pub cluster_id: String,
    /// Where the emulated links are controlled, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_control: Option<SocketAddr>,
    /// Regions, nodes and distances.
    pub topology: Topology,
    /// The nodes' addresses, in the topology's order.
    pub nodes: Vec<NodePorts>,
    /// The emulated links' addresses.
    #[serde(default)]
    pub links: Vec<LinkPort>,
}

/// Where one node serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePorts {
    /// Which node.
    pub node: NodeId,
    /// gRPC.
    pub grpc: SocketAddr,
    /// Health and metrics.
    pub http: SocketAddr,
}

/// Where one emulated link listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkPort {
    /// For dialers in this zone.
    pub from: Place,
    /// To this node.
    pub to: NodeId,
    /// The address that stands for the node there.
    pub listen: SocketAddr,
}

/// Which addresses the nodes of a new cluster get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Whatever is free.
    Free,
    /// gRPC of the first node here, HTTP one above, the next node ten above.
    From(u16),
    /// Each node on a machine of its own, in the topology's order: gRPC at this port, HTTP one above. Nothing is claimed:
    /// those machines are not this one.
    OnHosts(Vec<IpAddr>, u16),
}

/// The sockets of a new cluster's nodes: as long as they are held, the ports cannot be taken by others.
#[derive(Debug)]
pub(crate) struct Held {
    pub grpc: TcpListener,
    pub http: TcpListener,
}

/// A cluster that cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file that cannot be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// The layout's file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The layout's file is not what was written.
    #[error("{path} is no cluster layout: {source}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: toml::de::Error,
    },
    /// The layout's file was written by another version.
    #[error("{path} has format {found}, this build knows {SCHEMA}")]
    Schema {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The folder belongs to a cluster with another topology.
    #[error(
        "{path} holds cluster `{cluster_id}` with topology `{topology}` and {nodes} nodes, which is not the topology \
         that was asked for; choose another folder, or remove this one and its data"
    )]
    OtherCluster {
        /// Which folder.
        path: PathBuf,
        /// The cluster that is there.
        cluster_id: String,
        /// Its topology.
        topology: String,
        /// How many nodes it has.
        nodes: usize,
    },
    /// The folder has nodes, but nothing says which cluster they are.
    #[error("{0} holds a node of an unknown cluster; choose another folder")]
    Foreign(PathBuf),
    /// The topology has so many nodes that the ports run out.
    #[error("ports from {0} on do not suffice for {1} nodes; choose a lower --base-port")]
    TooManyNodes(u16, usize),
    /// There are not as many hosts as nodes.
    #[error("the topology has {nodes} nodes, and there are {hosts} hosts")]
    HostsDiffer {
        /// How many nodes.
        nodes: usize,
        /// How many hosts.
        hosts: usize,
    },
    /// A port that cannot be used.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which address.
        address: String,
        /// Why.
        source: io::Error,
    },
}

impl Layout {
    /// Gives every node of the topology its ports, and the cluster an id.
    pub(crate) fn claim(topology: Topology, ports: Ports) -> Result<(Self, Vec<Held>), LayoutError> {
        let specs = topology.nodes();
        if let Ports::OnHosts(hosts, port) = &ports {
            return Ok((Self::new(topology, on_hosts(&specs, hosts, *port)?), Vec::new()));
        }
        let mut nodes = Vec::with_capacity(specs.len());
        let mut held = Vec::with_capacity(specs.len());
        for (i, spec) in specs.iter().enumerate() {
            let fixed = match ports {
                Ports::Free | Ports::OnHosts(..) => None,
                Ports::From(base) => {
                    let step = u16::try_from(i).ok().and_then(|i| i.checked_mul(PORT_STEP));
                    let grpc = step.and_then(|step| base.checked_add(step)).filter(|port| *port < u16::MAX);
                    Some(grpc.ok_or(LayoutError::TooManyNodes(base, specs.len()))?)
                }
            };
            let (grpc, grpc_at) = claim_port(fixed)?;
            let (http, http_at) = claim_port(fixed.map(|port| port + 1))?;
            nodes.push(NodePorts { node: spec.id, grpc: grpc_at, http: http_at });
            held.push(Held { grpc, http });
        }
        Ok((Self::new(topology, nodes), held))
    }

    fn new(topology: Topology, nodes: Vec<NodePorts>) -> Self {
        let cluster_id = format!("{}-{:016x}", topology.name, rand::random::<u64>());
        Self { schema: SCHEMA, cluster_id, link_control: None, topology, nodes, links: Vec::new() }
    }

    /// The layout in `dir/name`; `None` if the folder has no cluster yet.
    pub fn load(dir: &Path, name: &str) -> Result<Option<Self>, LayoutError> {
        let path = dir.join(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let is_foreign = node_dir(dir, NodeId(1)).exists();
                return if is_foreign { Err(LayoutError::Foreign(dir.to_owned())) } else { Ok(None) };
            }
            Err(source) => return Err(LayoutError::Read { path, source }),
        };
        let layout: Self =
            toml::from_str(&text).map_err(|source| LayoutError::Syntax { path: path.clone(), source })?;
        match layout.schema {
            SCHEMA => Ok(Some(layout)),
            found => Err(LayoutError::Schema { path, found }),
        }
    }

    /// Writes the layout to `dir/name`.
    pub fn save(&self, dir: &Path, name: &str) -> Result<(), LayoutError> {
        files::make_dir(dir)?;
        let text = toml::to_string(self).expect("names, numbers and texts can always be written as TOML");
        Ok(files::replace(&dir.join(name), &text)?)
    }

    /// Refuses a topology that is not this cluster's.
    pub fn check_topology(&self, asked: &Topology, dir: &Path) -> Result<(), LayoutError> {
        if self.topology == *asked {
            return Ok(());
        }
        Err(LayoutError::OtherCluster {
            path: dir.to_owned(),
            cluster_id: self.cluster_id.clone(),
            topology: self.topology.name.clone(),
            nodes: self.nodes.len(),
        })
    }

    /// The nodes' configurations, in the topology's order; their data goes to `dir/nodeN/data`.
    pub fn configs(&self, dir: &Path) -> Vec<NodeConfig> {
        let clock = clock(&self.topology);
        let form = self.form(&clock);
        let config = |spec: meridian_wan::NodeSpec| {
            let at = self.ports(spec.id)?;
            let others = self.nodes.iter().filter(|n| n.node != spec.id);
            Some(NodeConfig {
                node: spec.id,
                data_dir: node_dir(dir, spec.id).join("data"),
                listen: at.grpc.to_string(),
                http_listen: Some(at.http.to_string()),
                seeds: others.map(|n| n.grpc.to_string()).collect(),
                dial_via: self.dial_via(&spec.endpoint()),
                // Whoever gives them addresses of their own has made the network that they are in.
                insecure: !at.grpc.ip().is_loopback(),
                // They share this machine.
                memory_bytes: Some(default_budget(self.nodes.len()).total),
                clock: clock.clone(),
                form: Some(form.clone()),
                region: spec.region,
                zone: spec.zone,
                ..NodeConfig::default()
            })
        };
        self.topology.nodes().into_iter().filter_map(config).collect()
    }

    /// Where a node serves.
    pub fn ports(&self, node: NodeId) -> Option<&NodePorts> {
        self.nodes.iter().find(|n| n.node == node)
    }

    /// Advertised address to link address, for everything that dials from this zone.
    pub fn dial_via(&self, from: &Endpoint) -> BTreeMap<String, String> {
        let from = Place::from(from.clone());
        let links = self.links.iter().filter(|link| link.from == from);
        links.filter_map(|link| Some((self.ports(link.to)?.grpc.to_string(), link.listen.to_string()))).collect()
    }

    fn form(&self, clock: &ClockConfig) -> FormConfig {
        let specs = self.topology.nodes();
        let ids = self.topology.shard0_voters();
        let voters: Vec<_> = specs.iter().filter(|spec| ids.contains(&spec.id)).collect();
        let preferred = voters.iter().find(|v| v.region == self.topology.shard0.leader).or(voters.first());
        let member = |spec: &&meridian_wan::NodeSpec| {
            let address = self.ports(spec.id)?.grpc.to_string();
            Some(FormMember { node: spec.id, region: spec.region.clone(), address })
        };
        FormConfig {
            cluster_id: self.cluster_id.clone(),
            first: preferred.map(|v| v.id).unwrap_or_default(),
            max_clock_offset: clock.max_offset,
            voters: voters.iter().filter_map(member).collect(),
            rtts: rtts(&self.topology).into_iter().map(|(a, b, rtt)| FormRtt { a, b, rtt }).collect(),
        }
    }
}

/// A node's folder.
pub(crate) fn node_dir(dir: &Path, node: NodeId) -> PathBuf {
    dir.join(format!("node{}", node.0))
}

/// Round trips between regions, and between the zones of those that have several.
pub(crate) fn rtts(topology: &Topology) -> Vec<(RegionId, RegionId, Duration)> {
    let between = topology.rtt.iter().map(|pair| {
        let [a, b] = pair.between.clone();
        (a, b, pair.rtt)
    });
    let zoned = topology.regions.iter().filter(|r| r.zones.len() > 1);
    let within = zoned.map(|r| (r.name.clone(), r.name.clone(), topology.intra_rtt));
    between.chain(within).collect()
}

/// The clock that the topology declares, in a cluster that lives with at least twice its bound.
fn clock(topology: &Topology) -> ClockConfig {
    let max_offset = ClockConfig::MAX_OFFSET_DEFAULT.max(topology.clock_bound * 2);
    ClockConfig { source: topology.clock_source, max_offset, ..ClockConfig::fixed(topology.clock_bound) }
}

fn on_hosts(specs: &[meridian_wan::NodeSpec], hosts: &[IpAddr], port: u16) -> Result<Vec<NodePorts>, LayoutError> {
    if specs.len() != hosts.len() {
        return Err(LayoutError::HostsDiffer { nodes: specs.len(), hosts: hosts.len() });
    }
    let http = port.checked_add(1).ok_or(LayoutError::TooManyNodes(port, specs.len()))?;
    let node = |(spec, ip): (&meridian_wan::NodeSpec, &IpAddr)| NodePorts {
        node: spec.id,
        grpc: (*ip, port).into(),
        http: (*ip, http).into(),
    };
    Ok(specs.iter().zip(hosts).map(node).collect())
}

fn claim_port(fixed: Option<u16>) -> Result<(TcpListener, SocketAddr), LayoutError> {
    let address = || fixed.map_or_else(|| "a free port of 127.0.0.1".to_owned(), |p| ports::loopback(p).to_string());
    let claimed = || {
        let listener = fixed.map_or_else(ports::listen_free, |port| TcpListener::bind(ports::loopback(port)))?;
        let at = listener.local_addr()?;
        Ok((listener, at))
    };
    claimed().map_err(|source| LayoutError::Listen { address: address(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Topology {
        Topology::preset("three").unwrap()
    }

    #[test]
    fn every_node_can_be_started_with_its_configuration() {
        for name in Topology::preset_names() {
            let topology = Topology::preset(name).unwrap().with_nodes_per_region(2);
            let (layout, _held) = Layout::claim(topology.clone(), Ports::Free).unwrap();
            let configs = layout.configs(Path::new("/d"));
            assert_eq!(configs.len(), topology.nodes().len());
            for config in &configs {
                assert!(config.validate().is_empty(), "{:?}", config.validate());
                assert_eq!(config.seeds.len(), configs.len() - 1);
                assert!(!config.seeds.contains(&config.listen));
                assert_eq!(config.form, configs[0].form, "all nodes form the same cluster");
            }
        }
    }

    #[test]
    fn nodes_may_be_on_hosts_of_their_own() {
        let hosts: Vec<IpAddr> = (1..=3).map(|region| [10, 77, region, 1].into()).collect();
        let (layout, _) = Layout::claim(three(), Ports::OnHosts(hosts.clone(), 26_600)).unwrap();
        let config = &layout.configs(Path::new("/d"))[1];
        assert!(config.validate().is_empty(), "{:?}", config.validate());
        assert_eq!((config.listen.as_str(), config.insecure), ("10.77.2.1:26600", true));
        assert_eq!(config.http_listen.as_deref(), Some("10.77.2.1:26601"));
        assert_eq!(config.seeds, ["10.77.1.1:26600", "10.77.3.1:26600"]);
        let few = Layout::claim(three(), Ports::OnHosts(hosts[..2].to_vec(), 1)).unwrap_err().to_string();
        assert!(few.contains("3 nodes") && few.contains("2 hosts"), "{few}");
    }

    #[test]
    fn the_cluster_is_formed_in_the_leaders_region_by_a_voter() {
        let mut topology = three().with_nodes_per_region(2);
        topology.shard0.leader = "eu-west".into();
        let (layout, _held) = Layout::claim(topology, Ports::Free).unwrap();
        let form = layout.configs(Path::new("/d"))[5].form.clone().unwrap();
        assert_eq!(form.first, NodeId(3));
        assert_eq!(form.voters.iter().map(|v| v.node.0).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(form.voters[1].address, layout.nodes[2].grpc.to_string());
        let rtt = form.rtts.iter().find(|r| r.b.as_str() == "eu-west").unwrap();
        assert_eq!((rtt.a.as_str(), rtt.rtt), ("us-east", Duration::from_millis(70)));
    }

    #[test]
    fn zones_of_a_region_have_a_round_trip_of_their_own() {
        let all = rtts(&Topology::preset("lan").unwrap());
        assert_eq!(all, [("local".into(), "local".into(), Duration::from_micros(250))]);
        assert_eq!(rtts(&three()).len(), 3);
    }

    #[test]
    fn the_topologys_clock_is_the_nodes_clock() {
        let mut topology = three();
        assert_eq!(clock(&topology), ClockConfig::fixed(Duration::from_millis(1)));
        topology.clock_bound = Duration::from_secs(2);
        topology.clock_source = meridian_clock::SourceKind::Kernel;
        let wide = clock(&topology);
        assert_eq!((wide.source, wide.max_offset), (meridian_clock::SourceKind::Kernel, Duration::from_secs(4)));
        assert!(wide.validate().is_ok());
    }

    #[test]
    fn a_layout_survives_and_refuses_another_topology() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(Layout::load(dir, "dev.toml").unwrap().is_none());
        let (mut layout, _held) = Layout::claim(three(), Ports::Free).unwrap();
        let from = "us-east/a".parse().unwrap();
        layout.links.push(LinkPort { from, to: NodeId(2), listen: ports::loopback(7) });
        layout.link_control = Some(ports::loopback(8));
        layout.save(dir, "dev.toml").unwrap();
        let found = Layout::load(dir, "dev.toml").unwrap().unwrap();
        assert_eq!(found, layout);
        found.check_topology(&three(), dir).unwrap();
        let error = found.check_topology(&three().with_nodes_per_region(2), dir).unwrap_err().to_string();
        assert!(error.contains("`three`") && error.contains("3 nodes"), "{error}");
        let via = &found.configs(dir)[0].dial_via;
        assert_eq!(via[&layout.nodes[1].grpc.to_string()], "127.0.0.1:7");
        assert!(found.configs(dir)[1].dial_via.is_empty());
    }

    #[test]
    fn folders_with_unknown_contents_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("node1")).unwrap();
        assert!(matches!(Layout::load(dir.path(), "dev.toml"), Err(LayoutError::Foreign(_))));
        std::fs::write(dir.path().join("dev.toml"), "what = 1").unwrap();
        assert!(matches!(Layout::load(dir.path(), "dev.toml"), Err(LayoutError::Syntax { .. })));
    }

    #[test]
    fn ports_from_a_base_are_ten_apart_and_do_run_out() {
        // Somewhere a free base exists, unless the machine is full.
        let bases = (20_000..30_000).step_by(97).find_map(|base| {
            let claimed = Layout::claim(three(), Ports::From(base)).ok()?;
            Some((base, claimed.0))
        });
        let (base, layout) = bases.unwrap();
        let ports: Vec<_> = layout.nodes.iter().map(|n| (n.grpc.port() - base, n.http.port() - base)).collect();
        assert_eq!(ports, [(0, 1), (10, 11), (20, 21)]);
        assert!(matches!(Layout::claim(three(), Ports::From(65_535)), Err(LayoutError::TooManyNodes(65_535, 3))));
    }
}
