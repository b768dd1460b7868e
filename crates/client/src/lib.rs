//! The client: sessions, nearest gateway, retries.
//!
//! This crate knows what no server can know: what a program has seen so far (its causality token), which copies of a
//! request were ever sent, and therefore what may truthfully be said of an operation whose answers were lost.
//!
//! ```no_run
//! # async fn example() -> Result<(), meridian_client::Error> {
//! use meridian_client::{Client, ClientConfig, Consistency, Gateway, Transaction};
//!
//! let gateways = vec![Gateway::new("127.0.0.1:26600")];
//! let client = Client::connect(ClientConfig::new(gateways)).await?;
//! let session = client.session();
//! session.put("cities", "lisbon", "545000").await?;
//! let reply = session.get_causal("cities", "lisbon").await?;
//! println!("{:?}, from {} in {}", reply.value, reply.served_by, reply.region);
//! let raise = Transaction::new().if_value("lisbon", "545000").put("lisbon", "545001");
//! session.transact("cities", &raise).await?;
//! # Ok(()) }
//! ```

mod admin;
mod attempts;
mod client;
mod config;
mod error;
mod gateways;
mod pipeline;
mod reply;
mod scan;
mod session;
#[cfg(test)]
mod tests;
mod transaction;

pub use admin::TableOptions;
pub use client::Client;
pub use config::{ClientConfig, Gateway, RetryPolicy};
pub use error::{Error, Result};
pub use meridian_types::{
    Achievable, CausalityToken, Consistency, Fate, KeyRange, Placement, Reason, RequestId, Timestamp, Within,
};
pub use reply::{Reply, Row};
pub use scan::{Scan, ScanOptions};
pub use session::Session;
pub use transaction::Transaction;
