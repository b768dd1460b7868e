//! Changes to the catalog, as mutations of the system table.
//!
//! Every builder plans on one [`CatalogView`] and returns a mutation whose preconditions are the versions of all
//! records that the plan rests on. If another change came between, it is refused at apply and nothing happens: read
//! a newer view and plan again, under a new request id. A builder that finds the change impossible on its view says
//! so with the reason that the client is to see.

use crate::planner::{Hosted, Plan, Site, plan};
use crate::records::{Cluster, Node, Record, Replica, Shard, Table, cluster_key, node_key, table_key};
use crate::view::CatalogView;
use bytes::Bytes;
use meridian_proto::internal::v1::Mutation;
use meridian_proto::v1::precondition::Condition;
use meridian_proto::v1::write_op::{Action, Remove};
use meridian_proto::v1::{self, Precondition, WriteOp};
use meridian_types::{Error, KeyRange, Limits, NodeId, Placement, Reason, RequestId, ShardId, TableId, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Longest name of a table, in bytes.
pub const TABLE_NAME_BYTES_MAX: usize = 128;
/// Most shards that a table is created with.
pub const SHARDS_MAX: usize = 1024;
/// How long old versions of a new table are kept.
pub const GC_TTL_DEFAULT: Duration = Duration::from_secs(4 * 3600);
/// The shortest time for which a table can keep old versions. Reads at a timestamp, scans of many pages among them, have
/// to end within it.
pub const GC_TTL_MIN: Duration = Duration::from_secs(1);
/// The first number for tables and shards: 0 is the catalog's.
const FIRST_ID: u64 = 1;

/// What a cluster begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCluster {
    /// The cluster's record.
    pub cluster: Cluster,
    /// Its first nodes.
    pub nodes: Vec<Node>,
}

/// What a client wants of a new table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTable {
    /// Its name.
    pub name: String,
    /// Where it lives.
    pub placement: Placement,
    /// Keys at which it is split into shards: sorted, distinct, not empty.
    pub split_keys: Vec<Bytes>,
    /// How long old versions are kept; `None`: [`GC_TTL_DEFAULT`].
    pub gc_ttl: Option<Duration>,
    /// Whether writes are acknowledged by their leader only.
    pub classic_commit: bool,
}

/// Forms a cluster: its record, its first nodes and the first number. Refused at apply if there is one already.
pub fn form_cluster(id: RequestId, new: NewCluster) -> Mutation {
    let mut change = Change::default();
    change.put(Timestamp::ZERO, &Record::Cluster(new.cluster));
    change.put(Timestamp::ZERO, &Record::NextId(FIRST_ID));
    for node in new.nodes {
        change.put(Timestamp::ZERO, &Record::Node(node));
    }
    change.into_mutation(id)
}

/// Adds a node, or updates its addresses and version; `None`: the catalog says all of this already.
///
/// * Errors: [`Reason::NoQuorum`] while there is no cluster; [`Reason::BadRequest`] if the number belongs to another
///   data directory, the node has moved to another place, or its region is none of the cluster's.
pub fn register_node(view: &CatalogView, id: RequestId, node: Node) -> Result<Option<Mutation>, Error> {
    let refuse = |why: String| Err(Error::new(Reason::BadRequest, why));
    let cluster = view.cluster().ok_or_else(not_formed)?;
    if node.id == NodeId(0) {
        return refuse("node number 0 stands for \"no node\"; number nodes from 1".into());
    }
    let regions = cluster.record.rtts.regions();
    if !regions.is_empty() && !regions.contains(&node.region) {
        let known: Vec<_> = regions.iter().map(|region| region.as_str()).collect();
        let (region, known) = (&node.region, known.join(", "));
        return refuse(format!("region `{region}` is none of this cluster's ({known}); correct the node's region"));
    }
    let mut version = Timestamp::ZERO;
    if let Some(known) = view.node(node.id) {
        if known.record == node {
            return Ok(None);
        }
        if known.record.incarnation != node.incarnation {
            return refuse(format!(
                "{} has joined before with another data directory; start it with that directory, or with a new number",
                node.id
            ));
        }
        if (&known.record.region, &known.record.zone) != (&node.region, &node.zone) {
            return refuse(format!(
                "{} has joined as a node of region `{}`, zone `{}`; a node that moves needs a new number",
                node.id, known.record.region, known.record.zone
            ));
        }
        version = known.version;
    }
    let mut change = Change::default();
    change.expect(cluster_key(), cluster.version);
    change.put(version, &Record::Node(node));
    Ok(Some(change.into_mutation(id)))
}

