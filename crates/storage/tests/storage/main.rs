//! Tests of the storage through its public interface: on real files, on the simulated disk, and on both.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test, as the tests themselves do")]

mod backup;
mod crash;
mod damage;
mod engines;
mod format;
mod full_disk;
mod gc;
mod group_commit;
mod hot_key;
mod identity;
mod kill;
mod model;
mod mounts;
mod mvcc;
mod newest;
mod power;
mod raft_files;
mod raft_log;
mod reads;
mod recovery;
mod restoring;
mod snapshots;
mod staging;
mod support;
