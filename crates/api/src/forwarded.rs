//! Requests that other nodes' gateways have forwarded to this one: one by one, or as a stream of batches.

use crate::admission::{admit_one, charge_answer};
use crate::context::Context;
use crate::demand::Asked;
use crate::failure::{self, Refusal};
use crate::serve::{self, Read, nanos};
use meridian_consensus::{Charge, Replica};
use meridian_proto::internal::v1 as internal;
use meridian_proto::internal::v1::forward_reply::Reply;
use meridian_proto::internal::v1::forwarded::Request;
use meridian_proto::internal::v1::{mutate_reply, read_index_reply, read_reply};
use meridian_transport::{Answers, Begun, Done, Limits};
use meridian_txn::ReadPlan;
use meridian_types::{Consistency, Error, KeySpan, NodeId, ShardId, TableId, Timestamp};
use prost::Message as _;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

/// Marks the number under which a request of several numbers is worked on: no number that somebody drops.
const SHARED: u64 = 1 << 63;

fn not_leader(hint: Option<NodeId>) -> internal::NotLeader {
    internal::NotLeader { hint: hint.map_or(0, |n| n.0) }
}

/// A replica that is not fresh enough answers like one that does not lead: ask another.
pub(crate) fn refused<R>(
    refusal: Refusal,
    other: impl FnOnce(internal::NotLeader) -> R,
    failed: impl FnOnce(internal::Failure) -> R,
) -> R {
    match refusal {
        Refusal::NotLeader(hint) => other(not_leader(hint)),
        Refusal::NotFresh => other(not_leader(None)),
        Refusal::Failed(e) => failed(failure::to_pb(&e)),
    }
}

/// Hands a mutation that came from node `from` to this node's replica.
pub(crate) async fn mutate(
    ctx: &Context,
    replica: &Replica,
    from: NodeId,
    request: internal::MutateRequest,
    charge: Charge,
) -> internal::MutateReply {
    let Some(mutation) = request.mutation else { return mutate_refused(Refusal::NotLeader(None)) };
    let origin = request.early.then_some(from);
    replica.await_leadership(from).await;
    ctx.asked(replica, from, Asked::Write);
    match serve::mutate(ctx, replica, mutation, Timestamp(request.floor), origin, charge).await {
        Ok(commit) => internal::MutateReply {
            result: Some(mutate_reply::Result::Outcome(commit.outcome)),
            times: Some(serve::times_to_pb(commit.times)),
        },
        Err(refusal) => mutate_refused(refusal),
    }
}

fn mutate_refused(refusal: Refusal) -> internal::MutateReply {
    let result = refused(refusal, mutate_reply::Result::NotLeader, mutate_reply::Result::Failure);
    internal::MutateReply { result: Some(result), times: None }
}

fn read_refused(refusal: Refusal) -> internal::ReadReply {
    let result = refused(refusal, read_reply::Result::NotLeader, read_reply::Result::Failure);
    internal::ReadReply { result: Some(result), times: None }
}

/// Reads from this node's replica, for the gateway of node `from`. Errors: the request makes no sense.
pub(crate) async fn read(
    ctx: &Context,
    replica: &Replica,
    from: NodeId,
    message: internal::ReadRequest,
    charge: &Charge,
) -> Result<internal::ReadReply, Error> {
    let latest = ctx.latest();
    // The gateway counts staleness by its own clock, which may be ahead of this one: its bound has to hold by both.
    let asked = latest.max(Timestamp(message.asked));
    let what = message.what.ok_or_else(|| Error::new(meridian_types::Reason::BadRequest, "nothing to read"))?;
    let plan = ReadPlan::from_proto(&what)?;
    let consistency = meridian_wire::consistency::decode(message.consistency)?;
    let table = TableId(message.table);
    if matches!(consistency, Consistency::Linearizable) {
        replica.await_leadership(from).await;
        ctx.asked(replica, from, Asked::Read);
    }
    let read = Read { ctx, replica, table, plan: &plan, consistency: &consistency, asked };
    let charged = read.serve().await.and_then(|answer| {
        charge_answer(charge, answer.page.bytes())?;
        Ok(answer)
    });
    Ok(match charged {
        Ok(answer) => {
            let rows = read_reply::Rows {
                rows: answer.page.rows,
                more: answer.page.more,
                timestamp: answer.at.0,
                staleness_ns: nanos(answer.staleness),
                served_by: ctx.me.0,
                reveals: answer.page.reveals.0,
            };
            internal::ReadReply { result: Some(read_reply::Result::Rows(rows)), times: Some(answer.times) }
        }
        Err(refusal) => read_refused(refusal),
    })
}

