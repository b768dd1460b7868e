//! `meridian debug cut-log`: after a power loss, the way back for a node whose log has an end that nobody vouched for.

use super::Directory;
use crate::output::{self, Format};
use meridian_storage::inspect::{self, Cut};
use serde_json::json;

/// Cut off the damaged end of the write-ahead log, if nothing behind the damage was durable.
///
/// A power loss can leave a later page of a write that was never synced, and not an earlier one. A node cannot tell that
/// from damage to what it has acknowledged, and refuses to start. If the power was lost, and just then, this cuts the log
/// where its last whole record ends, and keeps what it cuts off in a file beside it.
///
/// It refuses where the node's own mark proves that more was durable. After a power loss the mark may be up to half a
/// minute old, so that it does not prove the contrary. If in doubt: give the node an empty directory and a new id instead.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meridian debug cut-log --data-dir n1 --power-was-lost")]
pub(super) struct Args {
    #[command(flatten)]
    directory: Directory,
    /// Says that the machine lost power, or stopped by itself, when the log ended. For anything else this is the wrong tool.
    #[arg(long, required = true)]
    power_was_lost: bool,
}

pub(super) fn run(format: Format, args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(args.power_was_lost, "only after a power loss: say so with --power-was-lost");
    let cut = inspect::cut_log(&args.directory.data_dir)?;
    match (format, cut) {
        (Format::Json, cut) => output::json(&json!({
            "cut": cut.as_ref().map(|Cut { damage, length, bytes, kept }| json!({
                "file": damage.file.display().to_string(),
                "offset": damage.offset,
                "length": length,
                "bytes": bytes,
                "kept": kept.display().to_string(),
            })),
        })),
        (Format::Human, None) => {
            output::note("nothing in the log is damaged; nothing was changed");
            Ok(())
        }
        (Format::Human, Some(cut)) => {
            output::note(format!("{}", cut.damage));
            output::note(format!("cut to {} bytes; the other {} are in {}", cut.length, cut.bytes, cut.kept.display()));
            Ok(())
        }
    }
}
