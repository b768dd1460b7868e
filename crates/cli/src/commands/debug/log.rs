//! `meridian debug log`: what a shard's log holds.

use super::shards::{vote, vote_json};
use super::{Directory, log_id, log_id_json};
use crate::commands::transfer;
use crate::output::{self, Format, number};
use crate::text::{Encoding, printable};
use comfy_table::Cell;
use meridian_proto::internal::v1 as pb;
use meridian_proto::v1::write_op::Action;
use meridian_storage::inspect::{DecodedEntry, LogEntry, SmallRecord};
use meridian_types::ShardId;
use serde_json::{Map, Value, json};

/// Show a shard's log: each entry with its leader, its stamps and the keys that it touches, and the small records beside it.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    directory: Directory,
    /// The shard, as `meridian debug shards` names it.
    #[arg(long, value_parser = |text: &str| transfer::id(text, 's').map(ShardId))]
    shard: ShardId,
    /// First index to show.
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u64,
    /// Last index to show, included.
    #[arg(long, value_name = "INDEX", default_value_t = u64::MAX)]
    to: u64,
    /// Most entries to show; 0: all.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
    /// Keys as hexadecimal digits.
    #[arg(long)]
    hex: bool,
}

const HELP: &str = "\
`stamps` are the commit timestamps that the entry holds, one for each mutation in it. `barrier` is a leader's first own entry,
or one that carries a position. Keys are those that are written (+), removed (-), read (?) and compared (=).

Examples:
  meridian debug log --data-dir n1 --shard s4 --from 1000 --to 1020
  meridian debug log --data-dir n1 --shard 4 --limit 0 --format json";

/// Keys of one entry that are shown in a table.
const KEYS_SHOWN: usize = 8;

