//! Snapshots of one group: flushing what lets the log be purged, and bringing the whole state to a follower that lacks what
//! is purged already.
//!
//! A state of many gigabytes moves with memory that does not grow with it: as files, in chunks, through a few buffers of
//! fixed size. What happens, in order:
//!
//! 1. The sender says hello. The receiver answers that it is ready; or refuses, before any file is made for it.
//! 2. The sender *cuts* the files from one view of its data ([`cuts`]). A cut that is there already is used again: for a
//!    second follower, and after a connection broke.
//! 3. It sends the manifest. The receiver *stages* it (`meridian_storage::Staging`), and names the files that it does not
//!    hold whole.
//! 4. These are sent in chunks ([`sender`]), at the node's rate ([`transfers`]), on a connection of their own: log and
//!    heartbeats wait for none of them. HTTP/2's windows hold the sender back to what the receiver writes ([`receiver`]).
//! 5. The receiver hands the staged files to openraft, which has them installed, and answers.
//!
//! Invariants:
//! 1. A follower is never said to hold more than the files hold that were sent: openraft is told the position of the cut,
//!    or an older one. The position of a newer state would count entries as replicated that the follower does not have.
//! 2. Whatever breaks before step 5 leaves the follower's state as it was, and whole files staged for the next transfer of
//!    the same snapshot. From step 5 on `storage/src/install.rs` sees to it that a crash leaves the old state or the new.
//! 3. A byte that was changed on the way, or on either disk, ends the transfer: each chunk and each file has a checksum, and
//!    every file is read again before anything of the old state is touched.
//! 4. At most one cut exists for a shard, one transfer is written by a receiver, and a node sends so many at a time: so much
//!    disk and memory is in use, however many followers need a snapshot.
//! 5. The log after a cut is kept while the cut is in use, as long as the disk has room: a follower whose snapshot takes
//!    long would need the next one otherwise, for ever.

mod cuts;
mod inbox;
mod maker;
pub(crate) mod receiver;
pub(crate) mod sender;
#[cfg(test)]
mod tests;
mod transfers;

pub(crate) use maker::{SnapshotBundle, SnapshotMaker, Staged, meta_of};
pub use transfers::{BYTES_PER_SECOND_DEFAULT, TransferStats, Transfers};
