//! What a request means to one shard's data: mutations when their log entry is applied, reads at a timestamp.
//!
//! This crate alone knows how preconditions are judged, what the request ledger records and for how long, and
//! what an outcome tells a client. It decides; it stores nothing (`meridian-storage`), orders nothing and waits
//! for nothing (`meridian-consensus`): every function here is a function of its arguments.

mod apply;
mod fingerprint;
mod ledger;
mod overlay;
mod read;
mod span;
mod verdict;

pub use apply::{LogPosition, READS_BYTES_MAX, ShardScope, Stamped, apply, apply_all};
pub use ledger::{ID_AHEAD_MAX, RETENTION, id_from_proto, id_to_proto};
pub use read::{Page, ReadPlan, read};
pub use span::{mutation_span, plan_span};
pub use verdict::{Committed, verdict};
