//! The state machine of a shard: transactions over versions and the request ledger.

use meridian_consensus::{EntryMutations, StateMachine};
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DataBatch, DataStore, StorageError};
use meridian_txn::{LogPosition, ShardScope, Stamped};
use meridian_types::Timestamp;
use tokio::sync::watch;

/// Evaluates mutations with `meridian-txn`, and tells whoever watches that the shard has changed.
pub(crate) struct ShardMachine {
    scope: ShardScope,
    data: DataStore,
    changed: Option<watch::Sender<Timestamp>>,
}

impl ShardMachine {
    /// For one shard. `changed` gets the applied stamp after every entry.
    pub(crate) fn new(scope: ShardScope, data: DataStore, changed: Option<watch::Sender<Timestamp>>) -> Self {
        Self { scope, data, changed }
    }
}

impl StateMachine for ShardMachine {
    fn apply(
        &self,
        entries: &[EntryMutations<'_>],
        batch: &mut DataBatch,
    ) -> Result<Vec<Vec<pb::Outcome>>, StorageError> {
        let stamped = entries.iter().map(|&EntryMutations { last_ts, gc_floor, ts, mutations }| Stamped {
            log: LogPosition { last_ts, gc_floor },
            ts,
            mutations,
        });
        meridian_txn::apply_all(&self.scope, &self.data.view(), &stamped.collect::<Vec<_>>(), batch)
    }

    fn applied(&self, ts: Timestamp) {
        if let Some(changed) = &self.changed {
            changed.send_replace(ts);
        }
    }

    fn replaced(&self) {
        if let Some(changed) = &self.changed {
            changed.send_modify(|_| {});
        }
    }
}
