//! One replica of one shard: a Raft group's member on this node, and what it may answer.

mod lead;
mod moving;
#[cfg(test)]
mod promises;
mod running;
mod serving;
mod tasks;
mod timers;
mod transfer;
#[cfg(test)]
mod transfers;
mod voting;

use crate::apply::{Position, StateMachine};
use crate::backlog::{Backlog, FlushLags};
use crate::campaign;
use crate::early::commit::EarlyCommit;
use crate::early::outcomes::Outcomes;
use crate::early::{Acceptances, Awaited};
use crate::error::{ConsensusError, NotLeader};
use crate::heartbeats::{Beater, Heartbeats, State};
use crate::leadership::{LeaderParts, Leadership};
use crate::lease::QuorumAcks;
use crate::log_cache::LogCache;
use crate::log_store::LogStore;
use crate::memory::NodeMemory;
use crate::peers::Peers;
use crate::raft_types::{Member, Raft, RaftVote, Raftish};
use crate::safe_time::SafeTime;
use crate::sequencer::Closed;
use crate::snapshot::{SnapshotMaker, Transfers};
use meridian_clock::{Clock, Mono};
use meridian_probe::{Event, Sabotage, emit, sabotaged};
use meridian_proto::v1::RequestId;
use meridian_storage::{DataView, DiskLevel, DiskSpace, Store};
use meridian_types::{KeyRange, LogId, NodeId, RaftTiming, ShardId, TableId, Timestamp};
use openraft::async_runtime::watch::WatchReceiver;
use running::Builder;
pub(crate) use running::Running;
pub use serving::{Commit, ServeTimes};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
pub(crate) use voting::NoVote;

/// How far behind its leader a voter may be, in entries, to be handed the leadership.
const TRANSFER_LAG_MAX: u64 = 64;

/// What a replica is made of.
pub struct ReplicaOptions {
    /// The cluster; another one's messages are refused.
    pub cluster: Arc<str>,
    /// The shard.
    pub shard: ShardId,
    /// The table that the shard belongs to.
    pub table: TableId,
    /// The shard's keys.
    pub range: KeyRange,
    /// The timers that the group was created with, equal on all its members. Those that it has agreed on since come first.
    pub timing: RaftTiming,
    /// How far clocks may be apart: bounds timestamps from the future (rule S6).
    pub max_offset: Duration,
    /// This node's clock.
    pub clock: Clock,
    /// The other nodes.
    pub peers: Peers,
    /// This node's store.
    pub store: Store,
    /// What the entries mean.
    pub machine: Arc<dyn StateMachine>,
    /// What this node's replicas share of its memory.
    pub memory: NodeMemory,
    /// What the snapshots that it sends share.
    pub transfers: Transfers,
    /// This node's heartbeats.
    pub heartbeats: Heartbeats,
    /// Tells other nodes what it has accepted.
    pub acceptances: Acceptances,
}

/// See the module's documentation.
pub struct Replica {
    shard: ShardId,
    table: TableId,
    range: KeyRange,
    max_offset: Duration,
    clock: Clock,
    peers: Peers,
    builder: Builder,
    /// The Raft of now: another one, after a while without any, when the timers change.
    running: watch::Sender<Arc<Running>>,
    /// Held by whoever builds or stops it; whether it was stopped for good.
    building: tokio::sync::Mutex<bool>,
    cache: Arc<LogCache>,
    safe: Arc<SafeTime>,
    acks: Arc<QuorumAcks>,
    snapshots: Arc<SnapshotMaker>,
    backlog: Backlog,
    /// Told when the data has to be flushed for the log's sake.
    flush_due: Arc<Notify>,
    early: EarlyCommit,
    leadership: watch::Sender<Option<Arc<Leadership>>>,
    /// It was called to lead, and does not yet.
    called: AtomicBool,
    /// A lease may be promised that this process, or this Raft, knows nothing of: no votes, no elections.
    holding: AtomicBool,
    /// When a leader's message came last, or the replica was opened.
    heard: Mutex<Mono>,
    /// Whether it may stand for election.
    electable: AtomicBool,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

fn stopped(e: impl std::fmt::Display) -> ConsensusError {
    ConsensusError::Stopped(e.to_string())
}

/// The members of the effective membership beside this node.
pub(crate) fn followers(raft: &Raft) -> Vec<NodeId> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.nodes().filter(|(id, _)| **id != metrics.id).map(|(id, _)| NodeId(*id)).collect()
}

