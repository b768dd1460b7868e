//! Backups of a stopped node.

use super::make::{Source, make, room_at, surely_has};
use super::{BackedUp, BackupError, Progress, ShardScope};
use crate::StorageError;
use crate::inspect::StoppedNode;
use meridian_types::{KeyRange, ShardId, TableId, Timestamp};
use std::path::Path;

impl StoppedNode {
    /// The shards of the node, as a backup wants them, in order.
    ///
    /// * Errors: [`BackupError::NoScope`] for a shard of which nothing says which keys it has.
    pub fn shard_scopes(&self) -> Result<Vec<ShardScope>, BackupError> {
        let positions = self.data.all_positions()?;
        let mut shards: Vec<ShardId> = self.raft.shards()?.into_iter().chain(positions.into_keys()).collect();
        shards.sort_unstable();
        shards.dedup();
        shards.into_iter().map(|shard| self.shard_scope(shard)).collect()
    }

    fn shard_scope(&self, shard: ShardId) -> Result<ShardScope, BackupError> {
        let log = self.raft.shard(shard);
        let (table, range) = match log.scope()? {
            Some(scope) => scope,
            None if shard == ShardId::CATALOG => (TableId::CATALOG, KeyRange::all()),
            None => return Err(BackupError::NoScope { shard }),
        };
        let state = self.data.view().shard_state(shard)?;
        let applied = Timestamp(state.map_or(0, |state| state.last_ts));
        Ok(ShardScope { shard, table, range, closed: log.closed_at(applied)?.unwrap_or(Timestamp::ZERO) })
    }

    /// The newest timestamp that every one of these shards surely has everything up to, and the shard that stops it
    /// there.
    ///
    /// * Errors: [`BackupError::NoPosition`], [`BackupError::Installing`], [`BackupError::NoShards`].
    pub fn newest_closed(&self, shards: &[ShardScope]) -> Result<(Timestamp, ShardId), BackupError> {
        let view = self.data.view();
        let mut newest: Option<(Timestamp, ShardId)> = None;
        for scope in shards {
            let has = surely_has(&self.raft, &view, scope)?;
            newest = Some(newest.map_or((has, scope.shard), |least| least.min((has, scope.shard))));
        }
        newest.ok_or(BackupError::NoShards)
    }

    /// As [`Store::back_up`](crate::Store::back_up), of the data that is on the disk: what the node had applied and not
    /// flushed when it stopped is not in it, and counts as not applied.
    pub fn back_up(
        &self,
        shards: &[ShardScope],
        at: Timestamp,
        to: &Path,
        progress: impl FnMut(Progress<'_>),
    ) -> Result<BackedUp, BackupError> {
        self.outside(to)?;
        let [identity, _] = self.identities();
        let source = Source { raft: &self.raft, data: &self.data, identity: identity.clone() };
        make(&source, shards, at, to, &room_at(to)?, progress)
    }

    /// Fails for a folder inside the data directory.
    fn outside(&self, to: &Path) -> Result<(), BackupError> {
        let real = |path: &Path| std::fs::canonicalize(path).map_err(StorageError::file("locate", path));
        let to = std::path::absolute(to).map_err(StorageError::file("locate", to))?;
        let parent = to.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        if real(parent)?.starts_with(real(self.dir())?) {
            return Err(BackupError::Inside { path: to });
        }
        Ok(())
    }
}
