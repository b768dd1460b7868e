//! The newest entries of one group's log, decoded, and the watermark of what is synced.
//!
//! Replication reads an entry microseconds after it was appended, the apply path a round trip later: both are
//! served from here. The watermark lets `apply` wait until the local log is synced (rule D1), and remembers
//! when, for the latency receipt.

use crate::raft_types::{RaftEntry, RaftPayload};
use meridian_clock::Mono;
use meridian_types::Timestamp;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Most entries kept.
const CACHED_ENTRIES_MAX: usize = 2_048;
/// Most encoded bytes kept.
const CACHED_BYTES_MAX: usize = 16 << 20;
/// How many sync times are remembered.
const SYNC_TIMES_MAX: usize = 512;

#[derive(Debug, Default)]
struct Inner {
    /// Consecutive entries with their encoded sizes.
    entries: VecDeque<(RaftEntry, usize)>,
    bytes: usize,
    /// Index after the last entry of each append whose sync is pending, oldest first; lowered by truncation.
    pending: VecDeque<u64>,
    sync_times: VecDeque<(u64, Mono)>,
    /// Largest stamp ever seen in this log, truncated tails included.
    last_stamp: Timestamp,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct LogCache {
    inner: Mutex<Inner>,
    /// Number of entries of the log that are synced: the last synced index plus one.
    synced: watch::Sender<u64>,
}

impl LogCache {
    /// For a log whose entries below `next_index` are on disk, and whose largest stamp is `last_stamp`.
    pub(crate) fn new(next_index: u64, last_stamp: Timestamp) -> Self {
        let inner = Inner { last_stamp, ..Inner::default() };
        Self { inner: Mutex::new(inner), synced: watch::Sender::new(next_index) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in entries that are being appended; `sizes` are their encoded bytes.
    pub(crate) fn append(&self, entries: impl IntoIterator<Item = (RaftEntry, usize)>) {
        let mut inner = self.lock();
        let mut end = None;
        for (entry, size) in entries {
            end = Some(entry.log_id.index + 1);
            if let RaftPayload::Normal(command) = &entry.payload {
                inner.last_stamp = inner.last_stamp.max(command.last_ts());
            }
            inner.bytes += size;
            inner.entries.push_back((entry, size));
        }
        inner.pending.extend(end);
        while inner.entries.len() > CACHED_ENTRIES_MAX || inner.bytes > CACHED_BYTES_MAX {
            let Some((_, size)) = inner.entries.pop_front() else { break };
            inner.bytes -= size;
        }
    }

    /// The oldest pending append is synced.
    pub(crate) fn synced_one(&self) {
        let mut inner = self.lock();
        let Some(end) = inner.pending.pop_front() else { return };
        inner.sync_times.push_back((end, Mono::now()));
        if inner.sync_times.len() > SYNC_TIMES_MAX {
            inner.sync_times.pop_front();
        }
        // Not a maximum: truncation has lowered what was pending, and appends complete in order.
        self.synced.send_replace(end);
    }

    /// Drops entries from `index` on.
    pub(crate) fn truncate_from(&self, index: u64) {
        let mut inner = self.lock();
        while inner.entries.back().is_some_and(|(e, _)| e.log_id.index >= index) {
            if let Some((_, size)) = inner.entries.pop_back() {
                inner.bytes -= size;
            }
        }
        for end in &mut inner.pending {
            *end = (*end).min(index);
        }
        self.synced.send_if_modified(|synced| {
            let lower = *synced > index;
            *synced = (*synced).min(index);
            lower
        });
    }

    /// Drops entries up to and including `index`, and counts them as synced.
    pub(crate) fn purge(&self, index: u64) {
        let mut inner = self.lock();
        while inner.entries.front().is_some_and(|(e, _)| e.log_id.index <= index) {
            if let Some((_, size)) = inner.entries.pop_front() {
                inner.bytes -= size;
            }
        }
        // What is pending below a snapshot must not take the watermark back.
        for end in &mut inner.pending {
            *end = (*end).max(index + 1);
        }
        self.synced.send_if_modified(|synced| {
            let raise = *synced <= index;
            *synced = (*synced).max(index + 1);
            raise
        });
    }

    /// The entries of `range`, as long as all of them are here; at most `bytes_max`, at least one.
    pub(crate) fn get(&self, range: Range<u64>, bytes_max: usize) -> Option<Vec<RaftEntry>> {
        let inner = self.lock();
        let first = inner.entries.front()?.0.log_id.index;
        let skip = usize::try_from(range.start.checked_sub(first)?).ok()?;
        let wanted = usize::try_from(range.end.saturating_sub(range.start)).ok()?;
        if skip + wanted > inner.entries.len() {
            return None;
        }
        let mut bytes = 0;
        let within = |(i, (_, size)): &(usize, &(RaftEntry, usize))| {
            bytes += size;
            *i == 0 || bytes <= bytes_max
        };
        let taken = inner.entries.iter().skip(skip).take(wanted).enumerate().take_while(within);
        Some(taken.map(|(_, (e, _))| e.clone()).collect())
    }

    /// Largest stamp in the log, applied or not (rule S2).
    pub(crate) fn last_stamp(&self) -> Timestamp {
        self.lock().last_stamp
    }

    /// Number of entries of the log that are synced: the last synced index plus one.
    pub(crate) fn synced(&self) -> u64 {
        *self.synced.borrow()
    }

    /// When the entry at `index` was synced, if that is still remembered.
    pub(crate) fn synced_at(&self, index: u64) -> Option<Mono> {
        self.lock().sync_times.iter().find(|(end, _)| *end > index).map(|(_, at)| *at)
    }

    /// Waits until the entry at `index` is synced here. False: the log is gone.
    pub(crate) async fn wait_synced(&self, index: u64) -> bool {
        let mut rx = self.synced.subscribe();
        rx.wait_for(|synced| *synced > index).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::{Command, RaftLeaderId, RaftLogId};
    use meridian_proto::internal::v1 as pb;
    use std::sync::Arc;

    fn entry(index: u64, ts: u64) -> (RaftEntry, usize) {
        let log_id = RaftLogId { leader_id: RaftLeaderId { term: 1, node_id: 1 }, index };
        let command = pb::Command { ts, body: Some(pb::command::Body::Barrier(pb::command::Barrier {})) };
        (RaftEntry { log_id, payload: RaftPayload::Normal(Command::new(command)) }, 100)
    }

    #[test]
    fn the_watermark_follows_syncs_in_order() {
        let cache = LogCache::new(0, Timestamp::ZERO);
        cache.append([entry(0, 1), entry(1, 2)]);
        cache.append([entry(2, 3)]);
        assert_eq!(cache.synced(), 0);
        cache.synced_one();
        assert_eq!(cache.synced(), 2);
        cache.synced_one();
        assert_eq!(cache.synced(), 3);
        assert!(cache.synced_at(2).is_some() && cache.synced_at(3).is_none());
    }

    #[test]
    fn a_late_sync_of_a_truncated_tail_does_not_vouch_for_its_replacement() {
        let cache = LogCache::new(0, Timestamp::ZERO);
        cache.append([entry(0, 1), entry(1, 2), entry(2, 3)]);
        cache.truncate_from(1);
        cache.append([entry(1, 9)]);
        cache.synced_one();
        assert_eq!(cache.synced(), 1, "entry 1 is another one now, and not synced");
        cache.synced_one();
        assert_eq!(cache.synced(), 2);
    }

    #[test]
    fn a_late_sync_vouches_for_nothing_when_the_whole_log_was_cut_off() {
        let cache = LogCache::new(0, Timestamp::ZERO);
        cache.append([entry(0, 1), entry(1, 2)]);
        cache.truncate_from(0);
        cache.append([entry(0, 9)]);
        cache.synced_one();
        assert_eq!(cache.synced(), 0, "entry 0 is another one now, and not synced");
        cache.synced_one();
        assert_eq!(cache.synced(), 1);
    }

    #[test]
    fn a_late_sync_does_not_take_back_what_a_snapshot_covers() {
        let cache = LogCache::new(0, Timestamp::ZERO);
        cache.append([entry(0, 1)]);
        cache.purge(100);
        cache.synced_one();
        assert_eq!(cache.synced(), 101);
    }

    #[test]
    fn reads_are_whole_or_refused_and_bounded_in_bytes() {
        let cache = LogCache::new(0, Timestamp::ZERO);
        cache.append((0..10).map(|i| entry(i, i + 1)));
        cache.purge(2);
        assert!(cache.get(2..5, 1000).is_none());
        assert_eq!(cache.get(3..10, 1 << 20).unwrap().len(), 7);
        assert_eq!(cache.get(3..10, 250).unwrap().len(), 2);
        assert_eq!(cache.get(3..10, 1).unwrap().len(), 1);
        assert!(cache.get(3..11, 1000).is_none());
    }

    #[test]
    fn the_last_stamp_counts_truncated_entries_too() {
        let cache = LogCache::new(0, Timestamp(5));
        cache.append([entry(0, 7)]);
        cache.truncate_from(0);
        assert_eq!(cache.last_stamp(), Timestamp(7));
    }
}
