//! `meridian table`: tables and where they live.

use crate::context::Context;
use crate::output::{self, Format, number, short_ns};
use crate::text::{Encoding, printable};
use comfy_table::Cell;
use meridian_client::TableOptions;
use meridian_proto::v1 as pb;
use meridian_types::{NodeId, Placement, ShardId};
use serde_json::{Value, json};
use std::time::Duration;

/// Create, list, describe and drop tables.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create a table.
    #[command(after_help = PLACEMENTS)]
    Create {
        /// Its name.
        name: String,
        /// Where its data lives.
        #[arg(long, default_value = "global", value_parser = Placement::parse)]
        placement: Placement,
        /// A key at which to split it into shards; may be repeated.
        #[arg(long, value_name = "KEY")]
        split: Vec<String>,
        /// How long old versions are kept, for reads at a timestamp; the cluster's default without.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        gc_ttl: Option<Duration>,
        /// Have writes acknowledged by their leader only. By default the region that a write came from acknowledges it as
        /// soon as a quorum is known there to have it: one round trip to the leader, and not the leader's quorum besides.
        #[arg(long)]
        classic_commit: bool,
    },
    /// List all tables.
    List,
    /// Show a table's shards and where their replicas are.
    Describe {
        /// Its name.
        name: String,
    },
    /// Drop a table and all its data.
    Drop {
        /// Its name.
        name: String,
    },
}

const PLACEMENTS: &str = "\
Placements:
  global             voters in three or more regions; the leader where the quorum is nearest
  global:us-east     the same, led from us-east if it can be
  global-reads       as global, and every region serves linearizable reads by itself, without a message; writes wait as
                     long as that takes to prepare: a quorum's round trip and the way to the farthest region
  global-reads:us-east  the same, led from us-east if it can be
  regional:eu-west   voters only in eu-west, readable copies in the other regions";

const EXAMPLES: &str = "\
Examples:
  meridian table create cities --placement global:us-east
  meridian table create currencies --placement global-reads:us-east
  meridian table create people --placement regional:eu-west --split g --split p
  meridian table describe cities";

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Create { name, placement, split, gc_ttl, classic_commit } => {
            let keys = split_keys(&split)?;
            let options = TableOptions { gc_ttl, classic_commit };
            let table = context.connect().await?.create_table_with(&name, &placement, keys, options).await?;
            show(context, &table)
        }
        Command::List => {
            let tables = context.connect().await?.list_tables().await?;
            match context.format() {
                Format::Json => output::json(&tables.iter().map(table_json).collect()),
                Format::Human => Ok(output::data(list_table(&tables))?),
            }
        }
        Command::Describe { name } => show(context, &context.connect().await?.describe_table(&name).await?),
        Command::Drop { name } => {
            context.connect().await?.drop_table(&name).await?;
            match context.format() {
                Format::Json => output::json(&json!({ "dropped": name })),
                Format::Human => {
                    output::note(format!("table {name} is dropped"));
                    Ok(())
                }
            }
        }
    }
}

/// The keys of `--split`, sorted.
pub(crate) fn split_keys(texts: &[String]) -> anyhow::Result<Vec<bytes::Bytes>> {
    let mut keys = texts.iter().map(|t| Encoding::Text.decode(t)).collect::<Result<Vec<_>, _>>()?;
    keys.sort();
    Ok(keys)
}

fn show(context: &Context, table: &pb::Table) -> anyhow::Result<()> {
    match context.format() {
        Format::Json => output::json(&table_json(table)),
        Format::Human => {
            output::data(format!("table {}, placement {}", table.name, placement(table)))?;
            Ok(output::data(shards_table(table))?)
        }
    }
}

fn placement(table: &pb::Table) -> String {
    match meridian_wire::placement::decode(table.placement.clone()) {
        Ok(placement) => placement.to_string(),
        Err(error) => error.message,
    }
}

fn list_table(tables: &[pb::Table]) -> String {
    let mut t = output::table(["table", "id", "placement", "shards"]);
    for table in tables {
        t.add_row(vec![
            Cell::new(&table.name),
            number(table.id),
            Cell::new(placement(table)),
            number(table.shards.len()),
        ]);
    }
    t.to_string()
}

