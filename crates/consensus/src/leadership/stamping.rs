//! The stamping task of one leadership, and what becomes of what it handed over.
//!
//! One task stamps everything of a leadership, proposals and barriers, and hands it over in the order of the stamps: log
//! order is stamp order because nobody comes in between (S1). Completions are awaited by tasks of their own.

use super::pace::Pace;
use super::{Decision, Leadership, Proposal, Stage, Stamp, lead};
use crate::delay::delay;
use crate::error::{ConsensusError, NotLeader};
use crate::memory::Charge;
use crate::raft_types::{Applied, Command, Completion, EntryResponder, Raftish};
use meridian_clock::{Mono, sleep};
use meridian_probe::{Event, Sabotage, emit, sabotaged};
use meridian_proto::internal::v1 as pb;
use meridian_types::{KeySpan, NodeId, RaftTiming, Timestamp};
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use prost::Message;
use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Most mutations packed into one entry.
const BATCH_MUTATIONS_MAX: usize = 256;
/// Encoded bytes after which no more mutations are packed into an entry.
const BATCH_BYTES_MAX: usize = 512 << 10;
/// Pause before a barrier that was refused is stamped again.
const BARRIER_RETRY: Duration = Duration::from_millis(20);

/// What becomes of an entry that was handed over.
pub(super) type Handed = oneshot::Receiver<Completion<ClientWriteResult<Raftish>>>;

impl Leadership {
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn hand_over_barrier(&self) -> Result<(Timestamp, Handed), ConsensusError> {
        let stamp = self.stamp(|s| s.stamp_barrier(self.parts.clock.now().latest));
        let done = self.hand_over_empty(stamp).await?;
        Ok((stamp.ts, done))
    }

    /// Hands an entry over that has nothing but its stamp and lead time.
    pub(super) async fn hand_over_empty(&self, stamp: Stamp) -> Result<Handed, ConsensusError> {
        self.hand_over(stamp, pb::command::Body::Barrier(pb::command::Barrier {}), Vec::new()).await
    }

    /// Hands a stamped entry to openraft, fenced to this leadership (S1).
    async fn hand_over(
        &self,
        stamp: Stamp,
        body: pb::command::Body,
        origins: Vec<u64>,
    ) -> Result<Handed, ConsensusError> {
        let lead_ns = u64::try_from(stamp.lead.as_nanos()).unwrap_or(u64::MAX);
        let command = pb::Command { ts: stamp.ts.0, body: Some(body), origins, lead_ns };
        let (responder, done) = EntryResponder::new(self.parts.shard);
        let mut write = self.parts.raft.write(Command::new(command)).responder(responder);
        if sabotaged(Sabotage::ProposeUnfenced) {
            delay(self.parts.timing.lease() * 4).await;
        } else {
            write = write.with_leader(self.leader);
        }
        write.await.map_err(|e| ConsensusError::Stopped(e.to_string()))?;
        Ok(done)
    }

    /// Stamps a batch and hands it over; results reach the clients by a task of their own.
    async fn sequence(self: &Arc<Self>, batch: Vec<Proposal>, early: Option<Timestamp>) {
        if !self.parts.clock.is_safe() {
            // A node whose clock is unsafe stamps nothing more, whatever was queued before (W3).
            return refuse(batch, || ConsensusError::ClockUnsafe);
        }
        let mut span = KeySpan::default();
        let mut floor = Timestamp::ZERO;
        let mut waiting = Vec::with_capacity(batch.len());
        let mut mutations = Vec::with_capacity(batch.len());
        let mut charges = Vec::with_capacity(batch.len());
        let mut origins = BTreeSet::new();
        for proposal in batch {
            origins.extend(proposal.origin.map(|node| node.0));
            span.extend(proposal.span);
            floor = floor.max(proposal.floor);
            waiting.push((proposal.arrived, proposal.reply));
            mutations.push(proposal.mutation);
            charges.push(proposal.charge);
        }
        // Sampled after the last request of the batch was taken from the queue (S2).
        let latest = early.unwrap_or_else(|| self.parts.clock.now().latest);
        let stamp = self.stamp(|s| s.stamp(latest, floor, mutations.len() as u64, span));
        let body = pb::command::Body::Mutations(pb::Mutations { mutations });
        let handed = Mono::now();
        self.pace().handed(handed);
        match self.hand_over(stamp, body, origins.into_iter().collect()).await {
            Ok(done) => {
                tokio::spawn(complete(self.clone(), stamp.ts, done, waiting, handed, charges));
            }
            Err(e) => {
                let why = e.to_string();
                for (_, reply) in waiting {
                    let _ = reply.send(Err(ConsensusError::Stopped(why.clone())));
                }
            }
        }
    }
}

/// Answers proposals that nothing was done for.
fn refuse(proposals: impl IntoIterator<Item = Proposal>, why: impl Fn() -> ConsensusError) {
    for proposal in proposals {
        let _ = proposal.reply.send(Err(why()));
    }
}

