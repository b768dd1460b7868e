//! The receiving side of Raft traffic. Everything is checked against this node before it reaches openraft:
//! cluster, target node, shard, and that no append names this node as its leader (rule O6: a restarted leader
//! would be talked back into leading a term whose tail it has lost).

use crate::codec;
use crate::heartbeats::answer;
use crate::packing;
use crate::peers::MESSAGE_BYTES_MAX;
use crate::raft_types::{RaftEntry, RaftPayload, RaftVote, Raftish};
use crate::replica::{NoVote, Replica, Running};
use crate::replicas::Replicas;
use crate::snapshot::receiver::{self, Replies};
use crate::snapshot::{SnapshotBundle, Staged, meta_of};
use futures::StreamExt;
use futures::stream::BoxStream;
use meridian_probe::{Sabotage, sabotaged};
use meridian_proto::internal::v1 as pb;
use meridian_proto::internal::v1::raft_server::RaftServer;
use meridian_storage::{DiskFull, DiskLevel};
use meridian_types::{LeaderId, LogId, NodeId, ShardId};
use openraft::Snapshot;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, TransferLeaderError, TransferLeaderRequest, VoteRequest,
};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The gRPC service between nodes that carries Raft traffic.
#[derive(Clone)]
pub struct RaftService {
    replicas: Replicas,
}

fn bad(e: impl std::fmt::Display) -> Status {
    Status::invalid_argument(e.to_string())
}

fn failed(e: impl std::fmt::Display) -> Status {
    Status::internal(e.to_string())
}

impl RaftService {
    /// Serves the replicas of this node.
    pub fn new(replicas: Replicas) -> RaftServer<Self> {
        RaftServer::new(Self { replicas })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn replica(&self, target: Option<pb::Target>) -> Result<Arc<Replica>, Status> {
        self.replicas.addressed(target)
    }
}

impl RaftService {
    /// Feeds a stream of appends to the replica that its first message names.
    async fn answer_appends(
        &self,
        mut messages: Streaming<pb::AppendRequest>,
    ) -> Result<BoxStream<'static, Result<pb::AppendReply, Status>>, Status> {
        let mut first = messages.message().await?.ok_or_else(|| bad("an append stream without a message"))?;
        let replica = self.replica(first.target.take())?;
        let me = replica.node().0;
        let receiver = replica.clone();
        let take_in = move |message| {
            let append = append_from_pb(message, me)?;
            receiver.hear_under(&append.vote);
            check_room(&receiver, &append)?;
            Ok(append)
        };
        let first = take_in(first)?;
        // A message that is not taken in ends the stream, after the answers to those before it. The leader is told why,
        // and starts another after a pause.
        let why = Arc::new(Mutex::new(None));
        let refused = why.clone();
        let rest = messages.scan((), move |_, message| {
            let taken = message.and_then(&take_in);
            let taken = taken.map_err(|status| *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(status));
            std::future::ready(taken.ok())
        });
        let end = async move { why.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err) };
        let requests = futures::stream::iter([first]).chain(rest);
        let running = replica.running();
        let (voter, own) = (replica.clone(), running.clone());
        let reply = move |result| append_reply(&voter, &own, result);
        let answers = running.raft.stream_append(requests.boxed()).map(move |answer| match answer {
            Ok(Ok(matched)) => {
                let log_id = matched.as_ref().map(codec::log_id_to_pb);
                Ok(reply(pb::append_reply::Result::Matched(pb::append_reply::Matched { log_id })))
            }
            Ok(Err(StreamAppendError::Conflict(at))) => {
                Ok(reply(pb::append_reply::Result::Conflict(codec::log_id_to_pb(&at))))
            }
            Ok(Err(StreamAppendError::HigherVote(v))) => {
                Ok(reply(pb::append_reply::Result::HigherVote(codec::vote_to_pb(&v))))
            }
            Err(fatal) => Err(failed(fatal)),
        });
        Ok(answers.chain(futures::stream::once(end).filter_map(std::future::ready)).boxed())
    }
}

