//! `meridian debug shards`: where each replica stands.

use super::{Directory, log_id, log_id_json};
use crate::output::{self, Format, number};
use comfy_table::Cell;
use meridian_proto::internal::v1 as pb;
use meridian_storage::inspect::ShardInfo;
use meridian_types::{NodeId, Timestamp};
use serde_json::{Value, json};

/// Show the replica of each shard: what of it is applied durably, what its log holds, whom it voted for.
#[derive(Debug, clap::Args)]
#[command(after_help = COLUMNS)]
pub(super) struct Args {
    #[command(flatten)]
    directory: Directory,
}

const COLUMNS: &str = "\
Log ids are term, leader and index: T3-n1-42. `applied` is the position of the data that is on the disk, `last stamp` the
newest commit timestamp in it, `GC floor` the timestamp below which versions may be gone. `committed` is what was written
down of it, which lags. `vote` is followed by ! if the candidate was elected.";

pub(super) fn run(format: Format, args: &Args) -> anyhow::Result<()> {
    let node = args.directory.open()?;
    let shards = node.shards()?;
    match format {
        Format::Json => {
            let [identity, _] = node.identities();
            output::json(&json!({
                "cluster_id": identity.cluster_id,
                "node": identity.node,
                "format": identity.format,
                "incarnation": format!("{:016x}", identity.incarnation),
                "shards": shards.iter().map(shard_json).collect::<Vec<_>>(),
            }))
        }
        Format::Human => {
            let [identity, _] = node.identities();
            let owner = match identity.cluster_id.as_str() {
                "" => "no cluster yet".to_owned(),
                cluster => format!("{} of cluster {cluster}", NodeId(identity.node)),
            };
            output::data(format!("{owner}, format {}", identity.format))?;
            output::data(table(&shards))?;
            for shard in &shards {
                for why in &shard.unreadable {
                    output::note(format!("{}: {why}", shard.shard));
                }
            }
            Ok(())
        }
    }
}

fn table(shards: &[ShardInfo]) -> String {
    let headings =
        ["shard", "applied", "last stamp", "GC floor", "log", "purged", "committed", "vote", "voters", "marks"];
    let mut t = output::table(headings);
    for info in shards {
        let state = info.state.clone().unwrap_or_default();
        let id = |id: Option<&pb::LogId>| id.map_or_else(|| "-".to_owned(), log_id);
        let stamp = |ts: u64| if ts == 0 { "-".to_owned() } else { Timestamp(ts).to_string() };
        t.add_row(vec![
            Cell::new(info.shard),
            Cell::new(id(state.applied.as_ref())),
            number(stamp(state.last_ts)),
            number(stamp(state.gc_floor)),
            Cell::new(info.log.map_or_else(|| "-".to_owned(), |(first, last)| format!("{first}..{last}"))),
            Cell::new(id(info.purged.as_ref())),
            Cell::new(id(info.committed.as_ref())),
            Cell::new(info.vote.as_ref().map_or_else(|| "-".to_owned(), vote)),
            Cell::new(voters(&state)),
            Cell::new(info.marks.join(" ")),
        ]);
    }
    t.to_string()
}

/// Whom a vote is for.
pub(super) fn vote(vote: &pb::Vote) -> String {
    let leader = vote.leader.unwrap_or_default();
    format!("T{}-n{}{}", leader.term, leader.node, if vote.committed { "!" } else { "" })
}

fn voters(state: &pb::ShardState) -> String {
    let membership = state.membership.as_ref().and_then(|stored| stored.membership.as_ref());
    let set =
        |set: &pb::membership::VoterSet| set.nodes.iter().map(|n| NodeId(*n).to_string()).collect::<Vec<_>>().join(" ");
    membership.map_or_else(String::new, |m| m.configs.iter().map(set).collect::<Vec<_>>().join(" + "))
}

fn shard_json(info: &ShardInfo) -> Value {
    let state = info.state.clone().unwrap_or_default();
    let membership = state.membership.as_ref().and_then(|stored| stored.membership.as_ref());
    let member = |m: &pb::Member| json!({ "node": m.node, "region": m.region, "address": m.address });
    json!({
        "shard": info.shard.0,
        "has_data": info.state.is_some(),
        "applied": state.applied.as_ref().map(log_id_json),
        "last_ts": state.last_ts,
        "gc_floor": state.gc_floor,
        "log_first": info.log.map(|(first, _)| first),
        "log_last": info.log.map(|(_, last)| last),
        "purged": info.purged.as_ref().map(log_id_json),
        "committed": info.committed.as_ref().map(log_id_json),
        "vote": info.vote.as_ref().map(vote_json),
        "voters": membership.map(|m| m.configs.iter().map(|set| set.nodes.clone()).collect::<Vec<_>>()),
        "members": membership.map(|m| m.members.iter().map(member).collect::<Vec<_>>()),
        "marks": info.marks,
        "installing": info.install.as_ref().map(|mark| mark.dir.clone()),
        "unreadable": info.unreadable,
    })
}

/// A vote for programs.
pub(super) fn vote_json(vote: &pb::Vote) -> Value {
    let leader = vote.leader.unwrap_or_default();
    json!({ "term": leader.term, "node": leader.node, "committed": vote.committed })
}