impl Replica {
    /// Opens the replica from what the store has and lets it take part in its group.
    ///
    /// A replica that may have voted before waits out the longest lease it may have promised before it votes or
    /// stands for election (rule R3).
    pub async fn open(options: ReplicaOptions) -> Result<Arc<Self>, ConsensusError> {
        let ReplicaOptions {
            cluster,
            shard,
            table,
            range,
            timing,
            max_offset,
            clock,
            peers,
            store,
            machine,
            memory,
            transfers,
            heartbeats,
            acceptances,
        } = options;
        let me = peers.me();
        let log = store.raft.shard(shard);
        let state = store.data.view().shard_state(shard)?.unwrap_or_default();
        let log_store = LogStore::open(log, Timestamp(state.last_ts), &memory, store.space().clone(), &acceptances);
        let log_store = log_store.map_err(stopped)?;
        let pristine = log_store.is_pristine().map_err(stopped)?;
        let (cache, flush_due) = (log_store.cache().clone(), log_store.flush_due());
        let (acceptor, outcomes) = (log_store.acceptor().clone(), Arc::<Outcomes>::default());
        let early = EarlyCommit::new(me, shard, acceptor, outcomes.clone());
        let safe = Arc::new(SafeTime::new(Timestamp(state.last_ts)));
        let acks = Arc::new(QuorumAcks::new(me, timing.promise()));
        store.data.collect_in(shard, table, &range);
        let snapshots = SnapshotMaker::new(shard, table, range.clone(), store.clone());
        emit(|| Event::Opened { shard, log_end: cache.synced(), applied: Timestamp(state.last_ts) });
        let backlog = memory.backlog.clone();
        let builder = Builder {
            shard,
            created: timing,
            cluster,
            peers: peers.clone(),
            clock: clock.clone(),
            store,
            machine,
            memory,
            transfers,
            log_store,
            safe: safe.clone(),
            acks: acks.clone(),
            snapshots: snapshots.clone(),
            heartbeats,
            outcomes,
        };
        let timing = builder.agreed()?;
        let noted = builder.noted()?;
        let held = noted.max(timing.promise());
        if held > noted {
            builder.note(held).await?;
        }
        let running = Arc::new(builder.build(timing).await?);
        let this = Arc::new(Self {
            shard,
            table,
            range,
            max_offset,
            clock,
            peers,
            builder,
            running: watch::Sender::new(running.clone()),
            building: tokio::sync::Mutex::new(false),
            cache,
            safe,
            acks,
            snapshots,
            backlog,
            flush_due,
            early,
            leadership: watch::Sender::new(None),
            called: AtomicBool::new(false),
            holding: AtomicBool::new(!pristine && !sabotaged(Sabotage::ForgetPromise)),
            heard: Mutex::new(Mono::now()),
            electable: AtomicBool::new(false),
            tasks: Mutex::new(Vec::new()),
        });
        this.start_tasks(&running, held);
        Ok(this)
    }

    /// Starts what the replica does by itself while this Raft runs; it keeps for `held` what it may have promised before.
    fn start_tasks(self: &Arc<Self>, running: &Arc<Running>, held: Duration) {
        let tasks = vec![
            tokio::spawn(tasks::follow_leadership(self.clone(), running.clone())),
            tokio::spawn(tasks::release_hold(self.clone(), running.clone(), held)),
            tokio::spawn(tasks::flush_for_the_log(self.clone(), running.clone())),
            tokio::spawn(tasks::commit_early(self.clone(), running.clone())),
            tokio::spawn(campaign::run(self.clone())),
            tokio::spawn(tasks::tidy(self.snapshots.clone())),
        ];
        *self.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
    }

    /// Ends it.
    fn end_tasks(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(JoinHandle::abort);
    }