/// Decodes one append. `me` must not be its leader.
pub(crate) fn append_from_pb(mut message: pb::AppendRequest, me: u64) -> Result<AppendEntriesRequest<Raftish>, Status> {
    let vote = codec::vote_from_pb(message.vote).map_err(bad)?;
    if vote.leader_id.node_id == me {
        return Err(bad("an append that names its receiver as the leader"));
    }
    let entries = packing::entries_of(&mut message).map_err(bad)?;
    let entries = entries.into_iter().map(codec::entry_from_pb).collect::<Result<Vec<_>, _>>().map_err(bad)?;
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id: codec::opt_log_id_from_pb(message.prev).map_err(bad)?,
        entries,
        leader_commit: codec::opt_log_id_from_pb(message.leader_commit).map_err(bad)?,
    })
}

/// Checks that this node's disk has room for an append, as a raft log that cannot be written ends the process, and that
/// flushes keep up with the log. Heartbeats have no entries and always pass, so the leader's lease holds; the entries come
/// again when there is room.
fn check_room(replica: &Replica, append: &AppendEntriesRequest<Raftish>) -> Result<(), Status> {
    let writes = |e: &RaftEntry| match &e.payload {
        RaftPayload::Normal(command) => command.has_mutations(),
        RaftPayload::Blank | RaftPayload::Membership(_) => false,
    };
    if sabotaged(Sabotage::AppendOnFullDisk) {
        Ok(())
    } else if append.entries.iter().any(writes) {
        replica.disk().check(DiskLevel::NearlyFull).map_err(no_room)?;
        replica.check_backlog().map_err(|e| Status::unavailable(e.to_string()))
    } else if !append.entries.is_empty() {
        replica.disk().check(DiskLevel::Full).map_err(no_room)
    } else {
        Ok(())
    }
}

/// Takes in what another node says it has accepted; `from` is who that is, once its first message has said so.
fn take_acceptances(replicas: &Replicas, from: &mut Option<NodeId>, message: pb::Acceptances) -> Result<(), Status> {
    if let Some(target) = &message.target {
        replicas.check_node(Some(target))?;
        *from = Some(NodeId(target.from));
    }
    let from = from.ok_or_else(|| bad("acceptances without a target"))?;
    for accepted in message.accepted {
        let leader = accepted.leader.ok_or_else(|| bad("an acceptance without a leader"))?;
        // A shard that is not here (any more) has nobody who waits.
        if let Some(replica) = replicas.get(ShardId(accepted.shard)) {
            let leader = LeaderId { term: leader.term, node: NodeId(leader.node) };
            replica.observe_accepted(from, LogId { leader, index: accepted.index });
        }
    }
    Ok(())
}

fn no_room(e: DiskFull) -> Status {
    Status::unavailable(e.to_string())
}

fn no_vote(e: NoVote) -> Status {
    match e {
        NoVote::Holding | NoVote::DiskFull(_) => Status::unavailable(e.to_string()),
        NoVote::Stopped(e) => failed(e),
    }
}

/// The answer to an append that was handed to this Raft, which keeps the promise that it was built with.
pub(crate) fn append_reply(voter: &Replica, running: &Running, result: pb::append_reply::Result) -> pb::AppendReply {
    let promise_ms = running.timing.election_max_ms;
    let holding = !voter.may_vote();
    pb::AppendReply { result: Some(result), unpacks: true, promise_ms, holding, takes_ballots: true }
}

