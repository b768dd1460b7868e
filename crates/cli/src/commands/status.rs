//! `meridian status`: what runs where, and how it is doing.

mod timers;
mod traffic;

use crate::context::Context;
use crate::output::{self, Format, number, short_ns};
use comfy_table::Cell;
use meridian_proto::v1 as pb;
use meridian_types::{NodeId, ShardId};
use serde_json::{Value, json};

/// Show nodes with their clocks, the measured round trips between regions, and every replica of every shard.
#[derive(Debug, clap::Args)]
#[command(after_help = COLUMNS)]
pub(crate) struct Args {
    /// Only what the gateway itself knows, without asking the other nodes.
    #[arg(long)]
    local: bool,
    /// Only the timers of each shard, and how they follow from the round trips among its members.
    #[arg(long)]
    timers: bool,
}

const COLUMNS: &str = "\
Round trips are the smallest of the recent pings, with the configured value in parentheses. Log positions are the
last entry, and the entries committed, applied, and applied durably. Safe lag is how far the replica's safe time, the
newest timestamp that it can serve by itself, is behind its clock. Bytes are what TCP carried since the nodes started,
by what for: heartbeats come with votes, closed timestamps and acceptances, forwards with reads.";

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let status = context.connect().await?.status(args.local).await?;
    match context.format() {
        Format::Json if args.timers => output::json(&timers::json(&status)),
        Format::Json => output::json(&status_json(&status)),
        Format::Human if args.timers => {
            output::data(timers::table(&status))?;
            Ok(output::data(format!("\n{}", timers::DERIVATION))?)
        }
        Format::Human => {
            output::data(format!("cluster {}, as {} sees it", status.cluster_id, NodeId(status.served_by)))?;
            output::data(format!("\n{}", nodes_table(&status)))?;
            output::data(format!("\nMemory and disk\n{}", resources_table(&status)))?;
            output::data(format!("\nRound trips\n{}", rtt_table(&status)))?;
            output::data(format!("\nBytes between regions\n{}", traffic::table(&status)))?;
            Ok(output::data(format!("\nShards\n{}", shards_table(&status)))?)
        }
    }
}

fn nodes_table(status: &pb::GetStatusReply) -> String {
    let mut t = output::table(["node", "region", "zone", "gRPC", "HTTP", "state", "clock", "uncertainty", "up"]);
    for node in &status.nodes {
        let (clock, width) = match &node.clock {
            Some(c) if c.safe => (c.source.clone(), short_ns(c.latest.saturating_sub(c.earliest))),
            Some(c) => (format!("{} UNSAFE", c.source), short_ns(c.latest.saturating_sub(c.earliest))),
            None => (String::new(), String::new()),
        };
        t.add_row(vec![
            Cell::new(NodeId(node.node)),
            Cell::new(&node.region),
            Cell::new(&node.zone),
            Cell::new(&node.grpc_address),
            Cell::new(&node.http_address),
            Cell::new(if node.reachable { "up" } else { "UNREACHABLE" }),
            Cell::new(clock),
            number(width),
            number(if node.reachable { short_ns(node.uptime_ns) } else { String::new() }),
        ]);
    }
    t.to_string()
}

/// A size as people read it; what is unknown, or nothing, is a dash.
fn size(bytes: u64) -> String {
    if bytes == 0 { "-".into() } else { bytesize::ByteSize::b(bytes).display().iec().to_string() }
}

fn resources_table(status: &pb::GetStatusReply) -> String {
    let mut t = output::table([
        "node",
        "budget",
        "resident",
        "cache",
        "memtables",
        "log entries",
        "in flight",
        "refused",
        "disk free",
        "reserve",
        "disk",
    ]);
    for node in status.nodes.iter().filter(|n| n.reachable) {
        let (m, disk) = (node.memory.unwrap_or_default(), node.disk.unwrap_or_default());
        let of = |used: u64, most: u64| format!("{} / {}", size(used), size(most));
        t.add_row(vec![
            Cell::new(NodeId(node.node)),
            number(size(m.budget)),
            number(size(m.resident)),
            number(of(m.cache, m.cache_max)),
            number(size(m.raft_memtables + m.data_memtables)),
            number(of(m.log_entries, m.log_entries_max)),
            number(of(m.in_flight, m.in_flight_max)),
            number(m.refused),
            number(size(disk.free)),
            number(size(disk.reserve)),
            Cell::new(disk_level(disk.level())),
        ]);
    }
    t.to_string()
}

/// What is refused for the lack of room.
fn disk_level(level: pb::DiskLevel) -> &'static str {
    match level {
        pb::DiskLevel::Enough => "enough",
        pb::DiskLevel::NearlyFull => "NEARLY FULL",
        pb::DiskLevel::Full => "FULL",
        pb::DiskLevel::Critical => "CRITICAL",
    }
}

/// The regions, in the order in which nodes name them.
fn regions(status: &pb::GetStatusReply) -> Vec<&str> {
    let mut regions: Vec<&str> = Vec::new();
    for node in &status.nodes {
        if !regions.contains(&node.region.as_str()) {
            regions.push(&node.region);
        }
    }
    regions
}

