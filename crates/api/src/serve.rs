//! Answers at one replica of this node, for its own gateway and for those of other nodes.

use crate::compact::compact;
use crate::context::Context;
use crate::failure::{self, Refusal, storage};
use meridian_clock::Mono;
use meridian_consensus::{Charge, Commit, Replica, ServeTimes};
use meridian_probe::{Event, ReadKind, Sabotage, emit, mark, sabotaged};
use meridian_proto::internal::v1 as internal;
use meridian_storage::DataView;
use meridian_txn::{Page, ReadPlan, mutation_span, plan_span, read};
use meridian_types::{Consistency, Error, KeySpan, NodeId, Reason, ShardId, TableId, Timestamp};
use std::time::Duration;

/// What a replica read.
pub(crate) struct ReadAnswer {
    pub(crate) page: Page,
    /// The timestamp that was read at.
    pub(crate) at: Timestamp,
    /// How old the state may be; zero for linearizable reads.
    pub(crate) staleness: Duration,
    pub(crate) times: internal::ServeTimes,
}

pub(crate) fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// A mutation's times between nodes. Commit wait is the gateway's part, so there is none yet.
pub(crate) fn times_to_pb(t: ServeTimes) -> internal::ServeTimes {
    internal::ServeTimes {
        queue_ns: t.queue,
        fsync_ns: t.fsync,
        quorum_ns: t.quorum,
        apply_ns: t.apply,
        commit_wait_ns: 0,
        total_ns: t.total,
    }
}

/// Proposes a mutation at this replica. The voters tell `origin` of it.
pub(crate) async fn mutate(
    ctx: &Context,
    replica: &Replica,
    mutation: internal::Mutation,
    floor: Timestamp,
    origin: Option<NodeId>,
    charge: Charge,
) -> Result<Commit, Refusal> {
    check_voters(ctx, replica)?;
    let mutation = compact(mutation);
    let span = mutation_span(&mutation);
    Ok(replica.propose(mutation, span, floor, origin, charge).await?)
}

/// Refuses a mutation that no quorum would take, as far as other nodes have told: better than an entry whose outcome
/// nobody knows for as long as they have no room.
fn check_voters(ctx: &Context, replica: &Replica) -> Result<(), Refusal> {
    if replica.shard() == ShardId::CATALOG || !replica.is_leader() || !ctx.gossip.any_disk_full() {
        return Ok(());
    }
    let voters = replica.voters();
    let full: Vec<NodeId> = voters.iter().copied().filter(|v| *v != ctx.me && ctx.gossip.is_disk_full(*v)).collect();
    if (voters.len() - full.len()) * 2 > voters.len() { Ok(()) } else { Err(failure::disks_full(&full).into()) }
}

/// A read of one shard, at one replica.
pub(crate) struct Read<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) replica: &'a Replica,
    pub(crate) table: TableId,
    pub(crate) plan: &'a ReadPlan,
    pub(crate) consistency: &'a Consistency,
    /// `latest` when the request arrived, for staleness (rule C7).
    pub(crate) asked: Timestamp,
}

