//! The cluster as this node sees it, and moving leaders.

use crate::context::Context;
use crate::serve::nanos;
use futures::future::join_all;
use meridian_catalog::Node;
use meridian_consensus::ReplicaStatus;
use meridian_consensus::peers::{Class, Traffic};
use meridian_proto::internal::v1 as internal;
use meridian_proto::internal::v1::inspect_client::InspectClient;
use meridian_proto::v1 as pb;
use meridian_proto::v1::cluster_server::{Cluster, ClusterServer};
use meridian_storage::{DiskLevel, StoreMemory};
use meridian_types::{Error, NodeId, RaftTiming, Reason, ShardId};
use meridian_wire::status::to_status;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Another node has this long to answer for a status page.
const INSPECT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Serves the cluster's state.
#[derive(Clone)]
pub(crate) struct ClusterService {
    ctx: Context,
}

/// What this node says about itself.
pub fn node_status(ctx: &Context) -> pb::NodeStatus {
    let clock = ctx.clock.status();
    let view = ctx.catalog.view();
    let rtt = |(node, _): (NodeId, _)| pb::PeerRtt { node: node.0, rtt_ns: ctx.gossip.rtt(node).map_or(0, nanos) };
    let shard = |r: std::sync::Arc<meridian_consensus::Replica>| {
        let table = view.table_by_id(r.table()).map(|t| t.name.clone()).unwrap_or_default();
        shard_status(&r.status(), table)
    };
    pb::NodeStatus {
        node: ctx.me.0,
        region: ctx.region.as_str().to_owned(),
        zone: ctx.zone.as_str().to_owned(),
        grpc_address: ctx.grpc_address.clone(),
        http_address: ctx.http_address.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        reachable: true,
        clock: Some(pb::ClockStatus {
            source: clock.source.to_owned(),
            earliest: clock.interval.earliest.0,
            latest: clock.interval.latest.0,
            safe: clock.safe,
        }),
        rtts: ctx.peers.others().into_iter().map(rtt).collect(),
        shards: ctx.replicas.all().into_iter().map(shard).collect(),
        memory: Some(memory_status(ctx)),
        disk: Some(disk_status(ctx)),
        traffic: ctx.peers.traffic().into_iter().map(traffic).collect(),
        uptime_ns: nanos(meridian_clock::Mono::now().since(ctx.started)),
    }
}

fn traffic(t: Traffic) -> pb::Traffic {
    pb::Traffic {
        peer: t.peer.0,
        peer_region: t.region.as_str().to_owned(),
        cause: t.class.name().to_owned(),
        sent: t.sent,
        received: t.received,
    }
}

fn memory_status(ctx: &Context) -> pb::MemoryStatus {
    let memory = &ctx.memory;
    let store = ctx.store.memory().unwrap_or_else(|e| {
        tracing::warn!("the store's memory cannot be measured: {e}");
        StoreMemory::default()
    });
    pb::MemoryStatus {
        budget: memory.budget.total,
        resident: resident(),
        cache: store.cache,
        cache_max: memory.budget.cache,
        raft_memtables: store.raft_memtables,
        data_memtables: store.data_memtables,
        log_entries: memory.log.used() as u64,
        log_entries_max: memory.log.limit() as u64,
        in_flight: memory.in_flight.used(),
        in_flight_max: memory.in_flight.limit(),
        refused: memory.in_flight.refused(),
    }
}

/// Resident memory of this process in bytes, 0 if the system does not say.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map_or(0, |kib| kib << 10)
}

fn disk_status(ctx: &Context) -> pb::DiskStatus {
    let space = ctx.store.space();
    let level = match space.level() {
        DiskLevel::Enough => pb::DiskLevel::Enough,
        DiskLevel::NearlyFull => pb::DiskLevel::NearlyFull,
        DiskLevel::Full => pb::DiskLevel::Full,
        DiskLevel::Critical => pb::DiskLevel::Critical,
    };
    let backlog = &ctx.memory.backlog;
    pb::DiskStatus {
        free: space.free(),
        reserve: space.reserve(),
        level: level.into(),
        log_waiting: backlog.held(),
        log_waiting_max: backlog.limit(),
    }
}

