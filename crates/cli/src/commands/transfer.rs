//! `meridian transfer`: moves a shard's leadership.

use crate::context::Context;
use crate::output::{self, Format};
use meridian_types::{NodeId, ShardId};

/// Move a shard's leadership to another of its voters, without waiting for a timeout.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meridian transfer s4 n2")]
pub(crate) struct Args {
    /// The shard, as `meridian status` names it.
    #[arg(value_parser = |text: &str| id(text, 's').map(ShardId))]
    shard: ShardId,
    /// The node that shall lead.
    #[arg(value_parser = |text: &str| id(text, 'n').map(NodeId))]
    node: NodeId,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    context.connect().await?.transfer_leader(args.shard, args.node).await?;
    match context.format() {
        Format::Json => output::json(&serde_json::json!({ "shard": args.shard.0, "leader": args.node.0 }))?,
        Format::Human => output::note(format!("{} leads {} now", args.node, args.shard)),
    }
    Ok(())
}

/// A number, with or without the letter that marks its kind.
pub(crate) fn id(text: &str, letter: char) -> Result<u64, String> {
    let digits = text.strip_prefix(letter).unwrap_or(text);
    digits.parse().map_err(|_| format!("`{text}` is not an id like {letter}3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_with_and_without_their_letter() {
        assert_eq!((id("s4", 's'), id("4", 's')), (Ok(4), Ok(4)));
        for text in ["n4", "s", "", "s-1"] {
            assert!(id(text, 's').is_err(), "{text}");
        }
    }
}