    /// Forms the group with these voters. Safe to call on several of them with the same voters; does nothing on a
    /// group that is formed.
    pub async fn form(&self, voters: BTreeMap<NodeId, Member>) -> Result<(), ConsensusError> {
        let raft = self.raft();
        if raft.is_initialized().await.map_err(stopped)? {
            return Ok(());
        }
        let voters: BTreeMap<u64, Member> = voters.into_iter().map(|(id, m)| (id.0, m)).collect();
        match raft.initialize(voters).await {
            Ok(()) => Ok(()),
            Err(openraft::errors::RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => Ok(()),
            Err(e) => Err(stopped(e)),
        }
    }

    /// At the leader: proposes that versions be collected which only reads below `to` can find; below what is safe to read
    /// here, and below every timestamp that is protected on this node. Nobody is told what becomes of it.
    pub fn raise_floor(&self, to: Timestamp) -> Result<(), ConsensusError> {
        let leadership = self.leadership().ok_or_else(|| self.not_leader())?;
        let protected = self.snapshots.store.data.lowest_protected(self.shard).unwrap_or(Timestamp::MAX);
        let to = to.min(self.safe.safe()).min(protected);
        if to > self.gc_floor() {
            leadership.raise_floor(to);
        }
        Ok(())
    }

    /// The GC floor of what is applied: the lowest timestamp at which the shard can be read.
    pub fn gc_floor(&self) -> Timestamp {
        self.position().gc_floor
    }

    /// The GC floor that is durable, and so the one that old versions are collected below.
    pub fn durable_gc_floor(&self) -> Timestamp {
        Timestamp(self.snapshots.store.data.durable(self.shard).map_or(0, |state| state.gc_floor))
    }

    /// Whether the replica may stand for election: not while the node's clock is unsafe (rule W3), never before the lease
    /// that it may have promised is over, and not while its disk may have no room for the vote.
    pub fn set_electable(&self, electable: bool) {
        let room = self.disk().level() < DiskLevel::Critical;
        // In this order: the next Raft, if there is one, is asked after the hold has begun.
        let raft = self.raft();
        let electable = electable && room && self.may_vote();
        self.electable.store(electable, Ordering::Release);
        raft.runtime_config().elect(electable);
    }

    /// Flushes what is applied, then gives up the log below it, so that whoever lags behind that needs a snapshot.
    pub async fn compact(&self) -> Result<(), ConsensusError> {
        let applied = self.applied_index();
        self.snapshots.want_flush();
        let raft = self.raft();
        raft.trigger().snapshot().await.map_err(stopped)?;
        let wait = raft.wait(Some(self.timing().promise() * 2));
        let reached = |m: &openraft::RaftMetrics<Raftish>| m.snapshot.as_ref().is_some_and(|s| s.index >= applied);
        wait.metrics(reached, "a snapshot of what was applied").await.map_err(stopped)?;
        raft.trigger().purge_log(applied).await.map_err(stopped)
    }

    /// Stops taking part. The data stays.
    pub async fn stop(&self) {
        // Whoever is building another Raft ends that first.
        let mut stopped = self.building.lock().await;
        *stopped = true;
        self.end_tasks();
        self.set_leadership(None);
        self.snapshots.retire();
        if let Err(e) = self.raft().shutdown().await {
            tracing::warn!(shard = %self.shard, "the group did not stop cleanly: {e}");
        }
        self.backlog.closed(self.shard);
        if let Err(e) = self.snapshots.clear().await {
            tracing::warn!(shard = %self.shard, "the files of a snapshot could not be removed: {e}");
        }
    }

    pub(crate) fn leadership(&self) -> Option<Arc<Leadership>> {
        self.leadership.borrow().clone()
    }

    fn set_leadership(&self, to: Option<Arc<Leadership>>) {
        let from = self.leadership.send_replace(to);
        if let Some(from) = from {
            from.end();
            emit(|| Event::Deposed { shard: self.shard, leader: from.leader() });
        }
    }

    /// Closes what may be closed now, at the leader; also makes it known to this replica itself.
    pub(crate) fn close(&self) -> Option<Closed> {
        let closed = self.leadership()?.close()?;
        self.safe.observe(closed);
        Some(closed)
    }

    /// Another node has a leader's entries on its disk, up to this one (rule O1).
    pub(crate) fn observe_accepted(&self, from: NodeId, id: LogId) {
        self.early.observe(from, id);
    }

    /// Waits until this replica has applied a request that this node's gateway is about to send to the leader, telling it
    /// that this node counts the voters by itself.
    pub fn await_outcome(&self, id: &RequestId) -> Awaited {
        self.early.wait_for(id)
    }

    /// Whether it leads, and has stamped anything in the last so long, by its clock.
    pub(crate) fn has_stamped_within(&self, lately: Duration) -> bool {
        let since = self.clock.now().earliest.minus(lately);
        self.leadership().is_some_and(|l| l.last_stamp() > since)
    }

    /// A leader has closed a timestamp.
    pub(crate) fn observe_closed(&self, closed: Closed) {
        self.safe.observe(closed);
    }

    fn not_leader(&self) -> ConsensusError {
        NotLeader { hint: self.presumed_leader().filter(|l| *l != self.node()) }.into()
    }

    /// Whether this replica leads.
    pub fn is_leader(&self) -> bool {
        self.leadership().is_some()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.peers.me()
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The shard's table.
    pub fn table(&self) -> TableId {
        self.table
    }

    /// The shard's keys.
    pub fn range(&self) -> &KeyRange {
        &self.range
    }

    /// A consistent view of the shard's state; `None` while a snapshot replaces it, and once the replica is stopped.
    pub fn view(&self) -> Option<DataView> {
        self.snapshots.view()
    }

    /// Applied stamp and safe time, and waiting for them.
    pub fn safe_time(&self) -> &SafeTime {
        &self.safe
    }

    /// The members of the effective membership, learners included.
    pub fn members(&self) -> BTreeMap<NodeId, Member> {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.nodes().map(|(id, m)| (NodeId(*id), m.clone())).collect()
    }

    /// The voters of the effective membership.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.raft().server_metrics().borrow_watched().membership_config.voter_ids().map(NodeId).collect()
    }

    /// Whether this voter may vote and stand for election.
    pub(crate) fn may_vote(&self) -> bool {
        !self.holding.load(Ordering::Acquire)
    }

    /// Whether it may stand for election.
    pub(crate) fn is_electable(&self) -> bool {
        self.electable.load(Ordering::Acquire)
    }

    /// What runs now.
    pub(crate) fn running(&self) -> Arc<Running> {
        self.running.borrow().clone()
    }

    fn position(&self) -> Position {
        self.running.borrow().position.borrow().clone()
    }

    /// What it beats with: nothing once it has told a successor, or the voters could elect nobody else.
    pub(crate) fn beats_as(&self) -> Option<State> {
        self.leadership().filter(|l| !l.is_handed_over()).map(|l| l.state())
    }

    /// The other members.
    pub(crate) fn followers(&self) -> Vec<NodeId> {
        followers(&self.raft())
    }

    /// What beats for it.
    pub(crate) fn beater(&self) -> Beater {
        self.running.borrow().beater.clone()
    }

    /// A message of a leader has come, or is made up: openraft's promise begins again.
    pub(crate) fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Mono::now();
    }

