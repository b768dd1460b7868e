//! `meridian debug verify-backup`: is a backup as it was written?

use super::backup::{shard_json, sums};
use super::{progress, show};
use crate::exit::BackupDamaged;
use crate::output::{self, Format, count, number};
use comfy_table::Cell;
use indicatif::HumanBytes;
use meridian_storage::backup::{Verified, verify};
use meridian_storage::{Damage, Files};
use meridian_types::{NodeId, ShardId, TableId, Timestamp};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Check a backup: its manifest, the length and checksum of every file, and every row.
///
/// A row has to be whole, of its shard, at or below the backup's timestamp, and in order. The node that the backup was
/// made of is not needed. Nothing is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The backup's folder.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

const HELP: &str = "\
Exit code 0 says that nothing is wrong, 5 that something is; findings go to stdout, with file and offset. A folder without a
manifest is no backup, or one that was not finished: exit code 1.

Examples:
  meridian debug verify-backup /backups/n1-monday
  meridian debug verify-backup /backups/n1-monday --format json | jq '.findings[] | .file, .offset'";

pub(super) fn run(format: Format, args: &Args) -> anyhow::Result<()> {
    let bar = progress();
    let verified = verify(&Files::real(), &args.dir, |progress| show(&bar, progress));
    bar.finish_and_clear();
    let verified = verified?;
    match format {
        Format::Json => output::json(&verified_json(args, &verified))?,
        Format::Human => print(&verified)?,
    }
    match verified.damage.len() {
        0 => Ok(()),
        findings => Err(BackupDamaged(findings.try_into()?).into()),
    }
}

fn print(verified: &Verified) -> anyhow::Result<()> {
    let manifest = &verified.manifest;
    let mut table = output::table(["shard", "table", "files", "rows", "bytes"]);
    for shard in &manifest.shards {
        let (rows, bytes) = sums(shard);
        table.add_row(vec![
            Cell::new(ShardId(shard.shard)),
            Cell::new(TableId(shard.table)),
            number(shard.files.len()),
            number(rows),
            number(bytes),
        ]);
    }
    output::data(table)?;
    for damage in &verified.damage {
        output::data(damage)?;
    }
    let owner = match manifest.cluster_id.as_str() {
        "" => "a node of no cluster".to_owned(),
        cluster => format!("{} of cluster {cluster}", NodeId(manifest.node)),
    };
    output::note(format!(
        "{owner} as of {}: {}, {}, {}; {}",
        Timestamp(manifest.at),
        count(verified.files, "file"),
        HumanBytes(manifest.bytes),
        count(verified.rows, "right row"),
        count(verified.damage.len().try_into()?, "finding"),
    ));
    Ok(())
}

fn verified_json(args: &Args, verified: &Verified) -> Value {
    let finding = |damage: &Damage| json!({ "file": damage.file.display().to_string(), "offset": damage.offset, "what": damage.what });
    let manifest = &verified.manifest;
    json!({
        "backup": args.dir.display().to_string(),
        "ok": verified.damage.is_empty(),
        "findings": verified.damage.iter().map(finding).collect::<Vec<_>>(),
        "cluster_id": manifest.cluster_id,
        "node": manifest.node,
        "format": manifest.format,
        "at": manifest.at,
        "files": verified.files,
        "rows": verified.rows,
        "bytes": manifest.bytes,
        "shards": manifest.shards.iter().map(shard_json).collect::<Vec<_>>(),
    })
}
