//! The catalog's records and their keys in the system table.
//!
//! ```text
//! cluster       ClusterRecord
//! next_id       NextId
//! node/<id>     NodeRecord, the id as 20 decimal digits, so that nodes sort by number
//! table/<name>  TableRecord
//! ```
//!
//! Values are protobuf messages (`catalog.proto`); this file turns them into checked types. A key of a kind that
//! this build does not know belongs to a newer one and is left alone.

use crate::describe::{placement_from_proto, placement_to_proto};
use bytes::Bytes;
use meridian_proto::internal::v1 as wire;
use meridian_types::RttMatrix;
use meridian_types::{KeyRange, NodeId, RaftTiming, RegionId, ShardId, TableId, ZoneId};
use prost::Message as _;
use std::sync::Arc;
use std::time::Duration;

const CLUSTER: &str = "cluster";
const NEXT_ID: &str = "next_id";
const NODE: &str = "node/";
const TABLE: &str = "table/";

/// The cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Drawn when the cluster was formed.
    pub id: String,
    /// Round trips between its regions.
    pub rtts: RttMatrix,
    /// Timers of shard 0.
    pub timing: RaftTiming,
    /// How far any two nodes' clocks may be apart.
    pub max_clock_offset: Duration,
}

/// A node that has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number, never reused.
    pub id: NodeId,
    /// Where it is.
    pub region: RegionId,
    /// Its failure domain inside the region.
    pub zone: ZoneId,
    /// `host:port` for clients and other nodes.
    pub grpc_address: String,
    /// `host:port` for health, metrics and the console.
    pub http_address: String,
    /// Of its data directory.
    pub incarnation: u64,
    /// The software's version when it joined last.
    pub version: String,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its number in keys; never reused.
    pub id: TableId,
    /// Its name; free again once the table is dropped.
    pub name: String,
    /// The rule that places its shards.
    pub placement: meridian_types::Placement,
    /// Its shards in the order of their keys, without gaps.
    pub shards: Vec<Arc<Shard>>,
    /// Versions older than this may be collected.
    pub gc_ttl: Duration,
    /// Writes are acknowledged by their leader only, never earlier by the region that they came from.
    pub classic_commit: bool,
}

/// A shard of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its number, which is its Raft group's.
    pub id: ShardId,
    /// The table that it is a part of.
    pub table: TableId,
    /// The keys that it holds.
    pub range: KeyRange,
    /// Its replicas.
    pub replicas: Vec<Replica>,
    /// The voter that should lead.
    pub preferred_leader: NodeId,
    /// Its timers.
    pub timing: RaftTiming,
}

/// A replica of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The node that hosts it.
    pub node: NodeId,
    /// That node's region.
    pub region: RegionId,
    /// Where its peers reached it when it was placed: `host:port`. The node's own record has the newest address.
    pub address: String,
    /// Counts towards the quorum; a learner otherwise.
    pub voter: bool,
}

/// One record of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// At `cluster`.
    Cluster(Cluster),
    /// At `next_id`: the next unused number for tables and shards.
    NextId(u64),
    /// At `node/<id>`.
    Node(Node),
    /// At `table/<name>`.
    Table(Table),
}

/// A record that is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The value is no message of its kind.
    #[error("the catalog record {key:?} cannot be decoded")]
    Encoding {
        /// Its key.
        key: String,
        /// What is wrong with the bytes.
        source: prost::DecodeError,
    },
    /// The message says something impossible.
    #[error("the catalog record {key:?} is not valid: {what}")]
    Invalid {
        /// Its key.
        key: String,
        /// What it says.
        what: &'static str,
    },
}

/// The key of the cluster's record.
pub fn cluster_key() -> Bytes {
    Bytes::from_static(CLUSTER.as_bytes())
}

/// The key of the next unused number.
pub fn next_id_key() -> Bytes {
    Bytes::from_static(NEXT_ID.as_bytes())
}

/// The key of a node's record.
pub fn node_key(node: NodeId) -> Bytes {
    format!("{NODE}{:020}", node.0).into()
}

/// The key of a table's record.
pub fn table_key(name: &str) -> Bytes {
    format!("{TABLE}{name}").into()
}

impl Record {
    /// Where the record is kept.
    pub fn key(&self) -> Bytes {
        match self {
            Self::Cluster(_) => cluster_key(),
            Self::NextId(_) => next_id_key(),
            Self::Node(node) => node_key(node.id),
            Self::Table(table) => table_key(&table.name),
        }
    }

    /// The value that is kept there.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Cluster(cluster) => encode_cluster(cluster).encode_to_vec(),
            Self::NextId(next) => wire::NextId { next: *next }.encode_to_vec(),
            Self::Node(node) => encode_node(node).encode_to_vec(),
            Self::Table(table) => encode_table(table).encode_to_vec(),
        }
        .into()
    }

    /// Reads the record at `key`; `None` if this build does not know its kind.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Option<Self>, RecordError> {
        let Ok(text) = std::str::from_utf8(key) else { return Ok(None) };
        let encoding = |source| RecordError::Encoding { key: text.to_owned(), source };
        let invalid = |what| RecordError::Invalid { key: text.to_owned(), what };
        let record = if text == CLUSTER {
            let record = wire::ClusterRecord::decode(value).map_err(encoding)?;
            Self::Cluster(decode_cluster(&record).map_err(invalid)?)
        } else if text == NEXT_ID {
            Self::NextId(wire::NextId::decode(value).map_err(encoding)?.next)
        } else if text.starts_with(NODE) {
            Self::Node(decode_node(wire::NodeRecord::decode(value).map_err(encoding)?))
        } else if text.starts_with(TABLE) {
            let record = wire::TableRecord::decode(value).map_err(encoding)?;
            Self::Table(decode_table(record).map_err(invalid)?)
        } else {
            return Ok(None);
        };
        if record.key() != key {
            return Err(invalid("it belongs under another key"));
        }
        Ok(Some(record))
    }
}

