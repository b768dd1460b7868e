//! The commands on a lab that exists.

use super::{Args, Command, report, up};
use crate::context::Context;
use crate::output::{self, Format, count, data, note};
use anyhow::Context as _;
use meridian_wan::lab::{self, Found, LabControl, LabFolder, LabStatus};
use std::ffi::OsString;

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let folder = LabFolder::new(&args.name)?;
    let control = LabControl::new(folder.clone());
    let status = match args.command {
        Command::Up(args) => return up::run(context, folder, args).await,
        Command::Exec { host, command } => return exec(&control, &host, &command).await,
        Command::Down => return down(context, &folder).await,
        Command::Status => return show_all(context, &control.status().await?),
        Command::Partition { a, b, one_way } => control.partition(a, b, one_way).await,
        Command::Isolate { place } => control.isolate(place).await,
        Command::Heal { a, b } => control.heal(a.zip(b)).await,
        Command::Delay { a, b, rtt } => control.set_delay(a, b, rtt).await,
    }?;
    match context.format() {
        Format::Json => output::json(&serde_json::to_value(status)?),
        Format::Human => Ok(data(report::ways(&status))?),
    }
}

/// Everything about a lab.
pub(super) fn show_all(context: &Context, status: &LabStatus) -> anyhow::Result<()> {
    match context.format() {
        Format::Json => output::json(&serde_json::to_value(status)?),
        Format::Human => Ok(data(report::all(status))?),
    }
}

async fn exec(control: &LabControl, host: &str, command: &[OsString]) -> anyhow::Result<()> {
    let host = control.host(host).await?;
    let (program, arguments) = command.split_first().context("name a program after `--`")?;
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    // Only this thread has entered the host, and with `exec` it is the one that stays.
    Err(lab::exec(&host, command).into())
}

async fn down(context: &Context, folder: &LabFolder) -> anyhow::Result<()> {
    let (found, programs) = lab::down(folder).await?;
    let name = folder.name();
    if programs > 0 {
        let programs = count(programs as u64, "program");
        note(format_args!("{programs} in its hosts went on without a network"));
    }
    match context.format() {
        Format::Json => {
            let was = match found {
                Found::Running => "running",
                Found::LeftOver => "left_over",
                Found::Nothing => "absent",
            };
            output::json(&serde_json::json!({ "name": name, "was": was, "programs_left": programs }))
        }
        Format::Human => Ok(data(match found {
            Found::Running => format!("lab `{name}` is removed"),
            Found::LeftOver => format!("lab `{name}` had no router any more; what was left of it is removed"),
            Found::Nothing => format!("there is no lab `{name}`"),
        })?),
    }
}
