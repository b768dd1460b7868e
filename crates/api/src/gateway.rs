//! The gateway: finds the replica that can answer, here or elsewhere, and keeps trying while that is safe.
//!
//! * A mutation goes to the shard's leader. Every attempt carries the same request id, so it takes effect at most
//!   once however often it is sent; "not applied" is said only if *every* copy was refused before it was proposed
//!   (rule X4).
//! * A read goes to this node's own replica if its consistency level allows that, else to the leader or to the
//!   nearest replica.
//! * The answer is released here: the reply leaves when what it reveals is past by this node's clock (rule W1),
//!   which overlaps commit wait with the way back from the leader.

use crate::admission::charge_answer;
use crate::context::Context;
use crate::demand::Asked;
use crate::failure::{self, Refusal};
use crate::floor;
use crate::serve::{self, Read, ReadAnswer, nanos};
use meridian_catalog::CatalogView;
use meridian_clock::{Mono, sleep};
use meridian_consensus::{Awaited, Charge, Replica};
use meridian_probe::{Event, Sabotage, emit, mark, sabotaged};
use meridian_proto::internal::v1 as internal;
use meridian_proto::internal::v1::{mutate_reply, read_reply};
use meridian_proto::v1::RequestId;
use meridian_storage::DiskLevel;
use meridian_transport::Failed;
use meridian_txn::{Committed, Page, ReadPlan, id_to_proto, plan_span, verdict};
use meridian_types::{
    CausalityToken, CommitPath, Consistency, Error, Fate, NodeId, Reason, Receipt, RegionId, ShardId, TableId,
    Timestamp,
};
use meridian_wire::header::Served;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Pause between attempts while a shard has no leader that is known.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Longest such pause.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(400);

/// Least round trip to a leader from which on the gateway's node counts for itself who has a mutation: nearer ones gain
/// less than telling it costs.
const OWN_COUNT_RTT: Duration = Duration::from_millis(2);

/// A node that did not answer gets this fraction of the usual time from then on.
const SILENT_FRACTION: u32 = 4;

/// When a request came and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) at: Mono,
    pub(crate) deadline: Duration,
    /// `latest` at arrival.
    pub(crate) latest: Timestamp,
    /// What it has of the node's memory.
    pub(crate) charge: &'a Charge,
}

impl Arrival<'_> {
    pub(crate) fn left(&self) -> Option<Duration> {
        self.deadline.checked_sub(Mono::now().since(self.at)).filter(|d| !d.is_zero())
    }
}

/// What was served, and what it cost.
pub(crate) struct Answered<T> {
    pub(crate) value: T,
    pub(crate) served: Served,
}

/// A remote or local answer with its times: of the call as seen from here, and at the replica.
struct Attempt<T> {
    value: T,
    by: NodeId,
    call: Duration,
    times: internal::ServeTimes,
    path: CommitPath,
}

/// Where to look for a shard's leader: each node at most once per round, best guess first.
struct Route {
    ctx: Context,
    shard: ShardId,
    hint: Option<NodeId>,
    tried: BTreeSet<NodeId>,
    /// Nodes that let an attempt run into its limit: they may be cut off, so they get less time.
    silent: BTreeSet<NodeId>,
    pause: Duration,
}

impl Route {
    fn new(ctx: &Context, shard: ShardId) -> Self {
        Self {
            ctx: ctx.clone(),
            shard,
            hint: None,
            tried: BTreeSet::new(),
            silent: BTreeSet::new(),
            pause: RETRY_PAUSE,
        }
    }

    /// The next node to ask for the leader. `None`: a round is over.
    fn next(&mut self) -> Option<NodeId> {
        let local = self.ctx.replicas.get(self.shard);
        let known = local.as_ref().and_then(|r| r.leader());
        let view = self.ctx.catalog.view();
        let preferred = view.shard(self.shard).map(|s| s.preferred_leader);
        let members: Vec<NodeId> = match view.shard(self.shard) {
            Some(shard) => shard.voters().map(|r| r.node).collect(),
            // The catalog's own shard is in no record: its replica here knows the voters.
            None => local.map(|r| r.voters().into_iter().collect()).unwrap_or_default(),
        };
        let guesses = self.hint.take().into_iter().chain(known).chain(preferred).chain(members);
        let next = guesses.into_iter().find(|n| !self.tried.contains(n))?;
        self.tried.insert(next);
        Some(next)
    }

