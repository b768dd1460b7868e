//! `meridian link`: the emulated wide-area links of a development cluster.

use crate::context::Context;
use crate::output::{self, Format, number, short};
use anyhow::Context as _;
use comfy_table::Cell;
use meridian_wan::{LinkStatus, Place, WanControl};
use std::collections::BTreeMap;
use std::time::Duration;

/// Break, delay and heal the emulated links between places, while everything runs.
///
/// A place is a region, or REGION/ZONE. Every command prints the paths as they are afterwards.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show every path: delay, traffic, whether it is blocked.
    List,
    /// Block everything between two places.
    Partition {
        /// One side.
        a: Place,
        /// The other.
        b: Place,
        /// Block only what goes from the first to the second.
        #[arg(long)]
        one_way: bool,
    },
    /// Cut a place off from everything outside it.
    Isolate {
        /// The place.
        place: Place,
    },
    /// Let everything through again, or everything between two places.
    Heal {
        /// One side.
        #[arg(requires = "b")]
        a: Option<Place>,
        /// The other.
        b: Option<Place>,
    },
    /// Change the round-trip time between two places.
    Delay {
        /// One side.
        a: Place,
        /// The other.
        b: Place,
        /// The round trip, e.g. 150ms.
        #[arg(value_parser = humantime::parse_duration)]
        rtt: Duration,
    },
}

const EXAMPLES: &str = "\
Examples:
  meridian link isolate eu-west --cluster cluster.json
  meridian link partition us-east ap-northeast --one-way --cluster cluster.json
  meridian link delay us-east eu-west 150ms --cluster cluster.json
  meridian link heal --cluster cluster.json";

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let control = context.cluster()?.link_control;
    let address = control.context("the cluster's links are real: its file names no link control")?;
    let address = address.parse().with_context(|| format!("`{address}` is no address of a link control"))?;
    let control = WanControl::new(address);
    let links = match args.command {
        Command::List => control.links().await,
        Command::Partition { a, b, one_way: false } => control.partition(a, b).await,
        Command::Partition { a, b, one_way: true } => control.partition_one_way(a, b).await,
        Command::Isolate { place } => control.isolate(place).await,
        Command::Heal { a: Some(a), b: Some(b) } => control.heal(a, b).await,
        Command::Heal { .. } => control.heal_all().await,
        Command::Delay { a, b, rtt } => control.set_delay(a, b, rtt).await,
    }?;
    match context.format() {
        Format::Json => output::json(&serde_json::to_value(links)?),
        Format::Human => Ok(output::data(paths_table(&links))?),
    }
}

/// One direction between two places, over all links that use it.
#[derive(Debug, Default)]
struct PathUse {
    blocked: bool,
    delay: Duration,
    bytes: u64,
    connections: usize,
}

/// Links share paths; people think in paths.
fn paths(links: &[LinkStatus]) -> BTreeMap<(String, String), PathUse> {
    let mut paths: BTreeMap<_, PathUse> = BTreeMap::new();
    for link in links {
        let (from, to) = (link.from.to_string(), link.to.to_string());
        for (key, direction) in [((from.clone(), to.clone()), &link.out), ((to, from), &link.back)] {
            let path = paths.entry(key).or_default();
            path.blocked = direction.blocked;
            path.delay = Duration::from_micros(direction.delay_us);
            path.bytes = direction.path_bytes;
            path.connections += link.connections;
        }
    }
    paths
}

fn paths_table(links: &[LinkStatus]) -> String {
    let mut t = output::table(["from", "to", "one-way delay", "connections", "bytes", "state"]);
    for ((from, to), path) in paths(links) {
        t.add_row(vec![
            Cell::new(from),
            Cell::new(to),
            number(short(path.delay)),
            number(path.connections),
            number(path.bytes),
            Cell::new(if path.blocked { "BLOCKED" } else { "open" }),
        ]);
    }
    t.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser as _;
    use meridian_wan::DirectionStatus;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn every_example_of_the_help_parses() {
        for line in EXAMPLES.lines().skip(1) {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn half_a_pair_is_a_usage_error() {
        for line in ["link heal eu-west", "link partition eu-west", "link delay a b soon", "link isolate a/b/c"] {
            assert_eq!(parse(&format!("meridian {line}")).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn links_in_both_senses_make_one_line_a_direction() {
        let direction = |blocked, delay_us| DirectionStatus {
            bytes: 1,
            path_bytes: 5,
            blocked,
            delay_us,
            jitter_us: 0,
            bandwidth_bytes_per_s: None,
        };
        let place = |text: &str| text.parse::<Place>().unwrap();
        let link = |from, to, out, back| LinkStatus {
            from: place(from),
            to: place(to),
            listen: ([127, 0, 0, 1], 1).into(),
            target: ([127, 0, 0, 1], 2).into(),
            connections: 2,
            connections_total: 3,
            out,
            back,
        };
        let there = direction(true, 35_000);
        let back = direction(false, 35_000);
        let links = [link("us/a", "eu/a", there, back), link("eu/a", "us/a", back, there)];
        let paths = paths(&links);
        assert_eq!(paths.len(), 2);
        let us_eu = &paths[&("us/a".into(), "eu/a".into())];
        assert!(us_eu.blocked && us_eu.connections == 4 && us_eu.bytes == 5);
        assert!(!paths[&("eu/a".into(), "us/a".into())].blocked);
        assert!(paths_table(&links).contains("35.0 ms"));
    }
}
