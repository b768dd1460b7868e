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
//!
//! Below both lies a narrow seam, an ordered key-value database. With the feature `simulation` a disk in memory,
//! `SimDisk`, can be put under it: it runs without files and threads, is deterministic, and loses power when a test
//! says so. The shipped program is built without that feature and has RocksDB alone.

pub mod backup;
#[cfg(test)]
#[path = "../tests/storage/crash.rs"]
mod crash;
mod data;
mod engine;
mod error;
mod files;
mod framed;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
pub mod inspect;
mod install;
mod options;
mod physical;
mod raft;
#[cfg(feature = "simulation")]
mod sim;
mod snapshot;
mod space;
mod staging;
mod store;

pub use data::{Collected, DataBatch, DataStore, DataView, Protection, ScanResult, ScanRow, Version};
pub use engine::EngineStats;
pub use error::{StorageError, StoreName};
pub use files::{FileReader, FileWriter, Files};
pub use options::{FatalHook, StoreOptions};
pub use physical::Damage;
pub use raft::{RaftLog, RaftLogStore, SyncDone, SyncStats};
#[cfg(feature = "simulation")]
pub use sim::{SimDisk, SimDiskOptions, SimDiskStats};
pub use snapshot::{read_manifest, verify_snapshot};
pub use space::{DiskFull, DiskLevel, DiskSpace};
pub use staging::{StagedFile, Staging};
pub use store::{Store, StoreClosed, StoreMemory};
