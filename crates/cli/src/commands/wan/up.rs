//! `meridian wan up`: the router, in this process or in the background.

use super::UpArgs;
use super::run::show_all;
use crate::context::Context;
use crate::exit;
use crate::output::note;
use crate::signal;
use anyhow::{Context as _, bail};
use meridian_wan::Topology;
use meridian_wan::lab::{Lab, LabControl, LabError, LabFolder, check_privilege};
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How long a router in the background may take to make its hosts; a large lab takes a few seconds.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Pause between looks at it.
const LOOK: Duration = Duration::from_millis(20);

/// What this program says before the reason when it fails.
const ERROR: &str = "error: ";

pub(super) async fn run(context: &Context, folder: LabFolder, args: UpArgs) -> anyhow::Result<()> {
    if args.foreground { foreground(context, folder, args).await } else { background(context, folder, args).await }
}

/// Routes until it is asked to end, then removes the lab.
async fn foreground(context: &Context, folder: LabFolder, args: UpArgs) -> anyhow::Result<()> {
    if args.detached {
        // A session of its own: the terminal's signals and its end are none of the router's business.
        rustix::process::setsid().context("cannot leave the terminal")?;
    }
    let mut asked_to_stop = signal::Stop::listen()?;
    let mut topology = Topology::preset_or_load(&args.topology)?;
    if let Some(nodes) = args.nodes_per_region {
        topology = topology.with_nodes_per_region(nodes);
    }
    // Not cut short by a signal: what is half made would have to be found again.
    let lab = Lab::up(folder, topology, args.seed).await?;
    if !args.detached {
        let shown = show_all(context, &lab.status());
        if shown.as_ref().is_err_and(|error| !exit::is_closed_pipe(error)) {
            lab.down()?;
            return shown;
        }
        note("Ctrl-C removes the lab");
    }
    tokio::select! {
        () = asked_to_stop.wait() => {}
        () = lab.asked_to_stop() => {}
    }
    Ok(lab.down()?)
}

/// Starts this program again as a router, and returns when that is ready.
async fn background(context: &Context, folder: LabFolder, args: UpArgs) -> anyhow::Result<()> {
    // What is wrong from the start is told here and not in a log.
    Topology::preset_or_load(&args.topology)?;
    check_privilege()?;
    let control = LabControl::new(folder.clone());
    match control.status().await {
        Err(LabError::NotUp(_)) => {}
        Ok(status) => return Err(LabError::IsUp { name: status.name, pid: status.router }.into()),
        Err(error) => return Err(error.into()),
    }
    let log = folder.log();
    let output = create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let program = std::env::current_exe().context("cannot find this program's own file to run the router with")?;
    let mut router = Command::new(program);
    router.args(["wan", "up", &args.topology, "--foreground", "--detached", "--name", folder.name()]);
    router.args(["--seed", &args.seed.to_string()]);
    if let Some(nodes) = args.nodes_per_region {
        router.args(["--nodes-per-region", &nodes.to_string()]);
    }
    router.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut router = router.spawn().context("cannot start the router")?;
    match wait_until_ready(&folder, &control, &mut router).await {
        Ok(None) => show_all(context, &control.status().await?),
        Ok(Some(status)) => {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            // It fails if somebody has removed it: then it is gone.
            let _ = std::fs::remove_file(&log);
            let said = said.trim().lines().last().unwrap_or_default();
            if said.is_empty() {
                bail!("the router ended ({status})");
            }
            bail!("{}", said.strip_prefix(ERROR).unwrap_or(said))
        }
        Err(error) => {
            // It fails if the router has ended meanwhile.
            let _ = router.kill();
            Err(error)
        }
    }
}

fn create(log: &Path) -> io::Result<File> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    File::create(log)
}

/// Waits until our router answers, or has ended.
async fn wait_until_ready(
    folder: &LabFolder,
    control: &LabControl,
    router: &mut Child,
) -> anyhow::Result<Option<ExitStatus>> {
    let ready = async {
        loop {
            if let Some(status) = router.try_wait()? {
                return Ok(Some(status));
            }
            if control.status().await.is_ok_and(|status| status.router == router.id()) {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let ended = tokio::time::timeout(READY_LIMIT, ready).await;
    ended.unwrap_or_else(|_| bail!("the router was not ready within {READY_LIMIT:?}; see {}", folder.log().display()))
}
