//! Reads: from this node's own replica where the consistency level allows that, else from the nearest one or the leader.

use super::route::Route;
use super::{Answered, Arrival, Attempt, hint, receipt, region_of, wait_past};
use crate::admission::charge_answer;
use crate::context::Context;
use crate::demand::Asked;
use crate::failure::{self, Refusal};
use crate::floor;
use crate::serve::{Read, ReadAnswer};
use meridian_catalog::CatalogView;
use meridian_clock::Mono;
use meridian_probe::{Event, Sabotage, emit, mark, sabotaged};
use meridian_proto::internal::v1 as internal;
use meridian_proto::internal::v1::read_reply;
use meridian_storage::DiskLevel;
use meridian_transport::Failed;
use meridian_txn::{Page, ReadPlan, plan_span};
use meridian_types::{CausalityToken, CommitPath, Consistency, Error, NodeId, ShardId, TableId, Timestamp};
use meridian_wire::header::Served;
use std::time::Duration;

/// A forwarded read that has no answer: another node may have one.
fn answer<T>(reply: Result<Option<T>, Failed>) -> Result<T, Refusal> {
    reply.ok().flatten().ok_or(Refusal::NotLeader(None))
}

/// What one shard is asked.
pub(crate) struct ShardRead<'a> {
    pub(crate) view: &'a CatalogView,
    pub(crate) shard: ShardId,
    pub(crate) table: TableId,
    pub(crate) plan: &'a ReadPlan,
    pub(crate) consistency: &'a Consistency,
}

/// Reads one shard, from the replica that its consistency level calls for.
pub(crate) async fn read(ctx: &Context, read: &ShardRead<'_>, arrival: Arrival<'_>) -> Result<Answered<Page>, Error> {
    let mut route = Route::new(ctx, read.shard);
    let mut local_tried = lags_for_good(ctx, read);
    loop {
        let Some(left) = arrival.left() else { return Err(failure::no_quorum("the read")) };
        let (to, attempt) = match (local_tried, ctx.replicas.get(read.shard)) {
            (false, Some(replica)) => {
                local_tried = true;
                let limit = route.limit(ctx.me, left);
                (ctx.me, tokio::time::timeout(limit, read_local(ctx, &replica, read, arrival)).await)
            }
            _ => match next_reader(ctx, read, &mut route) {
                Some(to) => (to, tokio::time::timeout(route.limit(to, left), read_at(ctx, to, read, arrival)).await),
                None => {
                    route.pause(left).await;
                    local_tried = lags_for_good(ctx, read);
                    continue;
                }
            },
        };
        match attempt {
            Err(_) => {
                route.silent.insert(to);
            }
            Ok(Err(Refusal::NotFresh)) => {}
            Ok(Ok(attempt)) => {
                charge_answer(arrival.charge, attempt.value.page.bytes())?;
                return release_read(ctx, read, attempt, arrival).await;
            }
            Ok(Err(Refusal::NotLeader(hint))) => route.hint = hint,
            Ok(Err(Refusal::Failed(e))) => return Err(e),
        }
    }
}

/// Whether this node's replica would be waited for in vain: while the disk is full it takes no entries, so it does not catch
/// up with its leader. The catalog's replica is waited for all the same: what is read of it is read there.
fn lags_for_good(ctx: &Context, read: &ShardRead<'_>) -> bool {
    matches!(read.consistency, Consistency::Linearizable)
        && read.shard != ShardId::CATALOG
        && ctx.store.space().level() >= DiskLevel::Full
        && ctx.replicas.get(read.shard).is_some_and(|r| !r.is_leader())
}

/// Whether any replica may have the answer: of a linearizable read where the leader closes ahead of the clock.
fn is_anywhere(read: &ShardRead<'_>) -> bool {
    let leads = || read.view.table_by_id(read.table).is_some_and(|t| t.placement.has_lead_time());
    !matches!(read.consistency, Consistency::Linearizable) || leads()
}

/// Levels that any replica may answer go to the nearest one first, then to the leader; the others to the leader.
fn next_reader(ctx: &Context, read: &ShardRead<'_>, route: &mut Route) -> Option<NodeId> {
    let here = ctx.replicas.get(read.shard).is_some();
    if route.tried.is_empty() && !here && is_anywhere(read) {
        let replicas = read.view.shard(read.shard).map(|s| s.replicas.as_slice()).unwrap_or_default();
        let distance = |r: &&meridian_catalog::Replica| read.view.rtts().get(&ctx.region, &r.region);
        if let Some(nearest) = replicas.iter().filter(|r| r.node != ctx.me).min_by_key(distance) {
            route.tried.insert(nearest.node);
            return Some(nearest.node);
        }
    }
    loop {
        // This node's own replica was asked already.
        match route.next()? {
            me if me == ctx.me => {}
            other => return Some(other),
        }
    }
}

