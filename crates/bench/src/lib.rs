//! The benchmark harness: workloads, load, measurements, histories and reports.
//!
//! This crate knows what no other crate knows: how to load a cluster from every region so that a stall is not
//! hidden, what physics allows each operation, and how to record what clients saw so that it can be checked.
//!
//! A run is [`run`] on a cluster, or [`run_sessions`] on anything that is a [`Session`]. `docs/bench.md` describes
//! the report and the history.

mod client_session;
mod cluster;
mod driver;
mod error;
mod floors;
pub mod history;
mod history_file;
mod options;
mod progress;
mod report;
mod request;
mod run;
mod tally;
mod worker;
mod workload;

pub use client_session::ClientSession;
pub use cluster::{RegionTarget, TableSettings, run};
pub use error::{BadOption, BenchError};
pub use floors::{Floors, ShardPlacement};
pub use meridian_types::RttMatrix;
pub use options::{Arrivals, BenchOptions, IN_FLIGHT_MAX, Pace, ReadLevel, VALUE_BYTES_MIN};
pub use report::{LatencyUs, PaceReport, Report, ResultRow, SCHEMA, StalenessUs, tables};
pub use request::{Answer, Failure, Request, Row, Session};
pub use run::{ClusterFacts, RegionSessions, run_sessions};
pub use workload::{Distribution, UniqueValues, Workload, Zipfian, value_name};
