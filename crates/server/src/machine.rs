//! The state machine of a shard: transactions over versions and the request ledger.

use meridian_consensus::StateMachine;
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DataBatch, DataStore, StorageError};
use meridian_txn::{LogPosition, ShardScope};
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
        last_ts: Timestamp,
        gc_floor: Timestamp,
        ts: Timestamp,
        mutations: &[pb::Mutation],
        batch: &mut DataBatch,
    ) -> Result<Vec<pb::Outcome>, StorageError> {
        let log = LogPosition { last_ts, gc_floor };
        meridian_txn::apply(&self.scope, &self.data.view(), log, ts, mutations, batch)
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
