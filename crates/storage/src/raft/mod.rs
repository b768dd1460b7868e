//! The raft store: logs, votes and small synced records of every shard.

mod ends;
mod keys;
mod log;
#[cfg(feature = "simulation")]
mod probe;
mod record;
#[cfg(feature = "simulation")]
mod simulated;
mod store;
mod sync;

pub use log::RaftLog;
pub use store::RaftLogStore;
pub use sync::{SyncDone, SyncStats};