fn shards_table(table: &pb::Table) -> String {
    let mut t = output::table(["shard", "keys", "leader", "voters", "learners", "quorum RTT"]);
    for shard in &table.shards {
        t.add_row(vec![
            Cell::new(ShardId(shard.id)),
            Cell::new(range(shard)),
            Cell::new(leader(shard)),
            Cell::new(replicas(shard, true)),
            Cell::new(replicas(shard, false)),
            number(short_ns(shard.quorum_rtt_ns)),
        ]);
    }
    t.to_string()
}

fn range(shard: &pb::Shard) -> String {
    let key = |bytes| printable(&Encoding::Text.encode(bytes));
    match (shard.start.is_empty(), shard.end.is_empty()) {
        (true, true) => "all".into(),
        (true, false) => format!("before {}", key(&shard.end)),
        (false, true) => format!("from {}", key(&shard.start)),
        (false, false) => format!("from {} before {}", key(&shard.start), key(&shard.end)),
    }
}

fn leader(shard: &pb::Shard) -> String {
    match shard.replicas.iter().find(|r| r.node == shard.leader) {
        Some(replica) => format!("{} {}", NodeId(replica.node), replica.region),
        None if shard.leader == 0 => "unknown".into(),
        None => NodeId(shard.leader).to_string(),
    }
}

fn replicas(shard: &pb::Shard, voter: bool) -> String {
    let which = shard.replicas.iter().filter(|r| r.voter == voter);
    which.map(|r| format!("{} {}", NodeId(r.node), r.region)).collect::<Vec<_>>().join(", ")
}

fn table_json(table: &pb::Table) -> Value {
    let shards: Vec<_> = table.shards.iter().map(shard_json).collect();
    json!({
        "name": table.name,
        "id": table.id,
        "placement": placement(table),
        "gc_ttl_ns": table.gc_ttl_ns,
        "classic_commit": table.classic_commit,
        "shards": shards,
    })
}

fn shard_json(shard: &pb::Shard) -> Value {
    let replicas: Vec<_> =
        shard.replicas.iter().map(|r| json!({ "node": r.node, "region": r.region, "voter": r.voter })).collect();
    json!({
        "id": shard.id,
        "start": Encoding::Text.encode(&shard.start),
        "end": Encoding::Text.encode(&shard.end),
        "leader": (shard.leader != 0).then_some(shard.leader),
        "preferred_leader": (shard.preferred_leader != 0).then_some(shard.preferred_leader),
        "quorum_rtt_ns": shard.quorum_rtt_ns,
        "replicas": replicas,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser as _;

    fn cities() -> pb::Table {
        let replica = |node, region: &str, voter| pb::Replica { node, region: region.into(), voter };
        let shard = |id, start: &'static str, end: &'static str, leader| pb::Shard {
            id,
            start: start.into(),
            end: end.into(),
            replicas: vec![replica(1, "us-east", true), replica(2, "eu-west", true), replica(4, "ap", false)],
            leader,
            preferred_leader: 1,
            quorum_rtt_ns: 70_000_000,
        };
        let placement = meridian_wire::placement::encode(&Placement::parse("global:us-east").unwrap());
        let shards = vec![shard(4, "", "g", 1), shard(5, "g", "p", 0), shard(6, "p", "", 9)];
        pb::Table {
            id: 3,
            name: "cities".into(),
            placement: Some(placement),
            shards,
            gc_ttl_ns: 1,
            classic_commit: false,
        }
    }

    #[test]
    fn a_table_shows_ranges_leaders_and_replicas() {
        let text = shards_table(&cities());
        for part in
            ["before g", "from g before p", "from p", "n1 us-east, n2 eu-west", "n4 ap", "unknown", "n9", "70.0 ms"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(list_table(&[cities()]).contains("global:us-east"));
    }

    #[test]
    fn json_says_what_is_unknown() {
        let json = table_json(&cities());
        assert_eq!(json["placement"], "global:us-east");
        assert_eq!(json["shards"][0]["leader"], 1);
        assert_eq!(json["shards"][1]["leader"], Value::Null);
    }

    #[test]
    fn every_example_parses_and_bad_placements_do_not() {
        for line in EXAMPLES.lines().skip(1) {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        let line = "meridian table create t --placement everywhere";
        assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn split_keys_are_sorted() {
        assert_eq!(split_keys(&["p".into(), "base64:Zw==".into()]).unwrap(), ["g", "p"]);
    }
}
