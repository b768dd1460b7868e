//! Both systems over distance: one node of each in every region of a lab, in the same run.
//!
//! The lab's router is a thread of this program; clients are tasks on threads that are in their region's network, and
//! servers are processes there. So this program needs what a lab needs: Linux and root.

mod clusters;
mod loads;
mod report;
mod rounds;
mod site;

use crate::args::Args;
use crate::report::Setting;
use crate::system::System;
use anyhow::{Context as _, bail};
use clusters::WanCluster;
use meridian_wan::Topology;
use meridian_wan::lab::{Lab, LabFolder};
use rounds::{Stage, WanResults};
use site::Site;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Makes a lab, compares in it, and removes it. `None` if it was stopped before anything was taken.
pub(crate) async fn compare(
    args: &Args,
    topology: &Topology,
    programs: &[(System, PathBuf)],
    folder: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<WanResults> {
    let lab = Lab::up(LabFolder::new(&format!("peers-{}", std::process::id()))?, topology.clone(), args.seed).await?;
    let compared = in_lab(&lab, args, topology, programs, folder, stop).await;
    lab.down()?;
    compared
}

/// Prints, and writes the JSON if asked for.
pub(crate) fn report(args: &Args, setting: &Setting, topology: &Topology, results: &WanResults) -> anyhow::Result<()> {
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&report::json(args, setting, topology, results))?;
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    print!("{}", report::tables(args, setting, topology, results));
    Ok(())
}

/// The topology that is named: one node in each of an odd number of regions, so that both systems have a voter in each.
pub(crate) fn topology(name: &str) -> anyhow::Result<Topology> {
    let topology = Topology::preset_or_load(name)?.with_nodes_per_region(1);
    let regions = topology.regions.len();
    if regions < 3 || regions.is_multiple_of(2) || topology.nodes().len() != regions {
        bail!("topology {} has {regions} regions: this takes 3, 5, ... of one zone each", topology.name);
    }
    Ok(topology)
}

async fn in_lab(
    lab: &Lab,
    args: &Args,
    topology: &Topology,
    programs: &[(System, PathBuf)],
    folder: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<WanResults> {
    let sites = lab.hosts().into_iter().map(Site::new).collect::<anyhow::Result<Vec<_>>>()?;
    let home = sites.iter().position(|site| site.host.region == topology.shard0.leader);
    let home = home.context("no region leads")?;
    let sites = Arc::new(sites);
    // What looks after the clusters is in the leader's region: from outside nobody reaches them.
    let (args, topology, programs) = (args.clone(), topology.clone(), programs.to_vec());
    let (folder, stop, all) = (folder.to_owned(), stop.clone(), sites.clone());
    let task = async move { run(&args, &topology, &programs, &folder, &all, home, &stop).await };
    sites.get(home).context("no region leads")?.run(task).await
}

async fn run(
    args: &Args,
    topology: &Topology,
    programs: &[(System, PathBuf)],
    folder: &Path,
    sites: &[Site],
    home: usize,
    stop: &CancellationToken,
) -> anyhow::Result<WanResults> {
    let mut clusters = Vec::new();
    let started = async {
        for (system, program) in programs {
            eprintln!("starting {} in {} regions: {}", system.name(), sites.len(), program.display());
            let dir = folder.join(system.name());
            clusters.push(WanCluster::start(*system, program, &dir, args, topology, sites, home).await?);
        }
        anyhow::Ok(())
    };
    let started = stop.run_until_cancelled(started).await;
    let made = match started {
        None => Ok(WanResults::default()),
        Some(Err(error)) => Err(error),
        Some(Ok(())) => Stage { args, sites, home, stop }.make(&mut clusters, |line| eprintln!("{line}")).await,
    };
    for cluster in clusters {
        cluster.stop().await;
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use loads::Load;
    use meridian_wan::lab::LabError;

    #[test]
    fn every_region_has_a_vote() {
        assert_eq!(topology("three").unwrap().nodes().len(), 3);
        assert_eq!(topology("five").unwrap().nodes().len(), 5);
        assert!(topology("lan").is_err());
    }

    /// Against a real etcd, where one is installed and a lab can be made.
    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_faster_than_its_distance() {
        let program = match crate::etcd::find_program(None) {
            Ok(program) => program,
            Err(error) => return eprintln!("SKIPPED, nothing was tested: {error}"),
        };
        let line = "meridian-peers --wan three --only etcd --rounds 1 --duration 1s --warm-up 1ms --keys 20 --rate 20 --clients 8";
        let args = Args::parse_from(line.split(' '));
        let (dir, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let topology = topology("three").unwrap();
        let compared = compare(&args, &topology, &[(System::Etcd, program)], dir.path(), &stop).await;
        let results = match compared {
            Err(error) if error.downcast_ref().is_some_and(LabError::is_unsupported) => {
                return eprintln!("SKIPPED, nothing was tested: {error}");
            }
            compared => compared.unwrap(),
        };
        assert_eq!(results.taken.len(), 4 * 3 + 1);
        for sample in &results.taken {
            // An election may be going on; then the floor is another.
            if results.led_from_elsewhere == 0 {
                let floor = sample.load.classic(&topology, &sample.region);
                let floor = floor.unwrap_or_else(|| sample.load.floor(&topology, &sample.region)).as_secs_f64() * 1e6;
                assert!(sample.p50_us.is_none_or(|us| us >= floor), "at least {floor} us: {sample:?}");
            }
        }
        assert!(results.taken.iter().any(|s| s.load == Load::PutMany && s.operations > 0), "{results:?}");
    }
}
