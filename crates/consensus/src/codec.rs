//! Between openraft's types and the protobuf messages of the wire and the disk.

use crate::ballots::Ballot;
use crate::raft_types::{
    Command, Member, RaftEntry, RaftLeaderId, RaftLogId, RaftMembership, RaftPayload, RaftStoredMembership, RaftVote,
};
use meridian_proto::internal::v1 as pb;
use meridian_types::{LeaderId, LogId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// A message that lacks a part which every version of it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0} is missing or impossible")]
pub struct Malformed(pub &'static str);

type Decoded<T> = Result<T, Malformed>;

pub(crate) fn leader_to_pb(l: &RaftLeaderId) -> pb::LeaderId {
    pb::LeaderId { term: l.term, node: l.node_id }
}

/// As those have it who do not ask openraft.
pub(crate) fn known_leader_to_pb(l: LeaderId) -> pb::LeaderId {
    pb::LeaderId { term: l.term, node: l.node.0 }
}

pub(crate) fn leader_from_pb(l: Option<pb::LeaderId>) -> Decoded<RaftLeaderId> {
    let l = l.ok_or(Malformed("leader id"))?;
    Ok(RaftLeaderId { term: l.term, node_id: l.node })
}

pub(crate) fn leader_of(l: &RaftLeaderId) -> LeaderId {
    LeaderId { term: l.term, node: NodeId(l.node_id) }
}

pub(crate) fn log_id_of(id: &RaftLogId) -> LogId {
    LogId { leader: leader_of(&id.leader_id), index: id.index }
}

pub(crate) fn log_id_to_pb(id: &RaftLogId) -> pb::LogId {
    pb::LogId { leader: Some(leader_to_pb(&id.leader_id)), index: id.index }
}

pub(crate) fn log_id_from_pb(id: pb::LogId) -> Decoded<RaftLogId> {
    Ok(RaftLogId { leader_id: leader_from_pb(id.leader)?, index: id.index })
}

pub(crate) fn opt_log_id_from_pb(id: Option<pb::LogId>) -> Decoded<Option<RaftLogId>> {
    id.map(log_id_from_pb).transpose()
}

pub(crate) fn vote_to_pb(v: &RaftVote) -> pb::Vote {
    pb::Vote { leader: Some(leader_to_pb(&v.leader_id)), committed: v.committed }
}

pub(crate) fn vote_from_pb(v: Option<pb::Vote>) -> Decoded<RaftVote> {
    let v = v.ok_or(Malformed("vote"))?;
    Ok(RaftVote { leader_id: leader_from_pb(v.leader)?, committed: v.committed })
}

pub(crate) fn ballot_to_pb(b: &Ballot) -> pb::VoteReply {
    let vote = RaftVote { leader_id: b.leader, committed: false };
    pb::VoteReply { vote: Some(vote_to_pb(&vote)), granted: true, last_log_id: b.last.as_ref().map(log_id_to_pb) }
}

/// `None`: it was not granted.
pub(crate) fn ballot_from_pb(b: pb::VoteReply) -> Decoded<Option<Ballot>> {
    let ballot = Ballot { leader: vote_from_pb(b.vote)?.leader_id, last: opt_log_id_from_pb(b.last_log_id)? };
    Ok(b.granted.then_some(ballot))
}

/// A membership entry's body.
pub(crate) fn membership_to_pb(m: &RaftMembership) -> pb::Membership {
    let configs =
        m.get_joint_config().iter().map(|set| pb::membership::VoterSet { nodes: set.iter().copied().collect() });
    let members =
        m.nodes().map(|(id, n)| pb::Member { node: *id, region: n.region.clone(), address: n.address.clone() });
    pb::Membership { configs: configs.collect(), members: members.collect() }
}

pub(crate) fn membership_from_pb(m: pb::Membership) -> Decoded<RaftMembership> {
    let configs: Vec<BTreeSet<u64>> = m.configs.into_iter().map(|c| c.nodes.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Member> =
        m.members.into_iter().map(|n| (n.node, Member { region: n.region, address: n.address })).collect();
    if configs.is_empty() {
        // The membership of a group that was never formed.
        return Ok(RaftMembership::default());
    }
    RaftMembership::new(configs, nodes).map_err(|_| Malformed("membership"))
}

pub(crate) fn stored_membership_to_pb(m: &RaftStoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: m.log_id().as_ref().map(log_id_to_pb),
        membership: Some(membership_to_pb(m.membership())),
    }
}

pub(crate) fn stored_membership_from_pb(m: Option<pb::StoredMembership>) -> Decoded<RaftStoredMembership> {
    let Some(m) = m else { return Ok(RaftStoredMembership::default()) };
    let membership = membership_from_pb(m.membership.unwrap_or_default())?;
    Ok(RaftStoredMembership::new(opt_log_id_from_pb(m.log_id)?, membership))
}

pub(crate) fn entry_to_pb(e: &RaftEntry) -> pb::Entry {
    let payload = match &e.payload {
        RaftPayload::Blank => pb::entry::Payload::Blank(pb::entry::Blank {}),
        RaftPayload::Normal(c) => pb::entry::Payload::Command(c.encoded().clone()),
        RaftPayload::Membership(m) => pb::entry::Payload::Membership(membership_to_pb(m)),
    };
    pb::Entry { log_id: Some(log_id_to_pb(&e.log_id)), payload: Some(payload) }
}

pub(crate) fn entry_from_pb(e: pb::Entry) -> Decoded<RaftEntry> {
    let payload = match e.payload.ok_or(Malformed("entry payload"))? {
        pb::entry::Payload::Blank(_) => RaftPayload::Blank,
        pb::entry::Payload::Command(c) => RaftPayload::Normal(Command::decode(c).map_err(|_| Malformed("command"))?),
        pb::entry::Payload::Membership(m) => RaftPayload::Membership(membership_from_pb(m)?),
    };
    Ok(RaftEntry { log_id: log_id_from_pb(e.log_id.ok_or(Malformed("entry log id"))?)?, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_id(term: u64, node: u64, index: u64) -> RaftLogId {
        RaftLogId { leader_id: RaftLeaderId { term, node_id: node }, index }
    }

    #[test]
    fn entries_round_trip() {
        let member = |r: &str| Member { region: r.into(), address: "127.0.0.1:1".into() };
        let joint = RaftMembership::new(
            vec![BTreeSet::from([1, 2]), BTreeSet::from([2])],
            BTreeMap::from([(1, member("a")), (2, member("b")), (3, member("c"))]),
        )
        .unwrap();
        let body = Some(pb::command::Body::Barrier(pb::command::Barrier {}));
        let command = pb::Command { ts: 7, body, lead_ns: 9, ..pb::Command::default() };
        for payload in [RaftPayload::Blank, RaftPayload::Normal(Command::new(command)), RaftPayload::Membership(joint)]
        {
            let entry = RaftEntry { log_id: log_id(3, 2, 9), payload };
            assert_eq!(entry_from_pb(entry_to_pb(&entry)).unwrap(), entry);
        }
    }

    #[test]
    fn a_message_without_its_parts_is_refused() {
        assert!(entry_from_pb(pb::Entry::default()).is_err());
        assert!(vote_from_pb(None).is_err());
        assert!(log_id_from_pb(pb::LogId { leader: None, index: 4 }).is_err());
    }
}
