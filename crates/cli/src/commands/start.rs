//! `meridian start`: one node in this process.

use crate::output::data;
use crate::signal;
use anyhow::{Context as _, bail};
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use meridian_clock::SourceKind;
use meridian_server::config::{NodeConfig, parse_rate, parse_size};
use meridian_server::processes::READY_LINE;
use meridian_server::{Listeners, RunningNode};
use meridian_types::NodeId;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

/// Run one node.
///
/// A file and options say how; options win. A new node joins the cluster that its seeds belong to. To form a new
/// cluster, let `meridian bootstrap` write the files of its nodes, or run `meridian dev`.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLES, next_help_heading = "Node")]
pub(crate) struct Args {
    /// The node's configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The node's id, from 1; it belongs to the data directory for ever.
    #[arg(long, value_name = "ID")]
    node: Option<u64>,
    /// The region where it runs.
    #[arg(long, value_name = "REGION", env = "MERIDIAN_REGION")]
    region: Option<String>,
    /// The failure domain inside the region; `a` if nothing says otherwise.
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Where it keeps its data.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where clients and nodes are served; 127.0.0.1:26600 if nothing says otherwise.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where clients and nodes reach it, if not at the listen address.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Where health and metrics are served; a free port on loopback if nothing says otherwise.
    #[arg(long, value_name = "HOST:PORT")]
    http_listen: Option<String>,
    /// Other nodes of the cluster: one that answers is enough to join.
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
    seeds: Vec<String>,
    /// An address to dial instead of a node's advertised one; may be repeated.
    #[arg(long, value_name = "ADVERTISED=DIAL", value_parser = dial_via)]
    dial_via: Vec<(String, String)>,
    /// The node's memory budget, e.g. 512MiB; a quarter of the machine's memory within limits if nothing says otherwise.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Free disk space below which the node takes no writes, e.g. 1GiB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    disk_reserve: Option<u64>,
    /// Bytes of snapshots that the node sends to others in a second, e.g. 64MiB; 128MiB if nothing says otherwise.
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    snapshot_rate: Option<NonZeroU64>,
    /// Listen beyond loopback although nothing is encrypted or authenticated.
    #[arg(long)]
    insecure: bool,
    /// Where the time comes from.
    #[arg(long, value_name = "SOURCE", value_parser = clock_source())]
    clock: Option<SourceKind>,
    /// How far a fixed clock may be from true time, e.g. 250ms.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    clock_bound: Option<Duration>,
    /// The largest clock distance that the cluster lives with, e.g. 500ms.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_clock_offset: Option<Duration>,
}

const EXAMPLES: &str = "\
Examples:
  meridian start --config node1.toml
  meridian start --node 4 --region eu-west --data-dir /var/lib/meridian --seeds 127.0.0.1:26600";

/// The sources of time by their configuration names.
fn clock_source() -> impl clap::builder::TypedValueParser<Value = SourceKind> {
    PossibleValuesParser::new(["auto", "fixed", "kernel", "simulated"]).map(|name| match name.as_str() {
        "fixed" => SourceKind::Fixed,
        "kernel" => SourceKind::Kernel,
        "simulated" => SourceKind::Simulated,
        _ => SourceKind::Auto,
    })
}

fn dial_via(text: &str) -> Result<(String, String), String> {
    let (advertised, dial) = text.split_once('=').ok_or("write ADVERTISED=DIAL, e.g. eu1:26600=127.0.0.1:9000")?;
    Ok((advertised.to_owned(), dial.to_owned()))
}

