//! What a replica answers: mutations and reads.

use super::Replica;
use crate::error::ConsensusError;
use crate::leadership::{Leadership, Proposal};
use crate::lease::Moment;
use crate::memory::Charge;
use meridian_clock::Mono;
use meridian_probe::{Event, ReadKind, Sabotage, emit, mark, sabotaged};
use meridian_proto::internal::v1 as pb;
use meridian_storage::DiskLevel;
use meridian_types::{KeySpan, NodeId, ShardId, Timestamp};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Where a mutation's time went at the leader, in nanoseconds; the parts follow one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServeTimes {
    /// Until the entry was stamped and handed over.
    pub queue: u64,
    /// Until the leader's log was synced or the entry committed, whichever came first.
    pub fsync: u64,
    /// Until the entry was committed.
    pub quorum: u64,
    /// Until it was applied.
    pub apply: u64,
    /// Everything, arrival to answer.
    pub total: u64,
}

/// A mutation's outcome at the leader. It may be revealed only when its timestamp is past (rule W1).
#[derive(Clone, Debug)]
pub struct Commit {
    /// What applying it came to.
    pub outcome: pb::Outcome,
    /// Where the time went.
    pub times: ServeTimes,
}

impl Replica {
    /// Proposes a mutation that touches `span`; its commit timestamp will exceed `floor`. Returns when it is
    /// applied here; the caller reveals it no earlier than its timestamp is past (rule W1). `charge` is held until the
    /// entry is applied or known to be lost, whatever becomes of the caller. The voters tell `origin` once they have it.
    ///
    /// Cancel-safe for correctness: an entry that was handed over stays in flight.
    pub async fn propose(
        &self,
        mutation: pb::Mutation,
        span: KeySpan,
        floor: Timestamp,
        origin: Option<NodeId>,
        charge: Charge,
    ) -> Result<Commit, ConsensusError> {
        let arrived = Mono::now();
        self.check_clock(floor)?;
        let leadership = self.leadership().ok_or_else(|| self.not_leader())?;
        leadership.wait_handover().await;
        if !sabotaged(Sabotage::StampOnFullDisk) {
            // The catalog's entries are small, and dropping a table is one of them.
            let worst = if self.shard == ShardId::CATALOG { DiskLevel::NearlyFull } else { DiskLevel::Enough };
            self.disk().check(worst)?;
        }
        self.check_backlog()?;
        let (reply, decided) = oneshot::channel();
        leadership.propose(Proposal { mutation, span, floor, origin, arrived, charge, reply })?;
        drop(leadership);
        // Without an answer nobody knows: whatever was not stamped has been answered.
        let decision = decided.await.map_err(|_| ConsensusError::Lost)??;
        let committed = decision.committed.unwrap_or(decision.applied);
        let synced = decision.synced.unwrap_or(committed).min(committed).max(decision.handed);
        let nanos = |from: Mono, to: Mono| u64::try_from(to.since(from).as_nanos()).unwrap_or(u64::MAX);
        let mut times = ServeTimes {
            queue: nanos(decision.arrived, decision.handed),
            fsync: nanos(decision.handed, synced),
            quorum: nanos(synced, committed),
            apply: nanos(committed, decision.applied),
            total: nanos(decision.arrived, Mono::now()),
        };
        // The hop back from the completing task belongs to the last part.
        times.apply += times.total.saturating_sub(times.queue + times.fsync + times.quorum + times.apply);
        Ok(Commit { outcome: decision.outcome, times })
    }

    /// At the leader: reads the newest applied state, linearizably, but nothing above `upto`, which is not below true time
    /// when the read was asked for. `read` gets the timestamp to read at and is called once; its answer stands only if
    /// this function returns `Ok`.
    pub async fn read_linearizable<T>(
        &self,
        span: &KeySpan,
        upto: Timestamp,
        read: impl FnOnce(Timestamp) -> T,
    ) -> Result<(T, Timestamp), ConsensusError> {
        let began = mark();
        let leadership = self.open_leadership().await?;
        let since = Moment::now(&self.clock);
        leadership.while_leading(self.applied_up_to(leadership.read_point(span))).await?;
        let applied = self.safe.applied();
        let at = applied.min(upto);
        let answer = read(at);
        // Leadership is proven after the data was read (R6).
        leadership.prove(since).await?;
        self.answered(ReadKind::Linearizable, at, applied, span, began);
        Ok((answer, at))
    }

    /// At the leader: the stamp up to which a follower must have applied to read `span` linearizably.
    pub async fn read_index(&self, span: &KeySpan) -> Result<Timestamp, ConsensusError> {
        let began = mark();
        let leadership = self.open_leadership().await?;
        let since = Moment::now(&self.clock);
        let point = leadership.read_point(span);
        let applied = self.safe.applied();
        leadership.prove(since).await?;
        self.answered(ReadKind::ReadIndex, point, applied, span, began);
        Ok(point)
    }

    /// A read's answer stands.
    fn answered(&self, kind: ReadKind, at: Timestamp, applied: Timestamp, span: &KeySpan, began: u64) {
        emit(|| Event::Read { shard: self.shard, kind, at, applied, span: span.clone(), began });
    }

    async fn applied_up_to(&self, ts: Timestamp) -> Result<(), ConsensusError> {
        self.safe.wait_applied(ts).await;
        Ok(())
    }

    async fn open_leadership(&self) -> Result<Arc<Leadership>, ConsensusError> {
        if !self.clock.is_safe() {
            return Err(ConsensusError::ClockUnsafe);
        }
        let leadership = self.leadership().ok_or_else(|| self.not_leader())?;
        if !sabotaged(Sabotage::ReadBeforeBarrier) {
            leadership.wait_open().await?;
        }
        Ok(leadership)
    }

    /// Returns once this replica may answer a read of `span` at `at` from its own state: at once if `at` is safe
    /// here; at the leader, after closing `at` and waiting for what is in flight below it.
    pub async fn prepare_snapshot(&self, span: &KeySpan, at: Timestamp) -> Result<(), ConsensusError> {
        let unsafely = sabotaged(Sabotage::ReadAboveSafeTime) && !self.is_leader();
        if at <= self.safe.safe() || unsafely {
            return Ok(());
        }
        self.check_clock(at)?;
        let leadership = self.open_leadership().await?;
        leadership.close_upto(at).await?;
        let in_flight = leadership.in_flight_below(span, at);
        if let Some(last) = in_flight.filter(|_| !sabotaged(Sabotage::SkipSnapshotWait)) {
            leadership.while_leading(self.applied_up_to(last)).await?;
        }
        Ok(())
    }

    fn check_clock(&self, ts: Timestamp) -> Result<(), ConsensusError> {
        if !self.clock.is_safe() {
            return Err(ConsensusError::ClockUnsafe);
        }
        // Timestamps of this shard are ahead by its lead time (S6).
        let limit = self.clock.now().latest.plus(self.max_offset).plus(self.lead_time());
        let refused = ts > limit && !sabotaged(Sabotage::AcceptFuture);
        if refused { Err(ConsensusError::FutureTimestamp { ts, limit }) } else { Ok(()) }
    }
}
