//! `meridian demo`: a cluster in three regions, shown at work and broken, with its claims checked.
//!
//! Everything here goes through the gRPC API of real servers on loopback sockets whose links are as slow as the
//! distance they stand for. What passes or fails is what the database promises (nothing acknowledged is lost, order
//! agrees with real time, replicas agree); no measured time decides it.

mod account;
mod dataset;
mod order;
mod outage;
mod reads;
mod run;
mod samples;
mod stage;
mod story;
mod token;
mod verify;
mod writer;
mod writes;

pub(crate) use run::{Args, run};
