//! Mutations: sent to the shard's leader under one request id until the outcome is known, and counted by this node's own
//! replica beside that.

use super::route::Route;
use super::{Answered, Arrival, Attempt, hint, receipt, region_of, wait_past};
use crate::context::Context;
use crate::demand::Asked;
use crate::failure::{self, Refusal};
use crate::floor;
use crate::serve;
use meridian_catalog::CatalogView;
use meridian_clock::Mono;
use meridian_consensus::{Awaited, Charge, Replica};
use meridian_probe::{Event, Sabotage, emit, sabotaged};
use meridian_proto::internal::v1 as internal;
use meridian_proto::internal::v1::mutate_reply;
use meridian_proto::v1::RequestId;
use meridian_transport::Failed;
use meridian_txn::{Committed, id_to_proto, verdict};
use meridian_types::{CausalityToken, CommitPath, Error, Fate, NodeId, Reason, ShardId, Timestamp};
use meridian_wire::header::Served;
use std::sync::Arc;
use std::time::Duration;

/// Least round trip to a leader from which on the gateway's node counts for itself who has a mutation: nearer ones gain
/// less than telling it costs.
const OWN_COUNT_RTT: Duration = Duration::from_millis(2);

/// Sends a mutation to its shard's leader until its outcome is known or time is up.
pub(crate) async fn mutate(
    ctx: &Context,
    view: &CatalogView,
    shard: ShardId,
    mutation: internal::Mutation,
    arrival: Arrival<'_>,
) -> Result<Answered<Committed>, Error> {
    let mut route = Route::new(ctx, shard);
    let mut own = OwnCount::new(ctx, view, shard, &mutation);
    let mut unknown = false;
    let mut shed = None;
    loop {
        let Some(left) = arrival.left() else {
            return Err(if unknown && !sabotaged(Sabotage::DenyUnknown) {
                failure::lost()
            } else {
                shed.unwrap_or_else(|| failure::no_quorum("the write"))
            });
        };
        let Some(to) = route.next() else {
            route.pause(left).await;
            continue;
        };
        let mut copy = mutation.clone();
        if sabotaged(Sabotage::NewIdPerAttempt) {
            copy.request_id = Some(id_to_proto(ctx.request_id()));
        }
        let attempt = mutate_at(ctx, to, shard, copy, &mut own, arrival.charge);
        match tokio::time::timeout(route.limit(to, left), attempt).await {
            // It may have been proposed; the ledger tells the next attempt.
            Err(_) => {
                unknown = true;
                route.silent.insert(to);
            }
            Ok(Ok(attempt)) => {
                return release_mutation(ctx, view, shard, &mutation, attempt, arrival).await;
            }
            Ok(Err(Refusal::NotLeader(hint))) => route.hint = hint,
            Ok(Err(Refusal::NotFresh)) => {}
            Ok(Err(Refusal::Failed(e))) if e.reason == Reason::OutcomeUnknown => unknown = true,
            // This copy was refused; an earlier one may still take effect.
            Ok(Err(Refusal::Failed(e))) if unknown && e.fate == Fate::NotApplied => {
                if !e.reason.is_retryable() {
                    return Err(e.with_fate(Fate::Unknown));
                }
            }
            Ok(Err(Refusal::Failed(e))) if e.reason == Reason::ClockUnsafe => shed = Some(e),
            Ok(Err(Refusal::Failed(e))) => return Err(e),
        }
    }
}

/// This node's own count of who has a mutation, where that can be sooner than the leader's.
struct OwnCount {
    replica: Option<Arc<Replica>>,
    id: Option<RequestId>,
    awaited: Option<Awaited>,
}

impl OwnCount {
    /// Nothing is awaited before a mutation goes to another node.
    fn new(ctx: &Context, view: &CatalogView, shard: ShardId, mutation: &internal::Mutation) -> Self {
        let table = view.shard(shard).and_then(|s| view.table_by_id(s.table));
        let classic = table.is_some_and(|t| t.classic_commit);
        let replica = ctx.replicas.get(shard).filter(|_| !classic);
        Self { replica, id: mutation.request_id, awaited: None }
    }

