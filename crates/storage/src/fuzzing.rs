//! What fuzz targets call: every decoder of bytes that come from the disk, with what must hold of its answer. A broken rule
//! is a panic. The same functions run over seeded inputs in the tests below, so that they are not forgotten.

use crate::data::{Family, decode_ledger_key, decode_version};
use crate::error::StoreName;
use crate::inspect;
use crate::physical::{log_file, mark, table};
use crate::raft::RawRecord;
use crate::{identity, raft, snapshot};
use bytes::Bytes;
use meridian_proto::internal::v1::{InstallMark, LedgerRecord, ShardState};
use prost::Message as _;
use std::path::Path;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this crate.
pub const TARGETS: &[Target] = &[
    ("version", version),
    ("raft_record", raft_record),
    ("raft_key", raft_key),
    ("store_identity", store_identity),
    ("snapshot_manifest", snapshot_manifest),
    ("ledger", ledger),
    ("position", position),
    ("install_mark", install_mark),
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
    let mut framed = crc32c::crc32c(data).to_be_bytes().to_vec();
    framed.extend_from_slice(data);
    let Some(manifest) = snapshot::decode_manifest(&framed.into()) else { return };
    for file in &manifest.files {
        if snapshot::is_plain(&file.name) {
            let joined = Path::new("/staged").join(&file.name);
            assert_eq!(joined.parent(), Some(Path::new("/staged")), "{}", file.name);
        }
        let _ = Family::from_name(&file.family);
    }
}

/// A record of the request ledger.
pub fn ledger(data: &[u8]) {
    let Some((key, value)) = two(data) else { return };
    if let Ok((shard, id)) = decode_ledger_key(key) {
        assert_eq!(crate::data::ledger_key(shard, &id), key);
    }
    drop(LedgerRecord::decode(value));
}

/// A shard's position.
pub fn position(data: &[u8]) {
    drop(ShardState::decode(data));
}

/// The mark of an installation.
pub fn install_mark(data: &[u8]) {
    drop(InstallMark::decode(data));
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

/// A table: the check ends.
pub fn table_file(data: &[u8]) {
    drop(table::check_content(Path::new("table"), data, data.len() as u64).expect("what is inside can be read"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Inputs that lead into the decoders: what is really written, to be changed here and there.
    fn seeds() -> Vec<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let options = crate::StoreOptions { on_fatal: std::sync::Arc::new(|_| {}), ..Default::default() };
        let store = crate::Store::open(dir.path(), options).unwrap();
        let mut batch = crate::DataBatch::default();
        for n in 0..200 {
            let (table, ts) = (meridian_types::TableId(3), meridian_types::Timestamp(n));
            batch.put_version(table, format!("key {}", n / 3).as_bytes(), ts, (n % 5 > 0).then(|| "value".into()));
        }
        store.data.write(batch).unwrap();
        store.data.flush().unwrap();
        let log = store.raft.shard(meridian_types::ShardId(1));
        log.append(&[(1, vec![7; 40_000].into()), (2, "two".into())], Box::new(|_| {})).unwrap();
        log.mark("m", Some("x".into())).unwrap();
        drop((store, log));
        let mut seeds = Vec::new();
        for folder in ["raft", "data"] {
            for file in std::fs::read_dir(dir.path().join(folder)).unwrap() {
                let path = file.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if !name.starts_with("LOG") && !name.starts_with("OPTIONS") {
                    seeds.push(std::fs::read(path).unwrap());
                }
            }
        }
        let mut version = vec![0];
        let (key, value) =
            crate::data::encode_version(meridian_types::TableId(1), b"a\0b", meridian_types::Timestamp(5), Some(b"v"));
        version[0] = key.len().try_into().unwrap();
        version.extend(key);
        version.extend(value);
        seeds.push(version);
        seeds.push(identity::fresh(9).encode_to_vec());
        seeds
    }

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
        let seeds = seeds();
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
