//! What fuzz targets call: every decoder of Raft's messages and records, which come from peers and from the disk, with what
//! must hold of its answer. A broken rule is a panic.

use crate::codec;
use crate::network;
use crate::raft_types::RaftPayload;
use crate::service;
use meridian_proto::internal::v1 as pb;
use prost::Message;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this crate.
pub const TARGETS: &[Target] = &[
    ("entry", entry),
    ("append", append),
    ("append_reply", append_reply),
    ("vote", vote),
    ("election", election),
    ("shard_state", shard_state),
    ("snapshot_chunk", snapshot_chunk),
];

/// The message, if the bytes are one.
fn message<M: Message + Default>(data: &[u8]) -> Option<M> {
    M::decode(bytes::Bytes::copy_from_slice(data)).ok()
}

fn check_entry(encoded: pb::Entry) {
    let Ok(entry) = codec::entry_from_pb(encoded.clone()) else { return };
    let again = codec::entry_to_pb(&entry);
    if let (Some(pb::entry::Payload::Command(from)), Some(pb::entry::Payload::Command(to))) =
        (&encoded.payload, &again.payload)
    {
        assert_eq!(from, to, "a command is passed on as it came");
    }
    if let RaftPayload::Normal(command) = &entry.payload {
        assert!(command.first_ts() <= command.last_ts());
    }
    assert_eq!(codec::entry_from_pb(again), Ok(entry));
}

/// A log entry: what it says is kept when it is passed on.
pub fn entry(data: &[u8]) {
    if let Some(encoded) = message(data) {
        check_entry(encoded);
    }
}

/// An append: none is taken in that names its receiver as the leader (rule O6).
pub fn append(data: &[u8]) {
    let Some(encoded) = message::<pb::AppendRequest>(data) else { return };
    for me in [1, 2] {
        if let Ok(append) = service::append_from_pb(encoded.clone(), me) {
            assert_ne!(append.vote.leader_id.node_id, me);
            assert_eq!(append.entries.len(), encoded.entries.len());
        }
    }
    encoded.entries.into_iter().for_each(check_entry);
}

/// The answer to an append.
pub fn append_reply(data: &[u8]) {
    let Some(encoded) = message::<pb::AppendReply>(data) else { return };
    let prev = pb::LogId { leader: Some(pb::LeaderId { term: 1, node: 1 }), index: 7 };
    drop(network::append_answer(encoded, Some(prev)));
    drop(network::append_answer(encoded, None));
}

/// A vote.
pub fn vote(data: &[u8]) {
    let vote = message(data);
    if let Ok(vote) = codec::vote_from_pb(vote) {
        assert_eq!(codec::vote_from_pb(Some(codec::vote_to_pb(&vote))), Ok(vote));
    }
}

/// What is said around an election, in both directions.
pub fn election(data: &[u8]) {
    let check = |vote, last| {
        let _ = (codec::vote_from_pb(vote), codec::opt_log_id_from_pb(last));
    };
    if let Some(m) = message::<pb::VoteRequest>(data) {
        check(m.vote, m.last_log_id);
    }
    if let Some(m) = message::<pb::VoteReply>(data) {
        if let Ok(Some(ballot)) = codec::ballot_from_pb(m) {
            assert!(m.granted);
            assert_eq!(codec::ballot_from_pb(codec::ballot_to_pb(&ballot)), Ok(Some(ballot)));
        }
        check(m.vote, m.last_log_id);
    }
    if let Some(m) = message::<pb::TransferLeaderRequest>(data) {
        let _ = m.vote.map(codec::ballot_from_pb);
        check(m.from_leader, m.last_log_id);
    }
    if let Some(m) = message::<pb::VotedRequest>(data) {
        let _ = m.vote.map(codec::ballot_from_pb);
    }
    if let Some(m) = message::<pb::TransferLeaderReply>(data) {
        check(m.vote_changed, None);
    }
}

fn check_state(state: pb::ShardState) {
    let _ = codec::opt_log_id_from_pb(state.applied);
    if let Ok(membership) = codec::stored_membership_from_pb(state.membership) {
        let again = codec::stored_membership_to_pb(&membership);
        assert_eq!(codec::stored_membership_from_pb(Some(again)), Ok(membership));
    }
}

/// A position with its membership, from the disk or inside a snapshot.
pub fn shard_state(data: &[u8]) {
    if let Some(state) = message(data) {
        check_state(state);
    }
}

/// A piece of a snapshot.
pub fn snapshot_chunk(data: &[u8]) {
    let Some(chunk) = message::<pb::SnapshotChunk>(data) else { return };
    if let Some(pb::snapshot_chunk::Part::Header(header)) = chunk.part {
        let _ = codec::vote_from_pb(header.vote);
        header.manifest.and_then(|manifest| manifest.state).into_iter().for_each(check_state);
    }
}