/// Creates a table with its shards, all at once, and returns it as it will be.
///
/// * Errors: [`Reason::BadRequest`] for a bad name or bad split keys, [`Reason::TableExists`],
///   [`Reason::BadPlacement`], [`Reason::NoQuorum`] while there is no cluster.
pub fn create_table(view: &CatalogView, id: RequestId, new: NewTable) -> Result<(Mutation, Table), Error> {
    check_name(&new.name)?;
    check_split_keys(&new.split_keys)?;
    let gc_ttl = new.gc_ttl.unwrap_or(GC_TTL_DEFAULT);
    if gc_ttl < GC_TTL_MIN {
        let text = format!("old versions are kept for {gc_ttl:?}; {GC_TTL_MIN:?} is the least");
        return Err(Error::new(Reason::BadRequest, text));
    }
    let (Some(cluster), Some(next_id)) = (view.cluster(), view.next_id()) else { return Err(not_formed()) };
    if view.table(&new.name).is_some() {
        let text = format!("there is a table `{}` already; choose another name, or drop it first", new.name);
        return Err(Error::new(Reason::TableExists, text));
    }
    let table = TableId(next_id.record);
    let sites: Vec<_> = view.nodes().map(|node| site(&node.record)).collect();
    let mut hosted = hosted(view);
    let mut shards = Vec::with_capacity(new.split_keys.len() + 1);
    for (range, number) in ranges(&new.split_keys).zip(table.0 + 1..) {
        let plan = plan(&sites, view.rtts(), &new.placement, &mut hosted)?;
        shards.push(Arc::new(shard(view, table, ShardId(number), range, plan)));
    }
    let members: BTreeSet<_> = shards.iter().flat_map(|s| s.replicas.iter().map(|r| r.node)).collect();
    let next = table.0 + 1 + shards.len() as u64;
    let NewTable { name, placement, classic_commit, .. } = new;
    let table = Table { id: table, name, placement, shards, gc_ttl, classic_commit };

    let mut change = Change::default();
    change.expect(cluster_key(), cluster.version);
    for node in members.into_iter().filter_map(|node| view.node(node)) {
        change.expect(node_key(node.record.id), node.version);
    }
    change.put(next_id.version, &Record::NextId(next));
    change.put(Timestamp::ZERO, &Record::Table(table.clone()));
    Ok((change.into_mutation(id), table))
}

/// Drops a table. Errors: [`Reason::UnknownTable`].
pub fn drop_table(view: &CatalogView, id: RequestId, name: &str) -> Result<Mutation, Error> {
    let Some(table) = view.versioned_table(name) else {
        let text = format!("there is no table `{}`; `meridian table list` shows those there are", name.escape_debug());
        return Err(Error::new(Reason::UnknownTable, text));
    };
    let mut change = Change::default();
    change.delete(table.version, table_key(name));
    Ok(change.into_mutation(id))
}

fn not_formed() -> Error {
    Error::new(Reason::NoQuorum, "the cluster is not formed yet; try again once its first nodes are up")
}

fn check_name(name: &str) -> Result<(), Error> {
    let fits = (1..=TABLE_NAME_BYTES_MAX).contains(&name.len());
    if fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
        return Ok(());
    }
    let text = format!("a table's name has 1 to {TABLE_NAME_BYTES_MAX} of the characters a-z A-Z 0-9 _ . -");
    Err(Error::new(Reason::BadRequest, text))
}

fn check_split_keys(keys: &[Bytes]) -> Result<(), Error> {
    let bad = |why: String| Err(Error::new(Reason::BadRequest, why));
    if keys.len() >= SHARDS_MAX {
        return bad(format!("{} split keys make more than {SHARDS_MAX} shards; give fewer", keys.len()));
    }
    keys.iter().try_for_each(|key| Limits::default().check_key(key))?;
    match keys.windows(2).position(|pair| pair[0] >= pair[1]) {
        None => Ok(()),
        Some(i) => bad(format!("split key {} is not above the one before it; sort them and drop doubles", i + 1)),
    }
}

/// The ranges between the split keys, from the first key there is to the last.
fn ranges(split_keys: &[Bytes]) -> impl Iterator<Item = KeyRange> {
    let starts = std::iter::once(Bytes::new()).chain(split_keys.iter().cloned());
    let ends = split_keys.iter().cloned().map(Some).chain([None]);
    starts.zip(ends).map(|(start, end)| KeyRange { start, end })
}

fn site(node: &Node) -> Site {
    Site { node: node.id, region: node.region.clone(), zone: node.zone.clone() }
}

fn hosted(view: &CatalogView) -> Hosted {
    let mut hosted = Hosted::new();
    for replica in view.shards().flat_map(|shard| &shard.replicas) {
        *hosted.entry(replica.node).or_default() += 1;
    }
    hosted
}

fn shard(view: &CatalogView, table: TableId, id: ShardId, range: KeyRange, plan: Plan) -> Shard {
    let planned = plan.replicas.iter().filter_map(|r| Some((r.voter, &view.node(r.node)?.record)));
    let replica = |(voter, node): (bool, &Node)| Replica {
        node: node.id,
        region: node.region.clone(),
        address: node.grpc_address.clone(),
        voter,
    };
    let replicas = planned.map(replica).collect();
    Shard { id, table, range, replicas, preferred_leader: plan.preferred_leader, timing: plan.timing }
}

/// A mutation of the system table in the making.
#[derive(Default)]
struct Change {
    preconditions: Vec<Precondition>,
    writes: Vec<WriteOp>,
}

impl Change {
    /// The record at `key` has this version; zero: there is none.
    fn expect(&mut self, key: Bytes, version: Timestamp) {
        self.preconditions.push(Precondition { key, condition: Some(Condition::Version(version.0)) });
    }

    /// Replaces the record's version `seen`.
    fn put(&mut self, seen: Timestamp, record: &Record) {
        self.expect(record.key(), seen);
        self.writes.push(WriteOp { key: record.key(), action: Some(Action::Put(record.encode())) });
    }

    /// Deletes the record's version `seen`.
    fn delete(&mut self, seen: Timestamp, key: Bytes) {
        self.expect(key.clone(), seen);
        self.writes.push(WriteOp { key, action: Some(Action::Delete(Remove {})) });
    }

    fn into_mutation(self, id: RequestId) -> Mutation {
        let RequestId { time, client, sequence } = id;
        Mutation {
            request_id: Some(v1::RequestId { time_ns: time.0, client, sequence }),
            table: TableId::CATALOG.0,
            preconditions: self.preconditions,
            writes: self.writes,
            reads: Vec::new(),
        }
    }
}