/// The stamping task of one leadership. Ends when the leadership is dropped; what is still queued then was not stamped.
pub(super) async fn run(this: Weak<Leadership>, mut queue: mpsc::Receiver<Proposal>, orders: Orders) {
    stamp_all(this, &mut queue, orders).await;
    queue.close();
    refuse(std::iter::from_fn(|| queue.try_recv().ok()), || NotLeader { hint: None }.into());
}

async fn stamp_all(this: Weak<Leadership>, queue: &mut mpsc::Receiver<Proposal>, mut orders: Orders) {
    loop {
        let early = sabotaged(Sabotage::StampBeforeQueue).then(|| this.upgrade()).flatten();
        let early = early.map(|this| this.parts.clock.now().latest);
        tokio::select! {
            biased;
            wanted = orders.barriers.recv() => {
                let (Some(wanted), Some(this)) = (wanted, this.upgrade()) else { return };
                barrier(&this, wanted).await;
            }
            floor = orders.floors.recv() => {
                let (Some(floor), Some(this)) = (floor, this.upgrade()) else { return };
                raise_floor(&this, floor).await;
            }
            to = orders.leads.recv() => {
                let (Some(to), Some(this)) = (to, this.upgrade()) else { return };
                lead::change(&this, to).await;
            }
            timing = orders.timings.recv() => {
                let (Some(timing), Some(this)) = (timing, this.upgrade()) else { return };
                set_timing(&this, timing).await;
            }
            first = queue.recv() => {
                let Some(first) = first else { return };
                let Some(this) = this.upgrade() else { return refuse([first], || NotLeader { hint: None }.into()) };
                let wait = this.pace().wait(Mono::now());
                if !wait.is_zero() {
                    sleep(wait).await;
                }
                let batch = fill(first, queue);
                this.sequence(batch, early).await;
            }
        }
    }
}

/// Takes what waits in the queue, as much as one entry may hold.
fn fill(first: Proposal, queue: &mut mpsc::Receiver<Proposal>) -> Vec<Proposal> {
    let mut bytes = first.mutation.encoded_len();
    let mut batch = vec![first];
    while batch.len() < BATCH_MUTATIONS_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(next) = queue.try_recv() else { break };
        bytes += next.mutation.encoded_len();
        batch.push(next);
    }
    batch
}

/// Somebody wants a barrier.
pub(super) struct BarrierWanted {
    /// Told its stamp once it was handed over.
    pub(super) stamped: oneshot::Sender<Timestamp>,
    /// Told what became of it.
    pub(super) committed: oneshot::Sender<Result<Timestamp, ConsensusError>>,
}

/// What the stamping task hands over beside proposals.
pub(super) struct Orders {
    /// Barriers.
    pub(super) barriers: mpsc::Receiver<BarrierWanted>,
    /// GC floors.
    pub(super) floors: mpsc::Receiver<Timestamp>,
    /// Lead times.
    pub(super) leads: mpsc::Receiver<Duration>,
    /// Timers.
    pub(super) timings: mpsc::Receiver<RaftTiming>,
}

/// Hands a barrier over; what becomes of it is said once it is applied, or will not be.
async fn barrier(this: &Arc<Leadership>, wanted: BarrierWanted) {
    let BarrierWanted { stamped, committed: answer } = wanted;
    let (ts, done) = match this.hand_over_barrier().await {
        Ok(handed) => handed,
        Err(e) => return drop(answer.send(Err(e))),
    };
    // Nobody may want to know.
    let _ = stamped.send(ts);
    let this = this.clone();
    tokio::spawn(async move {
        let result = match done.await {
            Ok(Completion { result: Ok(_), .. }) => {
                this.parts.safe.wait_applied(ts).await;
                emit(|| Event::BarrierApplied { shard: this.parts.shard, leader: this.leader(), ts });
                this.stage.send_if_modified(|s| {
                    *s == Stage::Opening && {
                        *s = Stage::Open;
                        true
                    }
                });
                tracing::debug!(shard = %this.parts.shard, leader = %this.leader(), %ts, "barrier applied");
                Ok(ts)
            }
            Ok(Completion { result: Err(ClientWriteError::ForwardToLeader(forward)), .. }) => {
                this.refused(ts);
                Err(NotLeader { hint: forward.leader_id.map(NodeId) }.into())
            }
            // The entry or the group is lost; whoever leads next has its own barrier.
            Ok(_) | Err(_) => Err(ConsensusError::Lost),
        };
        // Nobody may be waiting any more.
        let _ = answer.send(result);
    });
}

/// Hands an entry over that raises the GC floor. Nobody waits for it: if it gets lost, a later one does its work. It touches
/// nothing that may be read: whoever reads below the floor is refused once it is applied.
async fn raise_floor(this: &Arc<Leadership>, floor: Timestamp) {
    let body = pb::command::Body::RaiseFloor(pb::command::RaiseFloor { floor: floor.0 });
    order(this, floor, body).await;
}

