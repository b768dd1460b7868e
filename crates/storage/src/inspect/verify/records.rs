//! The second pass: every record, read through RocksDB and decoded.

use super::{Place, Report};
use crate::StorageError;
use crate::data::{Family, decode_ledger_key, decode_version};
use crate::engine::{Reach, Scan};
use crate::inspect::StoppedNode;
use crate::inspect::log::{decode_entry, small};
use crate::raft::RawRecord;
use meridian_proto::internal::v1::LedgerRecord;
use meridian_types::ShardId;
use prost::Message as _;

/// Findings of one kind after which the rest is only counted.
const NAMED_MAX: u64 = 100;

/// Reads both stores whole.
pub(super) fn check(node: &StoppedNode, report: &mut Report) {
    if let Err(error) = raft(node, report) {
        unreadable(report, "raft store", &error);
    }
    for family in [Family::Versions, Family::Ledger] {
        if let Err(error) = data(node, family, report) {
            unreadable(report, family.name(), &error);
        }
    }
    match node.data.all_positions() {
        Ok(positions) => report.records += positions.len() as u64,
        Err(error) => unreadable(report, Family::Shards.name(), &error),
    }
}

/// RocksDB could not go on. If a table was found to be damaged, that is the same thing seen twice.
fn unreadable(report: &mut Report, what: &str, error: &StorageError) {
    let in_a_table = report.findings.iter().any(|f| matches!(f.place, Place::File(..)));
    if !in_a_table {
        report.found(Place::Record(format!("{what}: not all records can be read")), error.to_string());
    }
    report.skipped.push(format!("the rest of the {what}: {error}"));
}

fn raft(node: &StoppedNode, report: &mut Report) -> Result<(), StorageError> {
    for shard in node.raft.shards()? {
        let (mut last, mut named) = (None, 0);
        node.raft.records_of(shard, |record, payload| {
            report.records += 1;
            let name = record.to_string();
            let index = match record {
                RawRecord::Entry(index) => Some(index),
                _ => None,
            };
            let fault = match (index, payload) {
                (_, Err(error)) => Some(error.to_string()),
                (Some(index), Ok(payload)) => decode_entry(index, payload).err(),
                (None, Ok(payload)) => small(record, payload).err(),
            };
            let hole = index.and_then(|index| {
                let before = last.replace(index)?;
                (before + 1 != index).then(|| format!("it follows entry {before}"))
            });
            for what in fault.into_iter().chain(hole) {
                named += 1;
                if named <= NAMED_MAX {
                    report.found(Place::Record(format!("{name} of {shard} in raft/")), what);
                }
            }
            Ok::<_, StorageError>(())
        })?;
        more(report, named, &format!("log of {shard}"));
    }
    Ok(())
}

fn data(node: &StoppedNode, family: Family, report: &mut Report) -> Result<(), StorageError> {
    let view = node.data.view();
    let mut iter = view.iter(family, Scan { start: None, end: None, reach: Reach::Once });
    let mut named = 0;
    iter.seek_to_first();
    while let Some((key, value)) = iter.item() {
        report.records += 1;
        let fault = match family {
            Family::Versions => decode_version(key, value).err().map(|error| error.to_string()),
            _ => ledger(key, value),
        };
        if let Some(what) = fault {
            named += 1;
            if named <= NAMED_MAX {
                let key = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                report.found(Place::Record(format!("record {key} of `{}` in data/", family.name())), what);
            }
        }
        iter.next();
    }
    more(report, named, family.name());
    iter.status("read all records")
}

fn ledger(key: &[u8], value: &[u8]) -> Option<String> {
    let bad = |shard: ShardId, error: prost::DecodeError| format!("ledger of {shard}: {error}");
    match decode_ledger_key(key) {
        Ok((shard, _)) => LedgerRecord::decode(value).err().map(|error| bad(shard, error)),
        Err(error) => Some(error.to_string()),
    }
}

fn more(report: &mut Report, named: u64, of: &str) {
    if let Some(rest) = named.checked_sub(NAMED_MAX).filter(|rest| *rest > 0) {
        report.found(Place::Record(of.to_owned()), format!("{rest} more records are damaged"));
    }
}
