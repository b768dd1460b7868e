//! Tests of the storage through its public interface: on real files, on the simulated disk, and on both.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test, as the tests themselves do")]

mod crash;
mod engines;
mod gc;
mod group_commit;
mod hot_key;
mod identity;
mod kill;
mod mvcc;
mod power;
mod raft_log;
mod recovery;
mod snapshots;
mod support;
