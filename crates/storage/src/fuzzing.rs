//! What fuzz targets call: every decoder of bytes that come from the disk, with what must hold of its answer. A broken rule
//! is a panic. The same functions run over seeded inputs in the tests below, so that they are not forgotten.

use crate::data::{Family, decode_ledger, decode_ledger_key, decode_version};
use crate::error::StoreName;
use crate::inspect;
use crate::physical::{log_file, mark, table};
use crate::raft::RawRecord;
use crate::{DataBatch, StorageError, Store, StoreOptions, backup, framed, identity, raft, snapshot};
use bytes::Bytes;
use meridian_proto::internal::v1::{
    BackupFile, BackupManifest, BackupShard, ClosedMark, Entry, InstallMark, LeaderId, LedgerRecord, LogId, Outcome,
    PromiseMark, ReplicaScope, ShardState, SnapshotFile, SnapshotManifest, entry, outcome,
};
use meridian_types::{RequestId, ShardId, TableId, Timestamp};
use prost::Message as _;
use std::path::Path;
use std::sync::Arc;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this crate.
pub const TARGETS: &[Target] = &[
    ("version", version),
    ("raft_record", raft_record),
    ("raft_key", raft_key),
    ("store_identity", store_identity),
    ("snapshot_manifest", snapshot_manifest),
    ("backup_manifest", backup_manifest),
    ("ledger", ledger),
    ("position", position),
    ("install_mark", install_mark),
    ("replica_scope", replica_scope),
    ("durable_mark", durable_mark),
    ("log_file_scan", log_file_scan),
    ("table_file", table_file),
];

/// The first byte says where the rest is cut in two.
fn two(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (at, rest) = data.split_first()?;
    rest.split_at_checked(usize::from(*at))
}

/// Key and value of a version: what decodes is encoded again to the same bytes.
pub fn version(data: &[u8]) {
    let Some((key, value)) = two(data) else { return };
    if let Ok((table, version)) = decode_version(key, value) {
        let encoded = crate::data::encode_version(table, &version.key, version.ts, version.value.as_deref());
        assert_eq!(encoded, (key.to_vec(), value.to_vec()));
    }
}

/// A record of the raft store: what opens is sealed again to the same bytes.
pub fn raft_record(data: &[u8]) {
    let Some((key, value)) = two(data) else { return };
    if let Some(payload) = raft::open_record(key, value) {
        assert_eq!(raft::seal_record(key, &payload), value);
    }
    // A good checksum, so that what is behind it is reached.
    let sealed = raft::seal_record(key, value);
    let payload = raft::open_record(key, &sealed).expect("sealed just now");
    assert_eq!(payload, value);
    match RawRecord::of(key) {
        RawRecord::Entry(index) => drop(inspect::decode_entry(index, payload)),
        other => drop(inspect::small(other, payload)),
    }
}

/// A key of the raft store.
pub fn raft_key(data: &[u8]) {
    drop(RawRecord::of(data).to_string());
}

/// The identity of a store: a newer format is refused.
pub fn store_identity(data: &[u8]) {
    if let Ok(found) = identity::decode(data, StoreName::Raft) {
        assert!(found.format <= identity::FORMAT);
    }
}

/// A snapshot's manifest: names that it leads to stay inside its folder.
pub fn snapshot_manifest(data: &[u8]) {
    drop(snapshot::decode_manifest(&Bytes::copy_from_slice(data)));
    let sealed = framed::seal(data);
    let Some(manifest) = snapshot::decode_manifest(&sealed.into()) else { return };
    for file in &manifest.files {
        if snapshot::is_plain(&file.name) {
            let joined = Path::new("/staged").join(&file.name);
            assert_eq!(joined.parent(), Some(Path::new("/staged")), "{}", file.name);
        }
        let _ = Family::from_name(&file.family);
    }
}

/// A backup's manifest: what passes the check leads to files inside the backup only, and is written again as it was read.
pub fn backup_manifest(data: &[u8]) {
    drop(backup::decode_manifest(&Bytes::copy_from_slice(data)));
    let sealed = framed::seal(data);
    let Ok(manifest) = backup::decode_manifest(&sealed.into()) else { return };
    let again = backup::decode_manifest(&backup::encode_manifest(&manifest).into());
    assert_eq!(again.as_ref(), Ok(&manifest));
    let Ok(scopes) = backup::check_manifest(&manifest) else { return };
    assert_eq!(scopes.len(), manifest.shards.len());
    for shard in &manifest.shards {
        let folder = Path::new("/backup").join(&shard.dir);
        assert_eq!(folder.parent(), Some(Path::new("/backup")), "{}", shard.dir);
        for file in &shard.files {
            assert_eq!(folder.join(&file.name).parent(), Some(&*folder), "{}", file.name);
        }
    }
}