async fn read_local(
    ctx: &Context,
    replica: &meridian_consensus::Replica,
    read: &ShardRead<'_>,
    arrival: Arrival<'_>,
) -> Result<Attempt<ReadAnswer>, Refusal> {
    let (start, began) = (Mono::now(), mark());
    let ShardRead { table, plan, consistency, .. } = *read;
    let local = Read { ctx, replica, table, plan, consistency, asked: arrival.latest };
    let linearizable = matches!(consistency, Consistency::Linearizable);
    if linearizable {
        replica.await_leadership(ctx.me).await;
    }
    let mut call = None;
    let answer = if !linearizable || replica.is_leader() {
        if linearizable {
            ctx.asked(replica, ctx.me, Asked::Read);
        }
        local.serve().await?
    } else if let Some(answer) = local.ahead(start, began).await? {
        answer
    } else {
        let leader = replica.presumed_leader().filter(|l| *l != ctx.me).ok_or(Refusal::NotLeader(None))?;
        let position = read_index(ctx, leader, read).await?;
        // The round trip for the read index is what the forward would have cost.
        let asked = Mono::now();
        let answer = local.linearizable_from(position, asked, began).await?;
        call = Some(Mono::now().since(start));
        answer
    };
    let times = answer.times;
    let call = call.unwrap_or(Duration::from_nanos(times.total_ns));
    Ok(Attempt { value: answer, by: ctx.me, call, times, path: CommitPath::NotSaid })
}

/// Asks the leader up to where this node's replica must have applied.
async fn read_index(ctx: &Context, leader: NodeId, read: &ShardRead<'_>) -> Result<Timestamp, Refusal> {
    let span = plan_span(read.plan);
    let ranges = span.ranges.into_iter().map(|r| {
        let (start, end) = meridian_wire::range::encode(&r);
        internal::read_index_request::Span { start, end }
    });
    let request = internal::ReadIndexRequest { target: None, keys: span.keys, ranges: ranges.collect() };
    match answer(ctx.links().read_index(leader, read.shard, request).await)?.result {
        Some(internal::read_index_reply::Result::Position(ts)) => Ok(Timestamp(ts)),
        Some(internal::read_index_reply::Result::NotLeader(n)) => Err(Refusal::NotLeader(hint(n))),
        Some(internal::read_index_reply::Result::Failure(f)) => Err(failure::from_pb(f).into()),
        None => Err(Refusal::NotLeader(None)),
    }
}

async fn read_at(
    ctx: &Context,
    to: NodeId,
    read: &ShardRead<'_>,
    arrival: Arrival<'_>,
) -> Result<Attempt<ReadAnswer>, Refusal> {
    let start = Mono::now();
    let request = internal::ReadRequest {
        target: None,
        table: read.table.0,
        consistency: Some(meridian_wire::consistency::encode(read.consistency)),
        what: Some(read.plan.to_proto()),
        asked: arrival.latest.0,
    };
    let reply = answer(ctx.links().read(to, read.shard, request).await)?;
    let call = Mono::now().since(start);
    let times = reply.times.unwrap_or_default();
    match reply.result {
        Some(read_reply::Result::Rows(rows)) => {
            let at = Timestamp(rows.timestamp);
            let page = Page { rows: rows.rows, more: rows.more, reveals: Timestamp(rows.reveals) };
            // Staleness as this gateway's clock has it: counted from the arrival here.
            let linearizable = matches!(read.consistency, Consistency::Linearizable);
            let staleness = if linearizable { Duration::ZERO } else { arrival.latest.since(at) };
            Ok(Attempt {
                value: ReadAnswer { page, at, staleness, times },
                by: to,
                call,
                times,
                path: CommitPath::NotSaid,
            })
        }
        Some(read_reply::Result::NotLeader(n)) => Err(Refusal::NotLeader(hint(n))),
        Some(read_reply::Result::Failure(f)) => Err(failure::from_pb(f).into()),
        None => Err(Refusal::NotLeader(None)),
    }
}

/// Lets a read's answer go once everything that it reveals is past (rules W1, W2).
async fn release_read(
    ctx: &Context,
    read: &ShardRead<'_>,
    attempt: Attempt<ReadAnswer>,
    arrival: Arrival<'_>,
) -> Result<Answered<Page>, Error> {
    let ReadAnswer { at, mut staleness, ref page, .. } = attempt.value;
    // A whole answer of the newest state is the answer at every timestamp from the newest version that it depends on: the
    // earliest one that is past needs no waiting. The pages that follow a part need the timestamp that it was read at.
    let newest = matches!(read.consistency, Consistency::Linearizable) && !page.more;
    let at = if newest { page.reveals.max(at.min(ctx.clock.now().earliest.prev())) } else { at };
    if sabotaged(Sabotage::UnderstateStaleness) {
        staleness /= 4;
    }
    // The read timestamp itself is revealed too: it goes into the token, which a later write must exceed.
    let reveals = page.reveals.max(at);
    let mut revealed = reveals;
    if sabotaged(Sabotage::RevealTombstone) {
        let versions = attempt.value.page.rows.iter().map(|row| Timestamp(row.version));
        revealed = versions.max().unwrap_or_default();
    }
    let wait = wait_past(ctx, revealed, arrival).await.map_err(|_| failure::no_quorum("the read's commit wait"))?;
    emit(|| Event::Released { ts: reveals });
    let region = region_of(ctx, attempt.by);
    let leader = ctx.replicas.get(read.shard).and_then(|r| r.leader()).map(|l| region_of(ctx, l));
    let floor = floor::read(read.view, &ctx.region, read.shard, leader.as_ref(), read.consistency);
    let served = Served {
        timestamp: at,
        by: attempt.by,
        region,
        staleness,
        token: CausalityToken(at),
        receipt: Some(receipt(&attempt, wait, floor, arrival)),
        given: None,
    };
    Ok(Answered { value: attempt.value.page, served })
}
