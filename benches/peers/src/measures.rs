//! What is measured: loads, the figures taken of each, and the goals.

use crate::args::Args;
use crate::disk::SyncTimes;
use crate::sample::Sample;
use meridian_bench::Workload;
use serde::Serialize;

/// The clients for which the goals are stated.
const GOAL_CLIENTS: u32 = 256;

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    /// Puts from many clients at all members.
    PutMany,
    /// Puts from one client, at the member that leads.
    PutOne,
    /// Puts from one client, at a member that does not lead.
    PutOneAway,
    /// Linearizable gets from many clients at all members.
    GetMany,
    /// Linearizable gets from a quarter as many.
    GetFew,
}

/// Which members the clients talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// All, evenly.
    All,
    /// The one that leads when the run begins.
    Leader,
    /// The one after it.
    Follower,
}

impl Measure {
    /// All, in the order in which they are taken.
    pub(crate) const ALL: [Self; 5] = [Self::PutMany, Self::PutOne, Self::PutOneAway, Self::GetMany, Self::GetFew];

    /// How many clients.
    pub(crate) fn clients(self, args: &Args) -> u32 {
        match self {
            Self::PutMany | Self::GetMany => args.clients,
            Self::GetFew => (args.clients / 4).max(1),
            Self::PutOne | Self::PutOneAway => 1,
        }
    }

    /// Where they are.
    pub(crate) fn at(self) -> At {
        match self {
            Self::PutMany | Self::GetMany | Self::GetFew => At::All,
            Self::PutOne => At::Leader,
            Self::PutOneAway => At::Follower,
        }
    }

    /// What they do.
    pub(crate) fn workload(self) -> Workload {
        match self {
            Self::PutMany | Self::PutOne | Self::PutOneAway => Workload::Write,
            Self::GetMany | Self::GetFew => Workload::Read,
        }
    }

    /// As it is printed.
    pub(crate) fn title(self, args: &Args) -> String {
        let clients = self.clients(args);
        match self {
            Self::PutMany => format!("put, {clients} clients"),
            Self::PutOne => "put, 1 client at the leader".to_owned(),
            Self::PutOneAway => "put, 1 client at a follower".to_owned(),
            Self::GetMany | Self::GetFew => format!("linearizable get, {clients} clients"),
        }
    }

    /// The figures that mean something for it.
    pub(crate) fn figures(self) -> &'static [Figure] {
        use Figure::{ClientCpu, P50, P99, Resident, ServerCpu, Syncs, Throughput, Written};
        match self {
            Self::PutMany => &[Throughput, P50, P99, ServerCpu, ClientCpu, Syncs, Written, Resident],
            Self::PutOne | Self::PutOneAway => &[P50, P99, ServerCpu, ClientCpu, Syncs],
            Self::GetMany | Self::GetFew => &[Throughput, P50, P99, ServerCpu, ClientCpu],
        }
    }

    /// What Meridian is to reach.
    pub(crate) fn goals(self, figure: Figure, args: &Args) -> Vec<Goal> {
        if self != Self::PutOne && args.clients != GOAL_CLIENTS {
            return Vec::new();
        }
        match (self, figure) {
            (Self::PutMany | Self::GetMany, Figure::Throughput) => vec![Goal::RatioAtLeast(3.0)],
            (Self::PutMany, Figure::Syncs) => vec![Goal::AtMost(0.05)],
            (Self::PutOne, Figure::P50) => {
                vec![Goal::RatioAtMost(1.0), Goal::AtMostSyncs { syncs: 2.0, plus_us: 1000.0 }]
            }
            _ => Vec::new(),
        }
    }
}

/// One number of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// Operations per second.
    Throughput,
    /// Median latency.
    P50,
    /// Latency that 99 % stay below.
    P99,
    /// CPU time of all servers per operation.
    ServerCpu,
    /// CPU time of the load generator per operation.
    ClientCpu,
    /// Syncs of the log per acknowledged write, mean of the nodes.
    Syncs,
    /// Bytes written to disk per acknowledged write, mean of the nodes.
    Written,
    /// Resident memory of the largest node, after the run.
    Resident,
}