/// A record of the request ledger.
pub fn ledger(data: &[u8]) {
    let Some((key, value)) = two(data) else { return };
    if let Ok((shard, id)) = decode_ledger_key(key) {
        assert_eq!(crate::data::ledger_key(shard, &id), key);
    }
    drop(LedgerRecord::decode(value));
    drop(decode_ledger(key, value));
}

/// A shard's position.
pub fn position(data: &[u8]) {
    drop(ShardState::decode(data));
}

/// The mark of an installation.
pub fn install_mark(data: &[u8]) {
    drop(InstallMark::decode(data));
}

/// What a replica is of, what was closed of it, and what it has promised.
pub fn replica_scope(data: &[u8]) {
    drop(ReplicaScope::decode(data));
    drop(ClosedMark::decode(data));
    drop(PromiseMark::decode(data));
}

/// A slot of the file that says what was durable.
pub fn durable_mark(data: &[u8]) {
    let _ = mark::decode(data);
}

/// A write-ahead log or MANIFEST: the scan ends, and inside the file.
pub fn log_file_scan(data: &[u8]) {
    let length = data.len() as u64;
    let mut records = 0;
    let found = log_file::scan(Path::new("log"), data, length, |at, record| {
        records += 1;
        assert!(at + record.len() as u64 <= length);
        let _ = log_file::batch_header(record);
        let _ = log_file::last_sequence(record);
        let _ = log_file::vouched(record);
        let _ = log_file::left_in_group(record);
    });
    let found = found.expect("memory can be read");
    assert!(found.whole <= length && found.records == records);
    if let log_file::End::Damaged(damage) = found.end {
        assert!(damage.offset <= length);
    }
}

/// A table: the check ends, with its rows as without.
pub fn table_file(data: &[u8]) {
    let (path, length) = (Path::new("table"), data.len() as u64);
    let found = table::check_content(path, data, length).expect("what is inside can be read");
    let with_rows = table::check_rows(path, data, length, &mut |offset, _, _| assert!(offset < length));
    let with_rows = with_rows.expect("what is inside can be read");
    assert_eq!(found.blocks, with_rows.blocks);
    assert!(with_rows.damage.len() >= found.damage.len());
}

/// Puts two parts together as [`two`] takes them apart.
fn joined(first: &[u8], second: &[u8]) -> Vec<u8> {
    let at = u8::try_from(first.len()).expect("a short first part");
    [&[at], first, second].concat()
}

/// Inputs that lead into the decoders, each for one target: what is really written. Makes a small store in the folder.
pub fn seeds(dir: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = records();
    small_store(dir).expect("a store can be made in the folder");
    for folder in ["raft", "data"] {
        let files = std::fs::read_dir(dir.join(folder)).expect("it was made just now");
        let mut paths: Vec<_> = files.map(|file| file.expect("it can be listed").path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let target = match name.as_str() {
                "SYNCED" => "durable_mark",
                name if name.ends_with(".sst") => "table_file",
                name if name.ends_with(".log") || name.starts_with("MANIFEST") => "log_file_scan",
                _ => continue,
            };
            seeds.push((target, std::fs::read(&path).expect("it can be read")));
        }
    }
    seeds
}

/// A store with a table or more, and logs with records of several blocks.
fn small_store(dir: &Path) -> Result<(), StorageError> {
    let options = StoreOptions { on_fatal: Arc::new(|_| {}), ..StoreOptions::default() };
    let store = Store::open(dir, options)?;
    let mut batch = DataBatch::default();
    for n in 0..200 {
        let value = (n % 5 > 0).then(|| "value".into());
        batch.put_version(TableId(3), format!("key {}", n / 3).as_bytes(), Timestamp(n), value);
    }
    store.data.write(batch)?;
    store.data.flush()?;
    let log = store.raft.shard(ShardId(1));
    log.append(&[(1, vec![7; 40_000].into()), (2, "two".into())], Box::new(|_| {}))?;
    log.mark("m", Some("x".into()))
}