/// The smallest measured round trip from a node of one region to a node of the other, nanoseconds.
fn measured(status: &pb::GetStatusReply, from: &str, to: &str) -> Option<u64> {
    let is_in = |id: u64, region: &str| status.nodes.iter().any(|n| n.node == id && n.region == region);
    let pings = status.nodes.iter().filter(|n| n.region == from).flat_map(|n| &n.rtts);
    pings.filter(|p| p.rtt_ns > 0 && is_in(p.node, to)).map(|p| p.rtt_ns).min()
}

/// What the cluster was formed with, nanoseconds.
fn configured(status: &pb::GetStatusReply, from: &str, to: &str) -> Option<u64> {
    let is_pair = |r: &&pb::RegionRtt| (r.from == from && r.to == to) || (r.from == to && r.to == from);
    status.region_rtts.iter().find(is_pair).map(|r| r.rtt_ns)
}

fn rtt_table(status: &pb::GetStatusReply) -> String {
    let regions = regions(status);
    let mut t = output::table(std::iter::once("from").chain(regions.iter().copied()));
    for from in &regions {
        let mut row = vec![Cell::new(from)];
        row.extend(regions.iter().map(|to| match (measured(status, from, to), configured(status, from, to)) {
            (Some(rtt), Some(set)) => number(format!("{} ({})", short_ns(rtt), short_ns(set))),
            (Some(rtt), None) => number(short_ns(rtt)),
            (None, Some(set)) if from != to => number(format!("- ({})", short_ns(set))),
            (None, _) => number("-"),
        }));
        t.add_row(row);
    }
    t.to_string()
}

fn shards_table(status: &pb::GetStatusReply) -> String {
    let mut replicas: Vec<_> = status.nodes.iter().flat_map(|n| n.shards.iter().map(move |s| (n, s))).collect();
    replicas.sort_by_key(|(node, shard)| (shard.shard, node.node));
    let mut t = output::table(["shard", "table", "node", "region", "role", "term", "log", "safe lag", "lease", "lead"]);
    for (node, shard) in replicas {
        let table = if shard.shard == ShardId::CATALOG.0 { "(catalog)" } else { &shard.table };
        let positions = format!("{} / {} / {} / {}", shard.log_last, shard.committed, shard.applied, shard.durable);
        t.add_row(vec![
            Cell::new(ShardId(shard.shard)),
            Cell::new(table),
            Cell::new(NodeId(node.node)),
            Cell::new(&node.region),
            Cell::new(&shard.role),
            number(shard.term),
            number(positions),
            number(if shard.safe_ts == 0 { "-".into() } else { short_ns(shard.safe_lag_ns) }),
            number(if shard.lease_left_ns == 0 { String::new() } else { short_ns(shard.lease_left_ns) }),
            number(if shard.lead_time_ns == 0 { String::new() } else { short_ns(shard.lead_time_ns) }),
        ]);
    }
    t.to_string()
}

fn status_json(status: &pb::GetStatusReply) -> Value {
    let rtts: Vec<_> =
        status.region_rtts.iter().map(|r| json!({ "from": r.from, "to": r.to, "rtt_ns": r.rtt_ns })).collect();
    json!({
        "cluster_id": status.cluster_id,
        "served_by": status.served_by,
        "nodes": status.nodes.iter().map(node_json).collect::<Vec<_>>(),
        "region_rtts": rtts,
    })
}

fn node_json(node: &pb::NodeStatus) -> Value {
    let clock = node
        .clock
        .as_ref()
        .map(|c| json!({ "source": c.source, "earliest": c.earliest, "latest": c.latest, "safe": c.safe }));
    let rtts: Vec<_> = node.rtts.iter().map(|r| json!({ "node": r.node, "rtt_ns": r.rtt_ns })).collect();
    json!({
        "node": node.node,
        "region": node.region,
        "zone": node.zone,
        "grpc": node.grpc_address,
        "http": node.http_address,
        "version": node.version,
        "reachable": node.reachable,
        "uptime_ns": node.uptime_ns,
        "clock": clock,
        "memory": node.memory.as_ref().map(memory_json),
        "disk": node.disk.as_ref().map(disk_json),
        "rtts": rtts,
        "traffic": node.traffic.iter().map(traffic::json).collect::<Vec<_>>(),
        "shards": node.shards.iter().map(shard_json).collect::<Vec<_>>(),
    })
}

fn memory_json(m: &pb::MemoryStatus) -> Value {
    json!({
        "budget": m.budget,
        "resident": m.resident,
        "cache": m.cache,
        "cache_max": m.cache_max,
        "raft_memtables": m.raft_memtables,
        "data_memtables": m.data_memtables,
        "log_entries": m.log_entries,
        "log_entries_max": m.log_entries_max,
        "in_flight": m.in_flight,
        "in_flight_max": m.in_flight_max,
        "refused": m.refused,
    })
}

fn disk_json(d: &pb::DiskStatus) -> Value {
    let level = disk_level(d.level()).to_lowercase();
    json!({
        "free": d.free,
        "reserve": d.reserve,
        "level": level,
        "log_waiting": d.log_waiting,
        "log_waiting_max": d.log_waiting_max,
    })
}

