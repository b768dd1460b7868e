//! The data store: versions, request ledger and position of every shard.

mod as_of;
mod batch;
mod families;
mod gc;
mod key;
mod newest;
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

pub(crate) use as_of::{AsOf, decode_ledger};
pub(crate) use families::Family;
pub(crate) use key::Span;
pub(crate) use records::{decode_ledger_key, ledger_span};
pub(crate) use store::decode_version;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {records::ledger as ledger_key, store::encode_version};
