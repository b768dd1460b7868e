//! Garbage collection of versions: what may go, below which floor, and who holds it up.
//!
//! * `decide`: which versions of one key a compaction may leave out; pure.
//! * `floors`: the floors that a compaction goes by, by key.
//! * `registry`: which floors are in force on this node; views and protected timestamps hold them up.
//! * `filter`: all of it as a compaction filter of RocksDB.
//! * `sweep`: removes tombstones below which nothing is left.
//!
//! Rules (A2, and what a filter that ignores RocksDB's snapshots adds to it):
//!
//! 1. A floor counts from when [`DataStore::flush`](super::DataStore::flush) has made it durable. A floor that a crash
//!    could take back would let the old one admit reads of versions that are gone.
//! 2. A view keeps everything readable that was when it was taken: while it is open, no compaction that begins uses a
//!    floor that was not durable by then. Its own floor is as high as that one or higher, so whoever reads in it at or
//!    above *its* floor misses nothing. That also holds for the files of a snapshot that are cut from it.
//! 3. No compaction that begins uses a floor above a protected timestamp, and none can be protected below a floor that
//!    is durable already.
//! 4. A range that is cleared has no floor until the next flush: what is put in its place may begin at a lower one.
//! 5. Nothing may depend on a tombstone at or below the floor: one replica has it, another does not (A1).

mod decide;
mod filter;
mod floors;
#[cfg(feature = "simulation")]
mod probe;
mod protected;
mod registry;
mod sweep;

pub use protected::{Collected, Protection};

#[cfg(feature = "simulation")]
pub(crate) use decide::{Collector, Verdict};
pub(crate) use filter::FilterFactory;
pub(crate) use floors::Floors;
pub(crate) use registry::Registry;
