//! Reports: what a run found, for programs ([`Report`]) and for people ([`tables`]).

mod build;
mod schema;
mod tables;

pub(crate) use build::{Facts, build};
pub use schema::{LatencyUs, PaceReport, Report, ResultRow, SCHEMA, StalenessUs};
pub use tables::tables;
