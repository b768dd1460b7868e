//! Seeds for the targets: what this build really writes, and the fixtures of the wire.

use bytes::Bytes;
use meridian_catalog::{Cluster, Node, Record, RttMatrix, timing_for};
use meridian_proto::internal::v1 as pb;
use meridian_proto::v1 as client;
use meridian_types::{Error, Fate, NodeId, Reason};
use meridian_wire::status;
use prost::Message;
use std::path::Path;
use std::time::Duration;

/// A target, a file name, and what is in the file.
pub(crate) type Seed = (String, String, Vec<u8>);

pub(crate) fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let dir = tempfile::tempdir().unwrap();
    for (n, (target, bytes)) in meridian_storage::fuzzing::seeds(dir.path()).into_iter().enumerate() {
        seeds.push((format!("disk_{target}"), format!("{n:03}"), bytes));
    }
    seeds.extend(statuses());
    seeds.extend(catalog());
    for (name, bytes) in fixtures() {
        seeds.extend(of_fixture(&name, bytes));
    }
    seeds
}

/// The fixtures of the wire, by their names.
fn fixtures() -> Vec<(String, Bytes)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/fixtures/v1");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut named: Vec<_> = files
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap().into())
        })
        .collect();
    named.sort();
    named
}

/// The targets that a fixture leads into, with the parts of it that they take.
fn of_fixture(name: &str, bytes: Bytes) -> Vec<Seed> {
    let (kind, variant) = name.split_once('-').unwrap();
    let seed = |target: &str, part: Vec<u8>| (target.to_owned(), name.to_owned(), part);
    let whole = |target: &str| vec![seed(target, bytes.to_vec())];
    match kind {
        "meridian.internal.v1.AppendRequest" => {
            let append = pb::AppendRequest::decode(bytes.clone()).unwrap();
            let entries = append
                .entries
                .iter()
                .enumerate()
                .map(|(n, entry)| ("raft_entry".to_owned(), format!("{name}-{n}"), entry.encode_to_vec()));
            let mut seeds = whole("raft_append");
            seeds.extend(entries);
            seeds.push(seed("raft_vote", append.vote.unwrap().encode_to_vec()));
            seeds
        }
        "meridian.internal.v1.AppendReply" => whole("raft_append_reply"),
        "meridian.internal.v1.VoteRequest"
        | "meridian.internal.v1.VoteReply"
        | "meridian.internal.v1.VotedRequest"
        | "meridian.internal.v1.VotedReply"
        | "meridian.internal.v1.TransferLeaderRequest"
        | "meridian.internal.v1.TransferLeaderReply" => whole("raft_election"),
        "meridian.internal.v1.SnapshotChunk" => {
            let mut seeds = whole("raft_snapshot_chunk");
            let chunk = pb::SnapshotChunk::decode(bytes.clone()).unwrap();
            if let Some(pb::snapshot_chunk::Part::Header(header)) = chunk.part {
                let state = header.manifest.unwrap().state.unwrap();
                seeds.push(seed("raft_shard_state", state.encode_to_vec()));
            }
            seeds
        }
        "meridian.internal.v1.MutateRequest" => {
            let mutation = pb::MutateRequest::decode(bytes.clone()).unwrap().mutation.unwrap();
            vec![seed("record_mutation", mutation.encode_to_vec())]
        }
        "meridian.internal.v1.MutateReply" => match pb::MutateReply::decode(bytes.clone()).unwrap().result {
            Some(pb::mutate_reply::Result::Failure(failure)) => vec![seed("api_failure", failure.encode_to_vec())],
            _ => Vec::new(),
        },
        "meridian.internal.v1.ReadRequest" => whole("record_read"),
        "meridian.internal.v1.PageToken" => whole("api_page_token"),
        "meridian.v1.GetRequest" => {
            let level = client::GetRequest::decode(bytes.clone()).unwrap().consistency.unwrap();
            let mut seeds = whole("client_request");
            seeds.push(("client_consistency".to_owned(), variant.to_owned(), level.encode_to_vec()));
            seeds
        }
        "meridian.v1.PutRequest"
        | "meridian.v1.DeleteRequest"
        | "meridian.v1.ScanRequest"
        | "meridian.v1.TransactRequest" => whole("client_request"),
        "meridian.v1.PipelineRequest" | "meridian.v1.PipelineReply" => whole("client_pipeline"),
        "meridian.v1.PutReply" => {
            let header = client::PutReply::decode(bytes.clone()).unwrap().header.unwrap();
            vec![seed("client_reply", header.encode_to_vec())]
        }
        "meridian.v1.CreateTableRequest" => whole("client_tables"),
        _ => Vec::new(),
    }
}

