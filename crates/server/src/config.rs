//! A node's configuration: one TOML file, whose fields are also the options of `meridian start`.
//!
//! ```toml
//! node = 1
//! region = "eu-west"
//! zone = "a"
//! data_dir = "/var/lib/meridian"
//! listen = "127.0.0.1:26600"
//! seeds = ["127.0.0.1:26610"]
//!
//! [clock]
//! source = "auto"
//! ```
//!
//! `meridian bootstrap` writes such files for all nodes of a topology, with a `[form]` section that says which
//! cluster the nodes form together. A node that joins an existing cluster needs seeds only.

use crate::memory::default_budget;
use meridian_clock::{ClockConfig, ClockError, duration_text};
use meridian_types::{MemoryBudget, MemoryTooSmall, NodeId, RegionId, ZoneId};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The gRPC port of a node that is not told another.
pub const PORT_DEFAULT: u16 = 26_600;

/// Everything that one node has to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// The node's id, from 1. It belongs to the data directory for ever.
    pub node: NodeId,
    /// The region where it runs; the cluster's RTT matrix should know it.
    pub region: RegionId,
    /// The failure domain inside the region.
    pub zone: ZoneId,
    /// Where it keeps its data; made if it is not there.
    pub data_dir: PathBuf,
    /// `host:port` on which clients and nodes are served. Beyond loopback only with `insecure`.
    pub listen: String,
    /// `host:port` under which clients and nodes reach it; the listen address if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// `host:port` of health and metrics; a free port on loopback if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_listen: Option<String>,
    /// Advertised addresses of other nodes: one that answers is enough to join.
    pub seeds: Vec<String>,
    /// Lets the node listen beyond loopback although nothing is encrypted or authenticated.
    pub insecure: bool,
    /// The node's memory budget in bytes; a quarter of the machine's memory within limits if absent. In the file a number
    /// or a text like `"512MiB"`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "size")]
    pub memory_bytes: Option<u64>,
    /// Free bytes on the disk below which the node takes no writes; see [`meridian_storage::DiskSpace`] for what is kept if absent. In the
    /// file a number or a text.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "size")]
    pub disk_reserve_bytes: Option<u64>,
    /// Bytes of snapshots that the node sends to others in a second, all of them together; 128 MiB if absent. In the file a
    /// number or a text.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "rate")]
    pub snapshot_bytes_per_second: Option<NonZeroU64>,
    /// How the node knows the time.
    pub clock: ClockConfig,
    /// Advertised address of a node to the address to dial instead from here: NAT, or emulated links.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dial_via: BTreeMap<String, String>,
    /// The cluster that this node is formed with. Ignored once the data directory belongs to a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<FormConfig>,
}

/// The cluster that nodes form together: the same in the configuration of each of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormConfig {
    /// What tells this cluster from others. Never reused.
    pub cluster_id: String,
    /// The node that forms shard 0 and should lead it; one of the voters.
    pub first: NodeId,
    /// The largest clock distance that the cluster lives with.
    #[serde(with = "duration_text")]
    pub max_clock_offset: Duration,
    /// Shard 0's voters.
    pub voters: Vec<FormMember>,
    /// Round trips between regions, for placement and timers.
    #[serde(default)]
    pub rtts: Vec<FormRtt>,
}

/// One voter of shard 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormMember {
    /// Its id.
    pub node: NodeId,
    /// Its region.
    pub region: RegionId,
    /// Its advertised address.
    pub address: String,
}

/// The round trip between two regions, or between the zones of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormRtt {
    /// One region.
    pub a: RegionId,
    /// The other, or the same.
    pub b: RegionId,
    /// Round trip time.
    #[serde(with = "duration_text")]
    pub rtt: Duration,
}

