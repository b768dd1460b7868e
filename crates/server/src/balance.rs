//! Duties of a leader beside writing: learners that the group lacks, and handing the leadership to the node that
//! should have it. Leadership moves by transfer, never by waiting for a timeout. A node whose clock is unsafe gives up
//! every leadership and stands for none (rule W3); one that is no voter of a group gives up that group's (rule R4). So
//! does one whose disk is nearly full, to a voter whose disk has room: it takes no writes, and goes on leading only if
//! nobody else can.

use meridian_api::Context;
use meridian_catalog::CatalogView;
use meridian_consensus::{Member, Replica};
use meridian_types::{NodeId, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Time between rounds.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);
/// Rounds in which the preferred leader must look fit before it gets the leadership.
const FIT_ROUNDS: u32 = 3;

/// Works for the shards that this node leads, until the future is dropped.
pub(crate) async fn run(ctx: Context, catalog_leader: Option<NodeId>) {
    // Nobody is better off with a leader that takes no writes either.
    let has_room = |node: NodeId| !ctx.gossip.is_disk_full(node);
    let mut fit: BTreeMap<ShardId, u32> = BTreeMap::new();
    let mut rounds = tokio::time::interval(ROUND_INTERVAL);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let view = ctx.catalog.view();
        let safe = ctx.clock.is_safe();
        for replica in ctx.replicas.all() {
            replica.set_electable(safe);
            if !replica.is_leader() {
                fit.remove(&replica.shard());
                continue;
            }
            if let Err(e) = replica.add_learners(&learners(&view, &replica)).await {
                tracing::debug!(shard = %replica.shard(), "learners not added yet: {e}");
            }
            let preferred = match view.shard(replica.shard()) {
                Some(shard) => Some(shard.preferred_leader),
                None => catalog_leader,
            };
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
            let Some(to) = preferred.filter(|to| *to != ctx.me && has_room(*to)) else { continue };
            let rounds = fit.entry(replica.shard()).or_default();
            *rounds = if replica.is_fit_to_lead(to) { *rounds + 1 } else { 0 };
            if *rounds >= FIT_ROUNDS {
                *rounds = 0;
                tracing::info!(shard = %replica.shard(), %to, "moving the leadership to where it is preferred");
                transfer(&ctx, replica, to);
            }
        }
    }
}

/// Moves a leadership in the background; ends with the node.
fn transfer(ctx: &Context, replica: Arc<Replica>, to: NodeId) {
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
