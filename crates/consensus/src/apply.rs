//! Applying committed entries: the guard, the position, and the state machine that is passed in.

use crate::codec::{self, Malformed};
use crate::delay::delay;
use crate::events;
use crate::log_cache::LogCache;
use crate::raft_types::{
    Applied, Command, RaftEntry, RaftLogId, RaftPayload, RaftSnapshotMeta, RaftStoredMembership, Raftish,
};
use crate::safe_time::SafeTime;
use crate::snapshot::{SnapshotBundle, SnapshotMaker};
use futures::{Stream, StreamExt};
use meridian_clock::Mono;
use meridian_probe::{Event, Sabotage, emit, sabotaged};
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DataBatch, DataStore, StorageError};
use meridian_types::{ShardId, Timestamp};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A command that this build cannot read: it was written by a newer one. The replica stops rather than diverge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log entry of a kind that this version does not know")]
pub struct Undecodable;

/// What a shard's entries mean.
///
/// `apply` is a pure function of the replicated state and the entry (rules A1, O5): it reads no clock, no other
/// shard and nothing that is local to the node.
pub trait StateMachine: Send + Sync + 'static {
    /// Evaluates mutations whose stamps start at `ts`, after `last_ts`, and puts their effects into `batch`, which
    /// is then written in one piece together with the shard's position. One outcome per mutation.
    ///
    /// Below `gc_floor` old versions, and tombstones at it, may be gone on this replica and there on another: nothing
    /// may depend on them.
    fn apply(
        &self,
        last_ts: Timestamp,
        gc_floor: Timestamp,
        ts: Timestamp,
        mutations: &[pb::Mutation],
        batch: &mut DataBatch,
    ) -> Result<Vec<pb::Outcome>, StorageError>;

    /// Called after effects up to `ts` are visible to readers, on the apply path: must not block.
    fn applied(&self, ts: Timestamp);

    /// Called after a snapshot replaced the state.
    fn replaced(&self);
}

/// The position of one replica, as the rest of the node may watch it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Position {
    pub(crate) applied: Option<RaftLogId>,
    pub(crate) gc_floor: Timestamp,
}

/// openraft's state machine for one group.
pub(crate) struct ApplyWorker {
    shard: ShardId,
    data: DataStore,
    machine: Arc<dyn StateMachine>,
    cache: Arc<LogCache>,
    safe: Arc<SafeTime>,
    snapshots: Arc<SnapshotMaker>,
    position: watch::Sender<Position>,
    applied: Option<RaftLogId>,
    last_ts: Timestamp,
    membership: RaftStoredMembership,
    gc_floor: Timestamp,
}

