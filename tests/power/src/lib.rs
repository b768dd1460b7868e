//! The storage loses power, thousands of times, on the real engine and real files.
//!
//! A worker process opens the real store and does what a node does: appends of several shards with acknowledgements, votes,
//! truncations, purges, applied entries, flushes, snapshots. The functions of the C library that change files are replaced
//! in it (the shim, in the program): they do their work, journal it, and sync nothing. At an operation drawn from the seed
//! the process is killed. From the journal follows what a disk may hold when the power goes at any of its records: what
//! was synced, and of the rest what the model of the disk leaves ([`disk`]). The store is opened on that, and has to hold
//! what [`model`] says; then the next life begins on the same files, so that what one loss leaves meets the next.
//!
//! * [`journal`]: operations and notes in the order in which they happened.
//! * [`disk`]: what may be left of a directory when the power goes.
//! * [`workload`], [`worker`]: what a life does, and tells of it.
//! * [`model`]: what is acknowledged and what was ever asked for, and whether a store is between the two.
//! * [`check`]: reads a store that has been through a loss.
//! * [`cycle`]: the loop.
//!
//! A life is not repeatable: threads and their timing are real. So what led to a finding is kept: the directory in which
//! the life began, its journal, and what the loss has left.

pub mod check;
pub mod cycle;
pub mod disk;
pub mod journal;
pub mod model;
pub mod worker;
pub mod workload;
