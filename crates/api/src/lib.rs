//! gRPC services and the gateway: how a request finds its shard, its replica and its answer.
//!
//! This crate alone knows how a client's request is routed, retried inside the cluster, released by its clock
//! and answered; what is committed and what may be read it asks the crates below.
//!
//! * [`Context`]: what all services of a node share.
//! * `serve`: answers at one replica. `global_reads`: of those, the linearizable ones that ask nobody. `gateway`: finds the
//!   replica, local or remote. `floor`: what physics asks.
//! * `within`: reads with a latency budget: which level fits, and falling back in time.
//! * `admission`: what requests have in memory, and when that is too much.
//! * `demand`: where the requests of the shards that are led here come from.
//! * `links`: streams over which requests are forwarded to other nodes in batches.
//! * `kv`, `tables`, `cluster`: the public services. `peer`, `forwarded`: the service between nodes. `http`: health, metrics.

mod admission;
mod cluster;
mod compact;
mod context;
mod demand;
mod failure;
mod floor;
mod forwarded;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod global_reads;
mod http;
mod kv;
mod links;
mod peer;
mod serve;
mod services;
mod tables;
mod within;

pub use cluster::node_status;
pub use context::{Context, Deadlines, Parts};
pub use demand::Demand;
pub use http::http_routes;
pub use services::routes;
pub use tables::catalog_is_current;
