//! Physical floors: the least time that an operation can take with a placement, from round trips alone.
//!
//! Disks, processors, queues and clock uncertainty come on top. One-way delays are half of a round trip. A hop inside a
//! region costs what the matrix says, usually nothing.

use crate::RegionId;
use std::time::Duration;

/// Round trips between regions: of a topology, or of a cluster's catalog. `None`: not known.
pub trait RoundTrips {
    /// The round trip between two regions.
    fn round_trip(&self, a: &RegionId, b: &RegionId) -> Option<Duration>;
}

impl<F: Fn(&RegionId, &RegionId) -> Option<Duration>> RoundTrips for F {
    fn round_trip(&self, a: &RegionId, b: &RegionId) -> Option<Duration> {
        self(a, b)
    }
}

/// The round trip in which a leader hears from a quorum: of the `k`-th nearest other voter, where `k` voters and the
/// leader are a majority. If the leader's region is not among `voters`, the leader has no vote.
///
/// * Shape: `voters` has one region per voter; several voters may share one.
pub fn quorum_rtt(rtts: &impl RoundTrips, leader: &RegionId, voters: &[RegionId]) -> Option<Duration> {
    let majority = voters.len() / 2 + 1;
    let mut others: Vec<&RegionId> = voters.iter().collect();
    let own_vote = others.iter().position(|voter| *voter == leader);
    if let Some(own) = own_vote {
        others.swap_remove(own);
    }
    let needed = if own_vote.is_some() { majority - 1 } else { majority };
    let mut times = others.iter().map(|voter| rtts.round_trip(leader, voter)).collect::<Option<Vec<_>>>()?;
    times.sort_unstable();
    match needed.checked_sub(1) {
        None => Some(Duration::ZERO),
        Some(last) => times.get(last).copied().or(Some(Duration::ZERO)),
    }
}

/// A write from `origin` that its leader acknowledges: to the leader and back, and the leader's quorum in between.
pub fn classic_write(
    rtts: &impl RoundTrips,
    origin: &RegionId,
    leader: &RegionId,
    voters: &[RegionId],
) -> Option<Duration> {
    Some(served_in(rtts, origin, leader)? + quorum_rtt(rtts, leader, voters)?)
}

/// A write that is acknowledged at `origin` as soon as a quorum is known there to have it: the least, over quorums, of the
/// largest, over members `m`, of `d(origin, leader) + d(leader, m) + d(m, origin)`. The origin itself has to have the entry
/// as well, voter or not.
pub fn one_round_trip_write(
    rtts: &impl RoundTrips,
    origin: &RegionId,
    leader: &RegionId,
    voters: &[RegionId],
) -> Option<Duration> {
    let forward = served_in(rtts, origin, leader)?;
    let told = |member: &RegionId| {
        // A voter in the leader's region may be the leader, and one in the origin's the origin.
        let (to, back) = (served_in(rtts, leader, member)?, served_in(rtts, member, origin)?);
        Some((forward + to + back) / 2)
    };
    let mut times = voters.iter().map(told).collect::<Option<Vec<_>>>()?;
    times.sort_unstable();
    Some(times.get(voters.len() / 2).copied().unwrap_or_default().max(forward))
}

/// The least that a write takes from `origin`, where there is a replica or not.
pub fn write(
    rtts: &impl RoundTrips,
    origin: &RegionId,
    leader: &RegionId,
    voters: &[RegionId],
    has_replica: bool,
) -> Option<Duration> {
    let classic = classic_write(rtts, origin, leader, voters)?;
    if !has_replica {
        return Some(classic);
    }
    // Without a way between a voter and the origin that is known, the leader's own way is left.
    Some(one_round_trip_write(rtts, origin, leader, voters).map_or(classic, |early| early.min(classic)))
}

/// The least lead time with which every replica serves linearizable reads by itself (rule K4, round trips only): what is
/// stamped has to be chosen, and known to be at the farthest replica.
///
/// * Shape: `replicas` has the region of every replica, voters included; several may share one.
pub fn lead_time(
    rtts: &impl RoundTrips,
    leader: &RegionId,
    voters: &[RegionId],
    replicas: &[RegionId],
) -> Option<Duration> {
    let ways = replicas.iter().map(|replica| served_in(rtts, leader, replica)).collect::<Option<Vec<_>>>()?;
    Some(quorum_rtt(rtts, leader, voters)? + ways.into_iter().max().unwrap_or_default() / 2)
}

/// The least that a write takes from `origin` where the leader closes ahead of its clock: on its way to the leader, and
/// then until its timestamp is past, which is the lead time ahead; or as long as any write takes, if that is longer.
pub fn leading_write(
    rtts: &impl RoundTrips,
    origin: &RegionId,
    leader: &RegionId,
    voters: &[RegionId],
    replicas: &[RegionId],
) -> Option<Duration> {
    let write = write(rtts, origin, leader, voters, replicas.contains(origin))?;
    let waits = served_in(rtts, origin, leader)? / 2 + lead_time(rtts, leader, voters, replicas)?;
    Some(write.max(waits))
}

