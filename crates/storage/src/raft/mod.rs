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
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use record::{open_record, seal as seal_record};
pub use store::RaftLogStore;
pub(crate) use store::RawRecord;
pub use sync::{SyncDone, SyncStats};