impl Read<'_> {
    /// Answers from this replica, or says why it cannot.
    pub(crate) async fn serve(&self) -> Result<ReadAnswer, Refusal> {
        let (start, began) = (Mono::now(), mark());
        let span = plan_span(self.plan);
        let (kind, at) = match self.consistency {
            Consistency::Linearizable => return self.linearizable(&span, start, began).await,
            Consistency::Snapshot(at) => {
                self.replica.prepare_snapshot(&span, *at).await?;
                (ReadKind::Snapshot, *at)
            }
            Consistency::BoundedStaleness(bound) => (ReadKind::Bounded, self.bounded(&span, *bound).await?),
            Consistency::Causal(token) => (ReadKind::Causal, self.causal(&span, token.0).await?),
            Consistency::Local => (ReadKind::Local, self.freshest()),
        };
        let ready = Mono::now();
        let (page, at) = self.read_at(at)?;
        self.answered(kind, at, began);
        Ok(self.answer(page, at, start, ready))
    }

    /// The answer stands. Called before anything else can be applied.
    pub(crate) fn answered(&self, kind: ReadKind, at: Timestamp, began: u64) {
        emit(|| {
            let (shard, applied) = (self.replica.shard(), self.replica.safe_time().applied());
            Event::Read { shard, kind, at, applied, span: plan_span(self.plan), began }
        });
    }

    /// Where the lead time allows it: at this node's own clock. Else at the leader: the newest state. Elsewhere: refused
    /// with the leader as a hint.
    async fn linearizable(&self, span: &KeySpan, start: Mono, began: u64) -> Result<ReadAnswer, Refusal> {
        if let Some(answer) = self.ahead(start, began).await? {
            return Ok(answer);
        }
        let mut ready = start;
        let (read, _) = self
            .replica
            .read_linearizable(span, self.newest(), |at| {
                ready = Mono::now();
                self.read_at(at)
            })
            .await?;
        let (page, at) = read?;
        let mut answer = self.answer(page, at, start, ready);
        answer.staleness = Duration::ZERO;
        Ok(answer)
    }

    /// At a follower that has learned the leader's read index: the newest state, once it is applied here. `began`:
    /// the [`mark`] before the leader was asked.
    pub(crate) async fn linearizable_from(
        &self,
        position: Timestamp,
        start: Mono,
        began: u64,
    ) -> Result<ReadAnswer, Refusal> {
        self.replica.safe_time().wait_applied(position).await;
        let ready = Mono::now();
        let (page, at) = self.read_at(self.replica.safe_time().applied().min(self.newest()))?;
        self.answered(ReadKind::Followed, at, began);
        let mut answer = self.answer(page, at, start, ready);
        answer.staleness = Duration::ZERO;
        Ok(answer)
    }

    /// The newest timestamp that needs no waiting: safe here, and past by this node's clock (rule W2).
    fn freshest(&self) -> Timestamp {
        self.replica.safe_time().safe().min(self.ctx.clock.now().earliest.prev())
    }

    async fn bounded(&self, span: &KeySpan, bound: Duration) -> Result<Timestamp, Refusal> {
        if !self.ctx.clock.is_safe() {
            return Err(meridian_consensus::ConsensusError::ClockUnsafe.into());
        }
        if sabotaged(Sabotage::IgnoreBound) {
            return Ok(self.freshest());
        }
        let oldest = self.asked.minus(bound);
        // Safe time may be ahead of the clock: then nothing has to be waited for but the clock.
        if self.replica.safe_time().safe() < oldest {
            if !self.replica.is_leader() {
                return Err(Refusal::NotFresh);
            }
            self.replica.prepare_snapshot(span, oldest).await?;
        }
        Ok(self.freshest().max(oldest))
    }

    async fn causal(&self, span: &KeySpan, token: Timestamp) -> Result<Timestamp, Refusal> {
        if sabotaged(Sabotage::IgnoreToken) {
            return Ok(self.freshest());
        }
        if self.replica.safe_time().safe() < token {
            if self.replica.is_leader() {
                self.replica.prepare_snapshot(span, token).await?;
            } else {
                let wait = self.replica.safe_time().wait_safe(token);
                tokio::time::timeout(self.ctx.deadlines.catch_up, wait).await.map_err(|_| Refusal::NotFresh)?;
            }
        }
        Ok(self.freshest().max(token))
    }

    /// The replica's state; while a snapshot replaces it, another replica has to answer.
    fn view(&self) -> Result<DataView, Refusal> {
        self.replica.view().ok_or(Refusal::NotFresh)
    }

    /// Reads at `at`, or, if the caller has not chosen it, later: at the GC floor, below which versions are missing.
    ///
    /// The floor is asked for in the view that is read. Nothing above it goes while that is open (rule A2), and it is
    /// below what is applied there, so the state at the floor is complete.
    pub(crate) fn read_at(&self, at: Timestamp) -> Result<(Page, Timestamp), Refusal> {
        let view = self.view()?;
        let mut floor = view.gc_floor(self.replica.shard()).map_err(|e| storage(&e))?;
        if sabotaged(Sabotage::ReadBelowFloor) {
            floor = Timestamp::ZERO;
        }
        if at < floor && matches!(self.consistency, Consistency::Snapshot(_)) {
            let text = format!("versions below {floor} are collected; read at a later timestamp");
            return Err(Error::new(Reason::TimestampCollected, text).into());
        }
        let at = at.max(floor);
        let mut page = read(&view, self.table, self.plan, at, &self.ctx.limits).map_err(|e| storage(&e))?;
        // A tombstone may be among what is missing: from when on a key is absent is not known further back.
        page.reveals = page.reveals.max(floor);
        Ok((page, at))
    }

    pub(crate) fn answer(&self, page: Page, at: Timestamp, start: Mono, ready: Mono) -> ReadAnswer {
        let end = Mono::now();
        let times = internal::ServeTimes {
            quorum_ns: nanos(ready.since(start)),
            apply_ns: nanos(end.since(ready)),
            total_ns: nanos(end.since(start)),
            ..internal::ServeTimes::default()
        };
        ReadAnswer { page, at, staleness: self.asked.since(at), times }
    }
}
