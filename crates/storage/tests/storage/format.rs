//! The format on disk: what was written once is read for ever, and what is too new is refused.
//!
//! `fixtures/format-1` is a data directory as the build wrote it that introduced format 1. It is never written again: a build
//! that cannot read it any more breaks every node that is updated to it. When the format number is raised, add a fixture
//! beside it with
//!
//! ```text
//! MERIDIAN_FIXTURE=crates/storage/tests/fixtures/format-2 cargo test -p meridian-storage --test storage \
//!     -- --ignored write_a_fixture
//! ```
//!
//! and a line in `EVERY_FORMAT`.

use crate::support::{crash, folder, open, small_options};
use bytes::Bytes;
use meridian_proto::internal::v1 as pb;
use meridian_proto::v1::{Precondition, RequestId as PbRequestId, WriteOp, precondition, write_op};
use meridian_storage::inspect::{self, SmallRecord, StoppedNode};
use meridian_storage::{DataBatch, Store, read_manifest};
use meridian_types::{KeyRange, NodeId, RequestId, ShardId, TableId, Timestamp};
use prost::Message as _;
use std::path::{Path, PathBuf};

const EVERY_FORMAT: &[&str] = &["format-1"];

const TABLE: TableId = TableId(7);
const INCARNATION_SOURCE: &str = "earth";

/// Has a log that was purged, and data.
const OLD: ShardId = ShardId(1);
/// Has entries of every kind.
const KINDS: ShardId = ShardId(2);
/// Was receiving a snapshot of `OLD` when the node stopped.
const INSTALLING: ShardId = ShardId(3);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn log_id(term: u64, node: u64, index: u64) -> pb::LogId {
    pb::LogId { leader: Some(pb::LeaderId { term, node }), index }
}

fn membership() -> pb::Membership {
    let member = |node| pb::Member { node, region: format!("region-{node}"), address: format!("host-{node}:26600") };
    let set = |nodes: &[u64]| pb::membership::VoterSet { nodes: nodes.into() };
    pb::Membership { configs: vec![set(&[1, 2]), set(&[1, 3])], members: (1..=3).map(member).collect() }
}

fn command(ts: u64, body: pb::command::Body) -> pb::entry::Payload {
    pb::entry::Payload::Command(pb::Command { ts, body: Some(body), ..pb::Command::default() }.encode_to_vec().into())
}

/// Entries 1 to 6 of `KINDS`: one of each kind.
fn kinds() -> Vec<pb::Entry> {
    use pb::command::Body;
    let mutation = pb::Mutation {
        request_id: Some(PbRequestId { time_ns: 11, client: 12, sequence: 13 }),
        table: TABLE.0,
        preconditions: vec![
            Precondition { key: "p".into(), condition: Some(precondition::Condition::Exists(true)) },
            Precondition { key: "q".into(), condition: Some(precondition::Condition::Version(9)) },
            Precondition { key: "r".into(), condition: Some(precondition::Condition::Value("v".into())) },
        ],
        writes: vec![
            WriteOp { key: b"a\0b".as_slice().into(), action: Some(write_op::Action::Put("new".into())) },
            WriteOp { key: "c".into(), action: Some(write_op::Action::Delete(write_op::Remove {})) },
        ],
        reads: vec!["d".into()],
    };
    let payloads = [
        pb::entry::Payload::Blank(pb::entry::Blank {}),
        pb::entry::Payload::Membership(membership()),
        command(100, Body::Barrier(pb::command::Barrier {})),
        command(101, Body::Mutations(pb::Mutations { mutations: vec![mutation.clone(), mutation] })),
        command(103, Body::RaiseFloor(pb::command::RaiseFloor { floor: 50 })),
        command(u64::MAX - 1, Body::Barrier(pb::command::Barrier {})),
    ];
    let entry = |(index, payload)| pb::Entry { log_id: Some(log_id(4, 2, index)), payload: Some(payload) };
    (1..).zip(payloads).map(entry).collect()
}

