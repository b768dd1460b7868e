//! One Raft group over openraft: sequencing, leases, read points, closed timestamps and the peer transport.
//!
//! This crate alone knows openraft, and what may be said to a client on the strength of a log: which stamp an
//! entry gets, when leadership is proven, up to where a replica may answer alone. What the entries mean is the
//! business of the [`StateMachine`] that is passed in.
//!
//! * [`sequencer`]: stamps (rules S1-S6), entries in flight (I1-I3) and closing (C1-C6), as a pure core.
//! * `lead_time`: closing ahead of the clock, for reads that ask nobody (K1, K2).
//! * [`lease`]: quorum-acknowledged instants and the lease (R1-R6).
//! * `early`: one-round-trip commit (O1-O7).
//! * [`safe_time`]: what a replica may serve by itself (C2, C4, C5).
//! * [`replica`]: one group on one node, the shell around all of these.
//! * [`peers`], [`network`], [`service`], [`gossip`]: what goes between nodes.
//! * [`log_store`], [`apply`], [`config`]: the bindings to openraft.

pub mod apply;
mod backlog;
mod ballots;
mod campaign;
pub mod codec;
pub mod config;
#[cfg(test)]
mod conformance;
mod delay;
mod dial;
mod early;
mod error;
mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod gossip;
mod granted;
#[cfg(test)]
mod hazards;
mod heartbeats;
#[cfg(test)]
mod lead_log;
mod lead_time;
mod leadership;
pub mod lease;
mod log_cache;
pub mod log_store;
mod memory;
pub mod network;
mod packing;
pub mod peers;
mod raft_types;
pub mod replica;
pub mod replicas;
mod runtime;
pub mod safe_time;
pub mod sequencer;
pub mod service;
mod snapshot;
mod status;
#[cfg(test)]
mod timing_log;

pub use apply::{EntryMutations, StateMachine, Undecodable};
pub use backlog::{Backlog, FlushLags};
pub use campaign::place;
pub use dial::keep_dialled;
pub use early::{Acceptances, Awaited};
pub use error::{ConsensusError, NotLeader};
pub use gossip::Gossip;
pub use heartbeats::Heartbeats;
pub use lease::Word;
pub use log_cache::LogMemory;
pub use memory::{Charge, InFlight, NodeMemory, OverBudget};
pub use peers::{PeerAddress, Peers};
pub use raft_types::Member;
pub use replica::{Commit, Replica, ReplicaOptions, ServeTimes};
pub use replicas::Replicas;
pub use snapshot::{BYTES_PER_SECOND_DEFAULT, TransferStats, Transfers};
pub use status::{ReplicaStatus, Role};
