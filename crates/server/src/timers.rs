//! Raft timers, one node's part: for the shards that it leads, the node has the group agree on timers that follow what is
//! measured; and its own replicas take over what their groups have agreed on (rule R3).
//!
//! A change is on its way until every member has said, with its answers, that it promises what was agreed on. Until then there
//! is no other one; so a member that is down, or too old to know of this, keeps the timers as they are.
//!
//! A replica takes new timers over with another Raft: outside its group for a moment, and without a vote for a lease. So the
//! members do it one after another, the leader last: it hands the leadership over first. Nothing rests on the order but that a
//! quorum can vote at any time.

use crate::balance::transfer;
use meridian_api::Context;
use meridian_catalog::{CatalogView, Measured, TimingPolicy};
use meridian_clock::Mono;
use meridian_consensus::gossip::Rtts;
use meridian_consensus::{Replica, Word, place};
use meridian_storage::DiskLevel;
use meridian_types::{NodeId, RaftTiming, RegionId, ShardId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Time between two rounds.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);
/// How long a round waits for one replica to begin anew; it goes on by itself.
const REBUILD_PATIENCE: Duration = Duration::from_secs(2);
/// A member that has not answered gossip for so long is not asked how far away it is.
const SILENT_AFTER: Duration = Duration::from_secs(2);
/// Syncs of as many rounds say how long one takes.
const SYNCS_KEPT: usize = 60;

/// What is remembered of one shard.
#[derive(Default)]
struct OfShard {
    policy: TimingPolicy,
    /// The timers that this node's replica has still to take over, and since when it knows.
    outdated: Option<(RaftTiming, Mono)>,
}

/// Works for this node's replicas, until the future is dropped.
pub(crate) async fn run(ctx: Context) {
    let mut shards: BTreeMap<ShardId, OfShard> = BTreeMap::new();
    let mut syncs = VecDeque::new();
    loop {
        tokio::time::sleep(ROUND_INTERVAL).await;
        let fsync = usual_sync(&ctx, &mut syncs);
        let view = ctx.catalog.view();
        let replicas = ctx.replicas.all();
        let mut known = BTreeMap::new();
        shards.retain(|shard, _| replicas.iter().any(|r| r.shard() == *shard));
        for replica in replicas {
            let of = shards.entry(replica.shard()).or_default();
            if replica.is_outdated() {
                of.policy = TimingPolicy::default();
                take_over(&ctx, &replica, of).await;
                continue;
            }
            of.outdated = None;
            let Some(rtts) = largest_rtts(&ctx, &view, &replica, &mut known) else { continue };
            let measured = Measured { rtt_median: rtts.median, rtt_usual: rtts.usual, fsync };
            let may = replica.is_leader() && is_settled(&replica);
            if let Some(to) = of.policy.next(replica.timing(), measured, may) {
                tracing::info!(shard = %replica.shard(), ?measured, ?to, "other timers fit what is measured");
                if let Err(e) = replica.change_timing(to) {
                    tracing::debug!(shard = %replica.shard(), "the timers are not changed: {e}");
                }
            }
        }
    }
}

/// What nine of ten recent syncs of this node's log stayed below.
fn usual_sync(ctx: &Context, syncs: &mut VecDeque<Duration>) -> Duration {
    syncs.push_back(ctx.store.raft.sync_stats().last);
    if syncs.len() > SYNCS_KEPT {
        syncs.pop_front();
    }
    let mut sorted: Vec<Duration> = syncs.iter().copied().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() * 9 / 10).copied().unwrap_or_default()
}

/// At the leader: whether every other member promises what the group has agreed on, and has said so under this leadership. How
/// lately does not matter: where timers are too short, a leader hears little. A group of one has no use for timers.
fn is_settled(replica: &Replica) -> bool {
    let promise = replica.agreed_timing().promise();
    let mut others = replica.members().into_keys().filter(|node| *node != replica.node());
    replica.voters().len() > 1 && others.all(|node| replica.word(node).promise == Some(promise))
}

/// Round trips between two nodes that were looked up in this round.
type Known = BTreeMap<(NodeId, NodeId), Option<Rtts>>;

/// The largest round trips between two members that answer; those that nobody has measured yet are as configured.
fn largest_rtts(ctx: &Context, view: &CatalogView, replica: &Replica, known: &mut Known) -> Option<Rtts> {
    let answers = |node: NodeId| node == ctx.me || ctx.gossip.silence(node).is_some_and(|s| s < SILENT_AFTER);
    let members: Vec<(NodeId, RegionId)> =
        replica.members().into_iter().filter(|(node, _)| answers(*node)).map(|(n, m)| (n, m.region.into())).collect();
    let pairs = members.iter().enumerate().flat_map(|(i, a)| members[i + 1..].iter().map(move |b| (a, b)));
    let rtts = pairs.map(|((a, here), (b, there))| {
        let configured = || view.rtts().get(here, there).map(|rtt| Rtts { median: rtt, usual: rtt });
        *known.entry((*a, *b)).or_insert_with(|| ctx.gossip.rtts_between(*a, *b).or_else(configured))
    });
    rtts.flatten().reduce(|x, y| Rtts { median: x.median.max(y.median), usual: x.usual.max(y.usual) })
}

/// Takes over what the group has agreed on, when it is this node's turn.
async fn take_over(ctx: &Context, replica: &Arc<Replica>, of: &mut OfShard) {
    let (shard, agreed) = (replica.shard(), replica.agreed_timing());
    let since = match of.outdated {
        Some((timing, since)) if timing == agreed => since,
        Some(_) | None => of.outdated.insert((agreed, Mono::now())).1,
    };
    if replica.is_leader() {
        let is_free = |word: Word| word.promise == Some(agreed.promise()) && !word.holding;
        let mut others = replica.voters().into_iter().filter(|v| *v != ctx.me && replica.answers(*v));
        let has_room = |node| !ctx.gossip.is_disk_full(node);
        if others.all(|v| is_free(replica.word(v)))
            && let Some(to) = replica.other_fit_voter(has_room)
        {
            tracing::info!(%shard, %to, "giving up the leadership to take other timers over");
            transfer(ctx, replica.clone(), to);
        }
        return;
    }
    // Nobody knows how long the last entries wait for room.
    if ctx.store.space().level() > DiskLevel::Enough {
        return;
    }
    let turn = turn(ctx.me, replica.leader(), &replica.voters());
    let pause = replica.timing().promise().max(agreed.promise()) + 2 * ROUND_INTERVAL;
    if since.elapsed() < pause * turn {
        return;
    }
    match tokio::time::timeout(REBUILD_PATIENCE, replica.rebuild()).await {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => tracing::error!(%shard, "the replica does not begin anew with other timers yet: {e}"),
        Err(_) => tracing::warn!(%shard, "the replica takes its time to begin anew with other timers"),
    }
}

/// How many other members begin anew before this one does: of the voters in the order of their numbers those that do not
/// lead. Nobody waits for a learner.
fn turn(me: NodeId, leader: Option<NodeId>, voters: &BTreeSet<NodeId>) -> u32 {
    if voters.contains(&me) { place(me, leader, voters) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_begin_anew_one_after_another() {
        let voters: BTreeSet<NodeId> = [1, 2, 3, 5].map(NodeId).into();
        let turns = |leader| [1, 2, 3, 4, 5].map(|n| turn(NodeId(n), leader, &voters));
        assert_eq!(turns(Some(NodeId(2))), [0, 1, 1, 0, 2]);
        assert_eq!(turns(None), [0, 1, 2, 0, 3]);
    }
}
