//! `meridian wan`: emulated regions for programs of any kind.

#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod up;

use crate::context::Context;
use meridian_wan::Place;
use meridian_wan::lab::NAME_DEFAULT;
use std::ffi::OsString;
use std::time::Duration;

/// Put unmodified programs into emulated regions: machines of their own, with a topology's distances between them.
///
/// Each node of the topology becomes a host n1, n2, ... with an address and a network of its own; what travels between
/// them takes half the round trip of the topology's matrix. A host reaches the other hosts and nothing else. This needs
/// Linux, root and the program `ip`. For a cluster inside one process see `meridian dev` and `meridian link`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Which lab; several can be up side by side.
    #[arg(long, global = true, value_name = "NAME", default_value = NAME_DEFAULT, env = "MERIDIAN_WAN")]
    name: String,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a lab: a host for each node of a topology, and the router between them.
    Up(UpArgs),
    /// Run a program on a host; its exit code and signals are this command's.
    ///
    /// The program finds its host in MERIDIAN_WAN_HOST and the host's address in MERIDIAN_WAN_ADDRESS. `ip netns exec
    /// NAMESPACE` does the same; `status` shows the namespaces.
    Exec {
        /// n1, n2, ...; or a region or REGION/ZONE: its first host.
        host: String,
        /// The program and its arguments.
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Show hosts, addresses, and what every way has carried and lost.
    #[command(visible_alias = "ls")]
    Status,
    /// Lose everything between two places, and what is on its way there.
    Partition {
        /// One side.
        a: Place,
        /// The other.
        b: Place,
        /// Lose only what goes from the first to the second.
        #[arg(long)]
        one_way: bool,
    },
    /// Cut a place off from everything outside it.
    Isolate {
        /// The place.
        place: Place,
    },
    /// Let everything through again, or everything between two places. Changed delays stay.
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
    /// Remove a lab, also after its router has crashed. Programs in it go on without a network.
    Down,
}

#[derive(Debug, clap::Args)]
struct UpArgs {
    /// A topology file, or one of three, five, lan.
    #[arg(value_name = "TOPOLOGY")]
    topology: String,
    /// Hosts in each region, instead of the nodes that the topology says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=254))]
    nodes_per_region: Option<u32>,
    /// Decides the jitter.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Route in this process, and remove the lab at Ctrl-C, instead of leaving a router in the background.
    #[arg(long)]
    foreground: bool,
    /// What the router in the background is started with.
    #[arg(long, hide = true, requires = "foreground")]
    detached: bool,
}

const EXAMPLES: &str = "\
Examples:
  meridian wan up three
  meridian wan exec us-east -- ping -c 3 10.77.2.1
  meridian wan exec n2 -- sh -c 'etcd --listen-peer-urls http://$MERIDIAN_WAN_ADDRESS:2380'
  meridian wan isolate eu-west
  meridian wan delay us-east ap-northeast 200ms
  meridian wan heal
  meridian wan status --format json
  meridian wan down
  meridian wan up topology.toml --name other --nodes-per-region 2 --foreground";

/// Runs the command. `exec` does not return: this process becomes the other program.
#[cfg(target_os = "linux")]
pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    run::run(context, args).await
}

#[cfg(not(target_os = "linux"))]
pub(crate) async fn run(_: &Context, _: Args) -> anyhow::Result<()> {
    Err(meridian_wan::lab::LabError::NotLinux.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{self, Cli};
    use clap::Parser as _;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        match Cli::try_parse_from(line.split_whitespace())?.command {
            args::Command::Wan(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_example_of_the_help_parses() {
        for line in EXAMPLES.lines().skip(1) {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn what_follows_the_dashes_is_the_programs_own() {
        let args = parse("meridian wan exec n2 --name x -- cmd --name y -- z").unwrap();
        let Command::Exec { host, command } = args.command else { panic!() };
        assert_eq!((host.as_str(), args.name.as_str()), ("n2", "x"));
        assert_eq!(command, ["cmd", "--name", "y", "--", "z"]);
        assert!(matches!(parse("meridian wan ls").unwrap().command, Command::Status));
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for line in ["exec n1", "exec n1 cmd", "up", "up three --detached", "heal a", "delay a b soon", "isolate a/b/c"]
        {
            assert_eq!(parse(&format!("meridian wan {line}")).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
