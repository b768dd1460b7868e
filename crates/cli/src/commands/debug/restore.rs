//! `meridian debug restore`: a backup into an empty data directory.

use super::backup::shard_json;
use super::{Directory, progress, show};
use crate::output::{self, Format, count};
use indicatif::HumanBytes;
use meridian_storage::backup::restore;
use meridian_types::Timestamp;
use serde_json::json;
use std::path::PathBuf;

/// Restore a backup into a data directory that is empty or not there.
///
/// The backup is checked first, and nothing is changed if it is damaged or the directory has anything in it. If the
/// restoration is interrupted, the directory cannot be used as a data directory; the same command begins again.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The backup's folder.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    #[command(flatten)]
    directory: Directory,
}

const HELP: &str = "\
The directory belongs to no cluster afterwards, and its shards have no members: which nodes they live on now is not one
node's business. `meridian debug` reads it; no node starts on it, so that it cannot be taken for the replica that it was
made of, which has voted and written since.

The directory is the folder that is to hold `raft/` and `data/`. Exit code 5 says that the backup is damaged.

Examples:
  meridian debug restore --from /backups/n1-monday --data-dir n1-again
  meridian debug versions --data-dir n1-again --table 3 --prefix lis";

pub(super) fn run(format: Format, args: &Args) -> anyhow::Result<()> {
    let to = &args.directory.data_dir;
    let bar = progress();
    let restored = restore(&args.from, to, |_| None, |progress| show(&bar, progress));
    bar.finish_and_clear();
    let restored = restored?;
    let manifest = &restored.manifest;
    match format {
        Format::Json => output::json(&json!({
            "backup": args.from.display().to_string(),
            "data_dir": to.display().to_string(),
            "at": manifest.at,
            "rows": restored.rows,
            "bytes": manifest.bytes,
            "begun_again": restored.resumed,
            "shards": manifest.shards.iter().map(shard_json).collect::<Vec<_>>(),
        })),
        Format::Human => {
            if restored.resumed {
                output::note("an unfinished restoration was in the directory, and was begun again");
            }
            let shards = count(manifest.shards.len().try_into()?, "shard");
            let (at, rows) = (Timestamp(manifest.at), count(restored.rows, "row"));
            output::note(format!("{shards} as of {at}, {rows}, {}, in {}", HumanBytes(manifest.bytes), to.display()));
            Ok(())
        }
    }
}
