//! The types that openraft is instantiated with.

use bytes::Bytes;
use meridian_clock::Mono;
use meridian_probe::{Event, emit};
use meridian_proto::internal::v1 as pb;
use meridian_types::{ShardId, Timestamp};
use prost::Message as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Meridian's instantiation of openraft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Raftish;

impl openraft::RaftTypeConfig for Raftish {
    type D = Command;
    type R = Applied;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Command, u64, Member>;
    type Entry = openraft::Entry<Self::LeaderId, Self::Payload>;
    type Responder<T>
        = EntryResponder<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type AsyncRuntime = crate::runtime::MachineRuntime;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// The Raft handle of one group on this node.
pub(crate) type Raft = openraft::Raft<Raftish, crate::apply::ApplyWorker>;
/// A log id as openraft has it.
pub(crate) type RaftLogId = openraft::type_config::alias::LogIdOf<Raftish>;
/// A vote as openraft has it.
pub(crate) type RaftVote = openraft::type_config::alias::VoteOf<Raftish>;
/// A leader id as openraft has it.
pub(crate) type RaftLeaderId = openraft::type_config::alias::LeaderIdOf<Raftish>;
/// A log entry as openraft has it.
pub(crate) type RaftEntry = openraft::type_config::alias::EntryOf<Raftish>;
/// What a log entry carries.
pub(crate) type RaftPayload = openraft::type_config::alias::PayloadOf<Raftish>;
/// A membership as openraft has it.
pub(crate) type RaftMembership = openraft::Membership<u64, Member>;
/// A membership with the log id of the entry that set it.
pub(crate) type RaftStoredMembership = openraft::type_config::alias::StoredMembershipOf<Raftish>;
/// A snapshot's position and membership.
pub(crate) type RaftSnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Raftish>;

/// A node as a group's membership knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The node's region.
    pub region: String,
    /// `host:port` on which its peers reach it.
    pub address: String,
}

/// A stamped command, with the bytes that stand for it on every disk and wire: encoded once, by the leader that stamped it.
/// Cheap to clone: every replication stream and the apply path own one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    message: Arc<pb::Command>,
    encoded: Bytes,
}

impl Command {
    /// Encodes a command.
    pub(crate) fn new(message: pb::Command) -> Self {
        let encoded = message.encode_to_vec().into();
        Self { message: Arc::new(message), encoded }
    }

    /// Decodes a command, and keeps the bytes that it came in.
    pub(crate) fn decode(encoded: Bytes) -> Result<Self, prost::DecodeError> {
        let message = Arc::new(pb::Command::decode(encoded.clone())?);
        Ok(Self { message, encoded })
    }

    /// What it says.
    pub(crate) fn message(&self) -> &pb::Command {
        &self.message
    }

    /// Its bytes.
    pub(crate) fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The first stamp of the command.
    pub(crate) fn first_ts(&self) -> Timestamp {
        Timestamp(self.message.ts)
    }

    /// The last stamp of the command: it holds one per mutation, and at least one.
    pub(crate) fn last_ts(&self) -> Timestamp {
        Timestamp(self.message.ts.saturating_add(self.stamps() - 1))
    }

    /// The shard's lead time from this command on.
    pub(crate) fn lead(&self) -> Duration {
        Duration::from_nanos(self.message.lead_ns)
    }

    /// Whether it carries clients' requests.
    pub(crate) fn has_mutations(&self) -> bool {
        matches!(&self.message.body, Some(pb::command::Body::Mutations(_)))
    }

    fn stamps(&self) -> u64 {
        match &self.message.body {
            Some(pb::command::Body::Mutations(m)) => (m.mutations.len() as u64).max(1),
            _ => 1,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command at {}", self.message.ts)
    }
}

/// What applying one entry came to.
#[derive(Clone, Debug)]
pub(crate) enum Applied {
    /// Blank and membership entries, barriers.
    Nothing,
    /// One outcome per mutation, in order.
    Outcomes(Vec<pb::Outcome>),
    /// The apply guard (rule S5) refused the entry: its stamp was not above the shard's last one.
    StaleTimestamp,
}

/// What the leader learns of an entry that it handed over: the result, when it was committed, and where.
pub(crate) struct Completion<T> {
    pub(crate) committed_at: Option<Mono>,
    pub(crate) index: Option<u64>,
    pub(crate) result: T,
}

/// Completes one handed-over entry.
pub(crate) struct EntryResponder<T> {
    shard: ShardId,
    committed_at: Option<Mono>,
    index: Option<u64>,
    tx: oneshot::Sender<Completion<T>>,
}

impl<T> EntryResponder<T> {
    pub(crate) fn new(shard: ShardId) -> (Self, oneshot::Receiver<Completion<T>>) {
        let (tx, rx) = oneshot::channel();
        (Self { shard, committed_at: None, index: None, tx }, rx)
    }
}

impl<T: Send + 'static> openraft::raft::responder::Responder<Raftish, T> for EntryResponder<T> {
    fn on_commit(&mut self, log_id: RaftLogId) {
        self.committed_at = Some(Mono::now());
        self.index = Some(log_id.index);
        emit(|| Event::Committed { shard: self.shard, id: crate::codec::log_id_of(&log_id) });
    }

    fn on_complete(self, result: T) {
        // Nobody waits any more: the client has hung up. The entry stays in flight until applied (rule I2).
        let _ = self.tx.send(Completion { committed_at: self.committed_at, index: self.index, result });
    }
}
