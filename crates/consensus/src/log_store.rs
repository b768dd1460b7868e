//! openraft's log storage on Meridian's shared raft log: encoding, the cache, and the order of callbacks.

use crate::backlog::Backlog;
use crate::codec;
use crate::early::Acceptances;
use crate::early::acceptor::Acceptor;
use crate::events;
use crate::log_cache::LogCache;
use crate::memory::NodeMemory;
use crate::raft_types::{RaftEntry, RaftLogId, RaftPayload, RaftVote, Raftish};
use bytes::Bytes;
use futures::FutureExt;
use meridian_probe::{Event, Sabotage, emit, sabotaged};
use meridian_proto::internal::v1 as pb;
use meridian_storage::{DiskSpace, RaftLog, StorageError};
use meridian_types::Timestamp;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use prost::Message;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Most encoded bytes of entries in one append request: well below the transport's message limit.
const APPEND_BYTES_MAX: usize = 1 << 20;
/// Entries read at a time when the tail is searched for its last stamp.
const TAIL_STEP: u64 = 64;

/// One group's log, as openraft wants it. Clones share the log and its cache.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: RaftLog,
    cache: Arc<LogCache>,
    acceptor: Arc<Acceptor>,
    space: DiskSpace,
    backlog: Backlog,
    /// Told when the data has to be flushed for the log's sake.
    flush_due: Arc<Notify>,
}

fn storage_io(e: StorageError) -> io::Error {
    io::Error::other(e)
}

fn malformed(e: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

fn decode_entry(bytes: Bytes) -> io::Result<RaftEntry> {
    codec::entry_from_pb(pb::Entry::decode(bytes).map_err(malformed)?).map_err(malformed)
}

/// The log id that a record of the log holds.
pub(crate) fn decode_log_id(bytes: Option<Bytes>) -> io::Result<Option<RaftLogId>> {
    let Some(bytes) = bytes else { return Ok(None) };
    codec::log_id_from_pb(pb::LogId::decode(bytes).map_err(malformed)?).map(Some).map_err(malformed)
}

fn decode_vote(bytes: Option<Bytes>) -> io::Result<Option<RaftVote>> {
    let Some(bytes) = bytes else { return Ok(None) };
    codec::vote_from_pb(Some(pb::Vote::decode(bytes).map_err(malformed)?)).map(Some).map_err(malformed)
}

impl LogStore {
    /// Opens the log; `applied_stamp` is the last stamp that the data holds. What it accepts is told to others by `tell`.
    pub(crate) fn open(
        log: RaftLog,
        applied_stamp: Timestamp,
        memory: &NodeMemory,
        space: DiskSpace,
        tell: &Acceptances,
    ) -> io::Result<Self> {
        let next = log.last_index().map_err(storage_io)?.map_or(0, |i| i + 1);
        let last = last_stamped_in(&log, next)?;
        let stamp = last.map_or(Timestamp::ZERO, |last| last.ts).max(applied_stamp);
        let purged = decode_log_id(log.purged().map_err(storage_io)?)?.map_or(0, |id| id.index + 1);
        let cache = LogCache::new(next.max(purged), stamp, &memory.log);
        cache.set_last_lead(last.map(|last| (last.index, last.lead)));
        let vote = decode_vote(log.vote().map_err(storage_io)?)?.map(|vote| vote.leader_id);
        let acceptor = Acceptor::new(log.shard(), vote, tell.clone());
        Ok(Self { log, cache, acceptor, space, backlog: memory.backlog.clone(), flush_due: Arc::default() })
    }

    /// Told when the data has to be flushed for the log's sake.
    pub(crate) fn flush_due(&self) -> Arc<Notify> {
        self.flush_due.clone()
    }

    /// What this log has accepted of whom.
    pub(crate) fn acceptor(&self) -> &Arc<Acceptor> {
        &self.acceptor
    }

    /// The cache and the sync watermark.
    pub(crate) fn cache(&self) -> &Arc<LogCache> {
        &self.cache
    }

    /// Whether this replica has never voted nor held an entry: it cannot have promised a lease to anybody.
    pub(crate) fn is_pristine(&self) -> io::Result<bool> {
        let log = &self.log;
        let none = log.vote().map_err(storage_io)?.is_none() && log.last_index().map_err(storage_io)?.is_none();
        Ok(none && log.purged().map_err(storage_io)?.is_none())
    }

    fn read_range(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.cache.get(range.clone(), bytes_max) {
            return Ok(entries);
        }
        let raw = self.log.read(range, bytes_max).map_err(storage_io)?;
        raw.into_iter().map(|(_, bytes)| decode_entry(bytes)).collect()
    }
}

/// The last stamped entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LastStamped {
    index: u64,
    /// Its last stamp. Stamps go up along a log (rule S3), so it is the largest there.
    ts: Timestamp,
    /// The lead time that it carries (rule K2).
    lead: Duration,
}

