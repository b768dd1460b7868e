//! Duties of a leader beside writing: learners that the group lacks, and handing the leadership to the node that
//! should have it. Leadership moves by transfer, never by waiting for a timeout. A node whose clock is unsafe gives up
//! every leadership and stands for none (rule W3); one that is no voter of a group gives up that group's (rule R4). So
//! does one whose disk is nearly full, to a voter whose disk has room: it takes no writes, and goes on leading only if
//! nobody else can.
//!
//! A table that names where it is led from is led from there. One that does not is led from where its requests are served
//! best, as measured ([`better_leader`]).

use meridian_api::Context;
use meridian_catalog::{CatalogView, Shard, better_leader};
use meridian_clock::Mono;
use meridian_consensus::{Member, Replica};
use meridian_types::{NodeId, Placement, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Time between rounds.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);
/// Rounds in which the preferred leader must look fit before it gets the leadership.
const FIT_ROUNDS: u32 = 3;
/// Rounds in which the same voter must look better, by what is asked, before it gets the leadership.
const BETTER_ROUNDS: u32 = 10;

/// Works for the shards that this node leads, until the future is dropped.
pub(crate) async fn run(ctx: Context, catalog_leader: Option<NodeId>) {
    // Nobody is better off with a leader that takes no writes either.
    let has_room = |node: NodeId| !ctx.gossip.is_disk_full(node);
    let mut steady: BTreeMap<ShardId, (NodeId, u32)> = BTreeMap::new();
    let mut rounds = tokio::time::interval(ROUND_INTERVAL);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let view = ctx.catalog.view();
        let safe = ctx.clock.is_safe();
        for replica in ctx.replicas.all() {
            replica.set_electable(safe);
            if !replica.is_leader() {
                steady.remove(&replica.shard());
                ctx.demand().forget(replica.shard());
                continue;
            }
            if let Err(e) = replica.add_learners(&learners(&view, &replica)).await {
                tracing::debug!(shard = %replica.shard(), "learners not added yet: {e}");
            }
            let unfit = if !safe {
                Some("the clock is unsafe")
            } else if !replica.voters().contains(&ctx.me) {
                // Raft lets it lead, but nothing proves that it does (rule R4): it could never serve a read.
                Some("this node is no voter any more")
            } else if !has_room(ctx.me) {
                Some("the disk is nearly full")
            } else {
                None
            };
            if let Some(why) = unfit {
                if let Some(to) = replica.other_fit_voter(has_room) {
                    tracing::warn!(shard = %replica.shard(), %to, "{why}: giving up the leadership");
                    transfer(&ctx, replica, to);
                }
                continue;
            }
            let fit = |node: NodeId| has_room(node) && replica.is_fit_to_lead(node);
            let wanted = wanted(&ctx, &view, replica.shard(), catalog_leader, &fit);
            let Some((to, rounds, place)) = wanted.filter(|(to, ..)| *to != ctx.me && fit(*to)) else {
                steady.remove(&replica.shard());
                continue;
            };
            let (wanted, seen) = steady.entry(replica.shard()).or_insert((to, 0));
            *seen = if *wanted == to { *seen + 1 } else { 1 };
            *wanted = to;
            if *seen >= rounds {
                steady.remove(&replica.shard());
                tracing::info!(shard = %replica.shard(), %to, "moving the leadership to {place}");
                transfer(&ctx, replica, to);
            }
        }
    }
}

/// Who should lead a shard that this node leads, in how many rounds on end it has to look so, and why.
fn wanted(
    ctx: &Context,
    view: &CatalogView,
    shard: ShardId,
    catalog_leader: Option<NodeId>,
    fit: &impl Fn(NodeId) -> bool,
) -> Option<(NodeId, u32, &'static str)> {
    let preferred = match view.shard(shard) {
        Some(shard) if is_led_by_demand(view, shard) => {
            let asked = ctx.demand().of(shard.id, Mono::now());
            let fit = |node| node == ctx.me || fit(node);
            let region_of = |node| view.node(node).map(|n| n.record.region.clone());
            let better = better_leader(shard, view.rtts(), ctx.me, &asked, region_of, fit)?;
            return Some((better, BETTER_ROUNDS, "where it is asked from"));
        }
        Some(shard) => shard.preferred_leader,
        None => catalog_leader?,
    };
    Some((preferred, FIT_ROUNDS, "where it is preferred"))
}

/// Whether nobody has said where a shard is to be led from.
fn is_led_by_demand(view: &CatalogView, shard: &Shard) -> bool {
    let table = view.table_by_id(shard.table);
    table.is_some_and(|t| matches!(&t.placement, Placement::Global { leader, .. } if leader.is_empty()))
}

/// Moves a leadership in the background; ends with the node.
pub(crate) fn transfer(ctx: &Context, replica: Arc<Replica>, to: NodeId) {
    let stop = ctx.stop.clone();
    let transfer = async move {
        if let Err(e) = replica.transfer_leader(to).await {
            tracing::warn!(shard = %replica.shard(), %to, "the leadership did not move: {e}");
        }
    };
    tokio::spawn(async move { stop.run_until_cancelled(transfer).await });
}

/// The learners that a shard should have: as the catalog says; of shard 0, every node that is no voter.
fn learners(view: &CatalogView, replica: &Replica) -> BTreeMap<NodeId, Member> {
    if replica.shard() == ShardId::CATALOG {
        let nodes = view.nodes().map(|n| &n.record);
        return nodes.map(|n| (n.id, member(n.region.as_str(), &n.grpc_address))).collect();
    }
    let Some(shard) = view.shard(replica.shard()) else { return BTreeMap::new() };
    let learners = shard.replicas.iter().filter(|r| !r.voter);
    learners.map(|r| (r.node, member(r.region.as_str(), &r.address))).collect()
}

fn member(region: &str, address: &str) -> Member {
    Member { region: region.to_owned(), address: address.to_owned() }
}
