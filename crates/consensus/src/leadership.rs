//! One leadership of one shard on this node: the shell around the [`Sequencer`].
//!
//! A task (`stamping`) takes proposals from a bounded queue, as many as are there, packs them into one entry, samples
//! the clock, stamps, and hands the entry to openraft fenced to the leader id. It never waits for a result: entries
//! stream, and each entry's completion is awaited by a task of its own. Here is what others ask of a leadership: proof
//! that it holds, read points, closed timestamps, and its end.

mod lead;
mod pace;
mod stamping;

use crate::codec;
use crate::error::{ConsensusError, NotLeader};
use crate::heartbeats::{Beater, State};
use crate::lease::{Moment, QuorumAcks, Word};
use crate::log_cache::LogCache;
use crate::memory::Charge;
use crate::raft_types::{Raft, RaftLeaderId};
use crate::replica::followers;
use crate::safe_time::SafeTime;
use crate::sequencer::{Closed, Sequencer};
use meridian_clock::{Clock, Mono};
use meridian_probe::{Event, Sabotage, emit, sabotaged};
use meridian_proto::internal::v1 as pb;
use meridian_types::{KeySpan, LeaderId, NodeId, RaftTiming, ShardId, Timestamp};
use openraft::async_runtime::watch::WatchReceiver;
use pace::Pace;
use stamping::{BarrierWanted, Orders};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Proposals that wait to be stamped; more are refused as overload.
pub(crate) const QUEUE_MAX: usize = 4_096;
/// Barriers that wait to be stamped: of the keeper, and of a transfer.
const BARRIERS_MAX: usize = 4;
/// Floors that wait to be stamped: a later one is as good.
const FLOORS_MAX: usize = 1;
/// Lead times that wait to be stamped: a later one is better.
const LEADS_MAX: usize = 1;
/// Timers that wait to be stamped.
const TIMINGS_MAX: usize = 1;

/// A mutation on its way into the log.
pub(crate) struct Proposal {
    pub(crate) mutation: pb::Mutation,
    pub(crate) span: KeySpan,
    pub(crate) floor: Timestamp,
    /// The node that wants to hear from the voters about it.
    pub(crate) origin: Option<NodeId>,
    pub(crate) arrived: Mono,
    pub(crate) charge: Charge,
    pub(crate) reply: oneshot::Sender<Result<Decision, ConsensusError>>,
}

/// What became of a proposal, with the instants that it passed.
pub(crate) struct Decision {
    pub(crate) outcome: pb::Outcome,
    pub(crate) arrived: Mono,
    pub(crate) handed: Mono,
    pub(crate) synced: Option<Mono>,
    pub(crate) committed: Option<Mono>,
    pub(crate) applied: Mono,
}

/// What the sequencer gives an entry.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    /// Its first stamp.
    ts: Timestamp,
    /// The lead time that holds from it on.
    lead: Duration,
}

/// A transfer that is being prepared. Dropped before [`Handover::settle`], it was given up, for whatever reason, and the
/// leadership goes on: a leader that serves nobody and has no successor would be worse than none.
pub(crate) struct Handover<'a> {
    leadership: &'a Leadership,
    done: bool,
}

impl Handover<'_> {
    /// The successor is about to be told: from here there is no way back.
    pub(crate) fn settle(mut self) {
        self.leadership.handing.send_modify(|handing| *handing = handing.settled());
        self.done = true;
    }
}

/// How far a transfer of the leadership is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handing {
    /// There is none.
    Not,
    /// It is being prepared, and may be given up.
    Preparing(NodeId),
    /// The successor is told, or about to be.
    Settled(NodeId),
}

impl Handing {
    fn settled(self) -> Self {
        match self {
            Self::Not => Self::Not,
            Self::Preparing(to) | Self::Settled(to) => Self::Settled(to),
        }
    }
}

impl Drop for Handover<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.leadership.resume();
        }
    }
}

