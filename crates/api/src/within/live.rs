//! How a shard's replicas are seen from this gateway now: round trips, safe time, what reads took lately.

use crate::context::Context;
use crate::within::plan::{Moment, Site, Way};
use meridian_catalog::CatalogView;
use meridian_clock::Mono;
use meridian_consensus::gossip::PUBLISH_INTERVAL;
use meridian_types::{Interval, NodeId, ShardId, Timestamp};
use std::time::Duration;

/// A node that has not answered gossip for this long and two round trips is not counted on. Gossip goes out several times
/// in this time, also where nobody writes.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// The conditions of a read that arrived when `latest` was the clock's latest bound.
pub(super) fn moment(ctx: &Context, latest: Timestamp) -> Moment {
    let now = ctx.clock.now();
    Moment {
        arrived: Interval { earliest: now.earliest.min(latest), latest },
        clock_safe: ctx.clock.is_safe(),
        catch_up: ctx.deadlines.catch_up,
        publish: PUBLISH_INTERVAL,
    }
}

/// A shard's replicas.
pub(super) fn site(ctx: &Context, view: &CatalogView, shard: ShardId) -> Site {
    let here = ctx.replicas.get(shard);
    let leader = leader_of(ctx, view, shard);
    let now = Mono::now();
    Site {
        leader: leader.and_then(|node| reach(ctx, node)),
        safe: here.as_ref().map(|replica| replica.safe_time().safe()),
        ahead: here.as_ref().is_some_and(|replica| !replica.lead_time().is_zero()),
        nearest: if here.is_some() { None } else { nearest(ctx, view, shard, leader) },
        at_leader: ctx.recent().expected(shard, Way::Leader, now),
        at_replica: ctx.recent().expected(shard, Way::Replica, now),
    }
}

/// The leader as the replica here knows it, else as the catalog prefers it.
fn leader_of(ctx: &Context, view: &CatalogView, shard: ShardId) -> Option<NodeId> {
    match ctx.replicas.get(shard) {
        Some(replica) if replica.is_leader() => Some(ctx.me),
        Some(replica) => replica.leader(),
        None => view.shard(shard).map(|s| s.preferred_leader),
    }
}

/// The round trip to a node; `None` while it does not answer.
fn reach(ctx: &Context, node: NodeId) -> Option<Duration> {
    if node == ctx.me {
        return Some(Duration::ZERO);
    }
    let (rtt, silence) = (ctx.gossip.rtt(node)?, ctx.gossip.silence(node)?);
    (silence <= SILENT_AFTER + rtt * 2).then_some(rtt)
}

/// The nearest replica that answers, as the gateway would choose it, and about how old its state is: the way from the
/// leader, and two intervals of publishing.
fn nearest(ctx: &Context, view: &CatalogView, shard: ShardId, leader: Option<NodeId>) -> Option<(Duration, Duration)> {
    let replicas = view.shard(shard)?.replicas.as_slice();
    let distance = |r: &&meridian_catalog::Replica| view.rtts().get(&ctx.region, &r.region);
    let nearest = replicas.iter().filter(|r| r.node != ctx.me).min_by_key(distance)?;
    let leads = replicas.iter().find(|r| Some(r.node) == leader);
    let apart = leads.and_then(|l| view.rtts().get(&nearest.region, &l.region)).unwrap_or_default();
    Some((reach(ctx, nearest.node)?, apart / 2 + PUBLISH_INTERVAL * 2))
}
