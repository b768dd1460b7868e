//! The timers of each shard, and where they come from.

use super::{configured, measured};
use crate::output::{self, number, short_ns};
use comfy_table::Cell;
use meridian_catalog::timing_wanted;
use meridian_proto::v1 as pb;
use meridian_types::{RaftTiming, ShardId};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How the timers are derived, for people.
pub(super) const DERIVATION: &str = "\
R is the largest round trip among a shard's members. Heartbeat H = R / 2, at least 100 ms: beats do not wait for one another's
answers. Longest election timeout = 2 R + 2 H + 200 ms, at least 600 ms: what a voter promises a leader, so that a lost packet,
sent again after R + 200 ms, ends nothing. Shortest = 2 R + 50 ms, at least 300 ms: a vote's answer is back in time. Leases are
the longest timeout less a tenth for clocks that run at different speeds. Shards begin with what
follows from the round trips that the cluster was formed with; later their leaders follow what is measured, with a tenth on
top, raise in seconds, lower after minutes, and have the members agree through the log: beside the timers in force is what the
measured round trips would give, and which nodes have still to take over what was agreed on.";

/// A shard's timers in force, and the round trips that they come from.
struct Derived {
    shard: u64,
    table: String,
    nodes: BTreeSet<u64>,
    /// Those that the group has agreed on, as far as any member has applied; and those that it was created with.
    agreed: pb::RaftTimers,
    created: Option<pb::RaftTimers>,
    /// What each member runs with.
    running: BTreeMap<u64, pb::RaftTimers>,
    /// Largest round trip among the members' regions as configured, and as measured; nanoseconds.
    configured: Option<u64>,
    measured: Option<u64>,
}

impl Derived {
    /// What the measured round trip would give.
    fn would_be(&self) -> Option<RaftTiming> {
        self.measured.map(|ns| timing_wanted(Duration::from_nanos(ns), Duration::ZERO))
    }

    /// The members that still run with others than those agreed on.
    fn outdated(&self) -> Vec<u64> {
        self.running.iter().filter(|(_, timers)| **timers != self.agreed).map(|(node, _)| *node).collect()
    }

    /// Whether the group runs with the timers that it was created with.
    fn is_as_created(&self) -> bool {
        self.created.is_none_or(|created| created == self.agreed)
    }
}

fn derive(status: &pb::GetStatusReply) -> Vec<Derived> {
    let mut shards: BTreeMap<u64, Derived> = BTreeMap::new();
    let mut applied: BTreeMap<u64, u64> = BTreeMap::new();
    let replicas = status.nodes.iter().flat_map(|n| n.shards.iter().map(move |s| (n, s)));
    for (node, shard) in replicas {
        let Some(timers) = shard.timers else { continue };
        let derived = shards.entry(shard.shard).or_insert_with(|| Derived {
            shard: shard.shard,
            table: if shard.shard == ShardId::CATALOG.0 { "(catalog)".into() } else { shard.table.clone() },
            nodes: BTreeSet::new(),
            agreed: timers,
            created: None,
            running: BTreeMap::new(),
            configured: None,
            measured: None,
        });
        derived.nodes.insert(node.node);
        derived.running.insert(node.node, timers);
        // Of what was agreed on last those know best who have applied most.
        if applied.get(&shard.shard).is_none_or(|most| *most < shard.applied) {
            applied.insert(shard.shard, shard.applied);
            (derived.agreed, derived.created) = (shard.agreed_timers.unwrap_or(timers), shard.created_timers);
        }
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
        "since",
        "not yet at",
        "measured R would give",
    ]);
    let ns = |ns: Option<u64>| number(ns.map_or_else(|| "-".to_owned(), short_ns));
    for d in derive(status) {
        let members: Vec<String> = d.nodes.iter().map(|n| format!("n{n}")).collect();
        let outdated: Vec<String> = d.outdated().iter().map(|n| format!("n{n}")).collect();
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
            number(format!("{} ms", d.agreed.heartbeat_ms)),
            number(format!("{}-{} ms", d.agreed.election_min_ms, d.agreed.election_max_ms)),
            number(format!("{} ms", d.agreed.lease_ms)),
            Cell::new(if d.is_as_created() { "created" } else { "agreed" }),
            Cell::new(if outdated.is_empty() { "-".to_owned() } else { outdated.join(" ") }),
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
            "heartbeat_ms": d.agreed.heartbeat_ms,
            "election_min_ms": d.agreed.election_min_ms,
            "election_max_ms": d.agreed.election_max_ms,
            "lease_ms": d.agreed.lease_ms,
            "as_created": d.is_as_created(),
            "nodes_not_yet": d.outdated(),
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
        let would_be = timing_wanted(Duration::from_micros(80_100), Duration::ZERO);
        assert_eq!(four["measured_would_give"]["election_max_ms"], would_be.election_max_ms);
        assert_eq!(five["rtt_configured_ns"], 140_000_000);
        let text = table(&status);
        for part in ["n1 n2 n3", "154 ms", "359-600 ms", "540 ms", "80.1 ms"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn members_that_have_still_to_follow_are_named() {
        let timers = |heartbeat_ms, election_max_ms| pb::RaftTimers {
            heartbeat_ms,
            election_min_ms: 300,
            election_max_ms,
            lease_ms: election_max_ms * 9 / 10,
        };
        let (old, new) = (timers(100, 600), timers(340, 1_176));
        let node = |node, applied, running, agreed| {
            let shard = pb::ShardStatus {
                shard: 4,
                applied,
                timers: Some(running),
                agreed_timers: Some(agreed),
                created_timers: Some(old),
                ..pb::ShardStatus::default()
            };
            pb::NodeStatus { node, shards: vec![shard], ..pb::NodeStatus::default() }
        };
        let nodes = vec![node(1, 90, old, new), node(2, 90, new, new), node(3, 80, old, old)];
        let status = pb::GetStatusReply { nodes, ..pb::GetStatusReply::default() };
        let shard = &json(&status)["shards"][0];
        assert_eq!(shard["nodes_not_yet"], serde_json::json!([1, 3]));
        assert_eq!((&shard["as_created"], &shard["election_max_ms"]), (&false.into(), &1_176.into()));
        let text = table(&status);
        assert!(text.contains("n1 n3") && text.contains("agreed"), "{text}");
        let before = pb::GetStatusReply { nodes: vec![node(3, 80, old, old)], ..pb::GetStatusReply::default() };
        assert!(table(&before).contains("created"));
    }
}