fn shard_json(shard: &pb::ShardStatus) -> Value {
    json!({
        "shard": shard.shard,
        "table": shard.table,
        "role": shard.role,
        "voter": shard.voter,
        "term": shard.term,
        "leader": (shard.leader != 0).then_some(shard.leader),
        "log_last": shard.log_last,
        "committed": shard.committed,
        "applied": shard.applied,
        "durable": shard.durable,
        "last_ts": shard.last_ts,
        "safe_ts": shard.safe_ts,
        "safe_lag_ns": shard.safe_lag_ns,
        "lease_left_ns": shard.lease_left_ns,
        "lead_time_ns": shard.lead_time_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: u64, region: &str, rtts: &[(u64, u64)]) -> pb::NodeStatus {
        let clock = pb::ClockStatus { source: "fixed".into(), earliest: 10, latest: 2_000_010, safe: node != 2 };
        let shard = pb::ShardStatus {
            shard: 4,
            table: "cities".into(),
            role: if node == 1 { "leader" } else { "follower" }.into(),
            leader: 1,
            term: 7,
            log_last: 12,
            committed: 11,
            applied: 10,
            durable: 9,
            safe_ts: 5,
            safe_lag_ns: 40_000_000,
            ..Default::default()
        };
        pb::NodeStatus {
            node,
            region: region.into(),
            reachable: true,
            clock: Some(clock),
            rtts: rtts.iter().map(|(node, rtt_ns)| pb::PeerRtt { node: *node, rtt_ns: *rtt_ns }).collect(),
            memory: Some(pb::MemoryStatus { budget: 512 << 20, resident: 100 << 20, refused: 3, ..Default::default() }),
            disk: Some(pb::DiskStatus {
                free: 200 << 20,
                reserve: 300 << 20,
                level: pb::DiskLevel::NearlyFull.into(),
                ..pb::DiskStatus::default()
            }),
            shards: vec![shard],
            ..Default::default()
        }
    }

    fn status() -> pb::GetStatusReply {
        let lost = pb::NodeStatus { node: 4, region: "ap".into(), ..Default::default() };
        let rtt = |from: &str, to: &str, rtt_ns| pb::RegionRtt { from: from.into(), to: to.into(), rtt_ns };
        pb::GetStatusReply {
            cluster_id: "c".into(),
            served_by: 1,
            nodes: vec![
                node(1, "us", &[(2, 71_000_000), (3, 70_200_000), (4, 0)]),
                node(2, "eu", &[(1, 70_100_000), (3, 250_000)]),
                node(3, "eu", &[]),
                lost,
            ],
            region_rtts: vec![rtt("us", "eu", 70_000_000), rtt("ap", "us", 140_000_000)],
        }
    }

    #[test]
    fn round_trips_are_the_smallest_measured_beside_the_configured() {
        let status = status();
        assert_eq!(measured(&status, "us", "eu"), Some(70_200_000));
        assert_eq!(measured(&status, "eu", "eu"), Some(250_000));
        assert_eq!(measured(&status, "us", "ap"), None, "no answer is no measurement");
        let text = rtt_table(&status);
        for part in ["70.2 ms (70.0 ms)", "70.1 ms (70.0 ms)", "250 \u{b5}s", "- (140 ms)"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn nodes_say_what_is_wrong_with_them() {
        let text = nodes_table(&status());
        let line = |id: &str| text.lines().find(|l| l.contains(id)).map(str::to_owned).unwrap();
        assert!(line("n1").contains("2.00 ms") && !line("n1").contains("UNSAFE"), "{text}");
        assert!(line("n2").contains("UNSAFE"), "{text}");
        assert!(line("n4").contains("UNREACHABLE"), "{text}");
    }

    #[test]
    fn budgets_stand_beside_what_is_used() {
        let text = resources_table(&status());
        for part in ["512.0 MiB", "100.0 MiB", "NEARLY FULL", "200.0 MiB", "300.0 MiB"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("n4"), "a node that does not answer tells nothing: {text}");
        let json = status_json(&status());
        assert_eq!(json["nodes"][0]["memory"]["budget"], 512 << 20);
        assert_eq!(json["nodes"][0]["disk"]["level"], "nearly full");
        assert_eq!(json["nodes"][3]["memory"], Value::Null);
    }

    #[test]
    fn every_replica_has_a_line() {
        let text = shards_table(&status());
        assert_eq!(text.lines().filter(|l| l.contains("12 / 11 / 10 / 9")).count(), 3, "{text}");
        assert_eq!(text.lines().filter(|l| l.contains("leader")).count(), 1, "{text}");
        assert!(text.contains("40.0 ms"));
    }

    #[test]
    fn json_keeps_numbers_and_tells_unknown_from_zero() {
        let json = status_json(&status());
        assert_eq!(json["nodes"][0]["shards"][0]["leader"], 1);
        assert_eq!(json["nodes"][3]["clock"], Value::Null);
        assert_eq!(json["region_rtts"][0]["rtt_ns"], 70_000_000);
    }
}