/// Hands an entry over that brings other timers (rule R3). Nobody waits for it either.
async fn set_timing(this: &Arc<Leadership>, timing: RaftTiming) {
    tracing::info!(shard = %this.parts.shard, ?timing, "bringing other timers");
    let timing = Some(meridian_wire::timing::encode(timing));
    order(this, Timestamp::ZERO, pb::command::Body::SetTiming(pb::command::SetTiming { timing })).await;
}

/// Stamps an entry that touches nothing that may be read, above `floor`, and hands it over.
async fn order(this: &Arc<Leadership>, floor: Timestamp, body: pb::command::Body) {
    if !this.parts.clock.is_safe() {
        return;
    }
    let stamp = this.stamp(|s| s.stamp(this.parts.clock.now().latest, floor, 1, KeySpan::default()));
    let Ok(done) = this.hand_over(stamp, body, Vec::new()).await else { return };
    let this = this.clone();
    tokio::spawn(async move {
        if let Ok(Completion { result: Err(ClientWriteError::ForwardToLeader(_)), .. }) = done.await {
            this.refused(stamp.ts);
            this.want_barrier();
        }
    });
}

/// Sees to it that a barrier that is wanted gets into the log: one at a time, again while it is refused. Does not wait until
/// it is synced or committed: this node's disk may stall, its quorum may lack room for it, and an entry that is refused
/// meanwhile leaves a gap above it, which needs a barrier of its own. Ends with the leadership.
pub(super) async fn keep_barriers(this: Arc<Leadership>) {
    while this.while_leading(this.barrier_is_wanted()).await.is_ok() {
        while let Err(ConsensusError::NotLeader(_)) = this.while_leading(this.append_barrier()).await {
            if *this.stage.borrow() == Stage::Ended {
                return;
            }
            tokio::time::sleep(BARRIER_RETRY).await;
        }
    }
}

/// A client that waits for its outcome, since it arrived.
type Waiting = (Mono, oneshot::Sender<Result<Decision, ConsensusError>>);

/// What [`Sabotage::DropInFlight`] does: when all clients of an entry have hung up, the entry is forgotten.
async fn done_or_dropped<T>(
    this: &Leadership,
    first: Timestamp,
    mut done: oneshot::Receiver<T>,
    waiting: &mut [Waiting],
) -> Result<T, oneshot::error::RecvError> {
    let last = Timestamp(first.0 + waiting.len() as u64 - 1);
    let hung_up = async {
        for (_, reply) in waiting {
            reply.closed().await;
        }
    };
    tokio::select! {
        completion = &mut done => return completion,
        () = hung_up => {}
    }
    this.sequencer().forget(last);
    done.await
}

/// Waits for the result of the entry whose first stamp is `ts`, and answers its clients. Their charges are given back
/// when the entry is not in flight any more.
async fn complete(
    this: Arc<Leadership>,
    ts: Timestamp,
    done: oneshot::Receiver<Completion<ClientWriteResult<Raftish>>>,
    mut waiting: Vec<Waiting>,
    handed: Mono,
    charges: Vec<Charge>,
) {
    let completion = if sabotaged(Sabotage::DropInFlight) {
        done_or_dropped(&this, ts, done, &mut waiting).await
    } else {
        done.await
    };
    let applied = Mono::now();
    drop(charges);
    let fail = |waiting: Vec<Waiting>, error: &dyn Fn() -> ConsensusError| {
        for (_, reply) in waiting {
            let _ = reply.send(Err(error()));
        }
    };
    match completion {
        Ok(Completion { result: Ok(response), committed_at, index }) => {
            let Applied::Outcomes(outcomes) = response.data else {
                return fail(waiting, &|| ConsensusError::Lost);
            };
            if let Some(at) = committed_at {
                this.pace().committed(at.since(handed));
            }
            let synced = index.and_then(|i| this.parts.cache.synced_at(i));
            for ((arrived, reply), outcome) in waiting.into_iter().zip(outcomes) {
                let decision = Decision { outcome, arrived, handed, synced, committed: committed_at, applied };
                let _ = reply.send(Ok(decision));
            }
        }
        Ok(Completion { result: Err(ClientWriteError::ForwardToLeader(forward)), .. }) => {
            // Refused before it was appended. The stamp is spent, and read points may wait for it: fill it up.
            this.refused(ts);
            if !sabotaged(Sabotage::LeaveGap) {
                this.want_barrier();
            }
            let hint = forward.leader_id.map(NodeId);
            fail(waiting, &|| NotLeader { hint }.into());
        }
        // Appended, then discarded; or the group has stopped.
        Ok(_) | Err(_) => fail(waiting, &|| ConsensusError::Lost),
    }
}
