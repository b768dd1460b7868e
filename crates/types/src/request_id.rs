//! Request ids: what makes a retry take effect once.

use crate::Timestamp;
use std::fmt;

/// Names one request of one client, over all its retries. It contains its issue time, so that a shard can say
/// truthfully "too old to tell" once it has dropped the record (invariants, rule X1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// When the client first issued the request, by its own clock.
    pub time: Timestamp,
    /// A random number, drawn once per client session.
    pub client: u64,
    /// Counts that client's requests.
    pub sequence: u64,
}

impl RequestId {
    /// Bytes of [`RequestId::to_bytes`].
    pub const LEN: usize = 24;

    /// Time first, all big endian: ids sort by age.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.time.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.client.to_be_bytes());
        out[16..].copy_from_slice(&self.sequence.to_be_bytes());
        out
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}-{}", self.time, self.client, self.sequence)
    }
}
