//! What a successful operation returns.

use bytes::Bytes;
use meridian_proto::v1 as pb;
use meridian_types::{CausalityToken, Consistency, NodeId, Receipt, RegionId, Timestamp};
use meridian_wire::header::Served;
use std::time::Duration;

/// A result, with everything that the reply said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<T> {
    /// The result.
    pub value: T,
    /// Commit timestamp of a write, read timestamp of a read.
    pub timestamp: Timestamp,
    /// The node whose replica served it.
    pub served_by: NodeId,
    /// That node's region.
    pub region: RegionId,
    /// How old the state that was read may be; zero for writes and linearizable reads.
    pub staleness: Duration,
    /// What this reply alone has shown. The session has taken it in already.
    pub token: CausalityToken,
    /// Where the time went, when the session asks for receipts.
    pub receipt: Option<Receipt>,
    /// The consistency that a read with a latency budget has got.
    pub given: Option<Consistency>,
    /// How many attempts it took, this one included.
    pub attempts: u32,
}

impl<T> Reply<T> {
    pub(crate) fn new(value: T, served: Served, attempts: u32) -> Self {
        Self {
            value,
            timestamp: served.timestamp,
            served_by: served.by,
            region: served.region,
            staleness: served.staleness,
            token: served.token,
            receipt: served.receipt,
            given: served.given,
            attempts,
        }
    }

    /// The same reply with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Reply<U> {
        Reply {
            value: f(self.value),
            timestamp: self.timestamp,
            served_by: self.served_by,
            region: self.region,
            staleness: self.staleness,
            token: self.token,
            receipt: self.receipt,
            given: self.given,
            attempts: self.attempts,
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
    /// The commit timestamp of the write that gave it this value.
    pub version: Timestamp,
}

impl From<pb::Row> for Row {
    fn from(row: pb::Row) -> Self {
        Self { key: row.key, value: row.value, version: Timestamp(row.version) }
    }
}
