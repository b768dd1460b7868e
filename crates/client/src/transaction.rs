//! A transaction: conditions, writes and reads that take effect together or not at all.

use bytes::Bytes;
use meridian_proto::v1::{self as pb, precondition::Condition, write_op::Action};
use meridian_types::Timestamp;

/// Preconditions, writes and reads of one shard, evaluated at one commit timestamp. All preconditions must hold, or
/// nothing is written and the call fails with [`Reason::PreconditionFailed`](crate::Reason::PreconditionFailed).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transaction {
    pub(crate) preconditions: Vec<pb::Precondition>,
    pub(crate) writes: Vec<pb::WriteOp>,
    pub(crate) reads: Vec<Bytes>,
}

impl Transaction {
    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires that `key` has exactly this value.
    #[must_use]
    pub fn if_value(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.require(key, Condition::Value(value.into()))
    }

    /// Requires that `key` has a value.
    #[must_use]
    pub fn if_exists(self, key: impl Into<Bytes>) -> Self {
        self.require(key, Condition::Exists(true))
    }

    /// Requires that `key` has no value.
    #[must_use]
    pub fn if_absent(self, key: impl Into<Bytes>) -> Self {
        self.require(key, Condition::Exists(false))
    }

    /// Requires that `key` is still at this version; [`Timestamp::ZERO`]: that it has none.
    #[must_use]
    pub fn if_version(self, key: impl Into<Bytes>, version: Timestamp) -> Self {
        self.require(key, Condition::Version(version.0))
    }

    /// Writes a value.
    #[must_use]
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.write(key, Action::Put(value.into()))
    }

    /// Removes a key. Removing an absent key succeeds.
    #[must_use]
    pub fn delete(self, key: impl Into<Bytes>) -> Self {
        self.write(key, Action::Delete(pb::write_op::Remove {}))
    }

    /// Returns the value that `key` had before the writes.
    #[must_use]
    pub fn read(mut self, key: impl Into<Bytes>) -> Self {
        self.reads.push(key.into());
        self
    }

    /// Whether nothing was asked of it.
    pub fn is_empty(&self) -> bool {
        self.preconditions.is_empty() && self.writes.is_empty() && self.reads.is_empty()
    }

    fn require(mut self, key: impl Into<Bytes>, condition: Condition) -> Self {
        self.preconditions.push(pb::Precondition { key: key.into(), condition: Some(condition) });
        self
    }

    fn write(mut self, key: impl Into<Bytes>, action: Action) -> Self {
        self.writes.push(pb::WriteOp { key: key.into(), action: Some(action) });
        self
    }
}
