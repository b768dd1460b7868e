//! The receiving side of Raft traffic. Everything is checked against this node before it reaches openraft:
//! cluster, target node, shard, and that no append names this node as its leader (rule O6: a restarted leader
//! would be talked back into leading a term whose tail it has lost).

use crate::codec;
use crate::peers::MESSAGE_BYTES_MAX;
use crate::raft_types::{RaftEntry, RaftPayload, Raftish};
use crate::replica::Replica;
use crate::replicas::Replicas;
use crate::snapshot::{SnapshotBundle, Staged, meta_of};
use futures::StreamExt;
use futures::stream::BoxStream;
use meridian_probe::{Sabotage, sabotaged};
use meridian_proto::internal::v1 as pb;
use meridian_proto::internal::v1::raft_server::RaftServer;
use meridian_storage::{DiskFull, DiskLevel, Files};
use openraft::Snapshot;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, TransferLeaderError, TransferLeaderRequest, VoteRequest,
};
use std::sync::{Arc, Mutex, PoisonError};
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
        let answers = replica.raft().stream_append(requests.boxed()).map(|answer| match answer {
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
pub(crate) fn append_from_pb(message: pb::AppendRequest, me: u64) -> Result<AppendEntriesRequest<Raftish>, Status> {
    let vote = codec::vote_from_pb(message.vote).map_err(bad)?;
    if vote.leader_id.node_id == me {
        return Err(bad("an append that names its receiver as the leader"));
    }
    let entries = message.entries.into_iter().map(codec::entry_from_pb).collect::<Result<Vec<_>, _>>().map_err(bad)?;
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

fn no_room(e: DiskFull) -> Status {
    Status::unavailable(e.to_string())
}

fn reply(result: pb::append_reply::Result) -> pb::AppendReply {
    pb::AppendReply { result: Some(result) }
}

#[tonic::async_trait]
impl pb::raft_server::Raft for RaftService {
    type AppendStream = BoxStream<'static, Result<pb::AppendReply, Status>>;

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

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteReply>, Status> {
        let message = request.into_inner();
        let replica = self.replica(message.target)?;
        if !replica.may_vote() {
            // It may have promised a lease before it was restarted (rule R3).
            return Err(Status::unavailable("this voter waits out the lease that it may have promised"));
        }
        // A vote is a write too.
        replica.disk().check(DiskLevel::Full).map_err(no_room)?;
        let rpc = VoteRequest {
            vote: codec::vote_from_pb(message.vote).map_err(bad)?,
            last_log_id: codec::opt_log_id_from_pb(message.last_log_id).map_err(bad)?,
            leadership_transfer: message.leadership_transfer,
        };
        let raft = replica.raft();
        let answer = if message.pre_vote { raft.pre_vote(rpc).await } else { raft.vote(rpc).await }.map_err(failed)?;
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
        let replica = self.replica(message.target)?;
        if !replica.may_vote() {
            return Err(Status::unavailable("this voter waits out the lease that it may have promised"));
        }
        let from = codec::vote_from_pb(message.from_leader).map_err(bad)?;
        let last = codec::opt_log_id_from_pb(message.last_log_id).map_err(bad)?;
        let rpc = TransferLeaderRequest::new(from, message.to_node, last);
        let answer = replica.raft().handle_transfer_leader(rpc).await.map_err(failed)?;
        let vote_changed = match answer {
            Ok(()) => None,
            Err(TransferLeaderError::VoteChanged { actual, .. }) => Some(codec::vote_to_pb(&actual)),
            Err(e) => return Err(Status::unavailable(e.to_string())),
        };
        Ok(Response::new(pb::TransferLeaderReply { vote_changed }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        let mut chunks = request.into_inner();
        let Some(pb::snapshot_chunk::Part::Header(header)) = chunks.message().await?.and_then(|c| c.part) else {
            return Err(bad("a snapshot that does not start with its header"));
        };
        let replica = self.replica(header.target)?;
        let manifest = header.manifest.ok_or_else(|| bad("a snapshot without a manifest"))?;
        if manifest.shard != replica.shard().0 {
            return Err(bad("a snapshot of another shard"));
        }
        let vote = codec::vote_from_pb(header.vote).map_err(bad)?;
        if vote.leader_id.node_id == replica.node().0 {
            return Err(bad("a snapshot that names its receiver as the leader"));
        }
        // Its files lie beside the state that they replace, until they have.
        let bytes = manifest.files.iter().fold(0_u64, |sum, f| sum.saturating_add(f.bytes));
        replica.disk().check_room(bytes).map_err(no_room)?;
        let maker = replica.snapshots();
        let dir = maker.new_dir("in").map_err(failed)?;
        if let Err(e) = receive(&mut chunks, &maker.files(), &dir, &manifest).await {
            maker.remove_dir(&dir).map_err(failed)?;
            return Err(e);
        }
        let state = manifest.state.clone().ok_or_else(|| bad("a snapshot without a position"))?;
        let meta = meta_of(&state).map_err(failed)?;
        let staged = Some(Staged { dir, manifest });
        let covered = meta.last_log_id.map(|id| id.index);
        let snapshot = Snapshot { meta, snapshot: SnapshotBundle { maker: maker.clone(), staged } };
        let answer = replica.raft().install_full_snapshot(vote, snapshot).await.map_err(failed)?;
        // A snapshot of what is committed here already is not installed, and openraft says so before this log is synced:
        // the leader would count on entries that a power loss can still take (G1).
        if let Some(index) = covered
            && !replica.wait_synced(index).await
        {
            return Err(failed("the log was closed"));
        }
        Ok(Response::new(pb::SnapshotReply { vote: Some(codec::vote_to_pb(&answer.vote)) }))
    }
}

/// Writes the files of a snapshot, checking every chunk. The files as a whole are verified again before they
/// are installed.
async fn receive(
    chunks: &mut Streaming<pb::SnapshotChunk>,
    files: &Files,
    dir: &std::path::Path,
    manifest: &pb::SnapshotManifest,
) -> Result<(), Status> {
    let mut writers = Vec::new();
    for file in &manifest.files {
        let plain = std::path::Path::new(&file.name).file_name().is_some_and(|n| n == file.name.as_str());
        if !plain {
            return Err(bad("a snapshot file whose name is a path"));
        }
        writers.push(files.create(&dir.join(&file.name)).await.map_err(failed)?);
    }
    while let Some(chunk) = chunks.message().await? {
        let Some(pb::snapshot_chunk::Part::Data(data)) = chunk.part else { return Err(bad("a second header")) };
        if crc32c::crc32c(&data.bytes) != data.crc32c {
            return Err(Status::data_loss("a snapshot chunk whose checksum does not match"));
        }
        let file = writers.get_mut(data.file as usize).ok_or_else(|| bad("a chunk of no file"))?;
        file.write(&data.bytes).await.map_err(failed)?;
    }
    for file in writers {
        file.finish().await.map_err(failed)?;
    }
    Ok(())
}