pub(super) fn run(format: Format, args: &Args) -> anyhow::Result<()> {
    let node = args.directory.open()?;
    let encoding = Encoding::from_flag(args.hex);
    let (mut shown, mut more) = (Vec::new(), 0_u64);
    let dump = node.log(args.shard, args.from..=args.to, |entry| {
        if args.limit == 0 || shown.len() < args.limit {
            shown.push(match format {
                Format::Json => Row::Json(entry_json(&entry, encoding)),
                Format::Human => Row::Cells(cells(&entry, encoding)),
            });
        } else {
            more += 1;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    match format {
        Format::Json => {
            let mut out = Map::new();
            out.insert("shard".into(), args.shard.0.into());
            out.insert("first".into(), dump.bounds.map(|(first, _)| first).into());
            out.insert("last".into(), dump.bounds.map(|(_, last)| last).into());
            let records = dump.records.iter().map(|record| match record {
                Ok(record) => record_json(record, encoding),
                Err(why) => json!({ "error": why }),
            });
            out.insert("records".into(), records.collect());
            let entries = shown.into_iter().filter_map(|row| match row {
                Row::Json(value) => Some(value),
                Row::Cells(_) => None,
            });
            out.insert("entries".into(), entries.collect());
            out.insert("not_shown".into(), more.into());
            output::json(&Value::Object(out))
        }
        Format::Human => {
            for record in &dump.records {
                output::data(match record {
                    Ok(record) => record_text(record, encoding),
                    Err(why) => format!("UNREADABLE: {why}"),
                })?;
            }
            let bounds = dump.bounds.map_or_else(|| "empty".to_owned(), |(first, last)| format!("{first}..{last}"));
            output::data(format!("log {bounds}"))?;
            let mut table = output::table(["index", "leader", "kind", "stamps", "mutations", "bytes", "keys"]);
            for row in shown {
                if let Row::Cells(cells) = row {
                    table.add_row(cells);
                }
            }
            output::data(table)?;
            if more > 0 {
                output::note(format!("{more} more; use --from, --to or --limit 0"));
            }
            Ok(())
        }
    }
}

enum Row {
    Json(Value),
    Cells(Vec<Cell>),
}

/// What an entry is, in one word.
fn kind(decoded: &DecodedEntry) -> &'static str {
    use pb::command::Body;
    use pb::entry::Payload;
    match (&decoded.entry.payload, decoded.command.as_ref().and_then(|c| c.body.as_ref())) {
        (None, _) => "nothing",
        (Some(Payload::Blank(_)), _) => "blank",
        (Some(Payload::Membership(_)), _) => "membership",
        (Some(Payload::Command(_)), None) => "unknown command",
        (Some(Payload::Command(_)), Some(Body::Barrier(_))) => "barrier",
        (Some(Payload::Command(_)), Some(Body::Mutations(_))) => "mutations",
        (Some(Payload::Command(_)), Some(Body::RaiseFloor(_))) => "raise GC floor",
        (Some(Payload::Command(_)), Some(Body::SetTiming(_))) => "set timers",
    }
}

fn mutations(decoded: &DecodedEntry) -> &[pb::Mutation] {
    match decoded.command.as_ref().and_then(|c| c.body.as_ref()) {
        Some(pb::command::Body::Mutations(m)) => &m.mutations,
        _ => &[],
    }
}

/// First and last stamp.
fn stamps(decoded: &DecodedEntry) -> Option<(u64, u64)> {
    let command = decoded.command.as_ref()?;
    let more = u64::try_from(mutations(decoded).len()).unwrap_or(0).saturating_sub(1);
    Some((command.ts, command.ts.saturating_add(more)))
}

fn cells(entry: &LogEntry, encoding: Encoding) -> Vec<Cell> {
    let decoded = match &entry.entry {
        Ok(decoded) => decoded,
        Err(why) => {
            return vec![number(entry.index), Cell::new("DAMAGED"), Cell::new(why)];
        }
    };
    let leader = decoded.entry.log_id.and_then(|id| id.leader).unwrap_or_default();
    let stamps = match stamps(decoded) {
        Some((first, last)) if first < last => format!("{first}..{last}"),
        Some((first, _)) => first.to_string(),
        None => String::new(),
    };
    vec![
        number(entry.index),
        Cell::new(format!("T{}-n{}", leader.term, leader.node)),
        Cell::new(kind(decoded)),
        Cell::new(stamps),
        number(mutations(decoded).len()),
        number(entry.bytes),
        Cell::new(details(decoded, encoding)),
    ]
}

/// The keys, or what else there is to say.
fn details(decoded: &DecodedEntry, encoding: Encoding) -> String {
    let what = what(decoded, encoding);
    match decoded.command.as_ref().map_or(0, |c| c.lead_ns) {
        0 => what,
        lead => format!("{what}{}lead {}", if what.is_empty() { "" } else { ", " }, output::short_ns(lead)),
    }
}

fn what(decoded: &DecodedEntry, encoding: Encoding) -> String {
    use pb::command::Body;
    use pb::entry::Payload;
    match (&decoded.entry.payload, decoded.command.as_ref().and_then(|c| c.body.as_ref())) {
        (Some(Payload::Membership(m)), _) => {
            let sets = m.configs.iter().map(|set| format!("{:?}", set.nodes));
            format!("voters {}", sets.collect::<Vec<_>>().join(" + "))
        }
        (_, Some(Body::RaiseFloor(raise))) => raise.floor.to_string(),
        (_, Some(Body::SetTiming(set))) => set.timing.map_or_else(String::new, |t| {
            format!("heartbeat {} ms, election {}-{} ms", t.heartbeat_ms, t.election_min_ms, t.election_max_ms)
        }),
        _ => {
            let mut keys: Vec<String> = mutations(decoded).iter().flat_map(|m| touched(m, encoding)).collect();
            let more = keys.len().saturating_sub(KEYS_SHOWN);
            keys.truncate(KEYS_SHOWN);
            if more > 0 {
                keys.push(format!("and {more} more"));
            }
            keys.join(" ")
        }
    }
}

fn touched(mutation: &pb::Mutation, encoding: Encoding) -> Vec<String> {
    let text = |sign: &str, key: &[u8]| format!("{sign}{}", printable(&encoding.encode(key)));
    let compared = mutation.preconditions.iter().map(|p| text("=", &p.key));
    let written = mutation.writes.iter().map(|w| match w.action {
        Some(Action::Delete(_)) => text("-", &w.key),
        Some(Action::Put(_)) | None => text("+", &w.key),
    });
    let read = mutation.reads.iter().map(|key| text("?", key));
    compared.chain(written).chain(read).collect()
}

fn entry_json(entry: &LogEntry, encoding: Encoding) -> Value {
    let decoded = match &entry.entry {
        Ok(decoded) => decoded,
        Err(why) => return json!({ "index": entry.index, "error": why }),
    };
    let key = |key: &[u8]| encoding.encode(key);
    let mutation = |m: &pb::Mutation| {
        let id = m.request_id.unwrap_or_default();
        json!({
            "table": m.table,
            "request": { "time_ns": id.time_ns, "client": format!("{:016x}", id.client), "sequence": id.sequence },
            "preconditions": m.preconditions.iter().map(|p| key(&p.key)).collect::<Vec<_>>(),
            "writes": m.writes.iter().map(|w| json!({
                "key": key(&w.key),
                "bytes": match &w.action { Some(Action::Put(value)) => Some(value.len()), _ => None },
            })).collect::<Vec<_>>(),
            "reads": m.reads.iter().map(|r| key(r)).collect::<Vec<_>>(),
        })
    };
    let membership = match &decoded.entry.payload {
        Some(pb::entry::Payload::Membership(m)) => {
            Some(m.configs.iter().map(|set| set.nodes.clone()).collect::<Vec<_>>())
        }
        _ => None,
    };
    json!({
        "index": entry.index,
        "log_id": decoded.entry.log_id.as_ref().map(log_id_json),
        "kind": kind(decoded),
        "first_ts": stamps(decoded).map(|(first, _)| first),
        "last_ts": stamps(decoded).map(|(_, last)| last),
        "bytes": entry.bytes,
        "mutations": mutations(decoded).iter().map(mutation).collect::<Vec<_>>(),
        "voters": membership,
        "lead_ns": decoded.command.as_ref().map(|c| c.lead_ns).filter(|lead| *lead > 0),
    })
}

fn record_text(record: &SmallRecord, encoding: Encoding) -> String {
    match record {
        SmallRecord::Vote(v) => format!("vote {}", vote(v)),
        SmallRecord::Purged(id) => format!("purged {}", log_id(id)),
        SmallRecord::Committed(id) => format!("committed {}", log_id(id)),
        SmallRecord::Mark { name, value } => {
            format!("mark `{}`: {}", printable(name), output::count(value.len() as u64, "byte"))
                + &hint(value, encoding)
        }
    }
}

/// A mark's bytes, if they are few.
fn hint(value: &[u8], encoding: Encoding) -> String {
    const SHOWN_MAX: usize = 64;
    match value.len() {
        1..=SHOWN_MAX => format!(" ({})", printable(&encoding.encode(value))),
        _ => String::new(),
    }
}

fn record_json(record: &SmallRecord, encoding: Encoding) -> Value {
    match record {
        SmallRecord::Vote(vote) => json!({ "vote": vote_json(vote) }),
        SmallRecord::Purged(id) => json!({ "purged": log_id_json(id) }),
        SmallRecord::Committed(id) => json!({ "committed": log_id_json(id) }),
        SmallRecord::Mark { name, value } => json!({ "mark": name, "value": encoding.encode(value) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_proto::v1::{Precondition, WriteOp, write_op};
    use prost::Message as _;

    fn entry(body: pb::command::Body) -> DecodedEntry {
        let log_id = pb::LogId { leader: Some(pb::LeaderId { term: 3, node: 2 }), index: 9 };
        let command = pb::Command { ts: 100, body: Some(body), ..pb::Command::default() };
        let payload = Some(pb::entry::Payload::Command(command.encode_to_vec().into()));
        DecodedEntry { entry: pb::Entry { log_id: Some(log_id), payload }, command: Some(command) }
    }

    #[test]
    fn an_entry_tells_its_stamps_and_the_keys_that_it_touches() {
        let put = |key: &'static str| WriteOp { key: key.into(), action: Some(Action::Put("v".into())) };
        let delete = WriteOp { key: "b".into(), action: Some(Action::Delete(write_op::Remove {})) };
        let first = pb::Mutation { writes: vec![put("a"), delete], ..pb::Mutation::default() };
        let compared = Precondition { key: "c\n".into(), condition: None };
        let second = pb::Mutation { preconditions: vec![compared], reads: vec!["d".into()], ..pb::Mutation::default() };
        let entry = entry(pb::command::Body::Mutations(pb::Mutations { mutations: vec![first, second] }));
        assert_eq!((kind(&entry), stamps(&entry)), ("mutations", Some((100, 101))));
        assert_eq!(details(&entry, Encoding::Text), "+a -b =c\\n ?d");
        let shown = entry_json(&LogEntry { index: 9, bytes: 7, entry: Ok(entry) }, Encoding::Text);
        assert_eq!((&shown["last_ts"], &shown["mutations"][0]["writes"][1]["bytes"]), (&json!(101), &Value::Null));
    }

    #[test]
    fn a_damaged_entry_is_shown_as_such() {
        let damaged = LogEntry { index: 4, bytes: 0, entry: Err("checksum mismatch".into()) };
        assert_eq!(entry_json(&damaged, Encoding::Text), json!({ "index": 4, "error": "checksum mismatch" }));
        assert_eq!(cells(&damaged, Encoding::Text)[1].content(), "DAMAGED");
    }

    #[test]
    fn barriers_hold_one_stamp() {
        let barrier = entry(pb::command::Body::Barrier(pb::command::Barrier {}));
        assert_eq!((kind(&barrier), stamps(&barrier)), ("barrier", Some((100, 100))));
        assert_eq!(details(&barrier, Encoding::Text), "");
    }

    #[test]
    fn lead_times_are_shown() {
        let mut barrier = entry(pb::command::Body::Barrier(pb::command::Barrier {}));
        if let Some(command) = &mut barrier.command {
            command.lead_ns = 199_000_000;
        }
        assert_eq!(details(&barrier, Encoding::Text), "lead 199 ms");
        let shown = entry_json(&LogEntry { index: 9, bytes: 7, entry: Ok(barrier) }, Encoding::Text);
        assert_eq!(shown["lead_ns"], json!(199_000_000));
    }
}
