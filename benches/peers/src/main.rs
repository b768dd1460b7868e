//! `meridian-peers`: Meridian side by side with etcd, three members each on this machine.
//!
//! Starts both clusters as child processes, loads them in turn with the load generator of `meridian-bench`, and prints
//! every value, medians, ratios and goals. `docs/performance.md` describes the method.

mod args;
mod cluster;
mod disk;
mod etcd;
mod measures;
mod meridian;
mod metrics;
mod nodes;
mod procfs;
mod report;
mod rounds;
mod sample;
mod session;
mod statistics;
mod system;
#[cfg(target_os = "linux")]
mod wan;

use anyhow::{Context as _, bail};
use args::Args;
use clap::Parser as _;
use cluster::Cluster;
use etcd::EtcdCluster;
use meridian::MeridianCluster;
use report::{Setting, compare, json, tables};
use rounds::Results;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use system::System;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Compares and reports. Returns whether it was stopped early.
async fn run(args: &Args) -> anyhow::Result<bool> {
    let programs = find_programs(args)?;
    let versions = programs.iter().map(|(system, program)| Ok((*system, version(program)?)));
    let versions = versions.collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    // From here on a signal does not end this program by itself: its children would stay.
    let stop = CancellationToken::new();
    tokio::spawn(cancel_on_signal(listen()?, stop.clone()));
    let folder = tempfile::Builder::new().prefix("meridian-peers-").disable_cleanup(args.keep).tempdir_in(&args.dir);
    let folder = folder.with_context(|| format!("cannot make a folder in {}", args.dir.display()))?;
    let file_system = disk::file_system(folder.path()).unwrap_or_else(|| "an unknown file system".to_owned());
    if disk::is_in_memory(&file_system) {
        bail!("{} is {file_system}, where a sync costs nothing: choose --dir on a disk", args.dir.display());
    }
    if let Some(topology) = &args.wan {
        return over_distance(args, topology, versions, &programs, (folder.path(), file_system), &stop).await;
    }
    let Some(mut clusters) = stop.run_until_cancelled(start(args, &programs, folder.path())).await.transpose()? else {
        return Ok(true);
    };
    let taken = rounds::make(args, &mut clusters, folder.path(), &stop, |line| eprintln!("{line}")).await;
    for cluster in clusters {
        cluster.stop().await;
    }
    if args.keep {
        eprintln!("data and logs are in {}", folder.path().display());
    }
    let interrupted = stop.is_cancelled();
    report(args, &Setting { versions, cores: cores(), file_system, interrupted }, &taken?)?;
    Ok(interrupted)
}

/// Compares in a WAN lab. Returns whether it was stopped early.
#[cfg(target_os = "linux")]
async fn over_distance(
    args: &Args,
    topology: &str,
    versions: BTreeMap<System, String>,
    programs: &[(System, PathBuf)],
    (folder, file_system): (&Path, String),
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let topology = wan::topology(topology)?;
    let results = wan::compare(args, &topology, programs, folder, stop).await?;
    let interrupted = stop.is_cancelled();
    if args.keep {
        eprintln!("data and logs are in {}", folder.display());
    }
    let setting = Setting { versions, cores: cores(), file_system, interrupted };
    wan::report(args, &setting, &topology, &results)?;
    Ok(interrupted)
}

#[cfg(not(target_os = "linux"))]
async fn over_distance(
    _: &Args,
    _: &str,
    _: BTreeMap<System, String>,
    _: &[(System, PathBuf)],
    _: (&Path, String),
    _: &CancellationToken,
) -> anyhow::Result<bool> {
    Err(meridian_wan::lab::LabError::NotLinux.into())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Prints, and writes the JSON if asked for.
fn report(args: &Args, setting: &Setting, results: &Results) -> anyhow::Result<()> {
    let compared = compare(args, results);
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&json(args, setting, results, &compared))?;
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    print!("{}", tables(args, setting, results, &compared));
    Ok(())
}

/// The systems to measure and their programs, in the order of the first round.
fn find_programs(args: &Args) -> anyhow::Result<Vec<(System, PathBuf)>> {
    let mut programs = Vec::new();
    if args.only != Some(System::Meridian) {
        programs.push((System::Etcd, etcd::find_program(args.etcd.as_deref())?));
    }
    if args.only != Some(System::Etcd) {
        programs.push((System::Meridian, meridian::find_program(args.meridian.as_deref())?));
    }
    Ok(programs)
}

/// The first line of what a program says of its version.
fn version(program: &Path) -> anyhow::Result<String> {
    let said = Command::new(program).arg("--version").output();
    let said = said.with_context(|| format!("cannot run {}", program.display()))?;
    let first = String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default().trim().to_owned();
    if !said.status.success() || first.is_empty() {
        bail!("{} --version says nothing ({})", program.display(), said.status);
    }
    Ok(first)
}

async fn start(args: &Args, programs: &[(System, PathBuf)], folder: &Path) -> anyhow::Result<Vec<Cluster>> {
    let mut clusters = Vec::new();
    for (system, program) in programs {
        eprintln!("starting three members of {}: {}", system.name(), program.display());
        let dir = folder.join(system.name());
        clusters.push(match system {
            System::Etcd => Cluster::Etcd(EtcdCluster::start(program, &dir, args.connections).await?),
            System::Meridian => Cluster::Meridian(MeridianCluster::start(program, &dir, args).await?),
        });
    }
    Ok(clusters)
}

fn listen() -> std::io::Result<[Signal; 3]> {
    Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?])
}

async fn cancel_on_signal([mut interrupt, mut terminate, mut hangup]: [Signal; 3], stop: CancellationToken) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    eprintln!("stopping...");
    stop.cancel();
}
