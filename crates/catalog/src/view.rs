//! The catalog as one immutable snapshot, and the holder of the newest one.
//!
//! A [`CatalogView`] is read from this node's replica of shard 0 and never changes; whoever needs a consistent
//! picture takes one and keeps it for the length of its work. It may be behind: a change that is planned on it
//! carries the versions that it saw as preconditions, and a request that it routes wrongly is refused by the shard.

use crate::records::{Cluster, Node, Record, RecordError, Shard, Table};
use bytes::Bytes;
use meridian_storage::{DataStore, DataView, ScanRow, StorageError};
use meridian_types::RttMatrix;
use meridian_types::{KeyRange, NodeId, ShardId, TableId, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// Rows that one step of reading the catalog takes.
const READ_ROWS: usize = 1024;
/// Bytes that one step of reading the catalog takes.
const READ_BYTES: usize = 4 << 20;

/// The catalog could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The store failed.
    #[error("reading the catalog failed")]
    Storage(#[from] StorageError),
    /// A record is not what was written.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// A record and the timestamp of its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// Commit timestamp of the version.
    pub version: Timestamp,
    /// The record.
    pub record: T,
}

/// The catalog at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogView {
    stamp: Timestamp,
    cluster: Option<Versioned<Cluster>>,
    next_id: Option<Versioned<u64>>,
    nodes: BTreeMap<NodeId, Versioned<Node>>,
    tables: BTreeMap<String, Versioned<Arc<Table>>>,
    names: BTreeMap<TableId, String>,
    shards: BTreeMap<ShardId, Arc<Shard>>,
    rtts: RttMatrix,
}

impl CatalogView {
    /// Reads the whole catalog. Cost: one scan of the system table.
    pub fn read(view: &DataView) -> Result<Self, CatalogError> {
        let mut catalog = Self::default();
        let mut rest = KeyRange::all();
        loop {
            let page = view.scan(TableId::CATALOG, &rest, Timestamp::MAX, false, READ_ROWS, READ_BYTES)?;
            catalog.stamp = catalog.stamp.max(page.reveals);
            let next = page.rows.last().map(|row| after(&row.key));
            for row in page.rows {
                catalog.add(&row)?;
            }
            match next {
                Some(start) if page.more => rest.start = start,
                _ => return Ok(catalog),
            }
        }
    }

    fn add(&mut self, row: &ScanRow) -> Result<(), RecordError> {
        let version = row.ts;
        match Record::decode(&row.key, &row.value)? {
            Some(Record::Cluster(record)) => {
                self.rtts = record.rtts.clone();
                self.cluster = Some(Versioned { version, record });
            }
            Some(Record::NextId(record)) => self.next_id = Some(Versioned { version, record }),
            Some(Record::Node(record)) => {
                self.nodes.insert(record.id, Versioned { version, record });
            }
            Some(Record::Table(table)) => {
                self.shards.extend(table.shards.iter().map(|shard| (shard.id, Arc::clone(shard))));
                self.names.insert(table.id, table.name.clone());
                self.tables.insert(table.name.clone(), Versioned { version, record: Arc::new(table) });
            }
            None => {}
        }
        Ok(())
    }

    /// Timestamp of the newest change that the view includes. Zero: the catalog is empty.
    pub fn stamp(&self) -> Timestamp {
        self.stamp
    }

    /// The cluster's record; `None` until the cluster is formed.
    pub fn cluster(&self) -> Option<&Versioned<Cluster>> {
        self.cluster.as_ref()
    }

    /// The next unused number for tables and shards; `None` until the cluster is formed.
    pub fn next_id(&self) -> Option<&Versioned<u64>> {
        self.next_id.as_ref()
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> Option<&Versioned<Node>> {
        self.nodes.get(&id)
    }

    /// All nodes, by number.
    pub fn nodes(&self) -> impl Iterator<Item = &Versioned<Node>> {
        self.nodes.values()
    }

    /// The table of this name.
    pub fn table(&self, name: &str) -> Option<&Arc<Table>> {
        self.versioned_table(name).map(|table| &table.record)
    }

    /// The table of this name with its record's version.
    pub fn versioned_table(&self, name: &str) -> Option<&Versioned<Arc<Table>>> {
        self.tables.get(name)
    }

    /// The table of this number.
    pub fn table_by_id(&self, id: TableId) -> Option<&Arc<Table>> {
        self.table(self.names.get(&id)?)
    }

    /// All tables, by name.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.tables.values().map(|table| &table.record)
    }

    /// A shard of a table. Shard 0 is not among them: it has a replica on every node, and no record.
    pub fn shard(&self, id: ShardId) -> Option<&Arc<Shard>> {
        self.shards.get(&id)
    }

    /// All shards of all tables, by number.
    pub fn shards(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.shards.values()
    }

    /// The shards that have a replica on a node.
    pub fn shards_on(&self, node: NodeId) -> impl Iterator<Item = &Arc<Shard>> {
        self.shards().filter(move |shard| shard.replica(node).is_some())
    }

    /// The shard that holds a key; `None`: there is no such table.
    pub fn shard_for_key(&self, table: TableId, key: &[u8]) -> Option<&Arc<Shard>> {
        let shards = &self.table_by_id(table)?.shards;
        let after = shards.partition_point(|shard| shard.range.start.as_ref() <= key);
        shards.get(after.checked_sub(1)?)
    }

    /// The shards that hold a part of a range, in the order of their keys; none: there is no such table.
    pub fn shards_for_range(&self, table: TableId, range: &KeyRange) -> Vec<&Arc<Shard>> {
        let shards = self.table_by_id(table).map(|table| table.shards.as_slice()).unwrap_or_default();
        shards.iter().filter(|shard| shard.range.overlaps(range)).collect()
    }

    /// Round trips between regions.
    pub fn rtts(&self) -> &RttMatrix {
        &self.rtts
    }
}

/// The smallest key after `key`.
fn after(key: &Bytes) -> Bytes {
    [key.as_ref(), &[0]].concat().into()
}

/// The newest view of the catalog on this node. Clones share it.
#[derive(Clone, Debug)]
pub struct Catalog {
    newest: Arc<watch::Sender<Arc<CatalogView>>>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self { newest: Arc::new(watch::Sender::new(Arc::default())) }
    }
}

impl Catalog {
    /// The catalog as the store has it.
    pub fn open(store: &DataStore) -> Result<Self, CatalogError> {
        let catalog = Self::default();
        catalog.refresh(&store.view())?;
        Ok(catalog)
    }

    /// The newest view.
    pub fn view(&self) -> Arc<CatalogView> {
        Arc::clone(&self.newest.borrow())
    }

    /// Follows the newest view.
    pub fn subscribe(&self) -> watch::Receiver<Arc<CatalogView>> {
        self.newest.subscribe()
    }

    /// Reads the catalog again, after changes to shard 0 were applied; returns whether it is newer than before.
    /// `view` is a whole state of shard 0, never one that is being replaced. Blocks for the store. Calls may race: a
    /// view never replaces a newer one.
    pub fn refresh(&self, view: &DataView) -> Result<bool, CatalogError> {
        let read = CatalogView::read(view)?;
        Ok(self.newest.send_if_modified(|newest| {
            let newer = read.stamp > newest.stamp;
            if newer {
                *newest = Arc::new(read);
            }
            newer
        }))
    }
}
