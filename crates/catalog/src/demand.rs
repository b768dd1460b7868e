//! Which voter should lead a shard, by where its requests come from.
//!
//! A leader's place decides what each request costs: a write takes one round trip by way of leader and quorum
//! ([`meridian_types::floor::write`]), a linearizable read one to the leader. The best leader is the one with the least
//! sum over what is asked, as Spanner's and CockroachDB's load-based placement do it, but weighed by physics instead of
//! request counts: half of the requests from far away can matter more than all of those from near.

use crate::records::Shard;
use meridian_types::RttMatrix;
use meridian_types::{NodeId, RegionId, floor};
use std::collections::BTreeMap;
use std::time::Duration;

/// What the gateway of one node asks of a shard's leader, in requests for each second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Origin {
    /// The gateway's node.
    pub node: NodeId,
    /// Mutations.
    pub writes: f64,
    /// Linearizable reads that ask the leader.
    pub reads: f64,
}

/// Writes for each second that every region with a replica counts as asking beside what it really asks: a shard that is
/// hardly used is led from where everybody would be served best.
const PRIOR_WRITES: f64 = 0.1;

/// A leadership moves only if requests become faster by this part on average, in percent...
const GAIN_PERCENT: u32 = 15;
/// ...and by this much: less is not worth the stall of a transfer.
const GAIN_MIN: Duration = Duration::from_millis(3);

/// The voter that should lead `shard` in place of `leader`, among those that are `fit`: `None`, the leader itself, or
/// nobody that is better by enough to make up for the move.
pub fn better_leader(
    shard: &Shard,
    rtts: &RttMatrix,
    leader: NodeId,
    asked: &[Origin],
    region_of: impl Fn(NodeId) -> Option<RegionId>,
    fit: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let costs: BTreeMap<NodeId, Duration> =
        shard.voters().filter_map(|v| Some((v.node, cost(shard, rtts, &v.region, asked, &region_of)?))).collect();
    let now = *costs.get(&leader)?;
    let (cost, best) = costs.iter().map(|(node, cost)| (*cost, *node)).filter(|(_, n)| fit(*n)).min()?;
    let worth = cost + GAIN_MIN < now && cost < now / 100 * (100 - GAIN_PERCENT);
    (best != leader && worth).then_some(best)
}

/// What a request takes on average, if `leader` is the leader's region. `None`: a round trip is not known.
fn cost(
    shard: &Shard,
    rtts: &RttMatrix,
    leader: &RegionId,
    asked: &[Origin],
    region_of: &impl Fn(NodeId) -> Option<RegionId>,
) -> Option<Duration> {
    let voters: Vec<RegionId> = shard.voters().map(|v| v.region.clone()).collect();
    let has_replica = |region: &RegionId| shard.replicas.iter().any(|r| r.region == *region);
    let write = |from: &RegionId| floor::write(rtts, from, leader, &voters, has_replica(from));
    let (mut sum, mut weight) = (0.0, 0.0);
    for replica in &shard.replicas {
        sum += PRIOR_WRITES * write(&replica.region)?.as_secs_f64();
        weight += PRIOR_WRITES;
    }
    for origin in asked {
        // A node that is not known any more asks nothing any more.
        let Some(from) = region_of(origin.node) else { continue };
        let read = floor::served_in(rtts, &from, leader)?;
        sum += origin.writes * write(&from)?.as_secs_f64() + origin.reads * read.as_secs_f64();
        weight += origin.writes + origin.reads;
    }
    (weight > 0.0).then(|| Duration::from_secs_f64(sum / weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Replica;
    use crate::timing::timing_for;
    use meridian_types::{KeyRange, ShardId, TableId};

    const US: NodeId = NodeId(1);
    const EU: NodeId = NodeId(2);
    const AP: NodeId = NodeId(3);

    fn region(node: NodeId) -> Option<RegionId> {
        Some(["us", "eu", "ap"].get(usize::try_from(node.0).ok()? - 1).copied()?.into())
    }

    fn rtts() -> RttMatrix {
        let mut rtts = RttMatrix::default();
        for (a, b, ms) in [("us", "eu", 70), ("us", "ap", 140), ("eu", "ap", 210)] {
            rtts.set(a.into(), b.into(), Duration::from_millis(ms));
        }
        rtts
    }

    fn better(leader: NodeId, asked: &[(NodeId, f64, f64)], fit: &[NodeId]) -> Option<NodeId> {
        let replica =
            |node: NodeId| Replica { node, region: region(node).unwrap(), address: String::new(), voter: true };
        let shard = Shard {
            id: ShardId(4),
            table: TableId(1),
            range: KeyRange::all(),
            replicas: [US, EU, AP].map(replica).into(),
            preferred_leader: US,
            timing: timing_for(Duration::from_millis(210)),
        };
        let asked: Vec<Origin> = asked.iter().map(|&(node, writes, reads)| Origin { node, writes, reads }).collect();
        better_leader(&shard, &rtts(), leader, &asked, region, |node| fit.contains(&node))
    }

    #[test]
    fn a_shard_that_nobody_uses_is_led_from_the_middle() {
        assert_eq!(better(US, &[], &[US, EU, AP]), None);
        assert_eq!(better(AP, &[], &[US, EU, AP]), Some(US));
    }

    #[test]
    fn the_leader_goes_to_where_it_is_asked_from() {
        // Linearizable reads from ap: 140 ms each, or nothing.
        assert_eq!(better(US, &[(AP, 0.0, 50.0)], &[US, EU, AP]), Some(AP));
        // A write from eu takes 70 ms with its leader in us as well as in eu: one round trip either way.
        assert_eq!(better(US, &[(EU, 50.0, 0.0)], &[US, EU, AP]), None);
        assert_eq!(better(US, &[(EU, 50.0, 50.0)], &[US, EU, AP]), Some(EU));
        assert_eq!(better(US, &[(AP, 0.0, 50.0)], &[US, EU]), None, "ap is not fit");
    }

    #[test]
    fn a_small_gain_moves_nothing() {
        // Reads from us and eu, about as many: whoever leads, half of them travel.
        assert_eq!(better(US, &[(US, 0.0, 50.0), (EU, 0.0, 52.0)], &[US, EU, AP]), None);
        assert_eq!(better(EU, &[(US, 0.0, 52.0), (EU, 0.0, 50.0)], &[US, EU, AP]), None);
        assert_eq!(better(US, &[(US, 0.0, 50.0), (EU, 0.0, 100.0)], &[US, EU, AP]), Some(EU));
    }

    #[test]
    fn who_is_not_known_does_not_count() {
        assert_eq!(better(US, &[(NodeId(9), 0.0, 500.0)], &[US, EU, AP]), None);
    }
}
