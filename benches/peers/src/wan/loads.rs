//! What is measured in each region, and what distance alone makes of it.

use crate::args::Args;
use meridian_bench::{Arrivals, IN_FLIGHT_MAX, Pace, Workload};
use meridian_types::RegionId;
use meridian_types::floor::{classic_write, one_round_trip_write, served_in};
use meridian_wan::Topology;
use serde::Serialize;
use std::time::Duration;

/// One load, on clients of each region at once or of the leader's region only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Load {
    /// Puts, a client in each region.
    PutOne,
    /// Linearizable gets, a client in each region.
    GetOne,
    /// Puts on a schedule in each region, whatever became of the earlier ones.
    PutOpen,
    /// Linearizable gets on a schedule in each region.
    GetOpen,
    /// Puts of many clients in the leader's region.
    PutMany,
}

impl Load {
    /// All, in the order in which they are taken.
    pub(crate) const ALL: [Self; 5] = [Self::PutOne, Self::GetOne, Self::PutOpen, Self::GetOpen, Self::PutMany];

    /// Whether only the leader's region has clients.
    pub(crate) fn is_at_home(self) -> bool {
        self == Self::PutMany
    }

    /// What they do.
    pub(crate) fn workload(self) -> Workload {
        match self {
            Self::PutOne | Self::PutOpen | Self::PutMany => Workload::Write,
            Self::GetOne | Self::GetOpen => Workload::Read,
        }
    }

    /// When they do it.
    pub(crate) fn pace(self, args: &Args) -> anyhow::Result<Pace> {
        Ok(match self {
            Self::PutOne | Self::GetOne => Pace::Closed { clients: 1 },
            Self::PutMany => Pace::Closed { clients: usize::try_from(args.clients)? },
            Self::PutOpen | Self::GetOpen => {
                Pace::Open { rate: args.rate, arrivals: Arrivals::Poisson, in_flight_max: IN_FLIGHT_MAX }
            }
        })
    }

    /// As it is printed.
    pub(crate) fn title(self, args: &Args) -> String {
        match self {
            Self::PutOne => "put, 1 client".to_owned(),
            Self::GetOne => "linearizable get, 1 client".to_owned(),
            Self::PutOpen => format!("put, {}/s", args.rate),
            Self::GetOpen => format!("linearizable get, {}/s", args.rate),
            Self::PutMany => format!("put, {} clients", args.clients),
        }
    }

    /// The least that an operation from `origin` can take.
    pub(crate) fn floor(self, topology: &Topology, origin: &RegionId) -> Duration {
        let leader = &topology.shard0.leader;
        let least = match self.workload() {
            Workload::Write => one_round_trip_write(&rtts(topology), origin, leader, &voters(topology)),
            _ => served_in(&rtts(topology), origin, leader),
        };
        least.unwrap_or_default()
    }

    /// The least that a put can take whose leader waits for a quorum and answers then; `None` for gets.
    pub(crate) fn classic(self, topology: &Topology, origin: &RegionId) -> Option<Duration> {
        let is_put = self.workload() == Workload::Write;
        let leader = &topology.shard0.leader;
        is_put.then(|| classic_write(&rtts(topology), origin, leader, &voters(topology)).unwrap_or_default())
    }
}

/// Every region has a voter.
fn voters(topology: &Topology) -> Vec<RegionId> {
    topology.regions.iter().map(|region| region.name.clone()).collect()
}

fn rtts(topology: &Topology) -> impl Fn(&RegionId, &RegionId) -> Option<Duration> {
    move |a, b| Some(topology.rtt(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn floors_are_those_of_the_matrix() {
        let three = Topology::preset("three").unwrap();
        for (region, put, classic, get) in
            [("us-east", 70, 70, 0), ("eu-west", 70, 140, 70), ("ap-northeast", 140, 210, 140)]
        {
            let ms = |d: Duration| d.as_millis();
            let region = RegionId::from(region);
            assert_eq!(ms(Load::PutOne.floor(&three, &region)), put, "{region}");
            assert_eq!(Load::PutMany.classic(&three, &region).map(ms), Some(classic), "{region}");
            assert_eq!(ms(Load::GetOpen.floor(&three, &region)), get, "{region}");
        }
        assert_eq!(Load::GetOne.classic(&three, &"us-east".into()), None);
    }

    #[test]
    fn many_clients_and_long_runs_are_the_default_over_distance() {
        let args = Args::parse_from(["meridian-peers", "--wan", "three"]);
        assert_eq!(Load::PutMany.title(&args), "put, 1024 clients");
        assert_eq!((args.duration, args.rounds), (Duration::from_secs(10), 3));
        assert!(matches!(Load::GetOpen.pace(&args).unwrap(), Pace::Open { rate, .. } if rate == 200.0));
        let near = Args::parse_from(["meridian-peers"]);
        assert_eq!((near.clients, near.duration, near.rounds), (256, Duration::from_secs(3), 5));
    }
}
