//! The command line.

use crate::measures::Measure;
use crate::system::System;
use clap::builder::ArgPredicate;
use std::path::PathBuf;
use std::time::Duration;

/// Meridian side by side with etcd: three members each on this machine, the same disk, the same load generator.
///
/// Both clusters run the whole time as processes of their own, with fsync on, and are loaded in turn: in each round every
/// measure is taken of one system and right afterwards of the other, and the order changes from round to round. Printed are
/// all values, their medians, and the ratios of the medians, next to the goals.
///
/// What to trust on a machine that is not quiet: CPU time per operation and syncs per write first, ratios second,
/// absolute throughput and latency last. A comparison needs a real disk: on a file system in memory a sync costs nothing.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "meridian-peers", version, after_help = EXAMPLES, args_override_self = true)]
pub(crate) struct Args {
    /// Measure only this one; there are no ratios then.
    #[arg(long, value_enum)]
    pub only: Option<System>,
    /// Only these measures; all if absent.
    #[arg(long, value_enum, value_name = "NAME,..", value_delimiter = ',')]
    pub measures: Vec<Measure>,
    /// Compare over distance: one node of each system in every region of a WAN lab with this topology (three, five, or a
    /// file), clients in each region. Needs Linux and root; see docs/wan.md.
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["measures", "shards"])]
    pub wan: Option<String>,
    /// With --wan: operations per second and region of the measures on a schedule.
    #[arg(long, default_value_t = 200.0)]
    pub rate: f64,
    /// Rounds: values per measure and system; 5 if absent, with --wan 3.
    #[arg(long, default_value = "5", default_value_if("wan", ArgPredicate::IsPresent, "3"))]
    #[arg(hide_default_value = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// How long each value is measured; 3s if absent, with --wan 10s.
    #[arg(long, default_value = "3s", default_value_if("wan", ArgPredicate::IsPresent, "10s"))]
    #[arg(hide_default_value = true, value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Unmeasured load before that.
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    pub warm_up: Duration,
    /// Clients of the throughput measures, one operation at a time each, spread evenly over the members; the smaller
    /// get measure has a quarter of them. The goals are stated for 256, the default. With --wan 1024, in the leader's region.
    #[arg(long, default_value = "256", default_value_if("wan", ArgPredicate::IsPresent, "1024"))]
    #[arg(hide_default_value = true, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub clients: u32,
    /// Connections to each member, in both systems.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub connections: u32,
    /// Keys, 16 bytes each, all written before the first round.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    /// Shards (Raft groups) of Meridian's table. etcd has one group.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub shards: u32,
    /// Bound of the Meridian nodes' clocks. They share this machine's clock, so the true bound is zero; a write waits
    /// until twice the bound has passed since it was stamped, beside its replication.
    #[arg(long, default_value = "100us", value_parser = humantime::parse_duration)]
    pub clock_bound: Duration,
    /// The etcd program (Debian: apt-get install etcd-server); searched on PATH if absent.
    #[arg(long, value_name = "FILE")]
    pub etcd: Option<PathBuf>,
    /// The meridian program; the one beside this program if absent.
    #[arg(long, value_name = "FILE")]
    pub meridian: Option<PathBuf>,
    /// Where the clusters keep their data, in a new folder that is removed afterwards: on the disk to measure.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Leave the data and the logs there.
    #[arg(long)]
    pub keep: bool,
    /// The choice of keys follows from it.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Also write everything that was measured, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  meridian-peers
  meridian-peers --rounds 9 --duration 5s --json peers.json
  meridian-peers --only meridian --measures put-many --rounds 3 --clients 1024 --connections 4
  meridian-peers --dir /mnt/disk --etcd /opt/etcd/etcd --keep
  meridian-peers --wan three --json wan.json

From a checkout: make bench-peers PEERS=\"--rounds 9\". What differs between the two systems, and how to read the
figures, is said in docs/performance.md.";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser as _};

    #[test]
    fn the_command_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_example_of_the_help_parses() {
        for line in EXAMPLES.lines().filter(|line| line.starts_with("  meridian-peers")) {
            Args::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
