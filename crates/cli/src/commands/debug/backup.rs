//! `meridian debug backup`: the shards of a stopped node, as of one timestamp, in a folder.

use super::{Directory, progress, show};
use crate::commands::transfer;
use crate::output::{self, Format, count, number};
use comfy_table::Cell;
use indicatif::HumanBytes;
use meridian_proto::internal::v1::BackupShard;
use meridian_storage::backup::{BackedUp, ShardScope};
use meridian_types::{ShardId, TableId, Timestamp};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Make a backup of a stopped node's shards, consistent with one another, as of one timestamp.
///
/// The folder gets, for each shard, what a read at the timestamp sees: of each key the newest version, and the requests
/// decided by then. Everything has a checksum. Nothing in the data directory is changed, and no folder is written over.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    directory: Directory,
    /// The folder to make; its parent must be there, itself it must not.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The timestamp, nanoseconds since 1970. Without it: the newest that all the shards surely have everything up to.
    #[arg(long, value_name = "TIMESTAMP")]
    at: Option<u64>,
    /// Only these shards; again for each. Without it: all that the node has.
    #[arg(long = "shard", value_name = "SHARD", value_parser = |text: &str| transfer::id(text, 's').map(ShardId))]
    shards: Vec<ShardId>,
}

const HELP: &str = "\
A timestamp is refused that a shard does not surely have everything up to, and one below a shard's GC floor. What a node has
when it is stopped in good order, it has up to about that moment. After a crash it is what was flushed, and a shard that was
not written to for long holds the others back: start the node, let it catch up, and stop it.

`newer` counts the rows that the node has above the timestamp; they are not in the backup.

This is one node's part. Backups of several nodes at the same `--at` go together: no replica of a shard has more of it at a
timestamp than another.

Examples:
  meridian debug backup --data-dir n1 --to /backups/n1-monday
  meridian debug backup --data-dir n1 --to /backups/n1-s4 --shard s4 --at 1700000000000000000 --format json";

pub(super) fn run(format: Format, args: &Args) -> anyhow::Result<()> {
    let node = args.directory.open()?;
    let shards = args.wanted(node.shard_scopes()?)?;
    let (at, held_by) = match args.at {
        Some(at) => (Timestamp(at), None),
        None => node.newest_closed(&shards).map(|(at, shard)| (at, Some(shard)))?,
    };
    let bar = progress();
    let made = node.back_up(&shards, at, &args.to, |progress| show(&bar, progress));
    bar.finish_and_clear();
    let made = made?;
    match format {
        Format::Json => output::json(&made_json(args, &made)),
        Format::Human => print(args, &made, held_by),
    }
}

impl Args {
    /// The shards that were asked for.
    fn wanted(&self, mut found: Vec<ShardScope>) -> anyhow::Result<Vec<ShardScope>> {
        if let Some(absent) = self.shards.iter().find(|wanted| found.iter().all(|scope| scope.shard != **wanted)) {
            anyhow::bail!("the node has no {absent}");
        }
        found.retain(|scope| self.shards.is_empty() || self.shards.contains(&scope.shard));
        Ok(found)
    }
}

fn print(args: &Args, made: &BackedUp, held_by: Option<ShardId>) -> anyhow::Result<()> {
    let mut table = output::table(["shard", "table", "rows", "bytes", "newer"]);
    for (shard, newer) in made.manifest.shards.iter().zip(&made.newer) {
        let (rows, bytes) = sums(shard);
        table.add_row(vec![
            Cell::new(ShardId(shard.shard)),
            Cell::new(TableId(shard.table)),
            number(rows),
            number(bytes),
            number(newer),
        ]);
    }
    output::data(table)?;
    let (at, newer) = (Timestamp(made.manifest.at), made.newer.iter().sum::<u64>());
    let shards = count(made.manifest.shards.len().try_into()?, "shard");
    output::note(format!("{shards} as of {at}, {}, in {}", HumanBytes(made.manifest.bytes), args.to.display()));
    if let Some(shard) = held_by.filter(|_| newer > 0) {
        output::note(format!(
            "{} newer are not in it: {shard} surely has everything only up to {at}",
            count(newer, "row")
        ));
    }
    Ok(())
}

/// Rows and bytes of a shard.
pub(super) fn sums(shard: &BackupShard) -> (u64, u64) {
    let add = |(rows, bytes), file: &meridian_proto::internal::v1::BackupFile| (rows + file.rows, bytes + file.bytes);
    shard.files.iter().fold((0, 0), add)
}

/// A shard of a backup for programs.
pub(super) fn shard_json(shard: &BackupShard) -> Value {
    let (rows, bytes) = sums(shard);
    json!({ "shard": shard.shard, "table": shard.table, "dir": shard.dir, "files": shard.files.len(), "rows": rows, "bytes": bytes })
}

fn made_json(args: &Args, made: &BackedUp) -> Value {
    let shards = made.manifest.shards.iter().zip(&made.newer).map(|(shard, newer)| {
        let mut shard = shard_json(shard);
        shard["newer"] = json!(newer);
        shard
    });
    json!({
        "backup": args.to.display().to_string(),
        "cluster_id": made.manifest.cluster_id,
        "node": made.manifest.node,
        "at": made.manifest.at,
        "bytes": made.manifest.bytes,
        "shards": shards.collect::<Vec<_>>(),
    })
}
