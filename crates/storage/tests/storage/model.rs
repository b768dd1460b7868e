//! What a store is, in memory and in the simplest way: maps that are copied. The engines are held against it step by step.

use crate::engines::{Change, Step, id, key, range, show};
use crate::support::state;
use bytes::Bytes;
use meridian_proto::internal::v1::ShardState;
use meridian_storage::{ScanResult, ScanRow, StorageError, Version};
use meridian_types::{KeyRange, RequestId, ShardId, Timestamp};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// One shard's part of the raft store.
#[derive(Clone, Debug, Default)]
struct Log {
    entries: BTreeMap<u64, Bytes>,
    vote: Option<Bytes>,
    purged: Option<Bytes>,
    committed: Option<Bytes>,
    marks: BTreeMap<u8, Bytes>,
}

impl Log {
    /// A shard without state is not listed.
    fn is_there(&self) -> bool {
        let Self { entries, vote, purged, committed, marks } = self;
        !entries.is_empty() || vote.is_some() || purged.is_some() || committed.is_some() || !marks.is_empty()
    }
}

/// The data of all shards.
#[derive(Clone, Debug, Default)]
struct Data {
    versions: BTreeMap<(Bytes, Reverse<u64>), Option<Bytes>>,
    ledger: BTreeMap<(u64, [u8; RequestId::LEN]), Bytes>,
    positions: BTreeMap<u64, ShardState>,
}

/// A store as it should be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    logs: BTreeMap<u64, Log>,
    data: Data,
    /// What a crash leaves of the data.
    flushed: Data,
    /// What `durable` reports.
    durable: BTreeMap<u64, ShardState>,
}

impl Model {
    /// Does one step; says what it has to answer, where that is more than that it succeeded.
    pub(crate) fn run(&mut self, step: &Step) -> Option<String> {
        let done = Some(show(&Ok::<(), StorageError>(())));
        match *step {
            Step::Append { shard, entries, bytes } => {
                let log = &mut self.log(shard).entries;
                let next = log.last_key_value().map_or(1, |(last, _)| last + 1);
                for index in next..next + u64::from(entries) {
                    log.insert(index, vec![index as u8; bytes.into()].into());
                }
            }
            Step::Truncate { shard, back } => {
                let log = &mut self.log(shard).entries;
                let from = log.last_key_value().map_or(0, |(last, _)| *last).saturating_sub(back);
                log.retain(|index, _| *index < from);
            }
            Step::Purge { shard, ahead } => {
                let log = self.log(shard);
                let upto = log.entries.first_key_value().map_or(0, |(first, _)| *first) + ahead;
                log.entries.retain(|index, _| *index > upto);
                log.purged = Some(upto.to_be_bytes().to_vec().into());
            }
            Step::Vote { shard, vote } => self.log(shard).vote = Some(vec![vote].into()),
            Step::Committed { shard, id } => self.log(shard).committed = Some(vec![id].into()),
            Step::Mark { shard, name, value: Some(value) } => {
                self.log(shard).marks.insert(name, vec![value].into());
            }
            Step::Mark { shard, name, value: None } => drop(self.log(shard).marks.remove(&name)),
            Step::Destroy { shard } => drop(self.logs.remove(&shard)),
            Step::Write(ref changes) => changes.iter().for_each(|change| self.change(change)),
            Step::Clear { shard, start, len } => self.clear(shard, &range(start, len)),
            Step::Flush => self.flush(),
            // Built and installed in the same store it changes nothing of the range, and makes everything durable.
            Step::Snapshot { .. } => {
                self.flush();
                return None;
            }
            Step::Reopen => {
                self.flush();
                return Some(String::new());
            }
            Step::Crash => {
                self.data = self.flushed.clone();
                self.durable = self.data.positions.clone();
                return Some(String::new());
            }
        }
        done
    }

    fn log(&mut self, shard: u64) -> &mut Log {
        self.logs.entry(shard).or_default()
    }