/// Of the entries below `next`.
fn last_stamped_in(log: &RaftLog, next: u64) -> io::Result<Option<LastStamped>> {
    let first = log.first_index().map_err(storage_io)?.unwrap_or(next);
    let mut end = next;
    while end > first {
        let start = end.saturating_sub(TAIL_STEP).max(first);
        for (index, bytes) in log.read(start..end, usize::MAX).map_err(storage_io)?.into_iter().rev() {
            if let RaftPayload::Normal(command) = decode_entry(bytes)?.payload {
                return Ok(Some(LastStamped { index, ts: command.last_ts(), lead: command.lead() }));
            }
        }
        end = start;
    }
    Ok(None)
}

fn bounds(range: &impl RangeBounds<u64>, end: u64) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(&i) => i,
        Bound::Excluded(&i) => i + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&i) => i + 1,
        Bound::Excluded(&i) => i,
        Bound::Unbounded => end,
    };
    start..end
}

impl RaftLogReader<Raftish> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let end = self.log.last_index().map_err(storage_io)?.map_or(0, |i| i + 1);
        self.read_range(bounds(&range, end), usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        let mut entries = self.read_range(start..end, APPEND_BYTES_MAX)?;
        if entries.first().is_some_and(|e| e.log_id.index != start) {
            // Given up meanwhile. Never the rest of the range in its place: openraft would send it as if it began at `start`.
            entries.clear();
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        decode_vote(self.log.vote().map_err(storage_io)?)
    }
}

impl RaftLogStorage<Raftish> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Raftish>, io::Error> {
        let purged = decode_log_id(self.log.purged().map_err(storage_io)?)?;
        let last = match self.log.last_index().map_err(storage_io)? {
            Some(i) => self.read_range(i..i + 1, usize::MAX)?.pop().map(|e| e.log_id),
            None => None,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.max(purged) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        self.acceptor.voted(vote.leader_id);
        let saved = self.log.save_vote(codec::vote_to_pb(vote).encode_to_vec().into());
        if sabotaged(Sabotage::VoteUnsynced) {
            // Written, and not waited for.
            saved.now_or_never().unwrap_or(Ok(())).map_err(storage_io)?;
        } else {
            saved.await.map_err(storage_io)?;
        }
        emit(|| {
            let leader = codec::leader_of(&vote.leader_id);
            Event::VoteSaved { shard: self.log.shard(), leader, committed: vote.committed }
        });
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        let Some(id) = committed else { return Ok(()) };
        self.log.save_committed(codec::log_id_to_pb(&id).encode_to_vec().into()).map_err(storage_io)
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        decode_log_id(self.log.committed().map_err(storage_io)?)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Raftish>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<RaftEntry> = entries.into_iter().collect();
        if entries.is_empty() {
            callback.io_completed(Ok(()));
            return Ok(());
        }
        let encoded: Vec<(u64, Bytes)> =
            entries.iter().map(|e| (e.log_id.index, codec::entry_to_pb(e).encode_to_vec().into())).collect();
        let shard = self.log.shard();
        for (entry, (_, bytes)) in entries.iter().zip(&encoded) {
            emit(|| events::appended(shard, entry, bytes));
        }
        self.acceptor.appended(&entries);
        let sizes: Vec<usize> = encoded.iter().map(|(_, b)| b.len()).collect();
        let bytes = sizes.iter().sum::<usize>() as u64;
        self.space.wrote(bytes);
        if let ([(first, _), ..], [.., (last, _)]) = (&encoded[..], &encoded[..])
            && self.backlog.appended(shard, *first, *last, bytes)
        {
            self.flush_due.notify_one();
        }
        self.cache.append(entries.into_iter().zip(sizes));
        let (cache, acceptor) = (self.cache.clone(), self.acceptor.clone());
        let done = move |result: Result<(), StorageError>| {
            if result.is_ok() {
                cache.synced_one();
                acceptor.synced();
                if let Some(upto) = cache.synced().checked_sub(1) {
                    emit(|| Event::Synced { shard, upto });
                }
            }
            callback.io_completed(result.map_err(storage_io));
        };
        if sabotaged(Sabotage::AcknowledgeUnsynced) {
            self.log.append(&encoded, Box::new(|_| {})).map_err(storage_io)?;
            done(Ok(()));
            return Ok(());
        }
        self.log.append(&encoded, Box::new(done)).map_err(storage_io)
    }

    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        self.cache.truncate_from(from);
        self.acceptor.truncated(from);
        self.backlog.truncated(self.log.shard(), from);
        self.log.truncate_from(from).map_err(storage_io)?;
        if self.cache.last_lead().is_none() {
            let last = last_stamped_in(&self.log, from)?;
            self.cache.set_last_lead(last.map(|last| (last.index, last.lead)));
        }
        emit(|| Event::Truncated { shard: self.log.shard(), from });
        Ok(())
    }

    async fn purge(&mut self, log_id: RaftLogId) -> Result<(), io::Error> {
        self.cache.purge(log_id.index);
        let encoded = codec::log_id_to_pb(&log_id).encode_to_vec().into();
        self.log.purge(log_id.index, encoded).map_err(storage_io)?;
        emit(|| Event::Purged { shard: self.log.shard(), upto: log_id.index });
        Ok(())
    }
}
