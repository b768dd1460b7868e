//! What the raft store holds of one shard, record by record.

use super::StoppedNode;
use crate::StorageError;
use crate::raft::RawRecord;
use bytes::Bytes;
use meridian_proto::internal::v1::{Command, Entry, LogId, Vote, entry};
use meridian_types::ShardId;
use prost::Message as _;
use std::ops::RangeInclusive;

/// One entry of a shard's log.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// Its index, from its key.
    pub index: u64,
    /// Bytes of its encoding.
    pub bytes: usize,
    /// What it holds, or why that cannot be said.
    pub entry: Result<DecodedEntry, String>,
}

/// An entry and, if it carries one, its command.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedEntry {
    /// The entry; a command is in it as bytes.
    pub entry: Entry,
    /// The command.
    pub command: Option<Command>,
}

/// A small record beside a shard's log.
#[derive(Clone, Debug, PartialEq)]
pub enum SmallRecord {
    /// The last saved vote.
    Vote(Vote),
    /// The last purged entry.
    Purged(LogId),
    /// The last entry known to be committed, as far as it was written down.
    Committed(LogId),
    /// A named record.
    Mark {
        /// Its name.
        name: String,
        /// What it holds, still encoded.
        value: Bytes,
    },
}

/// What there is of one shard's log.
#[derive(Clone, Debug, Default)]
pub struct LogDump {
    /// Vote, purged and committed ids, marks; or why one cannot be read.
    pub records: Vec<Result<SmallRecord, String>>,
    /// The first and the last index there is, in the whole log.
    pub bounds: Option<(u64, u64)>,
}

impl StoppedNode {
    /// Reads the small records of a shard's log, and hands out its entries whose index is in `range`, in order. A record
    /// that is damaged is handed out as such; the others are read all the same.
    ///
    /// * Errors: the file below cannot be read, or `each` fails.
    pub fn log<E: From<StorageError>>(
        &self,
        shard: ShardId,
        range: RangeInclusive<u64>,
        mut each: impl FnMut(LogEntry) -> Result<(), E>,
    ) -> Result<LogDump, E> {
        let mut dump = LogDump::default();
        self.raft.records_of(shard, |record, value| {
            let payload = value.map_err(|error| error.to_string());
            match record {
                RawRecord::Entry(index) => {
                    let first = dump.bounds.map_or(index, |(first, _)| first);
                    dump.bounds = Some((first, index));
                    if range.contains(&index) {
                        let bytes = payload.as_ref().map_or(0, Bytes::len);
                        let entry = payload.and_then(|bytes| decode_entry(index, bytes));
                        return each(LogEntry { index, bytes, entry });
                    }
                }
                other => dump.records.push(payload.and_then(|payload| small(other, payload))),
            }
            Ok(())
        })?;
        Ok(dump)
    }
}

/// Decodes an entry that was found under `index`.
pub(crate) fn decode_entry(index: u64, bytes: Bytes) -> Result<DecodedEntry, String> {
    let malformed = |error| format!("entry {index}: {error}");
    let entry = Entry::decode(bytes).map_err(malformed)?;
    let command = match &entry.payload {
        Some(entry::Payload::Command(bytes)) => Some(Command::decode(bytes.clone()).map_err(malformed)?),
        Some(entry::Payload::Blank(_) | entry::Payload::Membership(_)) | None => None,
    };
    match entry.log_id.as_ref().map(|id| id.index) {
        Some(found) if found == index => Ok(DecodedEntry { entry, command }),
        found => Err(format!("entry {index} says of itself that its index is {found:?}")),
    }
}

/// Decodes a record that is no entry.
pub(crate) fn small(record: RawRecord, payload: Bytes) -> Result<SmallRecord, String> {
    let bad = |what: &str, error: prost::DecodeError| format!("{what}: {error}");
    match record {
        RawRecord::Vote => Vote::decode(payload).map(SmallRecord::Vote).map_err(|e| bad("vote", e)),
        RawRecord::Purged => LogId::decode(payload).map(SmallRecord::Purged).map_err(|e| bad("purged log id", e)),
        RawRecord::Committed => {
            LogId::decode(payload).map(SmallRecord::Committed).map_err(|e| bad("committed log id", e))
        }
        RawRecord::Mark(name) => Ok(SmallRecord::Mark { name, value: payload }),
        RawRecord::Entry(index) => Err(format!("entry {index} among the small records")),
        RawRecord::Unknown(kind) => Err(format!("a record of the unknown kind {kind}")),
    }
}
