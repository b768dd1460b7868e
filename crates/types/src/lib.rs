//! The values of Meridian: identities, keys, timestamps, positions, placement, consistency and errors.
//!
//! This crate knows what the words of the database mean and how they compare; it does no I/O, reads no
//! clock and starts no task. Every other crate depends on it, it depends on none of them.

mod consistency;
mod error;
pub mod floor;
mod ids;
mod key;
pub mod lead_time;
mod limits;
mod memory;
mod placement;
mod position;
mod receipt;
mod request_id;
mod rtt;
mod timestamp;
mod timing;
mod token;
mod within;

pub use consistency::Consistency;
pub use error::{Error, Fate, Reason, Result};
pub use ids::{NodeId, RegionId, ShardId, TableId, ZoneId};
pub use key::{BadRange, KeyRange, KeySpan};
pub use limits::Limits;
pub use memory::{MEMORY_DEFAULT_MAX, MEMORY_MIN, MemoryBudget, MemoryTooSmall};
pub use placement::{BadPlacement, Placement};
pub use position::{LeaderId, LogId};
pub use receipt::{CommitPath, Receipt};
pub use request_id::RequestId;
pub use rtt::RttMatrix;
pub use timestamp::{Interval, Timestamp};
pub use timing::{LEASE_MARGIN_PERCENT, RaftTiming, usable_lease};
pub use token::{BadToken, CausalityToken};
pub use within::{Achievable, Within};
