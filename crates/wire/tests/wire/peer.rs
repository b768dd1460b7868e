//! What nodes say to one another.

use crate::client::{consistencies, node_status, preconditions, request_id, rows, writes};
use crate::{Fixture, fixture};
use meridian_proto::internal::v1 as pb;
use prost::Message as _;

fn target() -> Option<pb::Target> {
    Some(pb::Target { cluster_id: "cluster-1".into(), from: 1, to: 2, shard: 4 })
}

fn leader() -> pb::LeaderId {
    pb::LeaderId { term: 300, node: 2 }
}

fn log_id(index: u64) -> pb::LogId {
    pb::LogId { leader: Some(leader()), index }
}

fn vote() -> Option<pb::Vote> {
    Some(pb::Vote { leader: Some(leader()), committed: true })
}

fn member(node: u64) -> pb::Member {
    pb::Member { node, region: format!("region-{node}"), address: format!("host-{node}:26600") }
}

fn membership() -> pb::Membership {
    let set = |nodes: &[u64]| pb::membership::VoterSet { nodes: nodes.into() };
    pb::Membership { configs: vec![set(&[1, 2]), set(&[2, 3])], members: (1..=3).map(member).collect() }
}

fn mutation() -> pb::Mutation {
    let (preconditions, writes) = (preconditions(), writes());
    pb::Mutation { request_id: Some(request_id()), table: 7, preconditions, writes, reads: vec!["k".into()] }
}

/// One of each kind; a command is in its entry as bytes.
fn entries() -> Vec<pb::Entry> {
    use pb::command::{Barrier, Body, RaiseFloor};
    use pb::entry::{Blank, Payload};
    let command = |ts, body| {
        Payload::Command(pb::Command { ts, body: Some(body), ..pb::Command::default() }.encode_to_vec().into())
    };
    let payloads = [
        Payload::Blank(Blank {}),
        Payload::Membership(membership()),
        command(100, Body::Barrier(Barrier {})),
        command(101, Body::Mutations(pb::Mutations { mutations: vec![mutation(), mutation()] })),
        command(103, Body::RaiseFloor(RaiseFloor { floor: 50 })),
    ];
    let entry = |(index, payload)| pb::Entry { log_id: Some(log_id(index)), payload: Some(payload) };
    (42..).zip(payloads).map(entry).collect()
}

fn times() -> Option<pb::ServeTimes> {
    let [queue_ns, fsync_ns, quorum_ns] = [1, 2_000_000, 70_000_000];
    Some(pb::ServeTimes { queue_ns, fsync_ns, quorum_ns, apply_ns: 4, commit_wait_ns: 5, total_ns: 72_000_010 })
}

fn failure() -> pb::Failure {
    pb::Failure { reason: "OVERLOADED".into(), outcome_unknown: true, message: "too much at once".into() }
}

fn outcomes() -> Vec<(&'static str, pb::Outcome)> {
    use pb::outcome as of;
    use pb::outcome::Result as Outcome;
    let refused = of::Refused { precondition: 1, found_version: 9, reveals: 10 };
    let kinds = [
        ("committed", Outcome::Committed(of::Committed { reads: rows() })),
        ("refused", Outcome::Refused(refused)),
        ("id-reused", Outcome::IdReused(of::IdReused {})),
        ("id-expired", Outcome::IdExpired(of::IdExpired {})),
        ("id-in-future", Outcome::IdInFuture(of::IdInFuture {})),
        ("wrong-shard", Outcome::WrongShard(of::WrongShard {})),
        ("stale", Outcome::StaleTimestamp(of::StaleTimestamp {})),
        ("malformed", Outcome::Malformed(of::Malformed {})),
        ("reads-too-large", Outcome::ReadsTooLarge(of::ReadsTooLarge {})),
    ];
    kinds.into_iter().map(|(name, result)| (name, pb::Outcome { ts: 99, result: Some(result) })).collect()
}

fn mutate(target: Option<pb::Target>) -> pb::MutateRequest {
    pb::MutateRequest { target, mutation: Some(mutation()), floor: 77, early: false }
}

fn beats() -> pb::BeatBatch {
    let beat = |(number, leader)| pb::HeartBeat { number, shard: 4, leader, committed: None };
    let beats = [(900, Some(leader())), (901, None)].map(beat).into();
    pb::BeatBatch { target: target(), beats, dropped: vec![7, 8] }
}

