//! A node: its configuration, its start and stop, and what runs in it.
//!
//! This crate alone knows how the parts of a node fit together, and how nodes become a cluster.

mod balance;
pub mod config;
mod host;
mod join;
mod machine;
mod node;

pub use node::{Listeners, RunningNode, StartError, start};