impl Figure {
    /// As it is printed, with its unit.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Throughput => "operations/s",
            Self::P50 => "p50, ms",
            Self::P99 => "p99, ms",
            Self::ServerCpu => "servers' CPU, us/op",
            Self::ClientCpu => "clients' CPU, us/op",
            Self::Syncs => "log syncs/write/node",
            Self::Written => "bytes to disk/write/node",
            Self::Resident => "largest node, MB",
        }
    }

    /// Its value in a run, in the unit of the title; `None` where it could not be had.
    pub(crate) fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Throughput => Some(sample.throughput_per_s),
            Self::P50 => sample.p50_us.map(|us| us / 1e3),
            Self::P99 => sample.p99_us.map(|us| us / 1e3),
            Self::ServerCpu => sample.server_cpu_us_per_op,
            Self::ClientCpu => sample.client_cpu_us_per_op,
            Self::Syncs => sample.syncs_per_op_and_node,
            Self::Written => sample.written_bytes_per_op_and_node,
            Self::Resident => Some(sample.resident_bytes_max as f64 / 1e6),
        }
    }
}

/// What a median is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// At least this many times etcd's.
    RatioAtLeast(f64),
    /// At most this many times etcd's.
    RatioAtMost(f64),
    /// At most this, by itself.
    AtMost(f64),
    /// A time of at most this many syncs of the disk, and this much more.
    AtMostSyncs {
        /// How many syncs, of appended data.
        syncs: f64,
        /// How many microseconds more.
        plus_us: f64,
    },
}

impl Goal {
    /// As it is printed, with whether it is reached.
    pub(crate) fn verdict(self, median: f64, ratio: Option<f64>, disk: &SyncTimes) -> String {
        let limit_ms = |syncs: f64, plus_us: f64| (syncs * disk.append_us + plus_us) / 1e3;
        let (text, reached) = match self {
            Self::RatioAtLeast(goal) => (format!(">= {goal:.1}x"), ratio.map(|r| r >= goal)),
            Self::RatioAtMost(goal) => (format!("<= {goal:.1}x"), ratio.map(|r| r <= goal)),
            Self::AtMost(goal) => (format!("<= {goal}"), Some(median <= goal)),
            Self::AtMostSyncs { syncs, plus_us } => {
                let limit = limit_ms(syncs, plus_us);
                let text = format!("<= {syncs:.0} fsync + {:.0} ms = {limit:.2}", plus_us / 1e3);
                (text, Some(median <= limit))
            }
        };
        match reached {
            Some(true) => format!("{text}: yes"),
            Some(false) => format!("{text}: no"),
            None => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    const DISK: SyncTimes = SyncTimes { append_us: 130.0, overwrite_us: 50.0 };

    #[test]
    fn goals_compare_in_the_right_direction() {
        let verdict = |goal: Goal, median, ratio| goal.verdict(median, ratio, &DISK);
        assert_eq!(verdict(Goal::RatioAtLeast(3.0), 1.0, Some(3.0)), ">= 3.0x: yes");
        assert_eq!(verdict(Goal::RatioAtLeast(3.0), 1.0, Some(2.99)), ">= 3.0x: no");
        assert_eq!(verdict(Goal::RatioAtMost(1.0), 1.0, Some(1.01)), "<= 1.0x: no");
        assert_eq!(verdict(Goal::RatioAtMost(1.0), 1.0, None), "<= 1.0x");
        assert_eq!(verdict(Goal::AtMost(0.05), 0.05, None), "<= 0.05: yes");
        let syncs = Goal::AtMostSyncs { syncs: 2.0, plus_us: 1000.0 };
        assert_eq!(verdict(syncs, 1.26, None), "<= 2 fsync + 1 ms = 1.26: yes");
        assert_eq!(verdict(syncs, 1.27, None), "<= 2 fsync + 1 ms = 1.26: no");
    }

    #[test]
    fn goals_are_for_as_many_clients_as_they_are_stated_for() {
        let args = |line: &str| Args::parse_from(line.split_whitespace());
        let stated = |args: &Args| {
            let of = |m: Measure| m.figures().iter().map(|f| m.goals(*f, args).len()).sum::<usize>();
            Measure::ALL.iter().map(|m| of(*m)).collect::<Vec<_>>()
        };
        assert_eq!(stated(&args("meridian-peers")), [2, 2, 0, 1, 0]);
        assert_eq!(stated(&args("meridian-peers --clients 64")), [0, 2, 0, 0, 0]);
    }

    #[test]
    fn the_smaller_get_measure_has_a_quarter_of_the_clients() {
        let clients = |line: &str| Measure::GetFew.clients(&Args::parse_from(line.split_whitespace()));
        assert_eq!(clients("meridian-peers"), 64);
        assert_eq!(clients("meridian-peers --clients 2"), 1);
    }
}