/// Up to where whoever asks, node `from`, must have applied. Errors: the request makes no sense.
pub(crate) async fn read_index(
    ctx: &Context,
    replica: &Replica,
    from: NodeId,
    message: internal::ReadIndexRequest,
) -> Result<internal::ReadIndexReply, Error> {
    replica.await_leadership(from).await;
    ctx.asked(replica, from, Asked::Read);
    let mut span = KeySpan { keys: message.keys, ..KeySpan::default() };
    // Spans are sorted; here those of several reads may have been put together.
    span.keys.sort_unstable();
    span.keys.dedup();
    for r in message.ranges {
        span.ranges.push(meridian_wire::range::decode(r.start, r.end)?);
    }
    let result = match replica.read_index(&span).await {
        Ok(position) => read_index_reply::Result::Position(position.0),
        Err(e) => refused(e.into(), read_index_reply::Result::NotLeader, read_index_reply::Result::Failure),
    };
    Ok(internal::ReadIndexReply { result: Some(result) })
}

/// The answers to a stream of batches.
pub(crate) fn answers(
    ctx: &Context,
    batches: Streaming<internal::ForwardBatch>,
) -> impl futures::Stream<Item = Result<internal::ForwardReplies, Status>> + Send + use<> {
    let (ctx, stop) = (ctx.clone(), ctx.stop.clone());
    let (mut for_me, mut from) = (false, NodeId(0));
    let begin = move |batch: internal::ForwardBatch| {
        if let Some(target) = &batch.target {
            for_me = ctx.replicas.check_node(Some(target)).is_ok();
            from = NodeId(target.from);
        }
        let work = batch.requests.into_iter().map(|request| {
            let number = if request.also.is_empty() { request.number } else { request.number | SHARED };
            let replica = ctx.replicas.get(ShardId(request.shard)).filter(|_| for_me);
            (number, request.encoded_len(), answer(ctx.clone(), replica, from, number, request))
        });
        Begun { work: work.collect(), dropped: batch.dropped }
    };
    let encode = |replies| internal::ForwardReplies { replies };
    Answers::new(batches, Limits::default(), begin, encode, Box::pin(stop.cancelled_owned()))
}

async fn answer(
    ctx: Context,
    replica: Option<std::sync::Arc<Replica>>,
    from: NodeId,
    number: u64,
    forwarded: internal::Forwarded,
) -> Done<internal::ForwardReply> {
    let bytes = forwarded.encoded_len();
    let reply = match forwarded.request {
        Some(Request::Mutate(request)) => Some(Reply::Mutate(match replica {
            Some(replica) => match admit_one(&ctx.memory.in_flight, bytes) {
                Ok(charge) => mutate(&ctx, &replica, from, request, charge).await,
                Err(e) => mutate_refused(e.into()),
            },
            None => mutate_refused(Refusal::NotLeader(None)),
        })),
        Some(Request::Read(request)) => match replica {
            Some(replica) => match admit_one(&ctx.memory.in_flight, bytes) {
                Ok(charge) => {
                    // It may block on the disk, so it gets a task of its own.
                    let reading = tokio::spawn(async move { read(&ctx, &replica, from, request, &charge).await });
                    let reply = AbortOnDropHandle::new(reading).await;
                    reply.ok().and_then(Result::ok).map(Reply::Read)
                }
                Err(e) => Some(Reply::Read(read_refused(e.into()))),
            },
            None => None,
        },
        Some(Request::ReadIndex(request)) => match replica {
            Some(replica) => {
                // Nobody drops a request of several numbers, so it ends by itself.
                let limited =
                    tokio::time::timeout(ctx.deadlines.attempt, read_index(&ctx, &replica, from, request)).await;
                limited.ok().and_then(Result::ok).map(Reply::ReadIndex)
            }
            None => None,
        },
        None => None,
    };
    let reply = internal::ForwardReply { number: forwarded.number, also: forwarded.also, reply };
    Done { number, bytes: reply.encoded_len(), answer: reply }
}