/// One fault of a node's configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFault {
    /// No node id.
    #[error("`node` is missing: give the node an id from 1 that no other node has")]
    NoNode,
    /// No region.
    #[error("`region` is missing: name the region where the node runs")]
    NoRegion,
    /// No zone.
    #[error("`zone` is empty: leave it out for zone `a`")]
    NoZone,
    /// No data directory.
    #[error("`data_dir` is missing: name a directory on a disk that keeps what it is given")]
    NoDataDir,
    /// Text that is no address.
    #[error("`{field}` has `{text}`, which is not HOST:PORT")]
    BadAddress {
        /// Which field.
        field: &'static str,
        /// What it says.
        text: String,
    },
    /// An unencrypted listener that other machines reach.
    #[error(
        "`{field}` is {address}, which other machines can reach, and nothing is encrypted or authenticated yet: \
         listen on loopback, or accept that with --insecure (`insecure = true`)"
    )]
    Exposed {
        /// Which field.
        field: &'static str,
        /// The address.
        address: String,
    },
    /// An address that only says where to listen.
    #[error("other nodes cannot dial {0}: set `advertise` to an address at which they reach this node")]
    Unreachable(String),
    /// Too little memory.
    #[error("`memory_bytes`: {0}")]
    Memory(#[from] MemoryTooSmall),
    /// The clock's own fault.
    #[error("`clock`: {0}")]
    Clock(ClockError),
    /// The cluster to form has no id.
    #[error("`form.cluster_id` is empty")]
    NoClusterId,
    /// Shard 0 would have no voters.
    #[error("`form.voters` is empty: shard 0 needs at least one voter")]
    NoVoters,
    /// One node is two voters.
    #[error("`form.voters` names node {} twice", .0.0)]
    DuplicateVoter(NodeId),
    /// The first node is no voter.
    #[error("`form.first` is node {}, which is not among `form.voters`", .0.0)]
    FirstIsNoVoter(NodeId),
    /// The cluster would live with less than the node's clock can promise.
    #[error("`clock.max_offset` ({node:?}) is not `form.max_clock_offset` ({cluster:?}): they have to agree")]
    Offsets {
        /// The node's.
        node: Duration,
        /// The cluster's.
        cluster: Duration,
    },
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML of this shape.
    #[error("{path} is not a node's configuration: {source}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: toml::de::Error,
    },
}

impl Default for NodeConfig {
    /// What a field is if it is left out. Without id, region and data directory: those are faults.
    fn default() -> Self {
        Self {
            node: NodeId::default(),
            region: RegionId::default(),
            zone: "a".into(),
            data_dir: PathBuf::new(),
            listen: format!("127.0.0.1:{PORT_DEFAULT}"),
            advertise: None,
            http_listen: None,
            seeds: Vec::new(),
            insecure: false,
            memory_bytes: None,
            disk_reserve_bytes: None,
            snapshot_bytes_per_second: None,
            clock: ClockConfig::default(),
            dial_via: BTreeMap::new(),
            form: None,
        }
    }
}

impl NodeConfig {
    /// Reads a file. What it says is not validated yet: options may complete it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Syntax { path: path.to_owned(), source })
    }

    /// The form that [`NodeConfig::load`] reads.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("names, numbers and texts can always be written as TOML")
    }

    /// Every fault there is; empty if a node can be started with it.
    pub fn validate(&self) -> Vec<ConfigFault> {
        let missing = [
            (self.node.0 == 0).then_some(ConfigFault::NoNode),
            self.region.0.is_empty().then_some(ConfigFault::NoRegion),
            self.zone.0.is_empty().then_some(ConfigFault::NoZone),
            self.data_dir.as_os_str().is_empty().then_some(ConfigFault::NoDataDir),
        ];
        let mut faults: Vec<_> = missing.into_iter().flatten().collect();
        self.check_listeners(&mut faults);
        self.check_peers(&mut faults);
        faults.extend(self.memory().err().map(ConfigFault::Memory));
        faults.extend(self.clock.validate().err().map(ConfigFault::Clock));
        if let Some(form) = &self.form {
            form.check(&mut faults);
            let (node, cluster) = (self.clock.max_offset, form.max_clock_offset);
            if node != cluster {
                faults.push(ConfigFault::Offsets { node, cluster });
            }
        }
        faults
    }

    /// The memory that the node may use, and for what.
    ///
    /// * Errors: less than a node needs.
    pub fn memory(&self) -> Result<MemoryBudget, MemoryTooSmall> {
        self.memory_bytes.map_or_else(|| Ok(default_budget(1)), MemoryBudget::of)
    }

    fn check_listeners(&self, faults: &mut Vec<ConfigFault>) {
        let http = self.http_listen.as_ref().map(|address| ("http_listen", address));
        for (field, address) in [("listen", &self.listen)].into_iter().chain(http) {
            match host_of(address) {
                None => faults.push(ConfigFault::BadAddress { field, text: address.clone() }),
                Some(host) if !self.insecure && !is_loopback(host) => {
                    faults.push(ConfigFault::Exposed { field, address: address.clone() });
                }
                Some(_) => {}
            }
        }
        let listens_everywhere = address_of(&self.listen).is_some_and(|a| a.ip().is_unspecified());
        let advertised = self.advertise.as_ref().unwrap_or(&self.listen);
        match (&self.advertise, address_of(advertised)) {
            (None, _) if listens_everywhere => faults.push(ConfigFault::Unreachable(self.listen.clone())),
            (Some(_), Some(a)) if a.ip().is_unspecified() || a.port() == 0 => {
                faults.push(ConfigFault::Unreachable(advertised.clone()));
            }
            _ => {}
        }
    }

    fn check_peers(&self, faults: &mut Vec<ConfigFault>) {
        let via = self.dial_via.iter().flat_map(|(to, via)| [("dial_via", to), ("dial_via", via)]);
        let voters = self.form.iter().flat_map(|form| &form.voters).map(|v| ("form.voters", &v.address));
        let addresses = self.advertise.iter().map(|a| ("advertise", a)).chain(self.seeds.iter().map(|a| ("seeds", a)));
        for (field, address) in addresses.chain(via).chain(voters) {
            if host_of(address).is_none() {
                faults.push(ConfigFault::BadAddress { field, text: address.clone() });
            }
        }
    }
}

