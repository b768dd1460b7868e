//! Emulated wide-area networks: topologies with their RTT matrices, and real TCP links that behave like them.
//!
//! This crate alone knows what distance costs: how long a byte takes between two places of a topology, what the
//! fastest possible write is with a given placement, and how to make loopback connections as slow, narrow or broken
//! as the network that they stand for. Servers do not know that it exists: the delay sits in the path between their
//! sockets. For programs of any kind it makes whole machines instead, connected by such a network ([`lab`], on Linux).

pub mod control;
pub mod lab;

mod control_client;
mod faults;
mod http;
mod link;
mod path;
mod place;
mod presets;
mod topology;
mod wan;

pub use control_client::{ControlError, WanControl};
pub use faults::{Fault, TopologyError};
pub use http::HttpError;
pub use place::{BadPlace, Endpoint, Place};
pub use topology::{NodeSpec, RegionSpec, RttSpec, Shard0Spec, Topology};
pub use wan::{DirectionStatus, LinkStatus, Wan, WanError};
