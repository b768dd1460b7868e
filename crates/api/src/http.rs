//! HTTP: liveness, readiness, status as JSON, and metrics in Prometheus' text format.

use crate::cluster::node_status;
use crate::context::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use meridian_proto::v1 as pb;
use meridian_types::ShardId;
use std::fmt::Write;

/// `/healthz`: the process answers. `/readyz`: the node knows a leader of shard 0 and trusts its clock.
/// `/metrics`: Prometheus text.
pub fn http_routes(ctx: Context) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(ctx)
}

async fn readyz(State(ctx): State<Context>) -> impl IntoResponse {
    let led = ctx.replicas.get(ShardId::CATALOG).is_some_and(|r| r.leader().is_some());
    match (led, ctx.clock.is_safe()) {
        (true, true) => (StatusCode::OK, "ready\n"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "no leader of shard 0 is known\n"),
        (true, false) => (StatusCode::SERVICE_UNAVAILABLE, "the clock is unsafe\n"),
    }
}

async fn metrics(State(ctx): State<Context>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], render(&ctx, &node_status(&ctx)))
}

/// One gauge of every shard.
type ShardGauge = (&'static str, &'static str, fn(&pb::ShardStatus) -> f64);

const SHARD_GAUGES: [ShardGauge; 7] = [
    ("meridian_shard_leader", "1 where this node leads the shard", |s| f64::from(u8::from(s.role == "leader"))),
    ("meridian_shard_term", "Raft term", |s| s.term as f64),
    ("meridian_shard_log_last", "last log index", |s| s.log_last as f64),
    ("meridian_shard_applied", "last applied log index", |s| s.applied as f64),
    ("meridian_shard_safe_lag_seconds", "how stale a read from this replica may be", |s| s.safe_lag_ns as f64 / 1e9),
    ("meridian_shard_lease_left_seconds", "what is left of the lease at the leader", |s| s.lease_left_ns as f64 / 1e9),
    ("meridian_shard_lead_time_seconds", "how far ahead of its clock the leader closes", |s| {
        s.lead_time_ns as f64 / 1e9
    }),
];

fn disk_level(status: &pb::NodeStatus) -> u64 {
    status.disk.map_or(0, |disk| u64::try_from(disk.level).unwrap_or(0))
}

fn render(ctx: &Context, status: &pb::NodeStatus) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut gauge = |name: &str, help: &str, rows: Vec<(String, f64)>| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in rows {
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
    };
    let node = format!("node=\"{}\",region=\"{}\"", status.node, status.region);
    let clock = status.clock.clone().unwrap_or_default();
    let width = clock.latest.saturating_sub(clock.earliest) as f64 / 1e9;
    gauge("meridian_clock_uncertainty_seconds", "width of the clock's interval", vec![(node.clone(), width)]);
    gauge("meridian_clock_safe", "1 while the clock is trusted", vec![(node.clone(), f64::from(u8::from(clock.safe)))]);
    gauge("meridian_uptime_seconds", "time since the start", vec![(node.clone(), status.uptime_ns as f64 / 1e9)]);
    let syncs = ctx.store.raft.sync_stats();
    gauge("meridian_log_syncs", "syncs of the raft log", vec![(node.clone(), syncs.syncs as f64)]);
    gauge("meridian_log_sync_mean_seconds", "their mean duration", vec![(node.clone(), syncs.mean().as_secs_f64())]);
    let memory = status.memory.unwrap_or_default();
    let parts = [
        ("cache", memory.cache, memory.cache_max),
        ("log_entries", memory.log_entries, memory.log_entries_max),
        ("in_flight", memory.in_flight, memory.in_flight_max),
    ];
    let of = |part: &str| format!("{node},part=\"{part}\"");
    let used = parts.iter().map(|(part, used, _)| (of(part), *used as f64)).collect();
    gauge("meridian_memory_used_bytes", "what is charged to a part of the memory budget", used);
    let most = parts.iter().map(|(part, _, most)| (of(part), *most as f64)).collect();
    gauge("meridian_memory_max_bytes", "what the part may have", most);
    let disk = status.disk.unwrap_or_default();
    let of_node = [
        ("meridian_memory_budget_bytes", "the node's memory budget", memory.budget),
        ("meridian_memory_resident_bytes", "resident memory of the process", memory.resident),
        ("meridian_memory_refused", "requests refused for the lack of memory", memory.refused),
        ("meridian_disk_free_bytes", "free bytes on the fullest disk in use", disk.free),
        ("meridian_disk_reserve_bytes", "free bytes below which writes are refused", disk.reserve),
        ("meridian_log_waiting_bytes", "raft log kept until the data is flushed", disk.log_waiting),
        ("meridian_log_waiting_max_bytes", "with more of it writes are refused", disk.log_waiting_max),
        ("meridian_disk_level", "0: enough room, 1: nearly full, 2: full, 3: critical", disk_level(status)),
    ];
    for (name, help, value) in of_node {
        gauge(name, help, vec![(node.clone(), value as f64)]);
    }
    let transfers = ctx.transfers.stats();
    let of_snapshots = [
        ("meridian_snapshot_sent_bytes", "bytes of snapshots sent to other nodes", transfers.sent_bytes),
        ("meridian_snapshot_resumed_bytes", "bytes that their receivers held already", transfers.resumed_bytes),
        ("meridian_snapshot_cuts", "snapshots made for that", transfers.cuts),
    ];
    for (name, help, value) in of_snapshots {
        gauge(name, help, vec![(node.clone(), value as f64)]);
    }
    let rtts = status.rtts.iter().map(|r| (format!("{node},peer=\"{}\"", r.node), r.rtt_ns as f64 / 1e9));
    gauge("meridian_peer_rtt_seconds", "smallest recent round trip to a peer", rtts.collect());
    let over = |t: &pb::Traffic, direction: &str| {
        format!(
            "{node},peer=\"{}\",peer_region=\"{}\",cause=\"{}\",direction=\"{direction}\"",
            t.peer, t.peer_region, t.cause
        )
    };
    let rows = status.traffic.iter();
    let rows = rows.flat_map(|t| [(over(t, "sent"), t.sent as f64), (over(t, "received"), t.received as f64)]);
    gauge("meridian_peer_bytes", "bytes over connections that this node made to a peer", rows.collect());
    for (name, help, value) in SHARD_GAUGES {
        let row = |s: &pb::ShardStatus| (format!("{node},shard=\"{}\",table=\"{}\"", s.shard, s.table), value(s));
        gauge(name, help, status.shards.iter().map(row).collect());
    }
    out
}
