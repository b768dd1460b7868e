//! Lead times, one node's part: for the `global-reads` shards that it leads, it follows what the lead time has to cover
//! (rule K4): live round trips to the members that answer, and how wide the clocks are. A change goes through the log.

use meridian_api::Context;
use meridian_catalog::CatalogView;
use meridian_consensus::Replica;
use meridian_types::lead_time::{LeadPolicy, LeadTerms};
use meridian_types::{NodeId, RegionId, ShardId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time between two rounds: a new table's reads ask the leader until the first one.
const ROUND_INTERVAL: Duration = Duration::from_millis(250);

/// Works for the shards that this node leads, until the future is dropped.
pub(crate) async fn run(ctx: Context) {
    let mut policies: BTreeMap<ShardId, LeadPolicy> = BTreeMap::new();
    loop {
        tokio::time::sleep(ROUND_INTERVAL).await;
        let view = ctx.catalog.view();
        for replica in ctx.replicas.all() {
            let leads = view.table_by_id(replica.table()).is_some_and(|t| t.placement.has_lead_time());
            let Some(current) = replica.leading_by().filter(|_| leads) else {
                policies.remove(&replica.shard());
                continue;
            };
            let Some(terms) = terms(&ctx, &view, &replica) else { continue };
            let policy = policies.entry(replica.shard()).or_default();
            if let Some(to) = policy.next(current, terms.needed())
                && let Err(e) = replica.change_lead_time(to)
            {
                tracing::debug!(shard = %replica.shard(), "the lead time is not changed: {e}");
            }
        }
    }
}

/// What a shard's lead time has to cover now; `None`: not known, or no quorum answers.
fn terms(ctx: &Context, view: &CatalogView, replica: &Replica) -> Option<LeadTerms> {
    let rtt = |node: NodeId, region: &RegionId| {
        ctx.gossip.usual_rtt(node).or_else(|| view.rtts().get(&ctx.region, region)).unwrap_or_default()
    };
    let voters = replica.voters();
    let members = replica.members().into_iter();
    // A member that does not answer neither votes nor is read from.
    let answering: Vec<(NodeId, Duration)> = members
        .filter(|(node, _)| *node != ctx.me && replica.answers(*node))
        .map(|(node, member)| (node, rtt(node, &member.region.into())))
        .collect();
    let mut to_voters: Vec<Duration> =
        answering.iter().filter(|(node, _)| voters.contains(node)).map(|(_, rtt)| *rtt).collect();
    to_voters.sort_unstable();
    // Beside itself.
    let quorum_rtt = match voters.len() / 2 {
        0 => Duration::ZERO,
        others => *to_voters.get(others - 1)?,
    };
    // A node with a wider clock calls it unsafe, and serves nothing by it (W3).
    let widest = ctx.clock.max_offset().saturating_mul(2);
    let widths = answering.iter().filter_map(|(node, _)| ctx.gossip.clock_width(*node)).filter(|w| *w <= widest);
    let leader_width = ctx.clock.now().width();
    Some(LeadTerms {
        quorum_rtt,
        one_way_max: answering.iter().map(|(_, rtt)| *rtt / 2).max().unwrap_or_default(),
        publish_interval: ctx.gossip.interval(),
        leader_width,
        // The leader's node is read from too.
        reader_width: widths.max().unwrap_or_default().max(leader_width),
    })
}
