//! Applying committed entries: the guard, the position, and the state machine that is passed in.
//!
//! Entries that are committed and synced here already are applied together: evaluated in order, written in one batch
//! with the position that they lead to, visible at once, and only then answered. How many share a batch is each
//! replica's own business, so nothing that is decided may depend on it (A1).

use crate::backlog::Backlog;
use crate::codec::{self, Malformed};
use crate::delay::delay;
use crate::early::acceptor::Acceptor;
use crate::early::outcomes::Outcomes;
use crate::events;
use crate::log_cache::LogCache;
use crate::raft_types::{Applied, Command, RaftLogId, RaftPayload, RaftSnapshotMeta, RaftStoredMembership, Raftish};
use crate::safe_time::SafeTime;
use crate::snapshot::{SnapshotBundle, SnapshotMaker};
use futures::{FutureExt, Stream, StreamExt};
use meridian_clock::{Mono, sleep};
use meridian_probe::{Event, Sabotage, emit, sabotaged};
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DataBatch, DataStore, StorageError};
use meridian_types::{RaftTiming, ShardId, Timestamp};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Most entries applied together: bounds the batch, and how long the first one's answer waits for the last one's.
const TOGETHER_MAX: usize = 128;
/// Pause before a write, or a flush, that found no room on the disk is tried again.
const NO_SPACE_PAUSE: Duration = Duration::from_millis(500);

/// A command that this build cannot read: it was written by a newer one. The replica stops rather than diverge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log entry of a kind that this version does not know")]
pub struct Undecodable;

/// The mutations of one entry; mutation `i` has the stamp `ts + i`.
#[derive(Clone, Copy, Debug)]
pub struct EntryMutations<'a> {
    /// The last stamp in the log before this entry: the same on every replica, however entries are batched.
    pub last_ts: Timestamp,
    /// The shard's GC floor before this entry.
    pub gc_floor: Timestamp,
    /// The first mutation's stamp.
    pub ts: Timestamp,
    /// The mutations.
    pub mutations: &'a [pb::Mutation],
}

/// What a shard's entries mean.
///
/// `apply` is a pure function of the replicated state and the entries (rules A1, O5): it reads no clock, no other
/// shard and nothing that is local to the node.
pub trait StateMachine: Send + Sync + 'static {
    /// Evaluates consecutive entries, each after the effects of those before it, and puts their effects into `batch`,
    /// which is then written in one piece together with the shard's position. For each entry one outcome per mutation.
    ///
    /// Below an entry's `gc_floor` old versions, and tombstones at it, may be gone on this replica and there on another:
    /// nothing may depend on them.
    fn apply(
        &self,
        entries: &[EntryMutations<'_>],
        batch: &mut DataBatch,
    ) -> Result<Vec<Vec<pb::Outcome>>, StorageError>;

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
    pub(crate) lead: Duration,
    /// The timers that the group has agreed on; `None`: those that it was created with.
    pub(crate) timing: Option<RaftTiming>,
}

/// What the apply path shares with the log whose entries it applies, and with those who wait for them.
pub(crate) struct LogSide {
    pub(crate) cache: Arc<LogCache>,
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) outcomes: Arc<Outcomes>,
    pub(crate) backlog: Backlog,
}

/// openraft's state machine for one group.
pub(crate) struct ApplyWorker {
    shard: ShardId,
    data: DataStore,
    machine: Arc<dyn StateMachine>,
    log: LogSide,
    safe: Arc<SafeTime>,
    snapshots: Arc<SnapshotMaker>,
    position: watch::Sender<Position>,
    applied: Option<RaftLogId>,
    last_ts: Timestamp,
    membership: RaftStoredMembership,
    gc_floor: Timestamp,
    /// How far ahead of its clock a leader may close.
    lead: Duration,
    /// The timers that the group has agreed on.
    timing: Option<RaftTiming>,
}