fn beat_replies() -> pb::BeatReplies {
    use pb::append_reply::{Matched, Result as Reply};
    let results = [Some(Reply::Matched(Matched { log_id: None })), vote().map(Reply::HigherVote), None];
    let reply = |result| pb::AppendReply { result: Some(result), unpacks: true, ..pb::AppendReply::default() };
    let replies = (900..).zip(results).map(|(number, result)| pb::BeatReply { number, reply: result.map(reply) });
    pb::BeatReplies { replies: replies.collect() }
}

fn acceptances() -> pb::Acceptances {
    let accepted = |(shard, index)| pb::Acceptance { shard, leader: log_id(index).leader, index };
    pb::Acceptances { target: target(), accepted: [(4, 41), (5, 300)].map(accepted).into() }
}

/// An entry whose origins count for themselves.
fn counted_append() -> pb::AppendRequest {
    let body = Some(pb::command::Body::Mutations(pb::Mutations { mutations: vec![mutation()] }));
    let command = pb::Command { ts: 101, body, origins: vec![2, 300], ..pb::Command::default() };
    let payload = Some(pb::entry::Payload::Command(command.encode_to_vec().into()));
    let entries = vec![pb::Entry { log_id: Some(log_id(42)), payload }];
    pb::AppendRequest { entries, ..pb::AppendRequest::default() }
}

/// An entry of a shard whose leader closes ahead of its clock.
fn leading_append() -> pb::AppendRequest {
    let body = Some(pb::command::Body::Barrier(pb::command::Barrier {}));
    let command = pb::Command { ts: 102, body, lead_ns: 190_000_000, ..pb::Command::default() };
    let payload = Some(pb::entry::Payload::Command(command.encode_to_vec().into()));
    let entries = vec![pb::Entry { log_id: Some(log_id(43)), payload }];
    pb::AppendRequest { entries, ..pb::AppendRequest::default() }
}

fn timing() -> pb::RaftTiming {
    pb::RaftTiming { heartbeat_ms: 154, election_min_ms: 359, election_max_ms: 600 }
}

/// An entry that brings other timers.
fn timing_append() -> pb::AppendRequest {
    let set = pb::command::SetTiming { timing: Some(timing()) };
    let command = pb::Command { ts: 103, body: Some(pb::command::Body::SetTiming(set)), ..pb::Command::default() };
    let payload = Some(pb::entry::Payload::Command(command.encode_to_vec().into()));
    let entries = vec![pb::Entry { log_id: Some(log_id(44)), payload }];
    pb::AppendRequest { entries, ..pb::AppendRequest::default() }
}

