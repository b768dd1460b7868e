//! The record beside a replica's log that says which keys it is of: written before it has any, and gone with the log.
//! Without the catalog nobody else knows.

use super::RaftLog;
use crate::StorageError;
use meridian_proto::internal::v1::ReplicaScope;
use meridian_types::{KeyRange, TableId};
use prost::Message as _;

/// Its name among the marks.
const SCOPE: &str = "scope";

impl RaftLog {
    /// Notes which keys the replica is of, unless that is noted already; durable on return. Blocks for a sync, as
    /// [`RaftLog::mark`] does.
    pub fn remember_scope(&self, table: TableId, range: &KeyRange) -> Result<(), StorageError> {
        if self.get_mark(SCOPE)?.is_some() {
            return Ok(());
        }
        let end = range.end.clone().unwrap_or_default();
        let scope = ReplicaScope { table: table.0, start: range.start.clone(), end };
        self.mark(SCOPE, Some(scope.encode_to_vec().into()))
    }

    /// Which keys the replica is of; `None`: nobody has noted it.
    ///
    /// * Errors: [`StorageError::Corrupt`] for a record that says nothing.
    pub fn scope(&self) -> Result<Option<(TableId, KeyRange)>, StorageError> {
        let Some(mark) = self.get_mark(SCOPE)? else { return Ok(None) };
        let bad = || StorageError::corrupt(format!("the record of which keys {} is of", self.shard()));
        let scope = ReplicaScope::decode(mark).map_err(|_| bad())?;
        let end = Some(scope.end).filter(|end| !end.is_empty());
        let range = KeyRange::new(scope.start, end).map_err(|_| bad())?;
        Ok(Some((TableId(scope.table), range)))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Store, StoreOptions};
    use meridian_types::{KeyRange, ShardId, TableId};

    #[test]
    fn the_first_scope_stays_and_one_that_says_nothing_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let log = store.raft.shard(ShardId(4));
        assert_eq!(log.scope().unwrap(), None);
        let range = KeyRange::new("a".into(), Some("m".into())).unwrap();
        log.remember_scope(TableId(7), &range).unwrap();
        log.remember_scope(TableId(8), &KeyRange::all()).unwrap();
        assert_eq!(log.scope().unwrap(), Some((TableId(7), range)));
        log.mark(super::SCOPE, Some("x".into())).unwrap();
        assert!(log.scope().unwrap_err().to_string().contains("which keys s4"));
        let whole = store.raft.shard(ShardId(5));
        whole.remember_scope(TableId(9), &KeyRange::all()).unwrap();
        assert_eq!(whole.scope().unwrap(), Some((TableId(9), KeyRange::all())));
    }
}