impl Args {
    /// The file with the options over it, checked.
    fn resolve(self) -> anyhow::Result<NodeConfig> {
        let mut config = match &self.config {
            Some(path) => NodeConfig::load(path)?,
            None => NodeConfig::default(),
        };
        set(&mut config.node, self.node.map(NodeId));
        set(&mut config.region, self.region.map(Into::into));
        set(&mut config.zone, self.zone.map(Into::into));
        set(&mut config.data_dir, self.data_dir);
        set(&mut config.listen, self.listen);
        set(&mut config.advertise, self.advertise.map(Some));
        set(&mut config.http_listen, self.http_listen.map(Some));
        set(&mut config.seeds, Some(self.seeds).filter(|seeds| !seeds.is_empty()));
        set(&mut config.clock.source, self.clock);
        set(&mut config.clock.bound, self.clock_bound);
        set(&mut config.clock.max_offset, self.max_clock_offset);
        set(&mut config.memory_bytes, self.memory.map(Some));
        set(&mut config.disk_reserve_bytes, self.disk_reserve.map(Some));
        set(&mut config.snapshot_bytes_per_second, self.snapshot_rate.map(Some));
        config.dial_via.extend(self.dial_via);
        config.insecure |= self.insecure;
        match config.validate() {
            faults if faults.is_empty() => Ok(config),
            faults => {
                let lines: Vec<_> = faults.iter().map(|fault| format!("\n  {fault}")).collect();
                bail!("the node cannot be started with this configuration:{}", lines.concat())
            }
        }
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let config = args.resolve()?;
    let mut asked_to_stop = signal::Stop::listen()?;
    let (node, region) = (config.node, config.region.clone());
    let started = async {
        let listeners = Listeners::bind(&config)?;
        meridian_server::start(config, listeners).await
    };
    let running: RunningNode = tokio::select! {
        started = started => started.with_context(|| format!("node {} did not start", node.0))?,
        () = asked_to_stop.wait() => return Ok(()), // Nothing was served yet.
    };
    let ready = tokio::select! {
        () = running.ready() => true,
        () = asked_to_stop.wait() => false,
    };
    if ready {
        let (grpc, http) = (running.grpc_address(), running.http_address());
        // Whoever started this process may not be listening any more; that is no reason to stop serving.
        let _ = data(format_args!("{READY_LINE} node {} {region} grpc {grpc} http {http}", node.0));
        asked_to_stop.wait().await;
    }
    tracing::info!("node {} stops", node.0);
    running.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;

    fn resolve(line: &str) -> anyhow::Result<NodeConfig> {
        let Command::Start(args) = Cli::try_parse_from(line.split_whitespace())?.command else { unreachable!() };
        args.resolve()
    }

    #[test]
    fn every_example_of_the_help_parses() {
        for line in EXAMPLES.lines().skip(1) {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn options_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        let text = "node = 1\nregion = \"eu\"\ndata_dir = \"/d\"\nseeds = [\"a:1\"]\n[clock]\nsource = \"kernel\"\n";
        std::fs::write(&path, text).unwrap();
        let line = format!("meridian start --config {}", path.display());
        let plain = resolve(&line).unwrap();
        assert_eq!((plain.node, plain.region.as_str(), plain.zone.as_str()), (NodeId(1), "eu", "a"));
        let options =
            "--region us --seeds b:2,c:3 --clock fixed --clock-bound 2ms --listen 127.0.0.1:7 --dial-via b:2=d:4";
        let changed = resolve(&format!("{line} {options}")).unwrap();
        assert_eq!((changed.node, changed.region.as_str()), (NodeId(1), "us"));
        assert_eq!((changed.seeds, changed.listen.as_str()), (vec!["b:2".into(), "c:3".into()], "127.0.0.1:7"));
        assert_eq!((changed.clock.source, changed.clock.bound), (SourceKind::Fixed, Duration::from_millis(2)));
        assert_eq!(changed.dial_via["b:2"], "d:4");
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let error = resolve("meridian start --listen 0.0.0.0:1").unwrap_err().to_string();
        for part in ["`node`", "`region`", "`data_dir`", "--insecure", "`advertise`"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(resolve("meridian start --clock sundial").is_err());
        assert!(resolve("meridian start --snapshot-rate 0").unwrap_err().to_string().contains("catch up"));
        assert!(resolve("meridian start --dial-via a:1").is_err());
    }
}
