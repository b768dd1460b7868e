//! The timers of each shard, and where they come from.

use super::{configured, measured};
use crate::output::{self, number, short_ns};
use comfy_table::Cell;
use meridian_catalog::timing_for;
use meridian_proto::v1 as pb;
use meridian_types::{RaftTiming, ShardId};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How the timers are derived, for people.
pub(super) const DERIVATION: &str = "\
R is the largest round trip among a shard's members. Heartbeat H = R / 2, at least 100 ms: beats do not wait for one another's
answers. Longest election timeout = 2 R + 2 H + 200 ms, at least 600 ms: what a voter promises a leader, so that a lost packet,
sent again after R + 200 ms, ends nothing. Shortest = 2 R + 50 ms, at least 300 ms: a vote's answer is back in time. Leases are the longest timeout less a tenth for clocks that run at different speeds. The values in force
follow from the round trips that the cluster was formed with; those that the measured ones would give are beside them.";

/// A shard's timers in force, and the round trips that they come from.
struct Derived {
    shard: u64,
    table: String,
    nodes: BTreeSet<u64>,
    timers: pb::RaftTimers,
    /// Largest round trip among the members' regions as configured, and as measured; nanoseconds.
    configured: Option<u64>,
    measured: Option<u64>,
}

impl Derived {
    /// What the measured round trip would give.
    fn would_be(&self) -> Option<RaftTiming> {
        self.measured.map(|ns| timing_for(Duration::from_nanos(ns)))
    }
}

fn derive(status: &pb::GetStatusReply) -> Vec<Derived> {
    let mut shards: BTreeMap<u64, Derived> = BTreeMap::new();
    let replicas = status.nodes.iter().flat_map(|n| n.shards.iter().map(move |s| (n, s)));
    for (node, shard) in replicas {
        let Some(timers) = shard.timers else { continue };
        let derived = shards.entry(shard.shard).or_insert_with(|| Derived {
            shard: shard.shard,
            table: if shard.shard == ShardId::CATALOG.0 { "(catalog)".into() } else { shard.table.clone() },
            nodes: BTreeSet::new(),
            timers,
            configured: None,
            measured: None,
        });
        derived.nodes.insert(node.node);
    }
    for derived in shards.values_mut() {
        let regions: BTreeSet<&str> =
            status.nodes.iter().filter(|n| derived.nodes.contains(&n.node)).map(|n| n.region.as_str()).collect();
        let pairs = || regions.iter().flat_map(|a| regions.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b);
        derived.configured = pairs().filter_map(|(a, b)| configured(status, a, b)).max();
        derived.measured = pairs().filter_map(|(a, b)| measured(status, a, b)).max();
    }
    shards.into_values().collect()
}

/// A line for each shard.
pub(super) fn table(status: &pb::GetStatusReply) -> String {
    let mut t = output::table([
        "shard",
        "table",
        "members",
        "R configured",
        "R measured",
        "heartbeat",
        "election",
        "lease",
        "measured R would give",
    ]);
    let ns = |ns: Option<u64>| number(ns.map_or_else(|| "-".to_owned(), short_ns));
    for d in derive(status) {
        let members: Vec<String> = d.nodes.iter().map(|n| format!("n{n}")).collect();
        let would_be = d.would_be().map_or_else(
            || "-".to_owned(),
            |t| format!("{} ms, {}-{} ms", t.heartbeat_ms, t.election_min_ms, t.election_max_ms),
        );
        t.add_row(vec![
            Cell::new(ShardId(d.shard)),
            Cell::new(&d.table),
            Cell::new(members.join(" ")),
            ns(d.configured),
            ns(d.measured),
            number(format!("{} ms", d.timers.heartbeat_ms)),
            number(format!("{}-{} ms", d.timers.election_min_ms, d.timers.election_max_ms)),
            number(format!("{} ms", d.timers.lease_ms)),
            number(would_be),
        ]);
    }
    t.to_string()
}

pub(super) fn json(status: &pb::GetStatusReply) -> Value {
    let shard = |d: &Derived| {
        json!({
            "shard": d.shard,
            "table": d.table,
            "nodes": d.nodes,
            "rtt_configured_ns": d.configured,
            "rtt_measured_ns": d.measured,
            "heartbeat_ms": d.timers.heartbeat_ms,
            "election_min_ms": d.timers.election_min_ms,
            "election_max_ms": d.timers.election_max_ms,
            "lease_ms": d.timers.lease_ms,
            "measured_would_give": d.would_be().map(|t| json!({
                "heartbeat_ms": t.heartbeat_ms,
                "election_min_ms": t.election_min_ms,
                "election_max_ms": t.election_max_ms,
            })),
        })
    };
    json!({ "shards": derive(status).iter().map(shard).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shards_timers_stand_beside_its_members_round_trips() {
        let timers = pb::RaftTimers { heartbeat_ms: 154, election_min_ms: 359, election_max_ms: 600, lease_ms: 540 };
        let node = |node, region: &str, rtts: &[(u64, u64)], shards: &[u64]| pb::NodeStatus {
            node,
            region: region.into(),
            rtts: rtts.iter().map(|(node, rtt_ns)| pb::PeerRtt { node: *node, rtt_ns: *rtt_ns }).collect(),
            shards: shards
                .iter()
                .map(|shard| pb::ShardStatus { shard: *shard, timers: Some(timers), ..pb::ShardStatus::default() })
                .collect(),
            ..pb::NodeStatus::default()
        };
        let rtt = |from: &str, to: &str, rtt_ns| pb::RegionRtt { from: from.into(), to: to.into(), rtt_ns };
        let status = pb::GetStatusReply {
            nodes: vec![
                node(1, "us", &[(2, 80_000_000), (3, 140_000_000)], &[4, 5]),
                node(2, "eu", &[(1, 80_100_000)], &[4, 5]),
                node(3, "ap", &[(1, 141_000_000)], &[5]),
            ],
            region_rtts: vec![rtt("us", "eu", 70_000_000), rtt("us", "ap", 140_000_000)],
            ..pb::GetStatusReply::default()
        };
        let json = json(&status);
        let [four, five] = [&json["shards"][0], &json["shards"][1]];
        assert_eq!((&four["rtt_configured_ns"], &four["rtt_measured_ns"]), (&70_000_000.into(), &80_100_000.into()));
        let would_be = timing_for(Duration::from_micros(80_100));
        assert_eq!(four["measured_would_give"]["election_max_ms"], would_be.election_max_ms);
        assert_eq!(five["rtt_configured_ns"], 140_000_000);
        let text = table(&status);
        for part in ["n1 n2 n3", "154 ms", "359-600 ms", "540 ms", "80.1 ms"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