/// An entry of `OLD`.
fn old(index: u64) -> pb::Entry {
    pb::Entry { log_id: Some(log_id(1, 1, index)), payload: Some(pb::entry::Payload::Blank(pb::entry::Blank {})) }
}

fn position() -> pb::ShardState {
    let membership = pb::StoredMembership { log_id: Some(log_id(1, 1, 1)), membership: Some(membership()) };
    let (applied, membership) = (Some(log_id(1, 1, 60)), Some(membership));
    // The directory is older than lead times and agreed timers: they are absent, and read as none.
    pb::ShardState { applied, last_ts: 500, membership, gc_floor: 17, lead_ns: 0, timing: None }
}

/// Key, timestamp and value; `None` is a tombstone.
type FixedVersion = (&'static [u8], u64, Option<&'static [u8]>);

/// Versions of the table: three of `a` with a tombstone on top, an empty value, keys that have to be escaped.
fn versions() -> Vec<FixedVersion> {
    vec![
        (b"", 5, Some(b"of the empty key")),
        (b"\0", 6, Some(b"")),
        (b"\0\xff\x01", 7, Some(b"\x00\x01\x02")),
        (b"a", 30, None),
        (b"a", 20, Some(b"second")),
        (b"a", 10, Some(b"first")),
        (b"z", u64::MAX - 1, Some(b"last")),
        (b"z", 0, Some(b"at zero")),
    ]
}

fn ledger() -> Vec<(RequestId, pb::LedgerRecord)> {
    use pb::outcome::{Committed, Refused, Result as Outcome};
    let id = |n| RequestId { time: Timestamp(n), client: n + 1, sequence: n + 2 };
    let record =
        |n, result| pb::LedgerRecord { fingerprint: n, outcome: Some(pb::Outcome { ts: n, result: Some(result) }) };
    let refused = Refused { precondition: 2, found_version: 3, reveals: 4 };
    vec![
        (id(100), record(100, Outcome::Committed(Committed { reads: Vec::new() }))),
        (id(200), record(200, Outcome::Refused(refused))),
    ]
}

fn install_mark(manifest: pb::SnapshotManifest) -> pb::InstallMark {
    let dir = "snapshots/s3-in-0".to_owned();
    pb::InstallMark { dir, manifest: Some(manifest), table: TABLE.0 + 1, start: "b".into(), end: None }
}

/// Writes everything that a data directory can hold.
fn write(dir: &Path) {
    let store = open(dir);
    store.set_membership(INCARNATION_SOURCE, NodeId(9)).unwrap();
    let log = store.raft.shard(OLD);
    append_all(&store, OLD, (1..=80).map(old));
    log.purge(40, log_id(1, 1, 40).encode_to_vec().into()).unwrap();
    log.save_committed(log_id(1, 1, 70).encode_to_vec().into()).unwrap();
    let vote = pb::Vote { leader: Some(pb::LeaderId { term: 1, node: 1 }), committed: true };
    crate::support::block_on(log.save_vote(vote.encode_to_vec().into())).unwrap();
    let scope = pb::ReplicaScope { table: TABLE.0, start: "".into(), end: "m".into() };
    log.mark("scope", Some(scope.encode_to_vec().into())).unwrap();
    drop((store, log));

    // From here on in the write-ahead log; the rest is in tables.
    let store = open(dir);
    append_all(&store, KINDS, kinds());
    let log = store.raft.shard(KINDS);
    let vote = pb::Vote { leader: Some(pb::LeaderId { term: 5, node: 3 }), committed: false };
    crate::support::block_on(log.save_vote(vote.encode_to_vec().into())).unwrap();
    let mut batch = DataBatch::default();
    for (key, ts, value) in versions() {
        batch.put_version(TABLE, key, Timestamp(ts), value.map(Bytes::from_static));
    }
    for (id, record) in ledger() {
        batch.put_ledger(OLD, &id, &record.encode_to_vec());
    }
    batch.put_shard_state(OLD, &position());
    store.data.write(batch).unwrap();
    store.data.flush().unwrap();

    // A snapshot, built of one shard and announced for another. Its manifest says which.
    let other = TableId(TABLE.0 + 1);
    let mut batch = DataBatch::default();
    batch.put_version(other, b"c", Timestamp(1), Some("installed".into()));
    batch.put_shard_state(INSTALLING, &pb::ShardState { last_ts: 1, ..position() });
    store.data.write(batch).unwrap();
    let staged = folder(&store, "s3-in-0");
    let manifest = store.data.build_snapshot(INSTALLING, other, &KeyRange::all(), &staged).unwrap();
    store.data.clear_shard(INSTALLING, other, &KeyRange::all()).unwrap();
    store.data.flush().unwrap();
    let mark = install_mark(manifest).encode_to_vec();
    store.raft.shard(INSTALLING).mark("install", Some(mark.into())).unwrap();
}

