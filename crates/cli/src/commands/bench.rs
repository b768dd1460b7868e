//! `meridian bench`: load from every region, measured against the physical floor.

use crate::context::Context;
use crate::output::{Format, data, note};
use crate::signal;
use anyhow::Context as _;
use meridian_bench::{
    Arrivals, BenchOptions, Distribution, IN_FLIGHT_MAX, Pace, ReadLevel, RegionTarget, TableSettings, Workload, run,
    tables,
};
use meridian_server::cluster_file::ClusterFile;
use meridian_server::config::parse_size;
use meridian_server::dev::{DevCluster, DevOptions};
use meridian_types::{Placement, RegionId};
use meridian_wan::Topology;
use std::path::PathBuf;
use std::time::Duration;

/// Drive a cluster from a client in every region, and report latencies next to their physical floors.
///
/// Without --cluster a whole emulated cluster is started for the run. Closed loop: every client has one operation at a
/// time. Open loop (--rate): operations start on a schedule and latency counts from the scheduled start, so that a
/// stall is not hidden.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, next_help_heading = "Benchmark")]
pub(crate) struct Args {
    /// three, five, lan, or a topology file; ignored with --cluster.
    #[arg(long, value_name = "NAME|FILE", default_value = "three")]
    topology: String,
    /// Nodes in each region of that topology.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    nodes_per_region: Option<u32>,
    /// Memory budget of each node of that topology, e.g. 512MiB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// ycsb-a .. ycsb-f (or a letter), write, read.
    #[arg(long, default_value = "ycsb-a")]
    workload: Workload,
    /// What reads ask for: linearizable, bounded:TIME, causal, local, snapshot:AGE.
    #[arg(long, default_value = "linearizable")]
    consistency: ReadLevel,
    /// Regions to drive from; all if absent.
    #[arg(long, value_name = "REGION,..", value_delimiter = ',')]
    from: Vec<String>,
    /// Clients in each region, one operation at a time each.
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Open loop instead: operations per second in each region.
    #[arg(long, value_name = "OPS", conflicts_with = "clients")]
    rate: Option<f64>,
    /// Spacing of scheduled operations: even or poisson.
    #[arg(long, default_value = "even", requires = "rate")]
    arrivals: Arrivals,
    /// Most operations in flight in each region under --rate.
    #[arg(long, default_value_t = IN_FLIGHT_MAX, requires = "rate")]
    in_flight: usize,
    /// How long is measured.
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Unmeasured load before that.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    warm_up: Duration,
    /// Keys in the table.
    #[arg(long, default_value_t = 1000)]
    keys: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// uniform, zipfian or latest; as the workload says if absent.
    #[arg(long)]
    distribution: Option<Distribution>,
    /// Longest scan, in rows.
    #[arg(long, default_value_t = 100)]
    scan_rows: u32,
    /// All randomness follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The keys are there already.
    #[arg(long)]
    no_load: bool,
    /// The table; created if it does not exist.
    #[arg(long, default_value = "bench")]
    table: String,
    /// Where a new table lives; `global` led from the first region if absent.
    #[arg(long)]
    placement: Option<String>,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Record every operation, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  meridian bench --topology three --workload write --clients 1
  meridian bench --workload read --consistency bounded:500ms --clients 4 --duration 10s
  meridian bench --cluster cluster.json --workload ycsb-b --rate 200 --arrivals poisson --json report.json
  meridian bench --workload ycsb-f --from us-east,eu-west --history history.jsonl";

impl Args {
    fn options(&self) -> BenchOptions {
        let pace = match self.rate {
            Some(rate) => Pace::Open { rate, arrivals: self.arrivals, in_flight_max: self.in_flight },
            None => Pace::Closed { clients: self.clients },
        };
        BenchOptions {
            workload: self.workload,
            pace,
            duration: self.duration,
            warm_up: self.warm_up,
            keys: self.keys,
            value_bytes: self.value_size,
            distribution: self.distribution,
            consistency: self.consistency,
            scan_rows_max: self.scan_rows,
            seed: self.seed,
            load: !self.no_load,
            table: self.table.clone(),
            history: self.history.clone(),
            ..BenchOptions::default()
        }
    }

