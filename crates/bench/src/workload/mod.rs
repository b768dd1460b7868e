//! Workloads: which operations in which shares, on which keys, with which values.

mod choose;
mod generate;
mod keys;
mod mix;
mod value;
mod zipfian;

pub use choose::Distribution;
pub(crate) use generate::{Generator, Op, stream};
pub(crate) use keys::{KeySpace, key_name};
pub use mix::Workload;
pub use value::{UniqueValues, value_name};
pub use zipfian::Zipfian;
