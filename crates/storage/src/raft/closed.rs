//! The record beside a replica's log of what was closed when its node stopped.
//!
//! Closed timestamps live in memory: after a start a replica has none before its leader tells it (rule C5). But what
//! was closed once stays true for ever of whatever has applied the position (rule C4), so a node that stops may note it
//! for those who look at its disk. Data that has applied more than the position is covered as well; for data that has
//! applied less the note does not count.

use super::RaftLog;
use crate::StorageError;
use meridian_proto::internal::v1::ClosedMark;
use meridian_types::Timestamp;
use prost::Message as _;

/// Its name among the marks.
const CLOSED: &str = "closed";

impl RaftLog {
    /// Notes that nothing at or below `closed` will come after what was stamped up to `position`; durable on return.
    /// Blocks for a sync, as [`RaftLog::mark`] does.
    pub fn note_closed(&self, closed: Timestamp, position: Timestamp) -> Result<(), StorageError> {
        let mark = ClosedMark { closed: closed.0, position: position.0 };
        self.mark(CLOSED, Some(mark.encode_to_vec().into()))
    }

    /// What was noted as closed, for data with everything stamped up to `applied`; `None` if nothing that holds there.
    ///
    /// * Errors: [`StorageError::Corrupt`].
    pub fn closed_at(&self, applied: Timestamp) -> Result<Option<Timestamp>, StorageError> {
        let Some(mark) = self.get_mark(CLOSED)? else { return Ok(None) };
        let bad = |error| StorageError::corrupt(format!("what was closed of {}: {error}", self.shard()));
        let mark = ClosedMark::decode(mark).map_err(bad)?;
        Ok((mark.position <= applied.0).then_some(Timestamp(mark.closed)))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Store, StoreOptions};
    use meridian_types::{ShardId, Timestamp};

    #[test]
    fn what_was_closed_counts_only_where_its_position_is_applied() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let log = store.raft.shard(ShardId(4));
        assert_eq!(log.closed_at(Timestamp::MAX).unwrap(), None);
        log.note_closed(Timestamp(500), Timestamp(20)).unwrap();
        assert_eq!(log.closed_at(Timestamp(19)).unwrap(), None);
        assert_eq!(log.closed_at(Timestamp(20)).unwrap(), Some(Timestamp(500)));
        log.mark(super::CLOSED, Some("x".into())).unwrap();
        assert!(log.closed_at(Timestamp(20)).unwrap_err().to_string().contains("closed of s4"));
    }
}
