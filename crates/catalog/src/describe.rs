//! Tables and placements as the public API shows them.

use crate::records::{Replica, Shard, Table};
use meridian_proto::internal::v1 as wire;
use meridian_proto::v1::{self, placement};
use meridian_types::RttMatrix;
use meridian_types::{NodeId, Placement, RegionId, ShardId};
use std::time::Duration;

/// Region losses that a global table survives unless it says otherwise.
const SURVIVE_DEFAULT: u32 = 1;

/// The placement in its wire form.
pub fn placement_to_proto(placement: &Placement) -> v1::Placement {
    let preset = match placement {
        Placement::Global { leader, survive } => {
            placement::Preset::Global(placement::Global { leader: names(leader), survive: *survive })
        }
        Placement::GlobalReads { leader, survive } => {
            placement::Preset::GlobalReads(placement::GlobalReads { leader: names(leader), survive: *survive })
        }
        Placement::Regional { home } => placement::Preset::Regional(placement::Regional { home: home.0.clone() }),
    };
    v1::Placement { preset: Some(preset) }
}

/// The placement from its wire form; `None` when it names no preset that this build knows.
pub fn placement_from_proto(placement: &v1::Placement) -> Option<Placement> {
    Some(match placement.preset.as_ref()? {
        placement::Preset::Global(global) => {
            Placement::Global { leader: regions(&global.leader), survive: survive(global.survive) }
        }
        placement::Preset::GlobalReads(reads) => {
            Placement::GlobalReads { leader: regions(&reads.leader), survive: survive(reads.survive) }
        }
        placement::Preset::Regional(regional) => Placement::Regional { home: regional.home.as_str().into() },
    })
}

fn names(regions: &[RegionId]) -> Vec<String> {
    regions.iter().map(|region| region.0.clone()).collect()
}

fn regions(names: &[String]) -> Vec<RegionId> {
    names.iter().map(|name| RegionId::from(name.as_str())).collect()
}

fn survive(said: u32) -> u32 {
    if said == 0 { SURVIVE_DEFAULT } else { said }
}

/// The replica as a member of its Raft group.
pub fn member(replica: &Replica) -> wire::Member {
    wire::Member { node: replica.node.0, region: replica.region.0.clone(), address: replica.address.clone() }
}

/// Describes a table to clients.
///
/// * `leader_of`: the leader as the serving node knows it.
/// * `rtts`: for the quorum RTT at the leader, or at the preferred leader while none is known.
pub fn table_to_proto(table: &Table, rtts: &RttMatrix, leader_of: impl Fn(ShardId) -> Option<NodeId>) -> v1::Table {
    v1::Table {
        id: table.id.0,
        name: table.name.clone(),
        placement: Some(placement_to_proto(&table.placement)),
        shards: table.shards.iter().map(|shard| shard_to_proto(shard, rtts, leader_of(shard.id))).collect(),
        gc_ttl_ns: nanos(table.gc_ttl),
        classic_commit: table.classic_commit,
    }
}

fn shard_to_proto(shard: &Shard, rtts: &RttMatrix, leader: Option<NodeId>) -> v1::Shard {
    let replica = |r: &Replica| v1::Replica { node: r.node.0, region: r.region.0.clone(), voter: r.voter };
    v1::Shard {
        id: shard.id.0,
        start: shard.range.start.clone(),
        end: shard.range.end.clone().unwrap_or_default(),
        replicas: shard.replicas.iter().map(replica).collect(),
        leader: leader.map_or(0, |node| node.0),
        preferred_leader: shard.preferred_leader.0,
        quorum_rtt_ns: nanos(shard.quorum_rtt(rtts, leader.unwrap_or(shard.preferred_leader)).unwrap_or_default()),
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Shard {
    /// The replica on a node.
    pub fn replica(&self, node: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// The voters.
    pub fn voters(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| replica.voter)
    }

    /// The least time in which a write commits at `leader`: the round trip to its nearest majority of voters.
    pub fn quorum_rtt(&self, rtts: &RttMatrix, leader: NodeId) -> Option<Duration> {
        let voters: Vec<_> = self.voters().map(|replica| replica.region.clone()).collect();
        rtts.quorum(&self.replica(leader)?.region, &voters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placements_round_trip() {
        for text in ["global", "global:us-east,eu-west", "global-reads", "global-reads:us-east", "regional:eu-west"] {
            let placement = Placement::parse(text).unwrap();
            assert_eq!(placement_from_proto(&placement_to_proto(&placement)), Some(placement));
        }
        assert_eq!(placement_from_proto(&v1::Placement::default()), None);
        let global = placement::Preset::Global(placement::Global::default());
        let global = v1::Placement { preset: Some(global) };
        assert_eq!(placement_from_proto(&global), Some(Placement::Global { leader: vec![], survive: 1 }));
    }
}
