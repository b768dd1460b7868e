//! The raft store: logs, votes and small synced records of every shard.

mod closed;
mod ends;
mod keys;
mod log;
#[cfg(feature = "simulation")]
mod probe;
mod promise;
mod record;
mod scope;
#[cfg(feature = "simulation")]
mod simulated;
mod store;
mod sync;

pub use log::RaftLog;
pub use store::RaftLogStore;
pub(crate) use store::RawRecord;
pub use sync::{SyncDone, SyncStats};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {
    keys::{entry as entry_key, mark as mark_key},
    record::{open_record, seal as seal_record},
};