fn is_no_space(e: &io::Error) -> bool {
    e.get_ref().and_then(|cause| cause.downcast_ref()).is_some_and(StorageError::is_no_space)
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
        log: LogSide,
        safe: Arc<SafeTime>,
        snapshots: Arc<SnapshotMaker>,
    ) -> io::Result<(Self, watch::Receiver<Position>)> {
        let (position, rx) = watch::channel(Position::default());
        let mut worker = Self {
            shard,
            data,
            machine,
            log,
            safe,
            snapshots,
            position,
            applied: None,
            last_ts: Timestamp::ZERO,
            membership: RaftStoredMembership::default(),
            gc_floor: Timestamp::ZERO,
            lead: Duration::ZERO,
            timing: None,
        };
        worker.load()?;
        Ok((worker, rx))
    }

    fn load(&mut self) -> io::Result<()> {
        let state = self.data.view().shard_state(self.shard).map_err(io::Error::other)?.unwrap_or_default();
        self.applied = codec::opt_log_id_from_pb(state.applied).map_err(invalid)?;
        self.last_ts = Timestamp(state.last_ts);
        self.membership = codec::stored_membership_from_pb(state.membership).map_err(invalid)?;
        if self.applied.is_some() {
            self.log.acceptor.learn_membership(&self.membership);
        }
        self.gc_floor = Timestamp(state.gc_floor);
        self.lead = Duration::from_nanos(state.lead_ns);
        let timing = |t| meridian_wire::timing::decode(t).ok_or_else(|| invalid(Malformed("the agreed timers")));
        self.timing = state.timing.as_ref().map(timing).transpose()?;
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        let Self { applied, gc_floor, lead, timing, .. } = *self;
        self.position.send_replace(Position { applied, gc_floor, lead, timing });
        self.safe.apply(self.last_ts);
        self.machine.applied(self.last_ts);
    }

    fn flush_builder(&self, flush: bool) -> FlushBuilder {
        FlushBuilder { snapshots: self.snapshots.clone(), backlog: self.log.backlog.clone(), flush }
    }

    fn state(&self) -> pb::ShardState {
        pb::ShardState {
            applied: self.applied.as_ref().map(codec::log_id_to_pb),
            last_ts: self.last_ts.0,
            membership: Some(codec::stored_membership_to_pb(&self.membership)),
            gc_floor: self.gc_floor.0,
            lead_ns: u64::try_from(self.lead.as_nanos()).unwrap_or(u64::MAX),
            timing: self.timing.map(meridian_wire::timing::encode),
        }
    }

    /// Tells those who wait at this node what their requests came to.
    fn tell_origin(&self, entries: &[EntryResponder<Raftish>], results: &[Applied]) {
        if !self.log.outcomes.is_waited_for() {
            return;
        }
        for ((entry, _), result) in entries.iter().zip(results) {
            if let (RaftPayload::Normal(command), Applied::Outcomes(outcomes)) = (&entry.payload, result)
                && let Some(pb::command::Body::Mutations(m)) = &command.message().body
            {
                let ids = m.mutations.iter().map(|m| m.request_id.as_ref());
                self.log.outcomes.applied(ids.zip(outcomes));
            }
        }
    }

    /// What the entries come to, and their effects, which nobody sees yet.
    fn evaluate(&mut self, entries: &[EntryResponder<Raftish>]) -> Result<(Vec<Applied>, DataBatch), io::Error> {
        let mut batch = DataBatch::default();
        let mut results = Vec::with_capacity(entries.len());
        let (mut stamped, mut places) = (Vec::new(), Vec::new());
        for (entry, _) in entries {
            self.applied = Some(entry.log_id);
            let result = match &entry.payload {
                RaftPayload::Blank => Applied::Nothing,
                RaftPayload::Membership(m) => {
                    self.membership = RaftStoredMembership::new(Some(entry.log_id), m.clone());
                    Applied::Nothing
                }
                RaftPayload::Normal(command) => {
                    let (last_ts, gc_floor) = (self.last_ts, self.gc_floor);
                    let (result, mutations) = self.take(command, &mut batch)?;
                    if let Some(mutations) = mutations {
                        places.push(results.len());
                        stamped.push(EntryMutations { last_ts, gc_floor, ts: command.first_ts(), mutations });
                    }
                    result
                }
            };
            results.push(result);
        }
        if !stamped.is_empty() {
            let outcomes = self.machine.apply(&stamped, &mut batch).map_err(io::Error::other)?;
            for (place, outcomes) in places.into_iter().zip(outcomes) {
                results[place] = Applied::Outcomes(outcomes);
            }
        }
        batch.put_shard_state(self.shard, &self.state());
        Ok((results, batch))
    }

    /// Takes a command into the position; its mutations are evaluated afterwards.
    fn take<'a>(
        &mut self,
        command: &'a Command,
        batch: &mut DataBatch,
    ) -> io::Result<(Applied, Option<&'a [pb::Mutation]>)> {
        let ts = command.first_ts();
        if ts <= self.last_ts && !sabotaged(Sabotage::IgnoreApplyGuard) {
            // Rule S5. Never happens while S1 and S2 hold; all replicas refuse alike.
            tracing::error!(shard = %self.shard, %ts, last_ts = %self.last_ts, "entry with a stale timestamp refused");
            return Ok((Applied::StaleTimestamp, None));
        }
        let mut mutations = None;
        match &command.message().body {
            None => return Err(io::Error::new(io::ErrorKind::InvalidData, Undecodable)),
            Some(pb::command::Body::Barrier(_)) => {
                if sabotaged(Sabotage::LoseLedger) {
                    batch.forget_ledger_before(self.shard, ts);
                }
            }
            Some(pb::command::Body::RaiseFloor(floor)) => {
                // Below everything that is applied from here on, whoever asked for it.
                let floor = Timestamp(floor.floor).min(ts.prev());
                self.gc_floor = self.gc_floor.max(floor);
                emit(|| Event::FloorRaised { shard: self.shard, ts, floor });
            }
            Some(pb::command::Body::SetTiming(set)) => {
                // No leader proposes any that are out of order; from whatever is, all replicas turn away alike.
                if let Some(timing) = set.timing.as_ref().and_then(meridian_wire::timing::decode) {
                    self.timing = Some(timing);
                    emit(|| Event::TimersAgreed { shard: self.shard, ts, timing });
                }
            }
            Some(pb::command::Body::Mutations(m)) => {
                mutations = Some(if skipped_by_own_clock() { &[] } else { m.mutations.as_slice() });
            }
        }
        self.last_ts = command.last_ts();
        let lead = command.lead();
        if lead != self.lead {
            self.lead = lead;
            emit(|| Event::LeadTime { shard: self.shard, ts, lead });
        }
        Ok((Applied::Nothing, mutations))
    }

    /// Applies entries that are synced here: visible together, then answered.
    async fn apply_together(&mut self, mut entries: Vec<EntryResponder<Raftish>>) -> Result<(), io::Error> {
        let (results, batch) = self.evaluate(&entries)?;
        if sabotaged(Sabotage::ReplyBeforeVisible) {
            self.publish();
            for ((_, responder), result) in entries.iter_mut().zip(&results) {
                if let Some(responder) = responder.take() {
                    responder.send(result.clone());
                }
            }
            delay(Duration::from_millis(50)).await;
        }
        while let Err(e) = self.data.write_ref(&batch) {
            if !e.is_no_space() {
                return Err(io::Error::other(e));
            }
            // What is chosen is applied, be it late: the store takes writes again by itself when there is room.
            tracing::warn!(shard = %self.shard, "applying waits for room on the disk: {e}");
            sleep(NO_SPACE_PAUSE).await;
        }
        for ((entry, _), result) in entries.iter().zip(&results) {
            emit(|| events::applied(self.shard, entry, result));
        }
        self.publish();
        self.tell_origin(&entries, &results);
        for ((_, responder), result) in entries.into_iter().zip(results) {
            if let Some(responder) = responder {
                responder.send(result);
            }
        }
        Ok(())
    }

    /// Waits until the first of the committed entries is synced here, and takes those that are. Applied never runs ahead
    /// of what the local log would still have after a power cut (D1).
    async fn synced(
        &self,
        committed: &mut VecDeque<EntryResponder<Raftish>>,
    ) -> Result<Vec<EntryResponder<Raftish>>, io::Error> {
        let Some((first, _)) = committed.front() else { return Ok(Vec::new()) };
        if sabotaged(Sabotage::ApplyUnsynced) {
            return Ok(committed.drain(..).collect());
        }
        if !self.log.cache.wait_synced(first.log_id.index).await {
            return Err(io::Error::other("the log was closed"));
        }
        let synced = self.log.cache.synced();
        // The watermark may have been lowered since; the first one was synced, and is committed: it cannot go any more.
        let count = committed.iter().take_while(|(entry, _)| entry.log_id.index < synced).count().max(1);
        Ok(committed.drain(..count).collect())
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
        let (mut committed, mut ended) = (VecDeque::new(), false);
        while !(ended && committed.is_empty()) {
            if committed.is_empty() {
                match entries.next().await {
                    Some(item) => committed.push_back(item?),
                    None => return Ok(()),
                }
            }
            while !ended && committed.len() < TOGETHER_MAX {
                match entries.next().now_or_never() {
                    Some(Some(item)) => committed.push_back(item?),
                    Some(None) => ended = true,
                    None => break,
                }
            }
            let ready = self.synced(&mut committed).await?;
            self.apply_together(ready).await?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self::SnapshotBuilder> {
        let applied = self.applied.map_or(0, |id| id.index);
        if !force && self.snapshots.keeps_log() {
            return None;
        }
        let flush = force || self.snapshots.is_flush_due(applied);
        Some(self.flush_builder(flush))
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.flush_builder(true)
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

/// Tells what of the applied state is durable, after a flush if one is due: that is what lets the log be purged. The files
/// of a snapshot are only cut when one has to be sent.
pub(crate) struct FlushBuilder {
    snapshots: Arc<SnapshotMaker>,
    backlog: Backlog,
    flush: bool,
}

impl RaftSnapshotBuilder<Raftish> for FlushBuilder {
    type SnapshotData = SnapshotBundle;

    async fn build_snapshot(
        &mut self,
    ) -> Result<openraft::type_config::alias::SnapshotOf<Raftish, SnapshotBundle>, io::Error> {
        loop {
            match self.snapshots.make_current(self.flush).await {
                Err(e) if is_no_space(&e) => {
                    tracing::warn!("a flush waits for room on the disk: {e}");
                    sleep(NO_SPACE_PAUSE).await;
                }
                done => {
                    self.backlog.flushed(|shard| self.snapshots.durable_index(shard));
                    return done;
                }
            }
        }
    }
}