    /// Counts from now on, if it is worth it towards a leader at `to`; whether it does.
    fn begin(&mut self, ctx: &Context, to: NodeId) -> bool {
        let far = ctx.gossip.rtt(to).is_some_and(|rtt| rtt >= OWN_COUNT_RTT);
        if let (Some(replica), Some(id), true, true) = (&self.replica, &self.id, far, ctx.clock.is_safe()) {
            self.awaited.get_or_insert_with(|| replica.await_outcome(id));
        }
        self.awaited.is_some()
    }

    /// The outcome, once this node's own replica has applied the mutation.
    async fn outcome(&mut self) -> internal::Outcome {
        match &mut self.awaited {
            Some(awaited) => awaited.outcome().await,
            None => std::future::pending().await,
        }
    }
}

async fn mutate_at(
    ctx: &Context,
    to: NodeId,
    shard: ShardId,
    mutation: internal::Mutation,
    own: &mut OwnCount,
    charge: &Charge,
) -> Result<Attempt<internal::Outcome>, Refusal> {
    let start = Mono::now();
    if to == ctx.me {
        let replica = ctx.replicas.get(shard).ok_or(Refusal::NotLeader(None))?;
        replica.await_leadership(to).await;
        ctx.asked(&replica, to, Asked::Write);
        let commit = serve::mutate(ctx, &replica, mutation, Timestamp::ZERO, None, charge.clone()).await?;
        let (times, call) = (serve::times_to_pb(commit.times), Duration::from_nanos(commit.times.total));
        return Ok(Attempt { value: commit.outcome, by: to, call, times, path: CommitPath::Leader });
    }
    let early = own.begin(ctx, to);
    let reply = tokio::select! {
        biased;
        outcome = own.outcome() => {
            let (call, times) = (Mono::now().since(start), internal::ServeTimes::default());
            return Ok(Attempt { value: outcome, by: to, call, times, path: CommitPath::OneRoundTrip });
        }
        reply = ctx.links().mutate(to, shard, mutation, early) => reply.map_err(write_failed)?,
    };
    let reply = reply.ok_or_else(failure::lost)?;
    let call = Mono::now().since(start);
    let times = reply.times.unwrap_or_default();
    match reply.result {
        Some(mutate_reply::Result::Outcome(outcome)) => {
            Ok(Attempt { value: outcome, by: to, call, times, path: CommitPath::Leader })
        }
        Some(mutate_reply::Result::NotLeader(n)) => Err(Refusal::NotLeader(hint(n))),
        Some(mutate_reply::Result::Failure(f)) => Err(failure::from_pb(f).into()),
        None => Err(failure::lost().into()),
    }
}

/// A forward that has failed: only a request that never left this node, or that went to a node which knows no forwarding
/// in batches, is known to have done nothing.
fn write_failed(failed: Failed) -> Refusal {
    match failed {
        Failed::NotSent(_) => Refusal::NotLeader(None),
        Failed::Lost(status) if status.code() == tonic::Code::Unimplemented => Refusal::NotLeader(None),
        Failed::Lost(_) => failure::lost().into(),
    }
}

/// Reveals an outcome once its timestamp is past (rule W1).
async fn release_mutation(
    ctx: &Context,
    view: &CatalogView,
    shard: ShardId,
    mutation: &internal::Mutation,
    attempt: Attempt<internal::Outcome>,
    arrival: Arrival<'_>,
) -> Result<Answered<Committed>, Error> {
    let ts = Timestamp(attempt.value.ts);
    let commit_wait = wait_past(ctx, ts, arrival).await.map_err(|_| failure::lost())?;
    emit(|| Event::Released { ts });
    let region = region_of(ctx, attempt.by);
    let floor = floor::write(view, &ctx.region, shard, &region);
    let served = Served {
        timestamp: ts,
        by: attempt.by,
        region,
        staleness: Duration::ZERO,
        token: CausalityToken(ts),
        receipt: Some(receipt(&attempt, commit_wait, floor, arrival)),
        given: None,
    };
    Ok(Answered { value: verdict(mutation, attempt.value)?, served })
}
