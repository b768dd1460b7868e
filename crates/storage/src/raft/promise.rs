//! The record beside a replica's log of the longest lease that it may have promised and may still have to keep (rule R3).
//!
//! A voter forgets with its Raft whom it has promised what. So before it takes part with timers that promise more than what
//! is noted, that is noted; after every start it refuses votes for as long as the note says, whatever it promises now; and
//! only then the note may say less.

use super::RaftLog;
use crate::StorageError;
use meridian_proto::internal::v1::PromiseMark;
use prost::Message as _;
use std::time::Duration;

/// Its name among the marks.
const PROMISE: &str = "promise";

impl RaftLog {
    /// Notes the longest lease that the replica may have to keep; durable on return, and with it everything that was
    /// appended to the log before. Blocks for a sync, as [`RaftLog::mark`] does.
    pub fn note_promise(&self, promise: Duration) -> Result<(), StorageError> {
        let promise_ms = u64::try_from(promise.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        self.mark(PROMISE, Some(PromiseMark { promise_ms }.encode_to_vec().into()))
    }

    /// The lease that was noted; `None`: it was never another than that of the timers that the shard was created with.
    ///
    /// * Errors: [`StorageError::Corrupt`] for a record that says nothing.
    pub fn promise(&self) -> Result<Option<Duration>, StorageError> {
        let Some(mark) = self.get_mark(PROMISE)? else { return Ok(None) };
        let bad = |error| StorageError::corrupt(format!("the lease that {} has promised: {error}", self.shard()));
        let mark = PromiseMark::decode(mark).map_err(bad)?;
        Ok(Some(Duration::from_millis(mark.promise_ms)))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Store, StoreOptions};
    use meridian_types::ShardId;
    use std::time::Duration;

    #[test]
    fn the_last_note_counts_after_a_restart_too() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let log = store.raft.shard(ShardId(4));
        assert_eq!(log.promise().unwrap(), None);
        log.note_promise(Duration::from_millis(1_200)).unwrap();
        log.note_promise(Duration::from_micros(600_001)).unwrap();
        drop((log, store));
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let log = store.raft.shard(ShardId(4));
        assert_eq!(log.promise().unwrap(), Some(Duration::from_millis(601)), "never less than what was noted");
        log.mark(super::PROMISE, Some("x".into())).unwrap();
        assert!(log.promise().unwrap_err().to_string().contains("that s4 has promised"));
    }
}
