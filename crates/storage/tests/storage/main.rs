//! Tests of the storage through its public interface, on real files.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test, as the tests themselves do")]

mod crash;
mod identity;
mod kill;
mod mvcc;
mod raft_log;
mod recovery;
mod snapshots;
mod support;