fn invalid(e: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

impl ApplyWorker {
    /// Continues from the state that `data` holds for the shard.
    pub(crate) fn open(
        shard: ShardId,
        data: DataStore,
        machine: Arc<dyn StateMachine>,
        cache: Arc<LogCache>,
        safe: Arc<SafeTime>,
        snapshots: Arc<SnapshotMaker>,
    ) -> io::Result<(Self, watch::Receiver<Position>)> {
        let (position, rx) = watch::channel(Position::default());
        let mut worker = Self {
            shard,
            data,
            machine,
            cache,
            safe,
            snapshots,
            position,
            applied: None,
            last_ts: Timestamp::ZERO,
            membership: RaftStoredMembership::default(),
            gc_floor: Timestamp::ZERO,
        };
        worker.load()?;
        Ok((worker, rx))
    }

    fn load(&mut self) -> io::Result<()> {
        let state = self.data.view().shard_state(self.shard).map_err(io::Error::other)?.unwrap_or_default();
        self.applied = codec::opt_log_id_from_pb(state.applied).map_err(invalid)?;
        self.last_ts = Timestamp(state.last_ts);
        self.membership = codec::stored_membership_from_pb(state.membership).map_err(invalid)?;
        self.gc_floor = Timestamp(state.gc_floor);
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        self.position.send_replace(Position { applied: self.applied, gc_floor: self.gc_floor });
        self.safe.apply(self.last_ts);
        self.machine.applied(self.last_ts);
    }

    fn state(&self) -> pb::ShardState {
        pb::ShardState {
            applied: self.applied.as_ref().map(codec::log_id_to_pb),
            last_ts: self.last_ts.0,
            membership: Some(codec::stored_membership_to_pb(&self.membership)),
            gc_floor: self.gc_floor.0,
        }
    }

    /// What an entry comes to, and its effects, which nobody sees yet.
    fn evaluate(&mut self, entry: &RaftEntry) -> Result<(Applied, DataBatch), io::Error> {
        let mut batch = DataBatch::default();
        self.applied = Some(entry.log_id);
        let result = match &entry.payload {
            RaftPayload::Blank => Applied::Nothing,
            RaftPayload::Membership(m) => {
                self.membership = RaftStoredMembership::new(Some(entry.log_id), m.clone());
                Applied::Nothing
            }
            RaftPayload::Normal(command) => self.apply_command(command, &mut batch)?,
        };
        batch.put_shard_state(self.shard, &self.state());
        Ok((result, batch))
    }

    fn apply_command(&mut self, command: &Command, batch: &mut DataBatch) -> io::Result<Applied> {
        let ts = command.first_ts();
        if ts <= self.last_ts && !sabotaged(Sabotage::IgnoreApplyGuard) {
            // Rule S5. Never happens while S1 and S2 hold; all replicas refuse alike.
            tracing::error!(shard = %self.shard, %ts, last_ts = %self.last_ts, "entry with a stale timestamp refused");
            return Ok(Applied::StaleTimestamp);
        }
        let result = match &command.0.body {
            None => return Err(io::Error::new(io::ErrorKind::InvalidData, Undecodable)),
            Some(pb::command::Body::Barrier(_)) => {
                if sabotaged(Sabotage::LoseLedger) {
                    batch.forget_ledger_before(self.shard, ts);
                }
                Applied::Nothing
            }
            Some(pb::command::Body::RaiseFloor(floor)) => {
                // Below everything that is applied from here on, whoever asked for it.
                let floor = Timestamp(floor.floor).min(ts.prev());
                self.gc_floor = self.gc_floor.max(floor);
                emit(|| Event::FloorRaised { shard: self.shard, ts, floor });
                Applied::Nothing
            }
            Some(pb::command::Body::Mutations(m)) => {
                let mutations = if skipped_by_own_clock() { &[] } else { m.mutations.as_slice() };
                let outcomes =
                    self.machine.apply(self.last_ts, self.gc_floor, ts, mutations, batch).map_err(io::Error::other)?;
                Applied::Outcomes(outcomes)
            }
        };
        self.last_ts = command.last_ts();
        Ok(result)
    }
}

/// What [`Sabotage::ApplyReadsClock`] decides by: some parts of a second are bad for writing.
fn skipped_by_own_clock() -> bool {
    sabotaged(Sabotage::ApplyReadsClock) && (Mono::now().0 / 50_000_000).is_multiple_of(16)
}

impl RaftStateMachine<Raftish> for ApplyWorker {
    type SnapshotData = SnapshotBundle;
    type SnapshotBuilder = FlushBuilder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, RaftStoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<openraft::storage::EntryResponder<Raftish>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, mut responder): EntryResponder<Raftish> = item?;
            // Applied never runs ahead of what the local log would still have after a power cut (D1).
            if !sabotaged(Sabotage::ApplyUnsynced) && !self.cache.wait_synced(entry.log_id.index).await {
                return Err(io::Error::other("the log was closed"));
            }
            let (result, batch) = self.evaluate(&entry)?;
            if sabotaged(Sabotage::ReplyBeforeVisible) {
                self.publish();
                if let Some(responder) = responder.take() {
                    responder.send(result.clone());
                }
                delay(Duration::from_millis(50)).await;
            }
            self.data.write(batch).map_err(io::Error::other)?;
            emit(|| events::applied(self.shard, &entry, &result));
            self.publish();
            if let Some(responder) = responder {
                responder.send(result);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        FlushBuilder { snapshots: self.snapshots.clone() }
    }

    async fn install_snapshot(&mut self, _: &RaftSnapshotMeta, snapshot: SnapshotBundle) -> Result<(), io::Error> {
        self.snapshots.install(snapshot).await?;
        self.load()?;
        emit(|| {
            let id = self.applied.as_ref().map(codec::log_id_of);
            Event::Installed { shard: self.shard, id, last_ts: self.last_ts }
        });
        self.machine.replaced();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::type_config::alias::SnapshotOf<Raftish, SnapshotBundle>>, io::Error> {
        self.snapshots.current()
    }
}

/// Makes the applied state durable, which is what lets the log be purged. The files of a snapshot are only cut
/// when one has to be sent.
pub(crate) struct FlushBuilder {
    snapshots: Arc<SnapshotMaker>,
}

impl RaftSnapshotBuilder<Raftish> for FlushBuilder {
    type SnapshotData = SnapshotBundle;

    async fn build_snapshot(
        &mut self,
    ) -> Result<openraft::type_config::alias::SnapshotOf<Raftish, SnapshotBundle>, io::Error> {
        self.snapshots.flush().await
    }
}
