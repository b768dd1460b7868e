//! The invariants, one file each, headed by its statement and source.
//!
//! They see every event of every node in the one order in which a simulation runs them, the starts and stops of nodes,
//! and the truth about their disks. They believe nothing that a node says of another node. All must hold after every
//! event; those that rest on the clocks' bounds say so, and are demanded only while these hold.
//!
//! | Invariant | Says | Rules |
//! |---|---|---|
//! | `election_safety` | a leader id leads once; a vote is never taken back | Raft; Z0, G1 |
//! | `log_matching` | one log id, one entry, and the same before it | Raft; Z0, A1 |
//! | `leader_completeness` | a new leader has everything committed before | Raft; Z0, S4 |
//! | `state_machine_equality` | the same entries, in order, with the same results | Raft; A1, O5, D1, D3 |
//! | `stamps_increase` | stamps go up along logs, replicas and leaderships; the guard never fires | S2, S3, S5 |
//! | `fenced_entries` | an entry bears the leadership that stamped it; a refused one is nowhere | S1, S3, X4 |
//! | `closed_timestamps` | nothing is applied below a promise | C1 to C4, K1, K2, S2, S4 |
//! | `gaps_filled` | no position stays out of reach | C6 |
//! | `served_reads` | a read at a timestamp missed nothing, and never will have | N2, N3, C2, C5, K3, G5 |
//! | `lead_time` | replicas agree on lead times; a linearizable read stops at no time before it began | K1, K3 |
//! | `leases` | a valid lease belongs to the greatest leadership | R2 to R6, Z0 |
//! | `reads_wait` | a linearizable read waits for what may have been acknowledged | I1 to I3, R2, R6, S4 |
//! | `durable_commit` | committed, synced and applied entries are on disks | O1, O2, D1, G1 |
//! | `surviving_log` | a restarted node has what it had told others | O1, D1, G1 |
//! | `exactly_once` | a request is decided once | X1 to X3, A1, D3 |
//! | `commit_wait` | what is revealed is past | W1, W3 |
//! | `membership` | memberships change in safe steps, one at a time | `openraft.md` section 6, O2 |
//! | `full_disk` | without room, nothing is written that can be refused | `storage/src/space.rs` |
//! | `collected` | old versions go below a durable floor only, and nobody reads below it | A1, A2 |
//! | `installed` | a snapshot brings the last timestamp along | D3, S5 |
//!
//! What they demand of the events:
//! * `Opened` comes before anything that the replica does with what it found, applying included.
//! * A `Read` says what the replica had applied when it took its view, not before; a follower's read by a read index
//!   began before it asked for the index; a leader's read is said in the step in which its leadership is proven.
//! * `Closed` is said of promises that are told or served by, once leadership is proven for them.
//! * `ClockSafe` is said in the step in which a reading of the clock changes its mind.
//!
//! Not here: what clients see (the checkers of histories), convergence after faults, and whether timestamps from the
//! future are accepted (S6): events do not say what a node's clock showed.

mod closed_timestamps;
mod collected;
mod commit_wait;
mod durable_commit;
mod election_safety;
mod exactly_once;
mod fenced_entries;
mod full_disk;
mod gaps_filled;
mod installed;
mod lead_time;
mod leader_completeness;
mod leases;
mod log_matching;
mod logs;
mod membership;
mod memberships;
mod reads_wait;
#[cfg(test)]
mod script;
mod served_reads;
mod stamps_increase;
mod state_machine_equality;
mod surviving_log;
mod tables;
#[cfg(test)]
mod whole;

use super::invariant::Invariant;

/// All of them, fresh.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(election_safety::ElectionSafety::default()),
        Box::new(log_matching::LogMatching::default()),
        Box::new(leader_completeness::LeaderCompleteness::default()),
        Box::new(state_machine_equality::StateMachineEquality::default()),
        Box::new(stamps_increase::StampsIncrease::default()),
        Box::new(fenced_entries::FencedEntries::default()),
        Box::new(closed_timestamps::ClosedTimestamps::default()),
        Box::new(gaps_filled::GapsFilled::default()),
        Box::new(served_reads::ServedReads::default()),
        Box::new(lead_time::LeadTimes::default()),
        Box::new(leases::Leases::default()),
        Box::new(reads_wait::ReadsWait::default()),
        Box::new(durable_commit::DurableCommit::default()),
        Box::new(surviving_log::SurvivingLog::default()),
        Box::new(exactly_once::ExactlyOnce::default()),
        Box::new(commit_wait::CommitWait::default()),
        Box::new(membership::SafeMemberships::default()),
        Box::new(collected::CollectedVersions::default()),
        Box::new(installed::Installed::default()),
        Box::new(full_disk::FullDisk::default()),
    ]
}
