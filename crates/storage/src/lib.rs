//! What a node keeps on disk. This crate alone knows RocksDB: how logs, votes, versions, positions and snapshots
//! become bytes in files, and what has to be synced before what. It does not know Raft's rules.
//!
//! Two RocksDB instances share one data directory:
//!
//! * `raft/` ([`RaftLogStore`]): the log, vote and small records of every shard on this node, in one write-ahead
//!   log. One thread syncs it for all shards together, so many groups pay for one fsync.
//! * `data/` ([`DataStore`]): versions, request ledger and position of every shard, without a write-ahead log.
//!   All column families are flushed atomically, so what is found after a crash is one consistent earlier moment,
//!   and replaying the raft log from the position found brings back the rest (invariants, rule D1).
//!
//! Both carry the same random incarnation; a directory in which one of them is missing or foreign is refused
//! (rule D4).

mod data;
mod error;
mod files;
mod identity;
mod install;
mod options;
mod raft;
mod snapshot;
mod store;

pub use data::{DataBatch, DataStore, DataView, ScanResult, ScanRow, Version};
pub use error::{StorageError, StoreName};
pub use options::{FatalHook, StoreOptions};
pub use raft::{RaftLog, RaftLogStore, SyncDone, SyncStats};
pub use snapshot::{read_manifest, verify_snapshot};
pub use store::{Store, StoreClosed};
