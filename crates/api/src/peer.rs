//! The service between nodes: gossip, forwarded requests, read indexes, joining.

use crate::admission::{charge_answer, charge_of};
use crate::context::Context;
use crate::failure::{self, Refusal};
use crate::gateway::Arrival;
use crate::serve::{self, Read, nanos};
use futures::StreamExt;
use futures::stream::BoxStream;
use meridian_catalog::{Node, register_node};
use meridian_clock::Mono;
use meridian_consensus::peers::MESSAGE_BYTES_MAX;
use meridian_consensus::{Charge, PeerAddress};
use meridian_proto::internal::v1 as internal;
use meridian_proto::internal::v1::inspect_server::{Inspect, InspectServer};
use meridian_proto::internal::v1::peer_server::{Peer, PeerServer};
use meridian_proto::internal::v1::{join_reply, mutate_reply, read_index_reply, read_reply};
use meridian_proto::v1 as pb;
use meridian_txn::ReadPlan;
use meridian_types::{Error, KeySpan, NodeId, Reason, ShardId, TableId, Timestamp};
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

fn not_leader(hint: Option<NodeId>) -> internal::NotLeader {
    internal::NotLeader { hint: hint.map_or(0, |n| n.0) }
}

/// A replica that is not fresh enough answers like one that does not lead: ask another.
fn refused<R>(
    refusal: Refusal,
    other: impl FnOnce(internal::NotLeader) -> R,
    failed: impl FnOnce(internal::Failure) -> R,
) -> R {
    match refusal {
        Refusal::NotLeader(hint) => other(not_leader(hint)),
        Refusal::NotFresh => other(not_leader(None)),
        Refusal::Failed(e) => failed(failure::to_pb(&e)),
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

    async fn mutate(
        &self,
        request: Request<internal::MutateRequest>,
    ) -> Result<Response<internal::MutateReply>, Status> {
        let charge = charge_of(&request);
        let message = request.into_inner();
        let replica = self.ctx.replicas.addressed(message.target)?;
        let mutation = message.mutation.ok_or_else(|| Status::invalid_argument("no mutation"))?;
        let reply = match serve::mutate(&self.ctx, &replica, mutation, Timestamp(message.floor), charge).await {
            Ok(commit) => {
                let times = serve::times_to_pb(commit.times);
                internal::MutateReply {
                    result: Some(mutate_reply::Result::Outcome(commit.outcome)),
                    times: Some(times),
                }
            }
            Err(refusal) => {
                let result = refused(refusal, mutate_reply::Result::NotLeader, mutate_reply::Result::Failure);
                internal::MutateReply { result: Some(result), times: None }
            }
        };
        Ok(Response::new(reply))
    }

    async fn read(&self, request: Request<internal::ReadRequest>) -> Result<Response<internal::ReadReply>, Status> {
        let latest = self.ctx.latest();
        let charge = charge_of(&request);
        let message = request.into_inner();
        // The gateway counts staleness by its own clock, which may be ahead of this one: its bound has to hold by both.
        let asked = latest.max(Timestamp(message.asked));
        let replica = self.ctx.replicas.addressed(message.target)?;
        let what = message.what.ok_or_else(|| Status::invalid_argument("nothing to read"))?;
        let plan = ReadPlan::from_proto(&what).map_err(|e| meridian_wire::status::to_status(&e))?;
        let consistency = meridian_wire::consistency::decode(message.consistency);
        let consistency = consistency.map_err(|e| meridian_wire::status::to_status(&e))?;
        let table = TableId(message.table);
        let read = Read { ctx: &self.ctx, replica: &replica, table, plan: &plan, consistency: &consistency, asked };
        let served = read.serve().await;
        let charged = served.and_then(|answer| {
            charge_answer(&charge, answer.page.bytes())?;
            Ok(answer)
        });
        let reply = match charged {
            Ok(answer) => {
                let rows = read_reply::Rows {
                    rows: answer.page.rows,
                    more: answer.page.more,
                    timestamp: answer.at.0,
                    staleness_ns: nanos(answer.staleness),
                    served_by: self.ctx.me.0,
                    reveals: answer.page.reveals.0,
                };
                internal::ReadReply { result: Some(read_reply::Result::Rows(rows)), times: Some(answer.times) }
            }
            Err(refusal) => {
                let result = refused(refusal, read_reply::Result::NotLeader, read_reply::Result::Failure);
                internal::ReadReply { result: Some(result), times: None }
            }
        };
        Ok(Response::new(reply))
    }

    async fn read_index(
        &self,
        request: Request<internal::ReadIndexRequest>,
    ) -> Result<Response<internal::ReadIndexReply>, Status> {
        let message = request.into_inner();
        let replica = self.ctx.replicas.addressed(message.target)?;
        let mut span = KeySpan { keys: message.keys, ..KeySpan::default() };
        for r in message.ranges {
            let range = meridian_wire::range::decode(r.start, r.end);
            span.ranges.push(range.map_err(|e| meridian_wire::status::to_status(&e))?);
        }
        let result = match replica.read_index(&span).await {
            Ok(position) => read_index_reply::Result::Position(position.0),
            Err(e) => refused(e.into(), read_index_reply::Result::NotLeader, read_index_reply::Result::Failure),
        };
        Ok(Response::new(internal::ReadIndexReply { result: Some(result) }))
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
            catalog_timing: Some(meridian_catalog::timing_to_proto(cluster.record.timing)),
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