fn reads(target: Option<pb::Target>) -> [(&'static str, pb::ReadRequest); 2] {
    use pb::read_request::{Keys, Range, What};
    let [_, (_, snapshot), ..] = consistencies();
    let of = |what| pb::ReadRequest {
        target: target.clone(),
        table: 7,
        consistency: Some(snapshot.clone()),
        what: Some(what),
        asked: 88,
    };
    let range = Range { start: "a".into(), end: "b".into(), limit: 10, reverse: true };
    [("keys", of(What::Keys(Keys { keys: vec!["a".into(), "b".into()] }))), ("range", of(What::Range(range)))]
}

fn read_index(target: Option<pb::Target>) -> pb::ReadIndexRequest {
    let ranges = vec![pb::read_index_request::Span { start: "a".into(), end: "b".into() }];
    pb::ReadIndexRequest { target, keys: vec!["k".into()], ranges }
}

fn mutate_replies() -> Vec<(&'static str, pb::MutateReply)> {
    use pb::mutate_reply::Result as Reply;
    let outcomes = outcomes().into_iter().map(|(name, outcome)| (name, Reply::Outcome(outcome)));
    let others = [("not-leader", Reply::NotLeader(pb::NotLeader { hint: 3 })), ("failure", Reply::Failure(failure()))];
    let reply = |(name, result)| (name, pb::MutateReply { result: Some(result), times: times() });
    outcomes.chain(others).map(reply).collect()
}

fn read_replies() -> Vec<(&'static str, pb::ReadReply)> {
    use pb::read_reply::{Result as Reply, Rows};
    let rows = Rows { rows: rows(), more: true, timestamp: 100, staleness_ns: 5, served_by: 3, reveals: 101 };
    let kinds = [
        ("rows", Reply::Rows(rows)),
        ("not-leader", Reply::NotLeader(pb::NotLeader { hint: 3 })),
        ("failure", Reply::Failure(failure())),
    ];
    kinds.into_iter().map(|(name, result)| (name, pb::ReadReply { result: Some(result), times: times() })).collect()
}

fn read_index_replies() -> Vec<(&'static str, pb::ReadIndexReply)> {
    use pb::read_index_reply::Result as Reply;
    let kinds = [
        ("position", Reply::Position(100)),
        ("not-leader", Reply::NotLeader(pb::NotLeader { hint: 3 })),
        ("failure", Reply::Failure(failure())),
    ];
    kinds.into_iter().map(|(name, result)| (name, pb::ReadIndexReply { result: Some(result) })).collect()
}

fn forwarded() -> (pb::ForwardBatch, pb::ForwardReplies) {
    use pb::forward_reply::Reply;
    use pb::forwarded::Request;
    let [(_, keys), (_, range)] = reads(None);
    let requests = [
        Request::Mutate(mutate(None)),
        Request::Read(keys),
        Request::Read(range),
        Request::ReadIndex(read_index(None)),
    ];
    let forwarded =
        |(number, request)| pb::Forwarded { number, also: vec![number + 100], shard: 4, request: Some(request) };
    let requests = (1..).zip(requests).map(forwarded).collect();
    let batch = pb::ForwardBatch { target: target(), requests, dropped: vec![9, 300] };
    let replies = [
        mutate_replies().into_iter().next().map(|(_, reply)| Reply::Mutate(reply)),
        read_replies().into_iter().next().map(|(_, reply)| Reply::Read(reply)),
        read_index_replies().into_iter().next().map(|(_, reply)| Reply::ReadIndex(reply)),
        None,
    ];
    let reply = |(number, reply)| pb::ForwardReply { number, also: vec![number + 100], reply };
    (batch, pb::ForwardReplies { replies: (1..).zip(replies).map(reply).collect() })
}

fn appends() -> Vec<Fixture> {
    use pb::append_reply::{Matched, Result as Reply};
    let append = pb::AppendRequest {
        target: target(),
        vote: vote(),
        prev: Some(log_id(41)),
        entries: entries(),
        leader_commit: Some(log_id(40)),
        packed: Vec::new().into(),
    };
    let heartbeat = pb::AppendRequest { target: None, entries: Vec::new(), ..append.clone() };
    let packed = pb::AppendRequest { packed: b"a frame".to_vec().into(), ..heartbeat.clone() };
    let matched = Reply::Matched(Matched { log_id: Some(log_id(46)) });
    let unpacks = pb::AppendReply { result: Some(matched), unpacks: true, ..pb::AppendReply::default() };
    let promises = pb::AppendReply { promise_ms: 600, holding: true, ..unpacks };
    let ballots = pb::AppendReply { takes_ballots: true, ..promises };
    let kinds = [
        ("matched", Reply::Matched(Matched { log_id: Some(log_id(46)) })),
        ("matched-nothing", Reply::Matched(Matched { log_id: None })),
        ("conflict", Reply::Conflict(log_id(41))),
        ("higher-vote", Reply::HigherVote(vote().unwrap())),
    ];
    let reply = |(variant, result)| {
        let reply = pb::AppendReply { result: Some(result), ..pb::AppendReply::default() };
        fixture("meridian.internal.v1.AppendReply", variant, reply)
    };
    let requests = [
        fixture("meridian.internal.v1.AppendRequest", "every-entry", append),
        fixture("meridian.internal.v1.AppendRequest", "heartbeat", heartbeat),
        fixture("meridian.internal.v1.AppendRequest", "packed", packed),
        fixture("meridian.internal.v1.PackedEntries", "every-entry", pb::PackedEntries { entries: entries() }),
        fixture("meridian.internal.v1.AppendReply", "unpacks", unpacks),
        fixture("meridian.internal.v1.AppendReply", "promises", promises),
        fixture("meridian.internal.v1.AppendReply", "ballots", ballots),
    ];
    requests.into_iter().chain(kinds.map(reply)).collect()
}

fn elections() -> Vec<Fixture> {
    let request = pb::VoteRequest {
        target: target(),
        vote: Some(pb::Vote { committed: false, ..vote().unwrap() }),
        last_log_id: Some(log_id(41)),
        leadership_transfer: true,
        pre_vote: true,
    };
    let reply = pb::VoteReply { vote: vote(), granted: true, last_log_id: Some(log_id(41)) };
    let transfer = pb::TransferLeaderRequest {
        target: target(),
        from_leader: vote(),
        to_node: 3,
        last_log_id: Some(log_id(41)),
        ..pb::TransferLeaderRequest::default()
    };
    let tail = pb::AppendRequest { vote: vote(), prev: Some(log_id(40)), ..pb::AppendRequest::default() };
    let ballot = pb::TransferLeaderRequest { vote: Some(reply), tail: Some(tail), ..transfer.clone() };
    let voted = pb::VotedRequest { target: target(), vote: Some(reply) };
    vec![
        fixture("meridian.internal.v1.VoteRequest", "all", request),
        fixture("meridian.internal.v1.VoteReply", "all", reply),
        fixture("meridian.internal.v1.TransferLeaderRequest", "all", transfer),
        fixture("meridian.internal.v1.TransferLeaderRequest", "ballot", ballot),
        fixture("meridian.internal.v1.VotedRequest", "all", voted),
        fixture("meridian.internal.v1.VotedReply", "all", pb::VotedReply {}),
        fixture("meridian.internal.v1.TransferLeaderReply", "done", pb::TransferLeaderReply { vote_changed: None }),
        fixture(
            "meridian.internal.v1.TransferLeaderReply",
            "refused",
            pb::TransferLeaderReply { vote_changed: vote() },
        ),
    ]
}

fn snapshots() -> Vec<Fixture> {
    use pb::snapshot_chunk::Part;
    use pb::transfer_reply::Part as Said;
    use pb::transfer_request::Part as Asked;
    let membership = pb::StoredMembership { log_id: Some(log_id(1)), membership: Some(membership()) };
    let (applied, membership) = (Some(log_id(60)), Some(membership));
    let state = pb::ShardState { applied, last_ts: 500, membership, gc_floor: 17, lead_ns: 0, timing: None };
    let file = pb::SnapshotFile {
        name: "versions-000000.sst".into(),
        family: "versions".into(),
        bytes: 70_000,
        crc32c: 0xdead_beef,
    };
    let manifest = pb::SnapshotManifest {
        format: 1,
        shard: 4,
        snapshot_id: "s4-T300-n2-60-500".into(),
        state: Some(state),
        files: vec![file],
    };
    let leading = pb::SnapshotManifest {
        state: Some(pb::ShardState { last_ts: 500, lead_ns: 190_000_000, ..pb::ShardState::default() }),
        ..pb::SnapshotManifest::default()
    };
    let timed = pb::SnapshotManifest {
        state: Some(pb::ShardState { last_ts: 500, timing: Some(timing()), ..pb::ShardState::default() }),
        ..pb::SnapshotManifest::default()
    };
    let header = pb::SnapshotHeader { target: target(), vote: vote(), manifest: Some(manifest.clone()) };
    let data = pb::SnapshotData { file: 1, bytes: "content".into(), crc32c: 0x1234_5678 };
    let chunk = |part| pb::SnapshotChunk { part: Some(part) };
    let request = |part| pb::TransferRequest { part: Some(part) };
    let reply = |part| pb::TransferReply { part: Some(part) };
    let hello = pb::transfer_request::Hello { target: target(), vote: vote() };
    let piece = pb::TransferChunk { file: 1, offset: 262_144, bytes: "content".into(), crc32c: 0x1234_5678 };
    let wanted = pb::transfer_reply::Wanted { files: vec![0, 2] };
    vec![
        fixture("meridian.internal.v1.SnapshotChunk", "header", chunk(Part::Header(header))),
        fixture("meridian.internal.v1.SnapshotChunk", "data", chunk(Part::Data(data))),
        fixture("meridian.internal.v1.SnapshotReply", "all", pb::SnapshotReply { vote: vote() }),
        fixture("meridian.internal.v1.TransferRequest", "hello", request(Asked::Hello(hello))),
        fixture("meridian.internal.v1.TransferRequest", "manifest", request(Asked::Manifest(manifest))),
        fixture("meridian.internal.v1.TransferRequest", "lead-time", request(Asked::Manifest(leading))),
        fixture("meridian.internal.v1.TransferRequest", "timing", request(Asked::Manifest(timed))),
        fixture("meridian.internal.v1.TransferRequest", "chunk", request(Asked::Chunk(piece))),
        fixture("meridian.internal.v1.TransferReply", "ready", reply(Said::Ready(pb::transfer_reply::Ready {}))),
        fixture("meridian.internal.v1.TransferReply", "wanted", reply(Said::Wanted(wanted))),
        fixture("meridian.internal.v1.TransferReply", "done", reply(Said::Done(vote().unwrap()))),
    ]
}

fn gossip() -> Vec<Fixture> {
    let closed = pb::ClosedTimestamp { shard: 4, leader: Some(leader()), closed: 1_000, position: 900 };
    let message = pb::GossipMessage {
        target: target(),
        sequence: 300,
        earliest: 1,
        latest: 2,
        closed: vec![closed],
        disk_full: true,
        rtts: Vec::new(),
    };
    let rtts = [(2, 70_000, 71_000), (300, 210_000, 250_000)];
    let rtts = rtts.map(|(node, median_us, usual_us)| pb::NodeRtt { node, median_us, usual_us }).into();
    let measures = pb::GossipMessage { sequence: 325, rtts, ..pb::GossipMessage::default() };
    vec![
        fixture("meridian.internal.v1.GossipMessage", "all", message),
        fixture("meridian.internal.v1.GossipMessage", "measures", measures),
        fixture("meridian.internal.v1.GossipAck", "all", pb::GossipAck { sequence: 300, earliest: 1, latest: 2 }),
    ]
}

fn requests() -> Vec<Fixture> {
    let (batch, replies) = forwarded();
    let early = pb::MutateRequest { early: true, ..mutate(target()) };
    let mut all = vec![
        fixture("meridian.internal.v1.ForwardBatch", "every-request", batch),
        fixture("meridian.internal.v1.ForwardReplies", "every-reply", replies),
        fixture("meridian.internal.v1.MutateRequest", "all", mutate(target())),
        fixture("meridian.internal.v1.MutateRequest", "early", early),
        fixture("meridian.internal.v1.Acceptances", "all", acceptances()),
        fixture("meridian.internal.v1.AcceptReply", "all", pb::AcceptReply {}),
        fixture("meridian.internal.v1.BeatBatch", "all", beats()),
        fixture("meridian.internal.v1.BeatBatch", "committed", {
            let mut batch = beats();
            batch.beats.iter_mut().for_each(|beat| beat.committed = Some(log_id(40)));
            batch
        }),
        fixture("meridian.internal.v1.BeatReplies", "all", beat_replies()),
        fixture("meridian.internal.v1.AppendRequest", "origins", counted_append()),
        fixture("meridian.internal.v1.AppendRequest", "lead-time", leading_append()),
        fixture("meridian.internal.v1.AppendRequest", "timing", timing_append()),
        fixture("meridian.internal.v1.ReadIndexRequest", "all", read_index(target())),
        fixture("meridian.internal.v1.NodeStatusRequest", "all", pb::NodeStatusRequest { target: target() }),
        fixture("meridian.v1.NodeStatus", "all", node_status()),
    ];
    all.extend(reads(target()).map(|(name, read)| fixture("meridian.internal.v1.ReadRequest", name, read)));
    all.extend(mutate_replies().into_iter().map(|(n, reply)| fixture("meridian.internal.v1.MutateReply", n, reply)));
    all.extend(read_replies().into_iter().map(|(n, reply)| fixture("meridian.internal.v1.ReadReply", n, reply)));
    all.extend(
        read_index_replies().into_iter().map(|(n, reply)| fixture("meridian.internal.v1.ReadIndexReply", n, reply)),
    );
    all
}

fn joining() -> Vec<Fixture> {
    use pb::join_reply::{Joined, Result as Reply};
    let request = pb::JoinRequest {
        node: 3,
        region: "eu-west".into(),
        zone: "a".into(),
        grpc_address: "host:1".into(),
        http_address: "host:2".into(),
        incarnation: u64::MAX,
        version: "0.1.0".into(),
        cluster_id: "cluster-1".into(),
    };
    let timing = pb::RaftTiming { heartbeat_ms: 100, election_min_ms: 1_000, election_max_ms: 2_000 };
    let joined = Joined {
        cluster_id: "cluster-1".into(),
        catalog_members: vec![member(1), member(2)],
        catalog_timing: Some(timing),
        max_clock_offset_ns: 500_000_000,
    };
    let kinds = [
        ("joined", Reply::Joined(joined)),
        ("not-leader", Reply::NotLeader(pb::NotLeader { hint: 3 })),
        ("failure", Reply::Failure(failure())),
    ];
    let reply =
        |(variant, result)| fixture("meridian.internal.v1.JoinReply", variant, pb::JoinReply { result: Some(result) });
    let request = fixture("meridian.internal.v1.JoinRequest", "all", request);
    std::iter::once(request).chain(kinds.map(reply)).collect()
}

pub(crate) fn fixtures() -> Vec<Fixture> {
    let token = pb::PageToken { format: 1, timestamp: 100, resume: "k".into(), remaining: 9 };
    let mut all = vec![fixture("meridian.internal.v1.PageToken", "all", token)];
    for group in [appends(), elections(), snapshots(), gossip(), requests(), joining()] {
        all.extend(group);
    }
    all
}