/// What a leadership works with; outlives it.
#[derive(Clone)]
pub(crate) struct LeaderParts {
    pub(crate) shard: ShardId,
    pub(crate) raft: Raft,
    pub(crate) clock: Clock,
    pub(crate) cache: Arc<LogCache>,
    pub(crate) safe: Arc<SafeTime>,
    pub(crate) acks: Arc<QuorumAcks>,
    pub(crate) beater: Beater,
    /// The timers that this node's replica runs with.
    pub(crate) timing: RaftTiming,
    /// The lead time at the end of the log, applied or not (rule K2).
    pub(crate) lead: Duration,
}

/// How far a leadership is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The barrier is not applied yet: nothing is read.
    Opening,
    /// It stamps, closes and is read from.
    Open,
    /// Another one has begun, or none is left: whoever waits for something here waits in vain.
    Ended,
}

/// One leadership, from election to loss.
pub(crate) struct Leadership {
    parts: LeaderParts,
    leader: RaftLeaderId,
    sequencer: Mutex<Sequencer>,
    pace: Mutex<Pace>,
    proposals: mpsc::Sender<Proposal>,
    /// Barriers for the stamping task to hand over; the answer says what became of them.
    barriers: mpsc::Sender<BarrierWanted>,
    /// GC floors for the stamping task to hand over.
    floors: mpsc::Sender<Timestamp>,
    /// Lead times for the stamping task to hand over.
    leads: mpsc::Sender<Duration>,
    /// Timers for the stamping task to hand over.
    timings: mpsc::Sender<RaftTiming>,
    /// Positions and read points need a barrier behind them (rule C6).
    barrier_wanted: Notify,
    stage: watch::Sender<Stage>,
    /// Once a transfer has begun there are no more proposals.
    handing: watch::Sender<Handing>,
}

impl Leadership {
    /// Starts stamping under `leader`, above everything in its log.
    pub(crate) fn start(parts: LeaderParts, leader: RaftLeaderId) -> Arc<Self> {
        let in_log = parts.cache.last_stamp().max(parts.safe.applied());
        let last = if sabotaged(Sabotage::StampBelowLog) { Timestamp::ZERO } else { in_log };
        emit(|| Event::Led { shard: parts.shard, leader: codec::leader_of(&leader), above: last });
        let (proposals, queue) = mpsc::channel(QUEUE_MAX);
        let (barriers, wanted) = mpsc::channel(BARRIERS_MAX);
        let (floors, raised) = mpsc::channel(FLOORS_MAX);
        let (leads, changed) = mpsc::channel(LEADS_MAX);
        let (timings, brought) = mpsc::channel(TIMINGS_MAX);
        let lead = parts.lead;
        let this = Arc::new(Self {
            sequencer: Mutex::new(Sequencer::new(codec::leader_of(&leader), last, lead)),
            pace: Mutex::default(),
            parts,
            leader,
            proposals,
            barriers,
            floors,
            leads,
            timings,
            barrier_wanted: Notify::new(),
            stage: watch::Sender::new(Stage::Opening),
            handing: watch::Sender::new(Handing::Not),
        });
        this.want_barrier();
        tokio::spawn(stamping::run(
            Arc::downgrade(&this),
            queue,
            Orders { barriers: wanted, floors: raised, leads: changed, timings: brought },
        ));
        tokio::spawn(stamping::keep_barriers(this.clone()));
        this
    }

    pub(crate) fn leader(&self) -> LeaderId {
        codec::leader_of(&self.leader)
    }

