//! The command line as a whole: options of every command, and the list of commands.

use crate::commands::{
    bench, bootstrap, budget, debug, demo, dev, export, import, kv, link, start, status, table, transfer, wan,
};
use crate::exit;
use crate::output::Format;
use std::path::PathBuf;
use std::time::Duration;

/// A database for data that must be right everywhere at once.
///
/// Writes are committed globally and carry timestamps that agree with real time; each read chooses how fresh it must
/// be and is told how fresh it was.
#[derive(Debug, clap::Parser)]
#[command(name = "meridian", version, after_help = EXAMPLES, after_long_help = long_help())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command that talks to a cluster.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Cluster and output")]
pub(crate) struct Global {
    /// Nodes to talk to, host:port; the nearest that answers is used.
    #[arg(long, global = true, value_name = "HOST:PORT,..", value_delimiter = ',', env = "MERIDIAN_GATEWAY")]
    #[arg(default_value = "127.0.0.1:26600")]
    pub(crate) gateway: Vec<String>,
    /// The cluster.json of a running cluster; takes the place of --gateway.
    #[arg(long, global = true, value_name = "FILE", env = "MERIDIAN_CLUSTER")]
    pub(crate) cluster: Option<PathBuf>,
    /// The region to act from: its nodes come first.
    #[arg(long, global = true, value_name = "REGION", env = "MERIDIAN_REGION")]
    pub(crate) region: Option<String>,
    /// How long one request may take, retries included.
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

/// What to do. Each variant is one file in `commands/`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show three regions at work, and cut off, with every claim checked.
    Demo(demo::Args),
    /// Run one node.
    Start(Box<start::Args>),
    /// Form a cluster from a topology and run its nodes.
    Bootstrap(bootstrap::Args),
    /// Run a whole emulated cluster on this machine.
    Dev(dev::Args),
    /// Create, list, describe and drop tables.
    Table(table::Args),
    /// Read and write keys.
    Kv(kv::Args),
    /// Measure a cluster under load, from every region.
    Bench(Box<bench::Args>),
    /// Predict what placements cost from every region, and check objectives.
    Budget(budget::Args),
    /// Load a CSV or JSON file into a table.
    Import(import::Args),
    /// Write a table to a file, as it was at one instant.
    Export(export::Args),
    /// Show nodes, clocks, round trips and shards.
    Status(status::Args),
    /// Move a shard's leadership to another node.
    Transfer(transfer::Args),
    /// Break, delay and heal the emulated links of a development cluster.
    Link(link::Args),
    /// Put programs of any kind into emulated regions (Linux, root).
    Wan(wan::Args),
    /// Look into the data directory of a stopped node, and check it.
    Debug(debug::Args),
}

impl Command {
    /// What is logged to stderr unless `MERIDIAN_LOG` says otherwise.
    pub(crate) fn log_level(&self) -> &'static str {
        match self {
            // openraft tells its whole inner state at every step, and warns of every message to a node that is not there:
            // about a megabyte of it a second.
            Self::Start(_) => "info,openraft=error",
            // Links are cut and nodes stopped on purpose here; openraft complains of every message that this costs. A
            // group that fails is reported by the replica.
            Self::Dev(_) | Self::Bench(_) => "warn,openraft=off",
            // Its nodes have much to say about the regions that it cuts off on purpose.
            Self::Demo(_) => "error,openraft=off",
            _ => "warn",
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  meridian dev
  meridian table create cities --placement global:us-east
  meridian kv put cities lisbon 545000
  meridian kv get cities lisbon --consistency bounded:500ms --receipt
  meridian kv scan cities --prefix li --format json
  meridian status";

fn long_help() -> String {
    format!("{EXAMPLES}\n\n{}", exit::HELP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser as _};

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let cli = Cli::try_parse_from(["meridian", "status", "--gateway", "a:1,b:2", "--format", "json"]).unwrap();
        assert_eq!(cli.global.gateway, ["a:1", "b:2"]);
        assert_eq!(cli.global.format, Format::Json);
        assert_eq!(cli.global.timeout, Duration::from_secs(10));
    }

    #[test]
    fn every_example_of_the_help_parses() {
        for line in EXAMPLES.lines().skip(1) {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for line in ["meridian", "meridian launch", "meridian kv get t", "meridian --timeout soon status"] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
