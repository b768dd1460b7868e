//! How a node becomes part of a cluster: it learns the cluster from its seeds, and registers with it.

use crate::node::StartError;
use meridian_api::Context;
use meridian_consensus::Peers;
use meridian_proto::internal::v1 as pb;
use meridian_proto::internal::v1::join_reply;
use meridian_proto::internal::v1::peer_client::PeerClient;
use meridian_types::RaftTiming;
use std::time::Duration;

/// Pause between rounds over the seeds.
const ROUND_PAUSE: Duration = Duration::from_millis(500);
/// One seed's time to answer.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a cluster tells a node that joins.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    pub(crate) cluster_id: String,
    pub(crate) members: Vec<pb::Member>,
    pub(crate) timing: RaftTiming,
    pub(crate) max_offset: Duration,
}

/// Asks one node to register this one.
async fn ask(peers: &Peers, seed: &str, request: &pb::JoinRequest) -> Result<Joined, String> {
    let channel = peers.dial(seed).map_err(|e| format!("{seed} is no address: {e}"))?;
    let mut client = PeerClient::new(channel);
    let call = tokio::time::timeout(JOIN_TIMEOUT, client.join(request.clone())).await;
    let reply = call.map_err(|_| format!("{seed} did not answer"))?.map_err(|e| format!("{seed}: {}", e.message()))?;
    match reply.into_inner().result {
        Some(join_reply::Result::Joined(joined)) => {
            let timing = joined.catalog_timing.ok_or_else(|| format!("{seed} knows no timing of shard 0"))?;
            let timing = meridian_wire::timing::decode(&timing)
                .ok_or_else(|| format!("{seed} has impossible timers of shard 0"))?;
            let max_offset = Duration::from_nanos(joined.max_clock_offset_ns);
            Ok(Joined { cluster_id: joined.cluster_id, members: joined.catalog_members, timing, max_offset })
        }
        Some(join_reply::Result::Failure(f)) => Err(format!("{seed}: {}", f.message)),
        Some(join_reply::Result::NotLeader(_)) | None => Err(format!("{seed} has no leader of shard 0 yet")),
    }
}

/// Registers over and over until a seed takes this node in. A refusal that will not change is an error.
pub(crate) async fn join(peers: &Peers, seeds: &[String], request: &pb::JoinRequest) -> Result<Joined, StartError> {
    if seeds.is_empty() {
        return Err(StartError::NoSeeds);
    }
    let mut complaint = String::new();
    loop {
        for seed in seeds {
            match ask(peers, seed, request).await {
                Ok(joined) => return Ok(joined),
                Err(why) if why != complaint => {
                    tracing::info!("not joined yet: {why}");
                    complaint = why;
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

/// What this node says of itself.
pub(crate) fn introduction(ctx: &Context, incarnation: u64) -> pb::JoinRequest {
    pb::JoinRequest {
        node: ctx.me.0,
        region: ctx.region.as_str().to_owned(),
        zone: ctx.zone.as_str().to_owned(),
        grpc_address: ctx.grpc_address.clone(),
        http_address: ctx.http_address.clone(),
        incarnation,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: ctx.replicas.cluster().to_string(),
    }
}