/// Records of every kind.
fn records() -> Vec<(&'static str, Vec<u8>)> {
    let log_id = LogId { leader: Some(LeaderId { term: 3, node: 2 }), index: 42 };
    let state = ShardState { applied: Some(log_id), last_ts: 500, gc_floor: 17, ..ShardState::default() };
    let file = SnapshotFile { name: "versions-000000.sst".into(), family: "versions".into(), bytes: 70, crc32c: 9 };
    let files = vec![file.clone()];
    let manifest =
        SnapshotManifest { format: 1, shard: 4, snapshot_id: "s4".into(), state: Some(state.clone()), files };
    let SnapshotFile { name, family, bytes, crc32c } = file;
    let shard = BackupShard {
        shard: 4,
        table: 7,
        start: "a".into(),
        end: Some("m".into()),
        source: Some(state.clone()),
        dir: "s4".into(),
        files: vec![BackupFile { name, family, bytes, crc32c, rows: 3 }],
    };
    let made = BackupManifest { format: 1, at: 500, shards: vec![shard], bytes, ..BackupManifest::default() };
    let id = RequestId { time: Timestamp(5), client: 6, sequence: 7 };
    let committed = outcome::Result::Committed(outcome::Committed { reads: Vec::new() });
    let decided = LedgerRecord { fingerprint: 1, outcome: Some(Outcome { ts: 500, result: Some(committed) }) };
    let mark = InstallMark {
        dir: "snapshots/s4".into(),
        manifest: Some(manifest.clone()),
        table: 7,
        ..InstallMark::default()
    };
    let scope = ReplicaScope { table: 7, start: "a".into(), end: "m".into() };
    let entry = Entry { log_id: Some(log_id), payload: Some(entry::Payload::Blank(entry::Blank {})) };
    let of = |key: &[u8], payload: Vec<u8>| joined(key, &raft::seal_record(key, &payload));
    let mut seeds = vec![
        ("store_identity", identity::fresh(9).encode_to_vec()),
        ("snapshot_manifest", manifest.encode_to_vec()),
        ("backup_manifest", made.encode_to_vec()),
        ("backup_manifest", backup::encode_manifest(&made)),
        ("ledger", joined(&crate::data::ledger_key(ShardId(4), &id), &decided.encode_to_vec())),
        ("position", state.encode_to_vec()),
        ("install_mark", mark.encode_to_vec()),
        ("replica_scope", scope.encode_to_vec()),
        ("replica_scope", PromiseMark { promise_ms: 600 }.encode_to_vec()),
        ("replica_scope", ClosedMark { closed: 500, position: 400 }.encode_to_vec()),
        ("raft_record", of(&raft::entry_key(ShardId(4), 42), entry.encode_to_vec())),
        ("raft_record", of(&raft::mark_key(ShardId(4), "scope"), scope.encode_to_vec())),
        ("raft_key", raft::entry_key(ShardId(4), 42).to_vec()),
        ("raft_key", raft::mark_key(ShardId(4), "scope")),
    ];
    for value in [None, Some(b"".as_slice()), Some(b"value")] {
        let (key, value) = crate::data::encode_version(TableId(1), b"a\0b", Timestamp(5), value);
        seeds.push(("version", joined(&key, &value)));
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Change {
        Set(prop::sample::Index, u8),
        Cut(prop::sample::Index),
        Zero(prop::sample::Index, usize),
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = prop_oneof![
            4 => any::<(prop::sample::Index, u8)>().prop_map(|(at, to)| Change::Set(at, to)),
            1 => any::<prop::sample::Index>().prop_map(Change::Cut),
            1 => (any::<prop::sample::Index>(), 1..5000_usize).prop_map(|(at, n)| Change::Zero(at, n)),
        ];
        prop::collection::vec(change, 0..4)
    }

    #[test]
    fn every_target_survives_changed_and_arbitrary_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let seeds: Vec<Vec<u8>> = seeds(dir.path()).into_iter().map(|(_, bytes)| bytes).collect();
        let strategy = (any::<prop::sample::Index>(), changes(), prop::collection::vec(any::<u8>(), 0..300));
        let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
        let seed = proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
        let mut runner = proptest::test_runner::TestRunner::new_with_rng(config, seed);
        runner
            .run(&strategy, |(which, changes, arbitrary)| {
                let mut bytes = which.get(&seeds).clone();
                for change in changes {
                    if bytes.is_empty() {
                        break;
                    }
                    match change {
                        Change::Set(at, to) => *at.get_mut(&mut bytes) = to,
                        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
                        Change::Zero(at, n) => {
                            let at = at.index(bytes.len());
                            bytes.iter_mut().skip(at).take(n).for_each(|byte| *byte = 0);
                        }
                    }
                }
                for (_, target) in TARGETS {
                    target(&bytes);
                    target(&arbitrary);
                }
                Ok(())
            })
            .unwrap();
    }
}
