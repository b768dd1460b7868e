//! A node: its configuration, its start and stop, and what runs in it.
//!
//! This crate alone knows how the parts of a node fit together, and how nodes become a cluster.

mod balance;
mod boot;
pub mod bootstrap;
pub mod cluster_file;
mod collect;
pub mod config;
pub mod dev;
mod emulation;
mod files;
mod host;
mod incoming;
mod join;
pub mod layout;
mod lead;
mod machine;
mod memory;
mod node;
mod ports;
pub mod processes;
mod timers;

pub use boot::{Booted, Environment, boot, wait_ready};
pub use emulation::{Emulation, EmulationError};
pub use files::FileError;
pub use node::{Listeners, RunningNode, StartError, start};
pub use ports::listen_free;
