//! Deterministic simulation: whole clusters in one thread, from one seed.
//!
//! Real consensus, sequencer, closed timestamps, catalog, gateway, state machine and client run on simulated machines
//! (`machine`, `host`), a simulated network (`net`, `call`) and simulated disks (`meridian_storage::SimDisk`). A
//! `plan` made from the seed says which cluster, load and faults; `world` carries it out, a millisecond at a time;
//! `run` forms the cluster, lets faults come, ends them, and asks for recovery. [`invariants`] are checked at every
//! event on the way, the checkers of histories at the end. The same seed gives the same run, event by event.

mod call;
mod host;
pub mod invariant;
pub mod invariants;
mod machine;
mod net;
mod observer;
mod plan;
mod run;
mod tell;
mod workload;
mod world;

pub use plan::Wish;
pub use run::{Options, Report, simulate};
