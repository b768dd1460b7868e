//! `meridian debug`: what a stopped node has on its disk.

mod backup;
mod cut_log;
mod log;
mod restore;
mod shards;
mod verify;
mod verify_backup;
mod versions;

use crate::context::Context;
use indicatif::{ProgressBar, ProgressStyle};
use meridian_storage::inspect::StoppedNode;
use std::path::PathBuf;

/// Look into the data directory of a stopped node, check it, back it up, and restore it.
///
/// No cluster is asked, and no file is changed, except by `cut-log` and `restore`. A node that runs on the directory is
/// never looked at under its hands: stop it, or take a copy.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check every checksum there is, and whether the stores agree; names damaged files and offsets.
    Verify(verify::Args),
    /// Show where each shard's replica stands.
    Shards(shards::Args),
    /// Show a shard's vote, small records and log entries.
    Log(log::Args),
    /// Show the stored versions of a table's keys, old ones and tombstones included.
    Versions(versions::Args),
    /// After a power loss: cut off a damaged end of the write-ahead log that was never durable.
    CutLog(cut_log::Args),
    /// Make a backup of the node's shards, as of one timestamp.
    Backup(backup::Args),
    /// Check a backup: every checksum, and every row.
    VerifyBackup(verify_backup::Args),
    /// Restore a backup into an empty data directory.
    Restore(restore::Args),
}

/// The directory, for every command.
#[derive(Debug, clap::Args)]
struct Directory {
    /// The node's data directory: the folder that holds `raft/` and `data/`.
    #[arg(long, visible_alias = "store", value_name = "DIR")]
    data_dir: PathBuf,
}

impl Directory {
    fn open(&self) -> anyhow::Result<StoppedNode> {
        Ok(StoppedNode::open(&self.data_dir)?)
    }
}

const EXAMPLES: &str = "\
Examples:
  meridian debug verify --data-dir n1
  meridian debug shards --data-dir n1 --format json
  meridian debug log --data-dir n1 --shard s4 --from 1000 --to 1020
  meridian debug versions --data-dir n1 --table 3 --prefix lis
  meridian debug backup --data-dir n1 --to backups/n1
  meridian debug verify-backup backups/n1
  meridian debug restore --from backups/n1 --data-dir n1-again";

pub(crate) fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let format = context.format();
    match args.command {
        Command::Verify(args) => verify::run(format, &args),
        Command::Shards(args) => shards::run(format, &args),
        Command::Log(args) => log::run(format, &args),
        Command::Versions(args) => versions::run(format, &args),
        Command::CutLog(args) => cut_log::run(format, &args),
        Command::Backup(args) => backup::run(format, &args),
        Command::VerifyBackup(args) => verify_backup::run(format, &args),
        Command::Restore(args) => restore::run(format, &args),
    }
}

/// A display on stderr of bytes that are gone through; hidden when that is no terminal.
fn progress() -> ProgressBar {
    let bar = ProgressBar::no_length();
    let style = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes}, {bytes_per_sec} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Shows on the display how far a backup is.
fn show(bar: &ProgressBar, progress: meridian_storage::backup::Progress<'_>) {
    if let Some(total) = progress.total {
        bar.set_length(total);
    }
    bar.set_position(progress.bytes);
    bar.set_message(progress.path.display().to_string());
}

/// A log id in words: term, leader, index.
fn log_id(id: &meridian_proto::internal::v1::LogId) -> String {
    let leader = id.leader.unwrap_or_default();
    format!("T{}-n{}-{}", leader.term, leader.node, id.index)
}

/// The same for programs.
fn log_id_json(id: &meridian_proto::internal::v1::LogId) -> serde_json::Value {
    let leader = id.leader.unwrap_or_default();
    serde_json::json!({ "term": leader.term, "node": leader.node, "index": id.index })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{self, Cli};
    use clap::Parser as _;

    #[test]
    fn every_example_of_the_help_parses() {
        for line in EXAMPLES.lines().skip(1) {
            let cli = Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert!(matches!(cli.command, args::Command::Debug(_)));
        }
    }
}