    fn sequencer(&self) -> MutexGuard<'_, Sequencer> {
        let mut s = self.sequencer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ts) = s.applied(self.parts.safe.applied()) {
            emit(|| Event::BarrierApplied { shard: self.parts.shard, leader: self.leader(), ts });
        }
        s
    }

    /// Gives stamps as `stamp` says; returns the first, and the lead time for the entry to carry.
    fn stamp(&self, stamp: impl FnOnce(&mut Sequencer) -> Timestamp) -> Stamp {
        let mut sequencer = self.sequencer();
        let first = stamp(&mut sequencer);
        emit(|| {
            let (last, span) = (sequencer.last(), sequencer.last_span().cloned().unwrap_or_default());
            Event::Stamped { shard: self.parts.shard, leader: self.leader(), first, last, span }
        });
        Stamp { ts: first, lead: sequencer.carried_lead() }
    }

    /// An entry was refused before it was appended: it is not in flight, and never will be.
    fn refused(&self, first: Timestamp) {
        self.sequencer().refused(first);
        emit(|| Event::Refused { shard: self.parts.shard, leader: self.leader(), first });
    }

    fn want_barrier(&self) {
        self.barrier_wanted.notify_one();
    }

    async fn barrier_is_wanted(&self) -> Result<(), ConsensusError> {
        self.barrier_wanted.notified().await;
        Ok(())
    }

    /// Queues a proposal. Refused when the queue is full or a transfer has begun.
    pub(crate) fn propose(&self, proposal: Proposal) -> Result<(), ConsensusError> {
        if let Some(to) = self.successor() {
            return Err(NotLeader { hint: Some(to) }.into());
        }
        self.proposals.try_send(proposal).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => ConsensusError::Overloaded { limit: QUEUE_MAX },
            mpsc::error::TrySendError::Closed(_) => NotLeader { hint: None }.into(),
        })
    }

    /// Queues an entry that raises the GC floor, unless one waits already, or a transfer has begun.
    pub(crate) fn raise_floor(&self, to: Timestamp) {
        if self.successor().is_none() {
            // Full, or the leadership is over: the next round finds that out.
            let _ = self.floors.try_send(to);
        }
    }

    /// Queues an entry that brings other timers, unless one waits already, or a transfer has begun.
    pub(crate) fn set_timing(&self, to: RaftTiming) {
        if self.successor().is_none() {
            // Full, or the leadership is over: the next round finds that out.
            let _ = self.timings.try_send(to);
        }
    }

    /// What a member has said with its last answer to this leadership.
    pub(crate) fn word(&self, node: NodeId) -> Word {
        self.parts.acks.word(self.leader(), node)
    }

    /// What is left of the lease, by the effective membership as openraft last published it; `None`: it is not valid.
    pub(crate) fn lease_left(&self) -> Option<Duration> {
        let metrics = self.parts.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        if metrics.vote.leader_id != self.leader || !metrics.vote.committed {
            return None;
        }
        let membership = metrics.membership_config.membership();
        let left =
            self.parts.acks.lease_left(self.leader(), membership, self.parts.timing.promise(), &self.parts.clock)?;
        emit(|| Event::LeaseValid { shard: self.parts.shard, leader: self.leader() });
        Some(left)
    }

    /// The last instant at which a message was sent that a quorum has acknowledged to this leadership: until then nobody
    /// else led, whatever any clock says (R2).
    fn acked(&self) -> Option<Moment> {
        let metrics = self.parts.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let usable = metrics.vote.leader_id == self.leader
            && !self.parts.acks.is_revoked(self.leader())
            && self.parts.clock.is_safe();
        let now = Moment::now(&self.parts.clock);
        usable.then(|| self.parts.acks.quorum_acked(self.leader(), membership, now)).flatten()
    }

    /// Whether a quorum acknowledged a message of this leadership that was sent at or after `since`.
    fn acked_since(&self, since: Moment) -> bool {
        self.acked().is_some_and(|a| a.mono >= since.mono)
    }

    /// Proves that this leadership still held at `since`: by the lease, else by a quorum's answers to something
    /// sent afterwards. Called *after* what is to be proven was done (R6, C1).
    pub(crate) async fn prove(&self, since: Moment) -> Result<(), ConsensusError> {
        if self.lease_left().is_some() {
            return Ok(());
        }
        let mut credits = self.parts.acks.changes();
        self.beat().await?;
        let proven = async {
            while !self.acked_since(since) {
                if credits.changed().await.is_err() {
                    return;
                }
            }
        };
        let limit = self.parts.timing.lease() * 2;
        let proof = async { tokio::time::timeout(limit, proven).await.map_err(|_| ConsensusError::NotProven) };
        self.while_leading(proof).await
    }

    /// Whether a successor was told: there is no way back.
    pub(crate) fn is_handed_over(&self) -> bool {
        matches!(*self.handing.borrow(), Handing::Settled(_))
    }

    /// Waits while a transfer is being prepared: who is sent on to the successor earlier than that comes there too early.
    /// Ends with the leadership.
    pub(crate) async fn wait_handover(&self) {
        let mut handing = self.handing.subscribe();
        let prepared = async {
            let settled = handing.wait_for(|handing| !matches!(handing, Handing::Preparing(_))).await;
            settled.map(|_| ()).map_err(|_| ConsensusError::Lost)
        };
        // Either way the caller looks for himself.
        let _ = self.while_leading(prepared).await;
    }

    /// What its followers are told with every beat.
    pub(crate) fn state(&self) -> State {
        let committed = self.parts.raft.data_metrics().borrow_watched().local_committed;
        State { leader: self.leader(), committed: committed.as_ref().map(codec::log_id_of) }
    }

    /// Asks the followers whether they still take this leadership's word.
    async fn beat(&self) -> Result<(), ConsensusError> {
        if self.is_handed_over() {
            // As for the beats of every interval: the voters would refuse all others for as long as anybody asks here.
            return Err(NotLeader { hint: self.successor() }.into());
        }
        let followers = followers(&self.parts.raft);
        if self.parts.beater.any_older(&followers) {
            let asked = self.parts.raft.trigger().heartbeat().await;
            asked.map_err(|e| ConsensusError::Stopped(e.to_string()))?;
        }
        self.parts.beater.beat(self.state(), followers);
        Ok(())
    }

    /// Does `work`, unless the leadership ends first.
    pub(crate) async fn while_leading<T>(
        &self,
        work: impl Future<Output = Result<T, ConsensusError>>,
    ) -> Result<T, ConsensusError> {
        let mut stage = self.stage.subscribe();
        tokio::select! {
            biased;
            result = work => result,
            _ = stage.wait_for(|s| *s == Stage::Ended) => Err(NotLeader { hint: None }.into()),
        }
    }

    /// The leadership is over. Requests that wait at it are told so; the stamping task ends with the last of them.
    pub(crate) fn end(&self) {
        self.stage.send_replace(Stage::Ended);
    }

    /// Waits until the barrier is applied: before that nothing is read.
    pub(crate) async fn wait_open(&self) -> Result<(), ConsensusError> {
        let mut stage = self.stage.subscribe();
        match stage.wait_for(|s| *s != Stage::Opening).await.map(|s| *s) {
            Ok(Stage::Open) => Ok(()),
            Ok(Stage::Opening | Stage::Ended) | Err(_) => Err(NotLeader { hint: None }.into()),
        }
    }

    /// The stamp up to which this replica, or a follower, must have applied to read `span` linearizably (I1).
    pub(crate) fn read_point(&self, span: &KeySpan) -> Timestamp {
        let applied = self.parts.safe.applied();
        if sabotaged(Sabotage::SkipInFlightWait) {
            return applied;
        }
        self.sequencer().last_in_flight(span, Timestamp::MAX).map_or(applied, |ts| ts.max(applied))
    }

    /// The last stamp in flight that a read of `span` at `at` has to wait for.
    pub(crate) fn in_flight_below(&self, span: &KeySpan, at: Timestamp) -> Option<Timestamp> {
        self.sequencer().last_in_flight(span, at)
    }

    /// Closes as much as the clock allows, if the lease proves leadership afterwards; else up to the last instant that a
    /// quorum has proven. `None`: nothing may be closed now.
    ///
    /// A clock whose interval is about as wide as the lease is long never finds the lease valid between two heartbeats
    /// (R5). Its shards lag by a heartbeat then, and do not stand still.
    pub(crate) fn close(&self) -> Option<Closed> {
        let at = Moment::now(&self.parts.clock);
        // The stamping lock is held over the lease check: promise, position and proof are one step (C2).
        let mut sequencer = self.sequencer();
        let closed = if self.lease_left().is_some() || sabotaged(Sabotage::CloseWithoutProof) {
            sequencer.close(self.closable(at))?
        } else {
            sequencer.promise(self.closable(self.acked()?))?
        };
        self.told(closed);
        Some(closed)
    }

    /// What may be closed, and the lead time on top, if leadership at the instant `at` is proven afterwards (C1).
    fn closable(&self, at: Moment) -> Timestamp {
        if sabotaged(Sabotage::CloseWithLatest) { self.parts.clock.now().latest } else { at.earliest.prev() }
    }

    /// A promise is proven, and about to be used.
    fn told(&self, Closed { leader, closed, position }: Closed) {
        emit(|| Event::Closed { shard: self.parts.shard, leader, closed, position });
    }

    /// Closes at least `upto`, once it is past by this node's clock, or no more than the lead time ahead; leadership is
    /// proven by a quorum if the lease does not.
    pub(crate) async fn close_upto(&self, upto: Timestamp) -> Result<(), ConsensusError> {
        if !sabotaged(Sabotage::AcceptFuture) {
            let lead = self.sequencer().lead();
            self.parts.clock.wait_past(upto.minus(lead)).await;
        }
        if self.close().is_some_and(|c| c.closed >= upto) {
            return Ok(());
        }
        self.wait_open().await?;
        let at = Moment::now(&self.parts.clock);
        let closable = self.closable(at);
        let closable = if sabotaged(Sabotage::AcceptFuture) { closable.max(upto) } else { closable };
        let closed = self.sequencer().close(closable);
        if !sabotaged(Sabotage::CloseWithoutProof) {
            self.prove(at).await?;
        }
        // Less than that was closed only if the lead time was lowered meanwhile.
        let closed = closed.filter(|c| c.closed >= upto).ok_or(ConsensusError::NotProven)?;
        self.told(closed);
        Ok(())
    }

    /// The last stamp given.
    pub(crate) fn last_stamp(&self) -> Timestamp {
        self.sequencer().last()
    }

    /// Entries in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.sequencer().in_flight()
    }

    /// To whom the leadership is being handed over, if it is.
    pub(crate) fn successor(&self) -> Option<NodeId> {
        match *self.handing.borrow() {
            Handing::Not => None,
            Handing::Preparing(to) | Handing::Settled(to) => Some(to),
        }
    }

    /// Ends the lease and takes no more proposals: the first steps of a transfer (R4).
    pub(crate) fn pause(&self, to: NodeId) -> Handover<'_> {
        if !sabotaged(Sabotage::LeaseDuringTransfer) {
            self.parts.acks.revoke(self.leader());
        }
        self.handing.send_replace(Handing::Preparing(to));
        emit(|| Event::Transferring { shard: self.parts.shard, leader: self.leader(), to });
        Handover { leadership: self, done: false }
    }

    /// Leads on as before: nobody was told to take over.
    fn resume(&self) {
        emit(|| Event::TransferGivenUp { shard: self.parts.shard, leader: self.leader() });
        self.handing.send_replace(Handing::Not);
        self.parts.acks.restore(self.leader());
        // Positions and read points may lie behind a barrier that was refused.
        self.want_barrier();
    }

    /// Puts a barrier above every promise made so far at the end of the log; returns its stamp. From then on it is not
    /// refused any more.
    pub(crate) async fn append_barrier(&self) -> Result<Timestamp, ConsensusError> {
        let ((stamped, at), (committed, outcome)) = (oneshot::channel(), oneshot::channel());
        // The stamping task hands it over: nobody else may come between a stamp and its place in the log (S1).
        self.barriers.send(BarrierWanted { stamped, committed }).await.map_err(|_| NotLeader { hint: None })?;
        let ts = at.await.map_err(|_| ConsensusError::Lost)?;
        tokio::select! {
            biased;
            outcome = outcome => outcome.map_err(|_| ConsensusError::Lost)?,
            () = self.parts.cache.wait_stamp(ts) => Ok(ts),
        }
    }

    /// Puts a barrier above every promise made so far at the end of the log, durably: the last step before a transfer. It
    /// need not be committed: the successor is elected before the lease is over only if it has all of this log (N3), and
    /// whoever is elected afterwards stamps above true time by itself (C1).
    pub(crate) async fn sync_barrier(&self) -> Result<(), ConsensusError> {
        let ts = self.append_barrier().await?;
        self.parts.cache.wait_stamp_synced(ts).await;
        Ok(())
    }
}