/// The statuses of some errors: code, then details.
fn statuses() -> Vec<Seed> {
    let seed = |(reason, fate): (Reason, Fate)| {
        let status = status::to_status(&Error::new(reason, "why").with_fate(fate));
        let code = u8::try_from(i32::from(status.code())).unwrap();
        let bytes = [&[code], status.details()].concat();
        ("client_status".to_owned(), format!("{}-{fate:?}", reason.name()), bytes)
    };
    let kinds = [
        (Reason::Overloaded, Fate::NotApplied),
        (Reason::OutcomeUnknown, Fate::Unknown),
        (Reason::PreconditionFailed, Fate::NotApplied),
    ];
    kinds.map(seed).into()
}

/// Records of the catalog: length of the key, key, value.
fn catalog() -> Vec<Seed> {
    let mut rtts = RttMatrix::default();
    rtts.set("eu-west".into(), "us-east".into(), Duration::from_millis(70));
    let cluster = Cluster {
        id: "c".into(),
        rtts,
        timing: timing_for(Duration::from_millis(70)),
        max_clock_offset: Duration::from_millis(500),
    };
    let node = Node {
        id: NodeId(3),
        region: "eu-west".into(),
        zone: "a".into(),
        grpc_address: "host:1".into(),
        http_address: "host:2".into(),
        incarnation: 7,
        version: "0.1.0".into(),
    };
    let seed = |name: &str, key: Bytes, value: Bytes| {
        let bytes = [&[u8::try_from(key.len()).unwrap()], &key[..], &value[..]].concat();
        ("record_catalog".to_owned(), name.to_owned(), bytes)
    };
    let mut seeds = vec![table(&seed)];
    for (name, record) in
        [("cluster", Record::Cluster(cluster)), ("node", Record::Node(node)), ("next", Record::NextId(9))]
    {
        seeds.push(seed(name, record.key(), record.encode()));
    }
    seeds
}

/// A table of two shards with two replicas each.
fn table(seed: &impl Fn(&str, Bytes, Bytes) -> Seed) -> Seed {
    let replica = |node, voter| pb::ReplicaRecord {
        member: Some(pb::Member { node, region: "eu-west".into(), address: format!("host-{node}:1") }),
        voter,
    };
    let shard = |id, start: &'static str, end: &'static str| pb::ShardRecord {
        id,
        start: start.into(),
        end: end.into(),
        replicas: vec![replica(1, true), replica(2, false)],
        preferred_leader: 1,
        timing: Some(meridian_wire::timing::encode(timing_for(Duration::from_millis(70)))),
    };
    let preset = client::placement::Preset::Regional(client::placement::Regional { home: "eu-west".into() });
    let record = pb::TableRecord {
        id: 3,
        name: "t".into(),
        placement: Some(client::Placement { preset: Some(preset) }),
        shards: vec![shard(4, "", "m"), shard(5, "m", "")],
        gc_ttl_ns: 1_000_000_000,
        classic_commit: true,
    };
    let (key, value) = (meridian_catalog::table_key("t"), Bytes::from(record.encode_to_vec()));
    assert!(matches!(Record::decode(&key, &value), Ok(Some(Record::Table(_)))), "a seed that leads nowhere");
    seed("table", key, value)
}