/// Reads a size: a number of bytes, or a text with a unit.
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(from)? {
        Size::Bytes(bytes) => Ok(Some(bytes)),
        Size::Text(text) => parse_size(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

/// Reads a rate: bytes per second.
fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NonZeroU64>, D::Error> {
    size(from)?.map(not_zero).transpose().map_err(serde::de::Error::custom)
}

/// Bytes per second of a text like `64MiB`.
///
/// * Errors: a sentence that says what such a text looks like, or why it may not be zero.
pub fn parse_rate(text: &str) -> Result<NonZeroU64, String> {
    not_zero(parse_size(text)?)
}

fn not_zero(bytes: u64) -> Result<NonZeroU64, String> {
    let why = "at 0 bytes per second no replica that is far behind would ever catch up; leave it out for 128 MiB";
    NonZeroU64::new(bytes).ok_or_else(|| why.to_owned())
}

/// Bytes of a text like `512MiB`, `1.5 GB` or `1000000`.
///
/// * Errors: a sentence that says what such a text looks like.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let size = text.parse::<bytesize::ByteSize>();
    size.map(|size| size.as_u64()).map_err(|_| format!("`{text}` is no size; write it like 512MiB or 2GiB"))
}

impl FormConfig {
    fn check(&self, faults: &mut Vec<ConfigFault>) {
        if self.cluster_id.is_empty() {
            faults.push(ConfigFault::NoClusterId);
        }
        if self.voters.is_empty() {
            faults.push(ConfigFault::NoVoters);
            return;
        }
        let mut seen = BTreeSet::new();
        faults.extend(self.voters.iter().filter(|v| !seen.insert(v.node)).map(|v| ConfigFault::DuplicateVoter(v.node)));
        if !seen.contains(&self.first) {
            faults.push(ConfigFault::FirstIsNoVoter(self.first));
        }
    }
}

/// The host of `host:port`, IPv6 in brackets; `None` if it is not that.
fn host_of(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let is_v6 = host.starts_with('[') && host.ends_with(']');
    let sound = !host.is_empty() && (is_v6 || !host.contains([':', '/', '[', ']', ' ']));
    sound.then_some(host)
}

/// The address, if its host is a number.
fn address_of(address: &str) -> Option<SocketAddr> {
    address.parse().ok()
}

/// Whether nobody outside this machine can reach the host. A name counts as outside, except `localhost`.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> NodeConfig {
        NodeConfig { node: NodeId(1), region: "eu-west".into(), data_dir: "/d".into(), ..NodeConfig::default() }
    }

    fn faults(change: impl FnOnce(&mut NodeConfig)) -> Vec<String> {
        let mut config = sound();
        change(&mut config);
        config.validate().iter().map(ToString::to_string).collect()
    }

    fn form() -> FormConfig {
        FormConfig {
            cluster_id: "c".into(),
            first: NodeId(1),
            max_clock_offset: ClockConfig::MAX_OFFSET_DEFAULT,
            voters: vec![FormMember { node: NodeId(1), region: "eu-west".into(), address: "127.0.0.1:1".into() }],
            rtts: vec![FormRtt { a: "eu-west".into(), b: "us-east".into(), rtt: Duration::from_micros(70_500) }],
        }
    }

    #[test]
    fn toml_round_trips_with_durations_as_text() {
        let mut config = sound();
        config.advertise = Some("eu1:26600".into());
        config.dial_via = [("eu1:26600".to_owned(), "127.0.0.1:9".to_owned())].into();
        config.form = Some(form());
        let text = config.to_toml();
        assert!(text.contains("rtt = \"70ms 500us\"") && text.contains("bound = \"250ms\""), "{text}");
        assert_eq!(toml::from_str::<NodeConfig>(&text).unwrap(), config);
        assert!(toml::from_str::<NodeConfig>("nodes = 1").is_err(), "an unknown field is refused");
    }

    #[test]
    fn sizes_are_numbers_or_texts_and_the_smallest_memory_is_named() {
        let text = "memory_bytes = \"512MiB\"\ndisk_reserve_bytes = 1000000\n";
        let config: NodeConfig = toml::from_str(text).unwrap();
        assert_eq!((config.memory_bytes, config.disk_reserve_bytes), (Some(512 << 20), Some(1_000_000)));
        assert_eq!(toml::from_str::<NodeConfig>(&config.to_toml()).unwrap(), config);
        assert_eq!(config.memory().unwrap().total, 512 << 20);
        assert!(toml::from_str::<NodeConfig>("memory_bytes = \"much\"").is_err());
        assert!(toml::from_str::<NodeConfig>("memory_bytes = -1").is_err());
        let seen = faults(|c| c.memory_bytes = Some(64 << 20));
        assert_eq!(seen, ["`memory_bytes`: 64 MiB are too little: a node needs at least 256 MiB"]);
        assert!(sound().memory().is_ok(), "without one there is a default");
        for (text, bytes) in [("1.5GiB", 3 << 29), ("2 GB", 2_000_000_000), ("4096", 4096)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert!(parse_size("12 parsecs").unwrap_err().contains("512MiB"));
    }

    #[test]
    fn a_rate_of_nothing_is_refused() {
        let rate = |text: &str| toml::from_str::<NodeConfig>(&format!("snapshot_bytes_per_second = {text}\n"));
        let config = rate("\"64MiB\"").unwrap();
        assert_eq!(config.snapshot_bytes_per_second, NonZeroU64::new(64 << 20));
        assert_eq!(toml::from_str::<NodeConfig>(&config.to_toml()).unwrap(), config);
        for nothing in ["0", "\"0\""] {
            let why = rate(nothing).unwrap_err().to_string();
            assert!(why.contains("catch up") && why.contains("128 MiB"), "{why}");
        }
        assert!(parse_rate("0").is_err() && parse_rate("fast").is_err());
        assert_eq!(parse_rate("1KiB"), Ok(NonZeroU64::new(1024).unwrap()));
    }

    #[test]
    fn everything_missing_is_reported_at_once() {
        let all: Vec<_> = NodeConfig::default().validate().iter().map(ToString::to_string).collect();
        let named = |field: &str| all.iter().any(|fault| fault.contains(field));
        assert!(named("`node`") && named("`region`") && named("`data_dir`"), "{all:?}");
        assert_eq!(all.len(), 3, "{all:?}");
        assert_eq!(faults(|_| ()), [""; 0]);
    }

    #[test]
    fn only_loopback_is_safe_without_consent() {
        for open in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "db.example.org:1"] {
            let seen = faults(|c| (c.listen, c.advertise) = (open.into(), Some("h:1".into())));
            assert!(seen.len() == 1 && seen[0].contains("--insecure"), "{open}: {seen:?}");
            let http = faults(|c| c.http_listen = Some(open.into()));
            assert!(http.len() == 1 && http[0].contains("http_listen"), "{open}: {http:?}");
            let consent = |c: &mut NodeConfig| {
                (c.listen, c.advertise, c.insecure) = (open.into(), Some("h:1".into()), true);
            };
            assert_eq!(faults(consent), [""; 0]);
        }
        for safe in ["127.0.0.1:0", "127.8.0.1:1", "[::1]:1", "localhost:1"] {
            assert_eq!(faults(|c| c.listen = safe.into()), [""; 0], "{safe}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for bad in ["", "host", "host:", ":1", "host:99999", "::1", "http://h:1", "a b:1"] {
            assert_eq!(faults(|c| c.seeds = vec![bad.into()]).len(), 1, "{bad}");
        }
        let everywhere = faults(|c| (c.listen, c.insecure) = ("0.0.0.0:1".into(), true));
        assert!(everywhere.len() == 1 && everywhere[0].contains("advertise"), "{everywhere:?}");
    }

    #[test]
    fn a_cluster_to_form_has_distinct_voters_with_the_first_among_them() {
        let with = |change: fn(&mut FormConfig)| {
            let mut form = form();
            change(&mut form);
            faults(move |c| c.form = Some(form))
        };
        assert_eq!(with(|_| ()), [""; 0]);
        assert!(with(|f| f.cluster_id.clear())[0].contains("cluster_id"));
        assert!(with(|f| f.voters.clear())[0].contains("at least one voter"));
        assert!(with(|f| f.voters.push(f.voters[0].clone()))[0].contains("twice"));
        assert!(with(|f| f.first = NodeId(9))[0].contains("node 9"));
        assert!(with(|f| f.max_clock_offset *= 2)[0].contains("agree"));
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        assert!(NodeConfig::load(&path).unwrap_err().to_string().contains("node.toml"));
        std::fs::write(&path, "node = \"one\"").unwrap();
        assert!(matches!(NodeConfig::load(&path), Err(ConfigError::Syntax { .. })));
        std::fs::write(&path, sound().to_toml()).unwrap();
        assert_eq!(NodeConfig::load(&path).unwrap(), sound());
    }
}