fn append_all(store: &Store, shard: ShardId, entries: impl IntoIterator<Item = pb::Entry>) {
    let entries: Vec<_> =
        entries.into_iter().map(|e| (e.log_id.unwrap().index, Bytes::from(e.encode_to_vec()))).collect();
    let (done, durable) = crate::support::waiter();
    store.raft.shard(shard).append(&entries, done).unwrap();
    durable.recv().unwrap().unwrap();
}

/// Reads everything that [`write`] writes.
fn check(dir: &Path) {
    let store = Store::open(dir, small_options()).unwrap();
    let identity = store.identity();
    assert_eq!((identity.cluster_id.as_str(), identity.node), (INCARNATION_SOURCE, 9));
    assert!(identity.format >= 1);

    let log = store.raft.shard(OLD);
    let read = |shard| {
        let entries = store.raft.shard(shard).read(0..u64::MAX, usize::MAX).unwrap();
        entries.into_iter().map(|(index, bytes)| (index, pb::Entry::decode(bytes).unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(read(OLD), (41..=80).map(|index| (index, old(index))).collect::<Vec<_>>());
    assert_eq!(read(KINDS), (1..).zip(kinds()).collect::<Vec<_>>());
    let decoded = |bytes: Option<Bytes>| pb::LogId::decode(bytes.unwrap()).unwrap();
    assert_eq!(decoded(log.purged().unwrap()), log_id(1, 1, 40));
    assert_eq!(decoded(log.committed().unwrap()), log_id(1, 1, 70));
    let vote = |shard| pb::Vote::decode(store.raft.shard(shard).vote().unwrap().unwrap()).unwrap();
    assert_eq!(vote(OLD), pb::Vote { leader: Some(pb::LeaderId { term: 1, node: 1 }), committed: true });
    assert_eq!(vote(KINDS), pb::Vote { leader: Some(pb::LeaderId { term: 5, node: 3 }), committed: false });
    let scope = pb::ReplicaScope::decode(log.get_mark("scope").unwrap().unwrap()).unwrap();
    assert_eq!((scope.table, &scope.start[..], &scope.end[..]), (TABLE.0, &b""[..], &b"m"[..]));
    assert_eq!(store.raft.shards().unwrap(), [OLD, KINDS, INSTALLING]);

    let view = store.data.view();
    for (key, ts, value) in versions() {
        let found = view.get(TABLE, key, Timestamp(ts)).unwrap().unwrap();
        assert_eq!((found.ts.0, found.value.as_deref()), (ts, value), "{key:?}");
    }
    let rows = view.scan(TABLE, &KeyRange::all(), Timestamp(25), false, 99, 9999).unwrap().rows;
    let keys: Vec<_> = rows.iter().map(|row| &row.key[..]).collect();
    assert_eq!(keys, [&b""[..], b"\0", b"\0\xff\x01", b"a", b"z"]);
    for (id, record) in ledger() {
        assert_eq!(pb::LedgerRecord::decode(view.ledger(OLD, &id).unwrap().unwrap()).unwrap(), record);
    }
    assert_eq!(view.shard_state(OLD).unwrap(), Some(position()));
    assert_eq!(view.shard_state(INSTALLING).unwrap(), None);
    drop(view);

    // The installation that was under way is done.
    assert_eq!(store.resume_installs().unwrap(), [INSTALLING]);
    let view = store.data.view();
    let other = TableId(TABLE.0 + 1);
    let found = view.get(other, b"c", Timestamp(1)).unwrap().unwrap();
    assert_eq!((found.ts.0, found.value.as_deref()), (1, Some(&b"installed"[..])));
    assert_eq!(view.shard_state(INSTALLING).unwrap().unwrap().last_ts, 1);
    let manifest = read_manifest(&store.files(), &folder(&store, "s3-in-0")).unwrap();
    assert_eq!((manifest.shard, manifest.files.len()), (INSTALLING.0, 1));
}

#[test]
fn every_format_that_was_ever_written_is_read() {
    for format in EVERY_FORMAT {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        crash(&fixtures().join(format), &copy);
        check(&copy);
    }
}

#[test]
fn the_tools_read_every_format_and_change_nothing() {
    for format in EVERY_FORMAT {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        crash(&fixtures().join(format), &copy);
        let report = inspect::verify(&copy, |_, _, _| {}).unwrap();
        assert!(report.findings.is_empty() && report.skipped.is_empty(), "{report:?}");

        let node = StoppedNode::open(&copy).unwrap();
        let mut shown = Vec::new();
        let dump = node
            .log(KINDS, 2..=5, |entry| {
                shown.push(entry.entry.unwrap().entry);
                Ok::<_, meridian_storage::StorageError>(())
            })
            .unwrap();
        assert_eq!((shown, dump.bounds), (kinds()[1..5].to_vec(), Some((1, 6))));
        let vote = pb::Vote { leader: Some(pb::LeaderId { term: 5, node: 3 }), committed: false };
        assert_eq!(dump.records, [Ok(SmallRecord::Vote(vote))]);

        let shards = node.shards().unwrap();
        assert_eq!(shards.iter().map(|info| info.shard).collect::<Vec<_>>(), [OLD, KINDS, INSTALLING]);
        assert_eq!((shards[0].state.clone(), shards[0].log), (Some(position()), Some((41, 80))));
        assert_eq!(shards[0].purged, Some(log_id(1, 1, 40)));
        assert!(shards[2].install.is_some() && shards[2].marks == ["install"]);

        let stored = |at: Option<u64>| {
            let mut found = Vec::new();
            let each = |version: inspect::StoredVersion| {
                found.push((version.key.to_vec(), version.ts.0, version.value.map(|v| v.to_vec())));
                Ok::<_, meridian_storage::StorageError>(())
            };
            node.versions(TABLE, &KeyRange::all(), at.map(Timestamp), each).unwrap();
            found
        };
        let owned = |(key, ts, value): (&[u8], u64, Option<&[u8]>)| (key.to_vec(), ts, value.map(<[u8]>::to_vec));
        assert_eq!(stored(None), versions().into_iter().map(owned).collect::<Vec<_>>());
        let keys: Vec<_> = stored(Some(25)).into_iter().map(|(key, ts, _)| (key, ts)).collect();
        assert_eq!(keys[3..], [(b"a".to_vec(), 20), (b"z".to_vec(), 0)]);
    }
}

/// What is written today is what the newest fixture's check reads.
#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    check(dir.path());
}

#[test]
#[ignore = "writes the fixture of a new format, once"]
fn write_a_fixture() {
    let dir = PathBuf::from(std::env::var("MERIDIAN_FIXTURE").expect("MERIDIAN_FIXTURE names the new folder"));
    let dir = if dir.is_relative() { Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(dir) } else { dir };
    assert!(!dir.exists(), "a fixture is never written again");
    write(&dir);
    // RocksDB's own messages, and options that nobody reads.
    for store in ["raft", "data"] {
        for file in std::fs::read_dir(dir.join(store)).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if ["LOG", "OPTIONS"].iter().any(|unread| name.starts_with(unread)) && name != "LOCK" {
                std::fs::remove_file(&path).unwrap();
            }
        }
    }
}
