//! The data store: versions, request ledger and position of every shard.

mod batch;
mod families;
mod gc;
mod key;
mod reclaim;
mod records;
mod scan;
mod store;
mod value;
mod view;

pub use batch::DataBatch;
pub use gc::{Collected, Protection};
pub use scan::{ScanResult, ScanRow};
pub use store::DataStore;
pub use view::{DataView, Version};

pub(crate) use families::Family;
pub(crate) use key::Span;
pub(crate) use records::ledger_span;