    /// The regions to drive and their gateways.
    fn targets(&self, cluster: &ClusterFile) -> anyhow::Result<Vec<RegionTarget>> {
        let known = |name: &String| cluster.regions.iter().any(|r| r.name.as_str() == name);
        if let Some(unknown) = self.from.iter().find(|name| !known(name)) {
            anyhow::bail!("the cluster has no region `{unknown}`");
        }
        let driven = |r: &RegionId| self.from.is_empty() || self.from.iter().any(|name| name == r.as_str());
        let gateways = |r: &RegionId| cluster.nodes.iter().filter(|n| n.region == *r).map(|n| n.grpc.clone()).collect();
        let regions = cluster.regions.iter().map(|r| r.name.clone()).filter(driven);
        Ok(regions.map(|region| RegionTarget { gateways: gateways(&region), region }).collect())
    }

    fn table_settings(&self, cluster: &ClusterFile) -> anyhow::Result<TableSettings> {
        let home = cluster.regions.first().map(|r| r.name.clone());
        let placement = match &self.placement {
            Some(text) => Placement::parse(text)?,
            None => Placement::Global { leader: home.into_iter().collect(), survive: 1 },
        };
        Ok(TableSettings { placement, split_keys: Vec::new() })
    }
}

pub(crate) async fn run_bench(context: &Context, args: Args) -> anyhow::Result<()> {
    let options = args.options();
    options.validate()?;
    let mut asked_to_stop = signal::Stop::listen()?;
    let (cluster, started) = match context.named_cluster()? {
        Some(cluster) => (cluster, None),
        None => {
            note(format!("starting {}...", args.topology));
            let topology = Some(Topology::preset_or_load(&args.topology)?);
            let (nodes_per_region, memory_bytes) = (args.nodes_per_region, args.memory);
            let dev = DevOptions { topology, nodes_per_region, memory_bytes, ..DevOptions::default() };
            let cluster = tokio::select! {
                started = DevCluster::start(dev) => started?,
                () = asked_to_stop.wait() => return Ok(()),
            };
            (cluster.describe(), Some(cluster))
        }
    };
    let (targets, settings) = (args.targets(&cluster)?, args.table_settings(&cluster)?);
    let stop = async move { asked_to_stop.wait().await };
    let report = run(&options, &cluster.topology, targets, &settings, stop).await;
    if let Some(cluster) = started {
        cluster.stop().await;
    }
    let report = report?;
    if let Some(file) = &args.json {
        std::fs::write(file, report.to_json()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    match context.format() {
        Format::Json => data(report.to_json())?,
        Format::Human => data(tables(&report))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;

    fn args(line: &str) -> Args {
        let Command::Bench(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            unreachable!()
        };
        *args
    }

    #[test]
    fn every_example_of_the_help_parses_into_valid_options() {
        for line in EXAMPLES.lines().skip(1) {
            args(line).options().validate().unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn the_pace_is_closed_unless_a_rate_is_given() {
        assert_eq!(args("meridian bench --clients 3").options().pace, Pace::Closed { clients: 3 });
        let open = Pace::Open { rate: 50.0, arrivals: Arrivals::Even, in_flight_max: IN_FLIGHT_MAX };
        assert_eq!(args("meridian bench --rate 50").options().pace, open);
        assert!(Cli::try_parse_from(["meridian", "bench", "--rate", "50", "--clients", "2"]).is_err());
    }

    #[test]
    fn only_regions_of_the_cluster_are_driven() {
        let topology = Topology::preset("three").unwrap();
        let cluster = ClusterFile::new(&topology, Vec::new(), None);
        let names = |line| args(line).targets(&cluster).map(|t| t.into_iter().map(|t| t.region.0).collect::<Vec<_>>());
        assert_eq!(names("meridian bench --from eu-west").unwrap(), ["eu-west"]);
        assert_eq!(names("meridian bench").unwrap().len(), 3);
        assert!(names("meridian bench --from mars").is_err());
    }
}
