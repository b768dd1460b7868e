//! A disk in memory, for deterministic simulation: it loses power, stalls and fails when a test says so, and what is
//! found afterwards is what a real disk could have left.
//!
//! A [`SimDisk`] belongs to the test and outlives the node that uses it. Stores are opened on it with
//! [`Store::open_simulated`](crate::Store::open_simulated). Model:
//!
//! 1. `raft/`: a write is visible at once and unsynced. A power loss keeps everything synced and a random prefix of
//!    the rest, batch by batch, as a write-ahead log does.
//! 2. `data/`: a write is in memory. A flush makes all families durable at one moment. The disk also flushes by
//!    itself after a random number of writes, so that what is found may be newer than what was reported.
//!    Now and then it compacts: a random choice of what is durable, or all of it, goes through the collector of old
//!    versions. Views keep what they have, which is more than RocksDB promises.
//! 3. Files: content survives once the file is synced and its name, and its folder's name, once those are.
//! 4. Every crash ends a generation: handles of an earlier one are dead. They fail or do nothing, and what waited
//!    for a sync through them is never told of success.
//!
//! All randomness comes from the disk's seed, in the order of the calls; there is no clock and no thread.
//!
//! Not here: reordered or torn writes within one batch, bit rot, and the undoing of removed files.

mod db;
mod disk;
mod files;
mod instance;
mod iter;
mod sst;

pub(crate) use disk::DIR;
pub use disk::{SimDisk, SimDiskOptions, SimDiskStats};

pub(crate) use db::{SimDb, SimView};
pub(crate) use disk::Compaction;
pub(crate) use files::SimFiles;
pub(crate) use instance::Change;
pub(crate) use iter::SimIter;
pub(crate) use sst::read_rows;