fn encode_cluster(cluster: &Cluster) -> wire::ClusterRecord {
    let rtt = |(a, b, rtt): (&RegionId, &RegionId, Duration)| wire::RegionRttRecord {
        a: a.0.clone(),
        b: b.0.clone(),
        rtt_ns: nanos(rtt),
    };
    wire::ClusterRecord {
        cluster_id: cluster.id.clone(),
        region_rtts: cluster.rtts.pairs().map(rtt).collect(),
        catalog_timing: Some(meridian_wire::timing::encode(cluster.timing)),
        max_clock_offset_ns: nanos(cluster.max_clock_offset),
    }
}

fn decode_cluster(record: &wire::ClusterRecord) -> Result<Cluster, &'static str> {
    let rtt = |r: &wire::RegionRttRecord| (r.a.as_str().into(), r.b.as_str().into(), Duration::from_nanos(r.rtt_ns));
    Ok(Cluster {
        id: record.cluster_id.clone(),
        rtts: record.region_rtts.iter().map(rtt).collect(),
        timing: decode_timing(record.catalog_timing.as_ref())?,
        max_clock_offset: Duration::from_nanos(record.max_clock_offset_ns),
    })
}

fn encode_node(node: &Node) -> wire::NodeRecord {
    wire::NodeRecord {
        node: node.id.0,
        region: node.region.0.clone(),
        zone: node.zone.0.clone(),
        grpc_address: node.grpc_address.clone(),
        http_address: node.http_address.clone(),
        incarnation: node.incarnation,
        version: node.version.clone(),
    }
}

fn decode_node(record: wire::NodeRecord) -> Node {
    Node {
        id: NodeId(record.node),
        region: record.region.into(),
        zone: record.zone.into(),
        grpc_address: record.grpc_address,
        http_address: record.http_address,
        incarnation: record.incarnation,
        version: record.version,
    }
}

fn encode_table(table: &Table) -> wire::TableRecord {
    wire::TableRecord {
        id: table.id.0,
        name: table.name.clone(),
        placement: Some(placement_to_proto(&table.placement)),
        shards: table.shards.iter().map(|shard| encode_shard(shard)).collect(),
        gc_ttl_ns: nanos(table.gc_ttl),
        classic_commit: table.classic_commit,
    }
}

fn decode_table(record: wire::TableRecord) -> Result<Table, &'static str> {
    let id = TableId(record.id);
    let placement = record.placement.as_ref().and_then(placement_from_proto).ok_or("it has no placement")?;
    let shards = record.shards.into_iter().map(|shard| decode_shard(id, shard).map(Arc::new));
    let shards = shards.collect::<Result<Vec<_>, _>>()?;
    let ends = shards.iter().map(|shard| shard.range.end.as_ref());
    let starts = shards.iter().skip(1).map(|shard| Some(&shard.range.start)).chain([None]);
    if shards.first().is_none_or(|first| !first.range.start.is_empty()) || !ends.eq(starts) {
        return Err("its shards do not cover all keys in order");
    }
    let (gc_ttl, classic_commit) = (Duration::from_nanos(record.gc_ttl_ns), record.classic_commit);
    Ok(Table { id, name: record.name, placement, shards, gc_ttl, classic_commit })
}

fn encode_shard(shard: &Shard) -> wire::ShardRecord {
    let replica = |r: &Replica| wire::ReplicaRecord {
        member: Some(wire::Member { node: r.node.0, region: r.region.0.clone(), address: r.address.clone() }),
        voter: r.voter,
    };
    wire::ShardRecord {
        id: shard.id.0,
        start: shard.range.start.clone(),
        end: shard.range.end.clone().unwrap_or_default(),
        replicas: shard.replicas.iter().map(replica).collect(),
        preferred_leader: shard.preferred_leader.0,
        timing: Some(meridian_wire::timing::encode(shard.timing)),
    }
}

fn decode_shard(table: TableId, record: wire::ShardRecord) -> Result<Shard, &'static str> {
    let replica = |r: wire::ReplicaRecord| {
        let member = r.member.ok_or("a replica names no node")?;
        let (node, region) = (NodeId(member.node), member.region.into());
        Ok::<_, &'static str>(Replica { node, region, address: member.address, voter: r.voter })
    };
    let end = (!record.end.is_empty()).then_some(record.end);
    let shard = Shard {
        id: ShardId(record.id),
        table,
        range: KeyRange::new(record.start, end).map_err(|_| "a shard ends before it starts")?,
        replicas: record.replicas.into_iter().map(replica).collect::<Result<_, _>>()?,
        preferred_leader: NodeId(record.preferred_leader),
        timing: decode_timing(record.timing.as_ref())?,
    };
    if !shard.replicas.iter().any(|r| r.voter && r.node == shard.preferred_leader) {
        return Err("a shard's preferred leader is none of its voters");
    }
    Ok(shard)
}

fn decode_timing(timing: Option<&wire::RaftTiming>) -> Result<RaftTiming, &'static str> {
    timing.and_then(meridian_wire::timing::decode).ok_or("its timers are missing or out of order")
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
