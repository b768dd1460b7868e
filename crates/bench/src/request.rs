//! The requests that the harness makes and the answers that it measures, apart from any client.
//!
//! Drivers speak to a [`Session`]; the real one wraps the Rust client ([`crate::client_session`]), tests bring
//! scripted ones.

use bytes::Bytes;
use meridian_types::{CausalityToken, Consistency, Error, RegionId, Timestamp};
use std::future::Future;
use std::time::Duration;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reads one key.
    Get {
        /// The key.
        key: Bytes,
        /// How fresh.
        consistency: Consistency,
    },
    /// Writes one key.
    Put {
        /// The key.
        key: Bytes,
        /// The new value.
        value: Bytes,
    },
    /// Removes one key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Reads up to `rows` keys from `start` on, in key order.
    Scan {
        /// First key, included.
        start: Bytes,
        /// Most rows.
        rows: u32,
        /// How fresh.
        consistency: Consistency,
    },
    /// Writes one key if it is still at this version; zero: if it is absent.
    PutIfVersion {
        /// The key.
        key: Bytes,
        /// The version that it must have.
        version: Timestamp,
        /// The new value.
        value: Bytes,
    },
}

impl Request {
    /// Whether it changes data.
    pub fn is_write(&self) -> bool {
        match self {
            Self::Put { .. } | Self::Delete { .. } | Self::PutIfVersion { .. } => true,
            Self::Get { .. } | Self::Scan { .. } => false,
        }
    }

    /// The consistency that a read asks for.
    pub fn consistency(&self) -> Option<&Consistency> {
        match self {
            Self::Get { consistency, .. } | Self::Scan { consistency, .. } => Some(consistency),
            Self::Put { .. } | Self::Delete { .. } | Self::PutIfVersion { .. } => None,
        }
    }
}

/// One version of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// Its commit timestamp.
    pub version: Timestamp,
}

/// What a request returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Commit timestamp of a write, read timestamp of a read.
    pub timestamp: Timestamp,
    /// Region of the replica that served it.
    pub served_in: RegionId,
    /// How old the state that was read may be; zero for writes and linearizable reads.
    pub staleness: Duration,
    /// What the session has seen, this answer included.
    pub token: CausalityToken,
    /// Attempts made, this one included.
    pub attempts: u32,
    /// What a get (at most one row) or scan found.
    pub rows: Vec<Row>,
}

/// A request that failed after all its attempts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// The last word on it.
    pub error: Error,
    /// Attempts made.
    pub attempts: u32,
}

/// One client's conversation with the cluster: one request at a time.
pub trait Session: Send + 'static {
    /// What the session has seen so far.
    fn token(&self) -> CausalityToken;

    /// Makes one request, with whatever retries are safe.
    fn call(&mut self, table: &str, request: Request) -> impl Future<Output = Result<Answer, Failure>> + Send;
}
