//! Tests of the storage through its public interface, on real files.

mod crash;
mod identity;
mod kill;
mod mvcc;
mod raft_log;
mod recovery;
mod snapshots;
mod support;
