//! Physical floors: the least time an operation can take with a placement, from round trips alone.
//!
//! Disks, processors, queues and clock uncertainty come on top. A hop inside the leader's region counts as nothing:
//! the gateway may be the leader itself.

use crate::Topology;
use meridian_types::RegionId;
use std::time::Duration;

/// The round trip in which the leader hears from a quorum: the `k`-th nearest other voter, where `k` voters and the
/// leader are a majority. If the leader's region is not among `voters`, the leader has no vote.
///
/// * Shape: `voters` has one region per voter; several voters may share one.
pub fn quorum_rtt(topology: &Topology, leader: &RegionId, voters: &[RegionId]) -> Duration {
    let majority = voters.len() / 2 + 1;
    let mut others: Vec<&RegionId> = voters.iter().collect();
    let own_vote = others.iter().position(|voter| *voter == leader);
    if let Some(own) = own_vote {
        others.swap_remove(own);
    }
    let needed = if own_vote.is_some() { majority - 1 } else { majority };
    let mut rtts: Vec<_> = others.iter().map(|voter| topology.rtt(leader, voter)).collect();
    rtts.sort_unstable();
    needed.checked_sub(1).and_then(|k| rtts.get(k).copied()).unwrap_or_default()
}

/// A write from `origin`: to the leader and back, and the leader's quorum in between.
pub fn floor_write(topology: &Topology, origin: &RegionId, leader: &RegionId, voters: &[RegionId]) -> Duration {
    floor_read(topology, origin, leader) + quorum_rtt(topology, leader, voters)
}

/// A read from `origin` that is served in, or has to ask, the region `server`.
pub fn floor_read(topology: &Topology, origin: &RegionId, server: &RegionId) -> Duration {
    if origin == server { Duration::ZERO } else { topology.rtt(origin, server) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(names: &[&str]) -> Vec<RegionId> {
        names.iter().map(|&name| name.into()).collect()
    }

    #[test]
    fn quorums_wait_for_the_voter_that_completes_the_majority() {
        let all_three = ["us-east", "eu-west", "ap-northeast"];
        let all_five = ["us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1", "ap-southeast-2"];
        for (preset, leader, voters, us, why) in [
            ("three", "us-east", &all_three[..], 70_000, "nearest of two"),
            ("three", "ap-northeast", &all_three, 140_000, "nearest of two"),
            ("three", "us-east", &all_three[..1], 0, "alone"),
            ("three", "us-east", &all_three[..2], 70_000, "both of two"),
            ("three", "us-east", &all_three[1..], 140_000, "a leader without a vote needs both"),
            ("three", "us-east", &["us-east", "us-east", "eu-west"], 0, "the quorum is in one region"),
            ("five", "us-east-1", &all_five, 68_000, "second nearest of four"),
            ("five", "ap-southeast-2", &all_five, 140_000, "second nearest of four"),
            ("five", "us-east-1", &all_five[..3], 63_000, "nearest of two"),
            ("lan", "local", &["local", "local", "local"], 250, "another zone"),
            ("lan", "local", &[], 0, "nobody to wait for"),
        ] {
            let topology = Topology::preset(preset).unwrap();
            let rtt = quorum_rtt(&topology, &leader.into(), &regions(voters));
            assert_eq!(rtt, Duration::from_micros(us), "{preset}, {leader} with {voters:?}: {why}");
        }
    }

    #[test]
    fn writes_go_to_the_leader_and_reads_to_their_server() {
        let topology = Topology::preset("three").unwrap();
        let voters = regions(&["us-east", "eu-west", "ap-northeast"]);
        for (origin, write_ms, read_ms) in [("us-east", 70, 0), ("eu-west", 140, 70), ("ap-northeast", 210, 140)] {
            let leader = "us-east".into();
            let write = floor_write(&topology, &origin.into(), &leader, &voters);
            let read = floor_read(&topology, &origin.into(), &leader);
            assert_eq!((write, read), (Duration::from_millis(write_ms), Duration::from_millis(read_ms)), "{origin}");
        }
        let lan = Topology::preset("lan").unwrap();
        let local = RegionId::from("local");
        let voters = vec![local.clone(); 3];
        assert_eq!(floor_write(&lan, &local, &local, &voters), Duration::from_micros(250));
    }
}
