//! The gateway: finds the replica that can answer, here or elsewhere, and keeps trying while that is safe.
//!
//! * A mutation goes to the shard's leader. Every attempt carries the same request id, so it takes effect at most
//!   once however often it is sent; "not applied" is said only if *every* copy was refused before it was proposed
//!   (rule X4).
//! * A read goes to this node's own replica if its consistency level allows that, else to the leader or to the
//!   nearest replica.
//! * The answer is released here: the reply leaves when what it reveals is past by this node's clock (rule W1),
//!   which overlaps commit wait with the way back from the leader.

mod read;
mod route;
mod write;

pub(crate) use read::{ShardRead, read};
pub(crate) use write::mutate;

use crate::context::Context;
use crate::serve::nanos;
use meridian_clock::{Mono, sleep};
use meridian_consensus::Charge;
use meridian_probe::{Sabotage, sabotaged};
use meridian_proto::internal::v1 as internal;
use meridian_types::{CommitPath, NodeId, Receipt, RegionId, Timestamp};
use meridian_wire::header::Served;
use std::time::Duration;

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

fn hint(n: internal::NotLeader) -> Option<NodeId> {
    (n.hint != 0).then_some(NodeId(n.hint))
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
