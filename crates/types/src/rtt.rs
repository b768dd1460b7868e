//! Round-trip times between regions.

use crate::RegionId;
use crate::floor::{self, RoundTrips};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A symmetric matrix of round-trip times. A region's round trip to itself, between its zones, may be given too;
/// it is zero otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RttMatrix {
    /// Under (smaller name, larger name).
    pairs: BTreeMap<(RegionId, RegionId), Duration>,
}

impl RttMatrix {
    /// Sets the round trip between two regions, in both directions.
    pub fn set(&mut self, a: RegionId, b: RegionId, rtt: Duration) {
        self.pairs.insert(ordered(a, b), rtt);
    }

    /// The round trip between two regions; `None` if it was never given.
    pub fn get(&self, a: &RegionId, b: &RegionId) -> Option<Duration> {
        let given = self.pairs.get(&ordered(a.clone(), b.clone())).copied();
        given.or((a == b).then_some(Duration::ZERO))
    }

    /// Every given pair, once.
    pub fn pairs(&self) -> impl Iterator<Item = (&RegionId, &RegionId, Duration)> {
        self.pairs.iter().map(|((a, b), rtt)| (a, b, *rtt))
    }

    /// Every region that is named.
    pub fn regions(&self) -> BTreeSet<RegionId> {
        self.pairs.keys().flat_map(|(a, b)| [a.clone(), b.clone()]).collect()
    }

    /// The quorum RTT: how long a leader waits for the nearest majority of the voters, itself one of them.
    ///
    /// * `voters`: the regions of all voters, one item per voter, the leader's own included.
    /// * `None`: a round trip that it needs is not known, or `leader` is no voter's region.
    pub fn quorum(&self, leader: &RegionId, voters: &[RegionId]) -> Option<Duration> {
        voters.contains(leader).then(|| floor::quorum_rtt(self, leader, voters)).flatten()
    }
}

impl RoundTrips for RttMatrix {
    fn round_trip(&self, a: &RegionId, b: &RegionId) -> Option<Duration> {
        self.get(a, b)
    }
}

impl FromIterator<(RegionId, RegionId, Duration)> for RttMatrix {
    fn from_iter<I: IntoIterator<Item = (RegionId, RegionId, Duration)>>(pairs: I) -> Self {
        let mut matrix = Self::default();
        for (a, b, rtt) in pairs {
            matrix.set(a, b, rtt);
        }
        matrix
    }
}

fn ordered(a: RegionId, b: RegionId) -> (RegionId, RegionId) {
    if a <= b { (a, b) } else { (b, a) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(pairs: &[(&str, &str, u64)]) -> RttMatrix {
        let micros = |(a, b, us): &(&str, &str, u64)| ((*a).into(), (*b).into(), Duration::from_micros(*us));
        pairs.iter().map(micros).collect()
    }

    #[test]
    fn both_directions_are_one_entry() {
        let rtts = matrix(&[("us-east", "eu-west", 70_000), ("local", "local", 250)]);
        let (us, eu) = ("us-east".into(), "eu-west".into());
        assert_eq!(rtts.get(&us, &eu), rtts.get(&eu, &us));
        assert_eq!(rtts.get(&us, &us), Some(Duration::ZERO));
        assert_eq!(rtts.get(&us, &"mars".into()), None);
        assert_eq!(rtts.get(&"local".into(), &"local".into()), Some(Duration::from_micros(250)));
    }

    #[test]
    fn a_quorum_is_the_nearest_majority() {
        let us = "us-east-1";
        let rtts = matrix(&[
            (us, "us-west-2", 63_000),
            (us, "eu-west-1", 68_000),
            (us, "ap-northeast-1", 145_000),
            (us, "ap-southeast-2", 200_000),
            ("us-west-2", "ap-southeast-2", 140_000),
            ("eu-west-1", "ap-southeast-2", 255_000),
            ("ap-northeast-1", "ap-southeast-2", 105_000),
        ]);
        let regions = |names: &[&str]| names.iter().map(|n| RegionId::from(*n)).collect::<Vec<_>>();
        let ms = |leader: &str, names: &[&str]| rtts.quorum(&leader.into(), &regions(names)).map(|rtt| rtt.as_millis());
        assert_eq!(ms("us-east-1", &["us-east-1"]), Some(0));
        assert_eq!(ms("us-east-1", &["us-east-1", "us-west-2", "eu-west-1"]), Some(63));
        let all = ["us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1", "ap-southeast-2"];
        assert_eq!(ms("us-east-1", &all), Some(68));
        assert_eq!(ms("ap-southeast-2", &all), Some(140));
        assert_eq!(ms("us-east-1", &["us-west-2", "eu-west-1"]), None, "the leader is no voter");
        let local = matrix(&[("local", "local", 250)]);
        assert_eq!(local.quorum(&"local".into(), &regions(&["local"; 3])), Some(Duration::from_micros(250)));
    }
}