#[tonic::async_trait]
impl pb::raft_server::Raft for RaftService {
    type AppendStream = BoxStream<'static, Result<pb::AppendReply, Status>>;
    type BeatStream = BoxStream<'static, Result<pb::BeatReplies, Status>>;
    type AcceptStream = BoxStream<'static, Result<pb::AcceptReply, Status>>;
    type TransferSnapshotStream = BoxStream<'static, Result<pb::TransferReply, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let (this, messages) = (self.clone(), request.into_inner());
        // The call returns at once, the first message is awaited inside the answer: an idle stream is established too.
        let answers = async move {
            match this.answer_appends(messages).await {
                Ok(answers) => answers,
                Err(status) => futures::stream::iter([Err(status)]).boxed(),
            }
        };
        Ok(Response::new(futures::stream::once(answers).flatten().boxed()))
    }

    async fn accept(
        &self,
        request: Request<Streaming<pb::Acceptances>>,
    ) -> Result<Response<Self::AcceptStream>, Status> {
        let (replicas, mut from) = (self.replicas.clone(), None);
        let silence = request.into_inner().filter_map(move |message| {
            let taken = message.and_then(|m| take_acceptances(&replicas, &mut from, m));
            std::future::ready(taken.err().map(Err))
        });
        Ok(Response::new(silence.boxed()))
    }

    async fn beat(&self, request: Request<Streaming<pb::BeatBatch>>) -> Result<Response<Self::BeatStream>, Status> {
        Ok(Response::new(answer::answers(&self.replicas, request.into_inner()).boxed()))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteReply>, Status> {
        let message = request.into_inner();
        let replica = self.replica(message.target)?;
        let rpc = VoteRequest {
            vote: codec::vote_from_pb(message.vote).map_err(bad)?,
            last_log_id: codec::opt_log_id_from_pb(message.last_log_id).map_err(bad)?,
            leadership_transfer: message.leadership_transfer,
        };
        let answer = replica.answer_vote(rpc, message.pre_vote).await.map_err(no_vote)?;
        Ok(Response::new(pb::VoteReply {
            vote: Some(codec::vote_to_pb(&answer.vote)),
            granted: answer.vote_granted,
            last_log_id: answer.last_log_id.as_ref().map(codec::log_id_to_pb),
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderReply>, Status> {
        let message = request.into_inner();
        let sender = NodeId(message.target.as_ref().map_or(0, |target| target.from));
        let replica = self.replica(message.target)?;
        let raft = replica.raft();
        if !replica.may_vote() {
            return Err(no_vote(NoVote::Holding));
        }
        let from = codec::vote_from_pb(message.from_leader).map_err(bad)?;
        let last = codec::opt_log_id_from_pb(message.last_log_id).map_err(bad)?;
        let ballot = message.vote.map(codec::ballot_from_pb).transpose().map_err(bad)?.flatten();
        let (to, me) = (NodeId(message.to_node), replica.node());
        if to == me {
            replica.call();
            if let Some(ballot) = ballot {
                replica.voted(sender, ballot);
            }
            if let Some(tail) = message.tail {
                let tail = append_from_pb(tail, me.0)?;
                check_room(&replica, &tail)?;
                // Whatever it lacks in spite of this, openraft misses next.
                raft.append_entries(tail).await.map_err(failed)?;
            }
        }
        let rpc = TransferLeaderRequest::new(from, message.to_node, last);
        let answer = raft.handle_transfer_leader(rpc).await.map_err(failed)?;
        if to != me && ballot.is_some() && answer.is_ok() {
            tokio::spawn(replica.support(from.leader_id, to, last));
        }
        let vote_changed = match answer {
            Ok(()) => None,
            Err(TransferLeaderError::VoteChanged { actual, .. }) => Some(codec::vote_to_pb(&actual)),
            Err(e) => return Err(Status::unavailable(e.to_string())),
        };
        Ok(Response::new(pb::TransferLeaderReply { vote_changed }))
    }

    async fn voted(&self, request: Request<pb::VotedRequest>) -> Result<Response<pb::VotedReply>, Status> {
        let message = request.into_inner();
        let sender = NodeId(message.target.as_ref().map_or(0, |target| target.from));
        let replica = self.replica(message.target)?;
        let ballot = message.vote.ok_or_else(|| bad("nothing was voted"))?;
        if let Some(ballot) = codec::ballot_from_pb(ballot).map_err(bad)? {
            replica.voted(sender, ballot);
        }
        Ok(Response::new(pb::VotedReply {}))
    }

    async fn transfer_snapshot(
        &self,
        request: Request<Streaming<pb::TransferRequest>>,
    ) -> Result<Response<Self::TransferSnapshotStream>, Status> {
        let (this, requests) = (self.clone(), request.into_inner());
        let (replies, said) = mpsc::channel(1);
        // Part of the answer, not a task: it ends with the call.
        let work = async move {
            let last = this.take_snapshot(requests, &replies).await;
            let last = last.map(|vote| pb::TransferReply { part: Some(pb::transfer_reply::Part::Done(vote)) });
            // Nobody listens any more: nobody has to be told.
            let _ = replies.send(last).await;
        };
        let work = futures::stream::once(work).filter_map(|()| std::future::ready(None));
        Ok(Response::new(futures::stream::select(ReceiverStream::new(said), work).boxed()))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        let mut chunks = request.into_inner();
        let Some(pb::snapshot_chunk::Part::Header(header)) = chunks.message().await?.and_then(|c| c.part) else {
            return Err(bad("a snapshot that does not start with its header"));
        };
        let (replica, vote) = self.receiver(header.target, header.vote)?;
        let manifest = header.manifest.ok_or_else(|| bad("a snapshot without a manifest"))?;
        let mut requests = receiver::unasked(manifest, chunks).boxed();
        let staged = replica.snapshots().receive(&mut requests, &Replies::Nowhere).await?;
        let vote = install(&replica, vote, staged).await?;
        Ok(Response::new(pb::SnapshotReply { vote: Some(vote) }))
    }
}

impl RaftService {
    /// The replica that a snapshot is for, and the vote under which it is sent.
    fn receiver(&self, target: Option<pb::Target>, vote: Option<pb::Vote>) -> Result<(Arc<Replica>, RaftVote), Status> {
        let replica = self.replica(target)?;
        let vote = codec::vote_from_pb(vote).map_err(bad)?;
        if vote.leader_id.node_id == replica.node().0 {
            return Err(bad("a snapshot that names its receiver as the leader"));
        }
        replica.disk().check(DiskLevel::Enough).map_err(no_room)?;
        Ok((replica, vote))
    }

    /// Receives a snapshot and has it installed; returns the replica's vote.
    async fn take_snapshot(
        &self,
        mut requests: Streaming<pb::TransferRequest>,
        replies: &mpsc::Sender<Result<pb::TransferReply, Status>>,
    ) -> Result<pb::Vote, Status> {
        let Some(pb::transfer_request::Part::Hello(hello)) = requests.message().await?.and_then(|r| r.part) else {
            return Err(bad("a transfer that does not start with hello"));
        };
        let (replica, vote) = self.receiver(hello.target, hello.vote)?;
        // Openraft will say so too; but what a deposed leader sends must not end what another one is sending.
        let own = replica.vote();
        if own > vote {
            return Ok(codec::vote_to_pb(&own));
        }
        let staged = replica.snapshots().receive(&mut requests, &Replies::To(replies.clone())).await?;
        install(&replica, vote, staged).await
    }
}

/// Has received files installed; returns the replica's vote.
async fn install(replica: &Replica, vote: RaftVote, staged: Staged) -> Result<pb::Vote, Status> {
    let maker = replica.snapshots();
    let state = staged.manifest.state.as_ref().ok_or_else(|| bad("a snapshot without a position"))?;
    let meta = meta_of(state).map_err(failed)?;
    let covered = meta.last_log_id.map(|id| id.index);
    let bundle = SnapshotBundle { maker: maker.clone(), staged: Some(Box::new(staged.clone())) };
    let snapshot = Snapshot { meta, snapshot: bundle };
    replica.hear_under(&vote);
    let answer = replica.raft().install_full_snapshot(vote, snapshot).await.map_err(failed)?;
    // Those that openraft had no use for are still there; the place is this transfer's until here.
    maker.discard(staged).await.map_err(failed)?;
    // A snapshot of what is committed here already is not installed, and openraft says so before this log is synced:
    // the leader would count on entries that a power loss can still take (G1).
    if let Some(index) = covered
        && !replica.wait_synced(index).await
    {
        return Err(failed("the log was closed"));
    }
    Ok(codec::vote_to_pb(&answer.vote))
}
