//! What exists and where it lives: nodes, tables, shards, and the rules that place them.
//!
//! This crate alone knows the catalog's records and the planner. The catalog is ordinary data, the system table
//! in shard 0, changed by ordinary mutations whose preconditions are the versions that the change was planned on;
//! so it has no commands of its own, and every replica of shard 0 can read all of it.

pub mod budget;
mod changes;
mod demand;
mod describe;
mod planner;
#[cfg(test)]
mod presets;
mod records;
mod timing;
mod timing_policy;
mod view;

pub use changes::{
    GC_TTL_DEFAULT, GC_TTL_MIN, NewCluster, NewTable, SHARDS_MAX, TABLE_NAME_BYTES_MAX, create_table, drop_table,
    form_cluster, register_node,
};
pub use demand::{Origin, better_leader};
pub use describe::{member, placement_from_proto, placement_to_proto, table_to_proto};
pub use meridian_types::RttMatrix;
pub use planner::{Hosted, Plan, PlannedReplica, Site, plan, plan_catalog};
pub use records::{
    Cluster, Node, Record, RecordError, Replica, Shard, Table, cluster_key, next_id_key, node_key, table_key,
};
pub use timing::timing_for;
pub use timing_policy::{LOWER_ROUNDS, Measured, RAISE_ROUNDS, TimingPolicy, timing_of, timing_wanted};
pub use view::{Catalog, CatalogError, CatalogView, Versioned};