    /// How long an attempt at `to` may take, with `left` until the deadline.
    fn limit(&self, to: NodeId, left: Duration) -> Duration {
        let attempt = self.ctx.deadlines.attempt;
        left.min(if self.silent.contains(&to) { attempt / SILENT_FRACTION } else { attempt })
    }

    /// Waits a little before the next round, no longer than what is `left` until the deadline, nor after this node's
    /// replica has heard of a new leader.
    async fn pause(&mut self, left: Duration) {
        self.tried.clear();
        let local = self.ctx.replicas.get(self.shard);
        let new_leader = async {
            match &local {
                Some(replica) => replica.wait_new_leader().await,
                None => std::future::pending().await,
            }
        };
        match tokio::time::timeout(self.pause.min(left), new_leader).await {
            Ok(()) => self.pause = RETRY_PAUSE,
            Err(_) => self.pause = (self.pause * 2).min(RETRY_PAUSE_MAX),
        }
    }
}

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

fn hint(n: internal::NotLeader) -> Option<NodeId> {
    (n.hint != 0).then_some(NodeId(n.hint))
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

/// A forwarded read that has no answer: another node may have one.
fn answer<T>(reply: Result<Option<T>, Failed>) -> Result<T, Refusal> {
    reply.ok().flatten().ok_or(Refusal::NotLeader(None))
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

/// Waits until `ts` is past by this node's clock; how long that took. `Err`: not within the deadline.
async fn wait_past(
    ctx: &Context,
    ts: Timestamp,
    arrival: Arrival<'_>,
) -> Result<Duration, tokio::time::error::Elapsed> {
    let start = Mono::now();
    let left = arrival.left().unwrap_or(Duration::ZERO);
    if sabotaged(Sabotage::SkipCommitWait) {
        return Ok(Duration::ZERO);
    }
    if sabotaged(Sabotage::UnsafeClockReleases) {
        tokio::time::timeout(left, wait_past_unsafely(ctx, ts)).await?;
    } else {
        tokio::time::timeout(left, ctx.clock.wait_past(ts)).await?;
    }
    Ok(Mono::now().since(start))
}

/// What [`Sabotage::UnsafeClockReleases`] does.
async fn wait_past_unsafely(ctx: &Context, ts: Timestamp) {
    while ctx.clock.now().earliest <= ts {
        sleep(Duration::from_millis(1)).await;
    }
}

fn region_of(ctx: &Context, node: NodeId) -> RegionId {
    if node == ctx.me { ctx.region.clone() } else { ctx.peers.region(node).unwrap_or_default() }
}

fn receipt<T>(attempt: &Attempt<T>, commit_wait: Duration, floor: Duration, arrival: Arrival<'_>) -> Receipt {
    let t = &attempt.times;
    let total = nanos(Mono::now().since(arrival.at));
    let (call, commit_wait) = (nanos(attempt.call), nanos(commit_wait));
    Receipt {
        gateway: total.saturating_sub(call + commit_wait),
        forward: call.saturating_sub(t.total_ns),
        queue: t.queue_ns,
        fsync: t.fsync_ns,
        quorum: t.quorum_ns,
        apply: t.apply_ns,
        commit_wait,
        total,
        floor: nanos(floor),
        path: attempt.path,
    }
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
    let mut call = None;
    let answer = if !linearizable || replica.is_leader() {
        if linearizable {
            ctx.asked(replica, ctx.me, Asked::Read);
        }
        local.serve().await?
    } else if let Some(answer) = local.ahead(start, began).await? {
        answer
    } else {
        let leader = replica.leader().filter(|l| *l != ctx.me).ok_or(Refusal::NotLeader(None))?;
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
