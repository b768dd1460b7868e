//! Physical floors: the least time that an operation can take with this placement, counting only round trips.
//!
//! * A write is acknowledged where it came from as soon as a quorum is known there to have it.
//! * A linearizable read goes to the leader and back; in the leader's region it takes no round trip.
//! * Every other read is served by the nearest replica; where the region has one it takes no round trip.
//! * In a `global-reads` table linearizable reads are too, and a write waits until its timestamp, which is ahead by what
//!   that takes to prepare, is past.
//!
//! A table whose shards have different leaders has several floors; the smallest is used, so a ratio to it is never
//! flattered.

use crate::tally::Measured;
use meridian_types::floor;
use meridian_types::{RegionId, RttMatrix};
use std::time::Duration;

/// Where one shard's replicas are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardPlacement {
    /// The leader's region; `None`: unknown.
    pub leader: Option<RegionId>,
    /// The voters' regions, one entry per voter, the leader's included.
    pub voters: Vec<RegionId>,
    /// The regions of all replicas.
    pub replicas: Vec<RegionId>,
}

/// The floors of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floors {
    /// Between regions.
    pub rtts: RttMatrix,
    /// Of the table.
    pub shards: Vec<ShardPlacement>,
    /// Its leaders close ahead of their clocks.
    pub lead_time: bool,
}

impl Floors {
    /// The floor of an operation asked for in `origin`; `None` when it is not known.
    pub(crate) fn floor(&self, origin: &RegionId, what: Measured, level: Option<&str>) -> Option<Duration> {
        let of_shard = |shard: &ShardPlacement| match (what, level) {
            (Measured::Write | Measured::Txn, _) => self.write(origin, shard),
            (Measured::Read | Measured::Scan, None | Some("linearizable")) if !self.lead_time => {
                self.rtts.get(origin, shard.leader.as_ref()?)
            }
            (Measured::Read | Measured::Scan, _) => {
                if shard.replicas.contains(origin) {
                    return Some(Duration::ZERO);
                }
                shard.replicas.iter().filter_map(|r| self.rtts.get(origin, r)).min()
            }
        };
        self.shards.iter().map(of_shard).collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    fn write(&self, origin: &RegionId, shard: &ShardPlacement) -> Option<Duration> {
        if self.lead_time {
            let leader = shard.leader.as_ref()?;
            return floor::leading_write(&self.rtts, origin, leader, &shard.voters, &shard.replicas);
        }
        let counts = shard.replicas.contains(origin);
        floor::write(&self.rtts, origin, shard.leader.as_ref()?, &shard.voters, counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn regions(names: &[&str]) -> Vec<RegionId> {
        names.iter().copied().map(RegionId::from).collect()
    }

    fn three(leader: Option<&str>, voters: &[&str], replicas: &[&str]) -> Floors {
        let mut rtts = RttMatrix::default();
        for (a, b, rtt) in [("us", "eu", 70), ("us", "ap", 140), ("ap", "eu", 210)] {
            rtts.set(a.into(), b.into(), ms(rtt));
        }
        let shard =
            ShardPlacement { leader: leader.map(Into::into), voters: regions(voters), replicas: regions(replicas) };
        Floors { rtts, shards: vec![shard], lead_time: false }
    }

    #[test]
    fn the_three_region_preset() {
        let all = ["us", "eu", "ap"];
        let floors = three(Some("us"), &all, &all);
        // region, write, linearizable read, read of the own replica
        for (region, write, read, local) in [("us", 70, 0, 0), ("eu", 70, 70, 0), ("ap", 140, 140, 0)] {
            let floor = |what, level| floors.floor(&region.into(), what, level);
            assert_eq!(floor(Measured::Write, None), Some(ms(write)), "{region}");
            assert_eq!(floor(Measured::Txn, None), Some(ms(write)), "{region}");
            assert_eq!(floor(Measured::Read, Some("linearizable")), Some(ms(read)), "{region}");
            for level in ["local", "bounded", "causal", "snapshot"] {
                assert_eq!(floor(Measured::Scan, Some(level)), Some(ms(local)), "{region} {level}");
            }
        }
    }

    #[test]
    fn global_reads_are_local_and_their_writes_wait() {
        let all = ["us", "eu", "ap"];
        let floors = Floors { lead_time: true, ..three(Some("us"), &all, &all) };
        for (region, write) in [("us", 140), ("eu", 175), ("ap", 210)] {
            assert_eq!(floors.floor(&region.into(), Measured::Write, None), Some(ms(write)), "{region}");
            for level in [None, Some("linearizable"), Some("local")] {
                assert_eq!(floors.floor(&region.into(), Measured::Read, level), Some(ms(0)), "{region}");
            }
        }
    }

    #[test]
    fn the_leader_decides_the_quorum() {
        let all = ["us", "eu", "ap"];
        let floor = |leader, origin: &str| three(Some(leader), &all, &all).floor(&origin.into(), Measured::Write, None);
        assert_eq!(floor("ap", "ap"), Some(ms(140)));
        assert_eq!(floor("ap", "eu"), Some(ms(210)));
        assert_eq!(floor("eu", "eu"), Some(ms(70)));
    }

    #[test]
    fn quorums_inside_one_region_and_of_one_voter_are_free() {
        assert_eq!(
            three(Some("us"), &["us", "us", "us"], &["us"]).floor(&"us".into(), Measured::Write, None),
            Some(ms(0))
        );
        assert_eq!(three(Some("us"), &["us"], &["us"]).floor(&"eu".into(), Measured::Write, None), Some(ms(70)));
        // Two voters in one region, one elsewhere: a majority sits in the region.
        assert_eq!(
            three(Some("us"), &["us", "us", "ap"], &["us"]).floor(&"us".into(), Measured::Write, None),
            Some(ms(0))
        );
    }

    #[test]
    fn without_a_replica_the_nearest_one_counts() {
        let floors = three(Some("ap"), &["us", "ap"], &["us", "ap"]);
        assert_eq!(floors.floor(&"eu".into(), Measured::Read, Some("local")), Some(ms(70)));
    }

    #[test]
    fn several_leaders_give_the_smallest_floor_and_unknown_stays_unknown() {
        let all = ["us", "eu", "ap"];
        let mut floors = three(Some("us"), &all, &all);
        floors.shards.extend(three(Some("ap"), &all, &all).shards);
        assert_eq!(floors.floor(&"ap".into(), Measured::Write, None), Some(ms(140)));
        assert_eq!(three(None, &all, &all).floor(&"us".into(), Measured::Write, None), None);
        assert_eq!(Floors::default().floor(&"us".into(), Measured::Write, None), None);
        assert_eq!(three(Some("us"), &all, &all).floor(&"mars".into(), Measured::Write, None), None);
    }
}
