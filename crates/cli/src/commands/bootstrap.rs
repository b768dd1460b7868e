//! `meridian bootstrap`: a cluster of child processes from a topology.

use crate::commands::dev;
use crate::context::Context;
use crate::output::{Format, data, note};
use crate::signal;
use anyhow::Context as _;
use meridian_server::bootstrap::{BootstrapOptions, Bootstrapped, write};
use meridian_server::config::PORT_DEFAULT;
use meridian_server::dev::READY_LIMIT;
use meridian_server::layout::Ports;
use meridian_server::processes::{ProcessError, Processes};
use meridian_types::NodeId;
use meridian_wan::Topology;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Pause before a node that ended by itself is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(3);
/// A node that ends more often than that is not started again: the whole cluster is stopped.
const RESTARTS_MAX: u32 = 5;

/// Form a cluster from a topology: write each node's configuration, and run the nodes as child processes.
///
/// Each node gets DIR/nodeN with its configuration (node.toml), its data and its log. The same command over the same
/// folder starts the same cluster again. A node that ends by itself is started again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, next_help_heading = "New cluster")]
pub(crate) struct Args {
    /// A topology file, or one of three, five, lan.
    #[arg(value_name = "TOPOLOGY")]
    topology: String,
    /// The cluster's folder.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Only write the files, for another supervisor to run `meridian start --config DIR/nodeN/node.toml`.
    #[arg(long)]
    only_write: bool,
    /// The first node's gRPC port in a new cluster; HTTP is one above, the next node ten above.
    #[arg(long, value_name = "PORT", default_value_t = PORT_DEFAULT, value_parser = clap::value_parser!(u16).range(1..))]
    base_port: u16,
    /// Write a cluster for the hosts of this WAN lab (`meridian wan up`): each node listens on its host's address.
    #[arg(long, value_name = "NAME", requires = "only_write")]
    lab: Option<String>,
    /// Put the topology's distances between the nodes, for as long as this command runs.
    #[arg(long, conflicts_with = "only_write")]
    emulate_wan: bool,
    /// Decides the jitter of emulated links.
    #[arg(long, default_value_t = 0, requires = "emulate_wan")]
    seed: u64,
}

const EXAMPLES: &str = "\
Examples:
  meridian bootstrap topology.toml --dir ./cluster
  meridian bootstrap three --dir ./cluster --emulate-wan
  meridian bootstrap topology.toml --dir ./cluster --only-write --base-port 27000
  meridian bootstrap three --dir ./cluster --only-write --lab wan";

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let mut asked_to_stop = signal::Stop::listen()?;
    let topology = Topology::preset_or_load(&args.topology)?;
    let ports = match &args.lab {
        Some(lab) => Ports::OnHosts(lab_hosts(lab, &topology).await?, args.base_port),
        None => Ports::From(args.base_port),
    };
    let written =
        write(BootstrapOptions { topology, dir: args.dir, ports, emulate_wan: args.emulate_wan.then_some(args.seed) })?;
    if args.only_write {
        return show_files(context.format(), &written, args.lab.as_deref());
    }
    let program = std::env::current_exe().context("cannot find this program's own file to run the nodes with")?;
    let mut processes = Processes::start(&program, &written.nodes)?;
    note("starting...");
    let outcome = tokio::select! {
        outcome = serve(context, &written, &mut processes) => outcome,
        () = asked_to_stop.wait() => Ok(()),
    };
    note("stopping...");
    for node in processes.stop().await {
        note(format_args!("node {} did not stop by itself and was killed", node.0));
    }
    outcome
}

/// Returns when the nodes were never ready, or one of them keeps ending by itself.
async fn serve(context: &Context, written: &Bootstrapped, processes: &mut Processes) -> anyhow::Result<()> {
    processes.ready(READY_LIMIT).await?;
    match dev::show(context.format(), &written.cluster, &written.cluster_file) {
        Err(error) if !crate::exit::is_closed_pipe(&error) => return Err(error),
        _ => {}
    }
    supervise(processes).await
}

/// Starts a node again that ends by itself, and gives up when one keeps ending.
async fn supervise(processes: &mut Processes) -> anyhow::Result<()> {
    let mut ends: BTreeMap<NodeId, u32> = BTreeMap::new();
    loop {
        let error = processes.died().await;
        let ProcessError::Died { node, .. } = &error else { return Err(error.into()) };
        let (node, count) = (*node, ends.entry(*node).or_default());
        *count += 1;
        if *count > RESTARTS_MAX {
            return Err(error.into());
        }
        note(format_args!("{error}; starting it again in {} s", RESTART_PAUSE.as_secs()));
        processes.kill(node).await?;
        tokio::time::sleep(RESTART_PAUSE).await;
        processes.restart(node)?;
    }
}

/// The addresses of a lab's hosts, which have to be those of this topology's nodes.
#[cfg(target_os = "linux")]
async fn lab_hosts(lab: &str, topology: &Topology) -> anyhow::Result<Vec<IpAddr>> {
    use meridian_wan::lab::{LabControl, LabFolder};
    let hosts = LabControl::new(LabFolder::new(lab)?).status().await?.hosts;
    let are = hosts.iter().map(|host| (host.node, host.endpoint()));
    let asked = topology.nodes().into_iter().map(|node| (node.id, node.endpoint()));
    if !are.eq(asked) {
        anyhow::bail!(
            "the hosts of lab `{lab}` are not the nodes of topology {}: make it with that one",
            topology.name
        );
    }
    Ok(hosts.into_iter().map(|host| host.address.into()).collect())
}

#[cfg(not(target_os = "linux"))]
async fn lab_hosts(_: &str, _: &Topology) -> anyhow::Result<Vec<IpAddr>> {
    Err(meridian_wan::lab::LabError::NotLinux.into())
}

fn show_files(format: Format, written: &Bootstrapped, lab: Option<&str>) -> anyhow::Result<()> {
    if format == Format::Json {
        return dev::show(format, &written.cluster, &written.cluster_file);
    }
    for node in &written.nodes {
        let host = lab.map(|lab| format!("meridian wan exec --name {lab} n{} -- ", node.node.0)).unwrap_or_default();
        data(format_args!("{host}meridian start --config {}", node.config.display()))?;
    }
    note(format_args!("cluster file: {}", written.cluster_file.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::args::Cli;
    use clap::Parser as _;

    #[test]
    fn every_example_of_the_help_parses() {
        for line in super::EXAMPLES.lines().skip(1) {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn links_need_this_process() {
        for line in [
            "three",
            "three --dir d --only-write --emulate-wan",
            "three --dir d --base-port 0",
            "three --dir d --lab wan",
        ] {
            let line = format!("meridian bootstrap {line}");
            assert_eq!(Cli::try_parse_from(line.split_whitespace()).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