    fn change(&mut self, change: &Change) {
        let data = &mut self.data;
        match change {
            Change::Version { key: n, ts, value } => {
                let value = value.map(|v| vec![v; v.into()].into());
                data.versions.insert((key(*n), Reverse(*ts)), value);
            }
            Change::Ledger { shard, time } => {
                data.ledger.insert((*shard, id(*time).to_bytes()), time.to_be_bytes().to_vec().into());
            }
            Change::Forget { shard, time } => {
                let kept = RequestId { time: Timestamp(*time), client: 0, sequence: 0 }.to_bytes();
                data.ledger.retain(|(of, id), _| of != shard || *id >= kept);
            }
            Change::Position { shard, index } => drop(data.positions.insert(*shard, state(*index, *index))),
        }
    }

    fn clear(&mut self, shard: u64, range: &KeyRange) {
        self.data.versions.retain(|(key, _), _| !range.contains(key));
        self.data.ledger.retain(|(of, _), _| *of != shard);
        self.data.positions.remove(&shard);
        self.durable.remove(&shard);
    }

    fn flush(&mut self) {
        self.flushed = self.data.clone();
        self.durable = self.data.positions.clone();
    }

    /// What [`Subject::content`](crate::engines) says of a store in this state.
    pub(crate) fn content(&self) -> Vec<String> {
        let there = self.logs.iter().filter(|(_, log)| log.is_there()).map(|(shard, _)| ShardId(*shard));
        let mut out = vec![show(&there.collect::<Vec<_>>())];
        let nothing = Log::default();
        for shard in 0..3 {
            let log = self.logs.get(&shard).unwrap_or(&nothing);
            out.push(show(&(&log.vote, &log.purged, &log.committed)));
            out.push(show(&(log.marks.get(&0), log.marks.get(&1))));
            let ends = (log.entries.first_key_value(), log.entries.last_key_value());
            out.push(show(&(ends.0.map(|(first, _)| first), ends.1.map(|(last, _)| last))));
            let start = ends.0.map_or(0, |(first, _)| *first);
            out.push(show(&read(log, 0..u64::MAX, usize::MAX)));
            out.push(show(&(read(log, start + 3..start + 9, 200), read(log, 0..start, 9))));
            out.push(show(&self.durable.get(&shard)));
        }
        for shard in 0..3 {
            let record = |time| self.data.ledger.get(&(shard, id(time).to_bytes()));
            let ledger: Vec<_> = (0..20).map(record).collect();
            out.push(show(&(self.data.positions.get(&shard), ledger)));
        }
        for at in [0, 7, 20, u64::MAX] {
            out.push(show(&(0..12).map(|n| self.get(&key(n), at)).collect::<Vec<_>>()));
            for (range, reverse) in [(KeyRange::all(), false), (KeyRange::all(), true), (range(3, 5), true)] {
                out.push(show(&self.scan(&range, at, reverse, usize::MAX, usize::MAX)));
                out.push(show(&self.scan(&range, at, reverse, 3, 300)));
            }
        }
        out
    }

    fn get(&self, key: &Bytes, at: u64) -> Option<Version> {
        let mut from = self.data.versions.range((key.clone(), Reverse(at))..);
        let ((found, Reverse(ts)), value) = from.next()?;
        (found == key).then(|| Version { ts: Timestamp(*ts), value: value.clone() })
    }

    fn scan(&self, range: &KeyRange, at: u64, reverse: bool, max_rows: usize, max_bytes: usize) -> ScanResult {
        let mut keys: Vec<&Bytes> =
            self.data.versions.keys().map(|(key, _)| key).filter(|k| range.contains(k)).collect();
        keys.dedup();
        if reverse {
            keys.reverse();
        }
        let (mut result, mut bytes) = (ScanResult::default(), 0);
        for key in keys {
            let Some(Version { ts, value }) = self.get(key, at) else { continue };
            result.reveals = result.reveals.max(ts);
            let Some(value) = value else { continue };
            bytes += key.len() + value.len();
            if result.rows.len() >= max_rows || (bytes > max_bytes && !result.rows.is_empty()) {
                result.more = true;
                break;
            }
            result.rows.push(ScanRow { key: key.clone(), ts, value });
        }
        result
    }
}

fn read(log: &Log, range: std::ops::Range<u64>, max_bytes: usize) -> Vec<(u64, Bytes)> {
    let (mut entries, mut bytes) = (Vec::new(), 0_usize);
    for (index, entry) in log.entries.iter().filter(|(index, _)| range.contains(index)) {
        bytes += entry.len();
        if bytes > max_bytes && !entries.is_empty() {
            break;
        }
        entries.push((*index, entry.clone()));
    }
    entries
}