    /// A message has come that was sent under this vote, which is a leader's.
    pub(crate) fn hear_under(&self, vote: &RaftVote) {
        if *vote >= self.vote() {
            self.hear();
        }
    }

    /// When a leader's message came last, or the replica was opened.
    pub(crate) fn heard(&self) -> Mono {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn raft(&self) -> Raft {
        self.running.borrow().raft.clone()
    }

    /// The vote that it has given last.
    pub(crate) fn vote(&self) -> RaftVote {
        self.raft().server_metrics().borrow_watched().vote
    }

    pub(crate) fn snapshots(&self) -> &Arc<SnapshotMaker> {
        &self.snapshots
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.position().applied.map_or(0, |id| id.index)
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Waits until this node's log is synced up to and including `index`. False: the log is gone.
    pub(crate) async fn wait_synced(&self, index: u64) -> bool {
        self.cache.wait_synced(index).await
    }

    /// The last durable log index, 0 when nothing is.
    pub(crate) fn durable_index(&self) -> u64 {
        self.snapshots.durable_index(self.shard)
    }

    /// Whether the log may take more writes, or the data has to be flushed first.
    pub(crate) fn check_backlog(&self) -> Result<(), FlushLags> {
        let checked = self.backlog.check(|shard| self.snapshots.durable_index(shard));
        // The flush that was asked for last may have come before what now waits was applied.
        checked.inspect_err(|_| self.flush_due.notify_one())
    }

    /// The room on this node's disk.
    pub(crate) fn disk(&self) -> &DiskSpace {
        self.snapshots.store.space()
    }

    fn leader_parts(&self, running: &Running) -> LeaderParts {
        LeaderParts {
            shard: self.shard,
            raft: running.raft.clone(),
            clock: self.clock.clone(),
            cache: self.cache.clone(),
            safe: self.safe.clone(),
            acks: self.acks.clone(),
            beater: running.beater.clone(),
            timing: running.timing,
            lead: self.lead_in_log(),
        }
    }
}
