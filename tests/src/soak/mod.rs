//! Histories of real clusters under faults: one process for each node, clients in every region through the real client,
//! and a seeded schedule of what goes wrong.
//!
//! A run has four phases: the cluster is formed; load and faults run together ([`schedule`], [`inject`],
//! [`workload`]); everything is healed and the cluster has to serve within a stated time; every replica is read once
//! more ([`closing`]). What clients saw is one history, which [`checks`] holds against every guarantee.
//!
//! The seed decides the schedule and what each client asks for. It does not decide what happens: processes and sockets
//! are real, so a run with the same seed asks the same questions and gets other answers.
//!
//! Deciding linearizability takes exponential time in the number of operations of one key whose outcome is unknown.
//! Two things keep the histories decidable ([`keys`]): clients settle most unknown writes under their request ids, and
//! a key is given up for a new one after a number of operations, or after a few unknown ones.

pub mod checks;
pub mod closing;
pub mod inject;
pub mod keys;
pub mod nodes;
pub mod run;
pub mod schedule;
pub mod summary;
pub mod workload;

pub use checks::{Answer, Check};
pub use run::{Options, Run, SoakError, run};
pub use schedule::{Fault, Kind, Schedule};
