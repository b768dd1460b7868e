//! `meridian dev`: a whole emulated cluster in this process.

use crate::context::Context;
use crate::output::{self, Format, data, note};
use crate::signal;
use comfy_table::Cell;
use meridian_server::cluster_file::ClusterFile;
use meridian_server::config::parse_size;
use meridian_server::dev::{CLUSTER_FILE, DevCluster, DevOptions};
use meridian_wan::Topology;
use std::path::{Path, PathBuf};

/// Run a whole cluster on this machine, with emulated distance between its regions.
///
/// The nodes are real servers on loopback ports. Everything between regions passes through links with the topology's
/// delays, which `meridian link` can cut, slow down and heal.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, next_help_heading = "Development cluster")]
pub(crate) struct Args {
    /// three, five, lan, or a topology file; if absent, what the data belongs to, else three.
    #[arg(long, value_name = "NAME|FILE")]
    topology: Option<String>,
    /// Where to keep the data; the next run with the same folder finds it.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep the data only as long as the cluster runs; the same as no --data.
    #[arg(long, conflicts_with = "data")]
    ephemeral: bool,
    /// Nodes in each region, instead of what the topology says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    nodes_per_region: Option<u32>,
    /// Where to write what other programs need to know; DIR/cluster.json, or ./cluster.json without --data.
    #[arg(long, value_name = "FILE")]
    cluster_file: Option<PathBuf>,
    /// Memory budget of each node, e.g. 512MiB; by default a share of a quarter of this machine's.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Decides the links' jitter.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

const EXAMPLES: &str = "\
Examples:
  meridian dev
  meridian dev --topology five --data ./five
  meridian dev --topology lan --nodes-per-region 5 --ephemeral --cluster-file /tmp/lan.json";

impl Args {
    fn options(self) -> anyhow::Result<DevOptions> {
        let without_data = || self.data.is_none().then(|| CLUSTER_FILE.into());
        Ok(DevOptions {
            topology: self.topology.as_deref().map(Topology::preset_or_load).transpose()?,
            nodes_per_region: self.nodes_per_region,
            cluster_file: self.cluster_file.or_else(without_data),
            data: self.data,
            seed: self.seed,
            memory_bytes: self.memory,
            ..DevOptions::default()
        })
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let mut asked_to_stop = signal::Stop::listen()?;
    let options = args.options()?;
    note("starting...");
    let cluster = tokio::select! {
        started = DevCluster::start(options) => started?,
        () = asked_to_stop.wait() => return Ok(()),
    };
    // Nobody may be reading; the cluster serves all the same.
    let shown = show(context.format(), &cluster.describe(), cluster.cluster_file());
    if shown.as_ref().is_err_and(|error| !crate::exit::is_closed_pipe(error)) {
        cluster.stop().await;
        return shown;
    }
    asked_to_stop.wait().await;
    note("stopping...");
    cluster.stop().await;
    Ok(())
}

/// Tells where everything is.
pub(crate) fn show(format: Format, cluster: &ClusterFile, path: &Path) -> anyhow::Result<()> {
    match format {
        Format::Json => output::json(&serde_json::to_value(cluster)?),
        Format::Human => Ok(data(summary(cluster, path))?),
    }
}

fn summary(cluster: &ClusterFile, path: &Path) -> String {
    let mut table = output::table(["node", "region", "zone", "gRPC", "HTTP"]);
    for node in &cluster.nodes {
        let http = node.http.as_deref().unwrap_or("-");
        let cells = [&node.region.0, &node.zone.0, &node.grpc, http].map(Cell::new);
        table.add_row([output::number(node.node.0)].into_iter().chain(cells));
    }
    let file = path.display();
    let home = cluster.regions.first().map_or("", |region| region.name.as_str());
    let mut text = format!("{table}\n\nready: {} nodes, topology {}\n", cluster.nodes.len(), cluster.topology);
    text += &format!("cluster file: {file}\n");
    if let Some(control) = &cluster.link_control {
        text += &format!("link control: http://{control}\n");
    }
    text += &format!(
        "\nTry, in another terminal:\n  export MERIDIAN_CLUSTER={file}\n  meridian status\n  meridian table create \
         cities --placement global:{home}\n  meridian kv put cities lisbon 545000 --receipt\n  meridian kv get cities \
         lisbon --region {home}\n"
    );
    if let (Some(_), Some(region)) = (&cluster.link_control, cluster.regions.get(1)) {
        text += &format!("  meridian link isolate {}\n  meridian link heal\n", region.name);
    }
    text + "\nCtrl-C stops all nodes."
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;
    use meridian_server::cluster_file::NodeAt;
    use meridian_types::NodeId;

    fn options(line: &str) -> anyhow::Result<DevOptions> {
        let Command::Dev(args) = Cli::try_parse_from(line.split_whitespace())?.command else { unreachable!() };
        args.options()
    }

    #[test]
    fn every_example_of_the_help_parses() {
        for line in EXAMPLES.lines().skip(1) {
            options(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn the_cluster_file_is_beside_the_data_or_here() {
        let file = |line: &str| options(line).unwrap().cluster_file;
        assert_eq!(file("meridian dev"), Some("cluster.json".into()));
        assert_eq!(file("meridian dev --ephemeral --cluster-file /f"), Some("/f".into()));
        assert_eq!(file("meridian dev --data d"), None, "the library puts it there");
        assert!(options("meridian dev --data d --ephemeral").is_err());
        let unknown = options("meridian dev --topology four").unwrap_err().to_string();
        assert!(unknown.contains("presets are three, five and lan"), "{unknown}");
    }

    #[test]
    fn the_commands_it_suggests_exist() {
        let topology = Topology::preset("three").unwrap();
        let at = |spec: meridian_wan::NodeSpec| NodeAt {
            node: spec.id,
            region: spec.region,
            zone: spec.zone,
            grpc: "127.0.0.1:1".into(),
            http: None,
        };
        let nodes = topology.nodes().into_iter().map(at).collect();
        let file = ClusterFile::new(&topology, nodes, Some("127.0.0.1:2".into()));
        assert_eq!(file.nodes[2].node, NodeId(3));
        let text = summary(&file, Path::new("cluster.json"));
        let commands: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("  meridian ")).collect();
        assert_eq!(commands.len(), 6, "{text}");
        for command in commands {
            let line = format!("meridian {command}");
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
