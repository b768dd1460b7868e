//! What whole-cluster tests run on: clusters with emulated distance, and clients that record what they saw.
//!
//! Everything random comes from a seed. Time decides nothing: tests wait for conditions, and a generous limit only
//! turns a hang into a failure that says what was waited for.

mod again;
mod cluster;
mod history;
mod load;
mod verdict;

pub use cluster::{REGIONS, TestCluster, client_at, logging, near, until};
pub use history::{History, Process};
pub use load::{Level, Load, Mix};
pub use verdict::nothing_lost;
