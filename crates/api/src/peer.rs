//! The service between nodes: gossip, forwarded requests, read indexes, joining.

use crate::admission::charge_of;
use crate::context::Context;
use crate::failure::Refusal;
use crate::forwarded::{self, refused};
use crate::gateway::Arrival;
use crate::serve::nanos;
use futures::StreamExt;
use futures::stream::BoxStream;
use meridian_catalog::{Node, register_node};
use meridian_clock::Mono;
use meridian_consensus::peers::MESSAGE_BYTES_MAX;
use meridian_consensus::{Charge, PeerAddress};
use meridian_proto::internal::v1 as internal;
use meridian_proto::internal::v1::inspect_server::{Inspect, InspectServer};
use meridian_proto::internal::v1::join_reply;
use meridian_proto::internal::v1::peer_server::{Peer, PeerServer};
use meridian_proto::v1 as pb;
use meridian_types::{Error, NodeId, Reason, ShardId};
use tonic::{Request, Response, Status, Streaming};

/// Serves the other nodes of the cluster.
#[derive(Clone)]
pub(crate) struct PeerService {
    ctx: Context,
}

impl PeerService {
    pub(crate) fn server(ctx: &Context) -> PeerServer<Self> {
        PeerServer::new(Self { ctx: ctx.clone() })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn inspect_server(ctx: &Context) -> InspectServer<Self> {
        InspectServer::new(Self { ctx: ctx.clone() })
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type GossipStream = BoxStream<'static, Result<internal::GossipAck, Status>>;

    async fn gossip(
        &self,
        request: Request<Streaming<internal::GossipMessage>>,
    ) -> Result<Response<Self::GossipStream>, Status> {
        let (ctx, stop) = (self.ctx.clone(), self.ctx.stop.clone());
        let acks = request.into_inner().map(move |message| {
            let message = message?;
            ctx.replicas.check_node(message.target.as_ref())?;
            Ok(ctx.gossip.receive(&message))
        });
        Ok(Response::new(acks.take_until(stop.cancelled_owned()).boxed()))
    }

    type ForwardStream = BoxStream<'static, Result<internal::ForwardReplies, Status>>;

    async fn forward(
        &self,
        request: Request<Streaming<internal::ForwardBatch>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        Ok(Response::new(forwarded::answers(&self.ctx, request.into_inner()).boxed()))
    }

    async fn mutate(
        &self,
        request: Request<internal::MutateRequest>,
    ) -> Result<Response<internal::MutateReply>, Status> {
        let charge = charge_of(&request);
        let mut message = request.into_inner();
        let target = message.target.take();
        let from = NodeId(target.as_ref().map_or(0, |t| t.from));
        let replica = self.ctx.replicas.addressed(target)?;
        if message.mutation.is_none() {
            return Err(Status::invalid_argument("no mutation"));
        }
        Ok(Response::new(forwarded::mutate(&self.ctx, &replica, from, message, charge).await))
    }

    async fn read(&self, request: Request<internal::ReadRequest>) -> Result<Response<internal::ReadReply>, Status> {
        let charge = charge_of(&request);
        let mut message = request.into_inner();
        let target = message.target.take();
        let from = NodeId(target.as_ref().map_or(0, |t| t.from));
        let replica = self.ctx.replicas.addressed(target)?;
        let reply = forwarded::read(&self.ctx, &replica, from, message, &charge).await;
        Ok(Response::new(reply.map_err(|e| meridian_wire::status::to_status(&e))?))
    }

    async fn read_index(
        &self,
        request: Request<internal::ReadIndexRequest>,
    ) -> Result<Response<internal::ReadIndexReply>, Status> {
        let mut message = request.into_inner();
        let target = message.target.take();
        let from = NodeId(target.as_ref().map_or(0, |t| t.from));
        let replica = self.ctx.replicas.addressed(target)?;
        let reply = forwarded::read_index(&self.ctx, &replica, from, message).await;
        Ok(Response::new(reply.map_err(|e| meridian_wire::status::to_status(&e))?))
    }

    async fn join(&self, request: Request<internal::JoinRequest>) -> Result<Response<internal::JoinReply>, Status> {
        let result = match self.admit(request.into_inner()).await {
            Ok(joined) => join_reply::Result::Joined(joined),
            Err(refusal) => refused(refusal, join_reply::Result::NotLeader, join_reply::Result::Failure),
        };
        Ok(Response::new(internal::JoinReply { result: Some(result) }))
    }
}

impl PeerService {
    /// Registers a node in the catalog. Any node of the cluster does: the change goes to the leader of shard 0.
    async fn admit(&self, request: internal::JoinRequest) -> Result<internal::join_reply::Joined, Refusal> {
        let ctx = &self.ctx;
        let cluster_id = ctx.replicas.cluster().to_string();
        if !request.cluster_id.is_empty() && request.cluster_id != cluster_id {
            let text = format!("this is cluster {cluster_id}, the node belongs to {}", request.cluster_id);
            return Err(Error::new(Reason::BadRequest, text).into());
        }
        let catalog = ctx.replicas.get(ShardId::CATALOG).ok_or(Refusal::NotLeader(None))?;
        let node = Node {
            id: NodeId(request.node),
            region: request.region.into(),
            zone: request.zone.into(),
            grpc_address: request.grpc_address,
            http_address: request.http_address,
            incarnation: request.incarnation,
            version: request.version,
        };
        let address = PeerAddress { region: node.region.clone(), address: node.grpc_address.clone() };
        let latest = ctx.latest();
        let charge = Charge::NONE;
        let arrival = Arrival { at: Mono::now(), deadline: ctx.deadlines.request, latest, charge: &charge };
        let change = |view: &meridian_catalog::CatalogView| register_node(view, ctx.request_id(), node.clone());
        crate::tables::change_catalog(ctx, arrival, change).await?;
        ctx.peers.learn(node.id, address);
        let cluster = ctx.catalog.view();
        let cluster = cluster.cluster().ok_or(Refusal::NotLeader(None))?;
        let members = catalog.members().into_iter();
        let members =
            members.map(|(id, m)| internal::Member { node: id.0, region: m.region, address: m.address }).collect();
        Ok(internal::join_reply::Joined {
            cluster_id,
            catalog_members: members,
            catalog_timing: Some(meridian_wire::timing::encode(cluster.record.timing)),
            max_clock_offset_ns: nanos(cluster.record.max_clock_offset),
        })
    }
}

#[tonic::async_trait]
impl Inspect for PeerService {
    async fn node_status(
        &self,
        request: Request<internal::NodeStatusRequest>,
    ) -> Result<Response<pb::NodeStatus>, Status> {
        self.ctx.replicas.check_node(request.into_inner().target.as_ref())?;
        Ok(Response::new(crate::cluster::node_status(&self.ctx)))
    }
}