fn shard_status(s: &ReplicaStatus, table: String) -> pb::ShardStatus {
    pb::ShardStatus {
        shard: s.shard.0,
        table,
        role: s.role.to_string(),
        term: s.term,
        leader: s.leader.map_or(0, |n| n.0),
        log_last: s.log_last,
        committed: s.committed,
        applied: s.applied,
        durable: s.durable,
        last_ts: s.last_ts.0,
        safe_ts: s.safe_ts.0,
        safe_lag_ns: nanos(s.safe_lag),
        lease_left_ns: s.lease_left.map_or(0, nanos),
        voter: s.voter,
        timers: Some(timers(&s.timing)),
        agreed_timers: Some(timers(&s.agreed)),
        created_timers: Some(timers(&s.created)),
        lead_time_ns: nanos(s.lead_time),
    }
}

fn timers(timing: &RaftTiming) -> pb::RaftTimers {
    pb::RaftTimers {
        heartbeat_ms: timing.heartbeat_ms,
        election_min_ms: timing.election_min_ms,
        election_max_ms: timing.election_max_ms,
        lease_ms: u64::try_from(timing.lease().as_millis()).unwrap_or(u64::MAX),
    }
}

impl ClusterService {
    pub(crate) fn server(ctx: &Context) -> ClusterServer<Self> {
        ClusterServer::new(Self { ctx: ctx.clone() })
    }

    /// A node's own answer; what the catalog has of it when it does not give one.
    async fn ask(&self, node: &Node) -> pb::NodeStatus {
        if node.id == self.ctx.me {
            return node_status(&self.ctx);
        }
        let from_catalog = || pb::NodeStatus {
            node: node.id.0,
            region: node.region.as_str().to_owned(),
            zone: node.zone.as_str().to_owned(),
            grpc_address: node.grpc_address.clone(),
            http_address: node.http_address.clone(),
            version: node.version.clone(),
            ..pb::NodeStatus::default()
        };
        let Ok(channel) = self.ctx.peers.channel(node.id, Class::Request) else { return from_catalog() };
        let target = Some(self.ctx.target(node.id, ShardId::CATALOG));
        let mut client = InspectClient::new(channel);
        let call = client.node_status(internal::NodeStatusRequest { target });
        match tokio::time::timeout(INSPECT_TIMEOUT, call).await {
            Ok(Ok(status)) => status.into_inner(),
            Ok(Err(_)) | Err(_) => from_catalog(),
        }
    }

    /// Moves a shard's leadership, at its leader: here, or by asking the leader's node.
    async fn transfer(&self, shard: ShardId, to: NodeId) -> Result<(), Status> {
        let unknown = || Error::new(Reason::BadRequest, format!("this node has no replica of shard {shard}"));
        let replica = self.ctx.replicas.get(shard).ok_or_else(|| to_status(&unknown()))?;
        let failed =
            |e: String| to_status(&Error::new(Reason::NoQuorum, format!("the leader of {shard} was not moved: {e}")));
        if replica.leader() == Some(to) {
            return Ok(());
        }
        if replica.is_leader() {
            return replica.transfer_leader(to).await.map_err(|e| failed(e.to_string()));
        }
        let leader = replica.leader().ok_or_else(|| failed("it has no leader".into()))?;
        let channel = self.ctx.peers.channel(leader, Class::Request).map_err(|e| failed(e.to_string()))?;
        let mut client = pb::cluster_client::ClusterClient::new(channel);
        client.transfer_leader(pb::TransferLeaderRequest { shard: shard.0, to: to.0 }).await.map(|_| ())
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn get_status(&self, request: Request<pb::GetStatusRequest>) -> Result<Response<pb::GetStatusReply>, Status> {
        let view = self.ctx.catalog.view();
        let known = view.nodes().map(|n| &n.record).filter(|n| n.id != self.ctx.me);
        let mut nodes = vec![node_status(&self.ctx)];
        if !request.into_inner().local_only {
            nodes.extend(join_all(known.map(|n| self.ask(n))).await);
        }
        nodes.sort_by_key(|n| n.node);
        let pair = |(a, b, rtt): (&meridian_types::RegionId, &meridian_types::RegionId, Duration)| pb::RegionRtt {
            from: a.as_str().to_owned(),
            to: b.as_str().to_owned(),
            rtt_ns: nanos(rtt),
        };
        Ok(Response::new(pb::GetStatusReply {
            cluster_id: self.ctx.replicas.cluster().to_string(),
            served_by: self.ctx.me.0,
            nodes,
            region_rtts: view.rtts().pairs().map(pair).collect(),
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderReply>, Status> {
        let pb::TransferLeaderRequest { shard, to } = request.into_inner();
        self.transfer(ShardId(shard), NodeId(to)).await?;
        Ok(Response::new(pb::TransferLeaderReply {}))
    }
}