/// An operation from `origin` that is served in, or has to ask, the region `server`: the server may be the gateway itself.
pub fn served_in(rtts: &impl RoundTrips, origin: &RegionId, server: &RegionId) -> Option<Duration> {
    if origin == server { Some(Duration::ZERO) } else { rtts.round_trip(origin, server) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(names: &[&str]) -> Vec<RegionId> {
        names.iter().map(|&name| name.into()).collect()
    }

    /// us-eu 70, us-ap 140, eu-ap 210 ms; us-west 60 from us, 130 from eu, 100 from ap; between zones 1 ms.
    fn rtts(a: &RegionId, b: &RegionId) -> Option<Duration> {
        let mut pair = [a.as_str(), b.as_str()];
        pair.sort_unstable();
        let ms = match pair {
            ["eu", "us"] => 70,
            ["ap", "us"] => 140,
            ["ap", "eu"] => 210,
            ["us", "west"] => 60,
            ["eu", "west"] => 130,
            ["ap", "west"] => 100,
            [a, b] if a == b => 1,
            _ => return None,
        };
        Some(Duration::from_millis(ms))
    }

    #[test]
    fn quorums_wait_for_the_voter_that_completes_the_majority() {
        for (leader, voters, ms, why) in [
            ("us", &["us", "eu", "ap"][..], 70, "the nearer of two"),
            ("ap", &["us", "eu", "ap"], 140, "the nearer of two"),
            ("us", &["us"], 0, "alone"),
            ("us", &["us", "eu"], 70, "both of two"),
            ("us", &["eu", "ap"], 140, "a leader without a vote needs both"),
            ("us", &["us", "us", "eu"], 1, "another zone"),
            ("us", &["us", "west", "eu", "ap", "ap"], 70, "the second nearest of four"),
            ("us", &[], 0, "nobody to wait for"),
        ] {
            let quorum = quorum_rtt(&rtts, &leader.into(), &regions(voters));
            assert_eq!(quorum, Some(Duration::from_millis(ms)), "{leader} with {voters:?}: {why}");
        }
        assert_eq!(quorum_rtt(&rtts, &"us".into(), &regions(&["us", "mars", "eu"])), None);
    }

    #[test]
    fn one_round_trip_is_what_physics_asks() {
        let three = regions(&["us", "eu", "ap"]);
        for (origin, leader, classic, early) in [
            ("us", "us", 70, 70),
            ("eu", "us", 140, 70),
            ("ap", "us", 210, 140),
            ("us", "ap", 280, 140),
            // eu -> ap -> us -> eu is as far as eu -> ap -> eu.
            ("eu", "ap", 350, 210),
        ] {
            let (o, l) = (origin.into(), leader.into());
            let ms = |d: Option<Duration>| d.unwrap().as_millis();
            assert_eq!(ms(classic_write(&rtts, &o, &l, &three)), classic, "{origin} to {leader}");
            assert_eq!(ms(one_round_trip_write(&rtts, &o, &l, &three)), early, "{origin} to {leader}");
        }
        // Of four: us itself, ap and then west (ap -> us -> west -> ap: (140 + 60 + 100) / 2).
        let four = regions(&["us", "eu", "ap", "west"]);
        let early = one_round_trip_write(&rtts, &"ap".into(), &"us".into(), &four);
        assert_eq!(early, Some(Duration::from_millis(150)));
    }

    #[test]
    fn a_lead_time_covers_the_quorum_and_the_way_to_the_farthest_replica() {
        let three = regions(&["us", "eu", "ap"]);
        let ms = |d: Option<Duration>| d.unwrap().as_millis();
        assert_eq!(ms(lead_time(&rtts, &"us".into(), &three, &three)), 70 + 70);
        assert_eq!(ms(lead_time(&rtts, &"ap".into(), &three, &three)), 140 + 105);
        let learner = regions(&["us", "west", "eu", "ap"]);
        assert_eq!(ms(lead_time(&rtts, &"us".into(), &regions(&["us", "west", "eu"]), &learner)), 60 + 70);
        for (origin, expected) in [("us", 140), ("eu", 35 + 140), ("ap", 70 + 140)] {
            let write = leading_write(&rtts, &origin.into(), &"us".into(), &three, &three);
            assert_eq!(ms(write), expected, "{origin}");
        }
        assert_eq!(lead_time(&rtts, &"us".into(), &three, &regions(&["mars"])), None);
    }

    #[test]
    fn who_has_no_replica_has_to_be_told_by_the_leader() {
        let voters = regions(&["us", "eu", "west"]);
        let write = |has| write(&rtts, &"ap".into(), &"us".into(), &voters, has).unwrap().as_millis();
        // With a learner: eu and west tell it, (140 + 60 + 100) / 2 is the nearest of them, us itself 140.
        assert_eq!((write(false), write(true)), (200, 150));
    }

    #[test]
    fn a_quorum_in_the_leaders_region_makes_both_ways_alike() {
        let voters = regions(&["us", "us", "us"]);
        assert_eq!(write(&rtts, &"eu".into(), &"us".into(), &voters, true), Some(Duration::from_millis(70)));
    }
}
