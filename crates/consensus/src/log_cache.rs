//! The newest entries of one group's log, decoded, and the watermark of what is synced.
//!
//! Replication reads an entry microseconds after it was appended, the apply path a round trip later: both are
//! served from here. The watermark lets `apply` wait until the local log is synced (rule D1), and remembers
//! when, for the latency receipt.
//!
//! All caches of a node share one budget, [`LogMemory`]. When it is passed, the largest cache gives up its oldest
//! entries; what is not cached is read from the store.

use crate::raft_types::{RaftEntry, RaftPayload};
use meridian_clock::Mono;
use meridian_types::Timestamp;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// What an entry takes in memory for each encoded byte: the decoded form has structures and allocations of its own.
const BYTES_PER_ENCODED: usize = 2;
/// What an entry takes beside that.
const ENTRY_OVERHEAD: usize = 256;
/// Once over the budget, entries are given up until this part of it is in use, in percent.
const SHRINK_TO_PERCENT: usize = 90;
/// How many sync times are remembered.
const SYNC_TIMES_MAX: usize = 512;

#[derive(Debug, Default)]
struct Inner {
    /// Consecutive entries with what they take in memory, as estimated.
    entries: VecDeque<(RaftEntry, usize)>,
    bytes: usize,
    /// Index after the last entry of each append whose sync is pending, oldest first; lowered by truncation.
    pending: VecDeque<u64>,
    sync_times: VecDeque<(u64, Mono)>,
    /// Largest stamp ever seen in this log, truncated tails included.
    last_stamp: Timestamp,
    /// The last stamped entry of the log, and the lead time that it carries; `None`: the log has none, or which one it is
    /// after a truncation was not said yet.
    last_lead: Option<(u64, Duration)>,
}

impl Inner {
    /// Gives up the oldest entries until `bytes` are gone or none is left; what was given up.
    fn evict(&mut self, bytes: usize) -> usize {
        let mut gone = 0;
        while gone < bytes {
            let Some((_, size)) = self.entries.pop_front() else { break };
            gone += size;
        }
        // A cache that was large once does not keep the space for as many entries.
        if self.entries.capacity() > 4 * self.entries.len().max(16) {
            self.entries.shrink_to(2 * self.entries.len());
        }
        self.bytes -= gone;
        gone
    }
}

/// The budget of all log caches of a node. Clones share it.
#[derive(Clone, Debug)]
pub struct LogMemory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    used: AtomicUsize,
    caches: Mutex<Vec<Weak<LogCache>>>,
}

impl LogMemory {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        let shared = Shared { limit, used: AtomicUsize::new(0), caches: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Bytes that are cached now, as estimated.
    pub fn used(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// Most bytes that stay cached.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    fn add(&self, bytes: usize) {
        self.shared.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.shared.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Brings the caches back under the limit, the largest first. No cache may be locked.
    fn shrink(&self) {
        if self.used() <= self.limit() {
            return;
        }
        let mut caches = self.shared.caches.lock().unwrap_or_else(PoisonError::into_inner);
        let target = self.limit() / 100 * SHRINK_TO_PERCENT;
        caches.retain(|cache| cache.strong_count() > 0);
        let open: Vec<_> = caches.iter().filter_map(Weak::upgrade).collect();
        drop(caches);
        while let Some(over) = self.used().checked_sub(target).filter(|over| *over > 0) {
            let Some((bytes, largest)) = open.iter().map(|c| (c.bytes(), c)).max_by_key(|(bytes, _)| *bytes) else {
                return;
            };
            if bytes == 0 {
                return;
            }
            // A part of the largest at a time: one busy shard does not empty the others, nor is it emptied itself.
            largest.evict(over.min(bytes / 4 + 1));
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct LogCache {
    memory: LogMemory,
    inner: Mutex<Inner>,
    /// Number of entries of the log that are synced: the last synced index plus one.
    synced: watch::Sender<u64>,
    /// The largest stamp that was appended.
    stamped: watch::Sender<Timestamp>,
}

impl Drop for LogCache {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes());
    }
}

impl LogCache {
    /// For a log whose entries below `next_index` are on disk, and whose largest stamp is `last_stamp`.
    pub(crate) fn new(next_index: u64, last_stamp: Timestamp, memory: &LogMemory) -> Arc<Self> {
        let inner = Mutex::new(Inner { last_stamp, ..Inner::default() });
        let (synced, stamped) = (watch::Sender::new(next_index), watch::Sender::new(last_stamp));
        let this = Arc::new(Self { memory: memory.clone(), inner, synced, stamped });
        memory.shared.caches.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&this));
        this
    }

    /// Bytes that its entries take, as estimated.
    fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Gives up the oldest entries until `bytes` are gone or none is left.
    fn evict(&self, bytes: usize) {
        let gone = self.lock().evict(bytes);
        self.memory.give_back(gone);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in entries that are being appended; `sizes` are their encoded bytes.
    pub(crate) fn append(&self, entries: impl IntoIterator<Item = (RaftEntry, usize)>) {
        let mut inner = self.lock();
        let mut end = None;
        let before = inner.bytes;
        for (entry, size) in entries {
            let size = size * BYTES_PER_ENCODED + ENTRY_OVERHEAD;
            end = Some(entry.log_id.index + 1);
            if let RaftPayload::Normal(command) = &entry.payload {
                inner.last_stamp = inner.last_stamp.max(command.last_ts());
                inner.last_lead = Some((entry.log_id.index, command.lead()));
            }
            inner.bytes += size;
            inner.entries.push_back((entry, size));
        }
        inner.pending.extend(end);
        self.memory.add(inner.bytes - before);
        let stamp = inner.last_stamp;
        drop(inner);
        self.stamped.send_if_modified(|last| std::mem::replace(last, stamp.max(*last)) < stamp);
        self.memory.shrink();
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

    /// The index of the last stamped entry of the log, applied or not, and the lead time that it carries (rule K2).
    pub(crate) fn last_lead(&self) -> Option<(u64, Duration)> {
        self.lock().last_lead
    }

    /// Which entry of the log is the last stamped one: when it was opened, and after a truncation.
    pub(crate) fn set_last_lead(&self, last: Option<(u64, Duration)>) {
        self.lock().last_lead = last;
    }

    /// Drops entries from `index` on. Which stamped entry is the last one then is to be said afterwards.
    pub(crate) fn truncate_from(&self, index: u64) {
        let mut inner = self.lock();
        while let Some((_, size)) = inner.entries.pop_back_if(|(e, _)| e.log_id.index >= index) {
            inner.bytes -= size;
            self.memory.give_back(size);
        }
        inner.last_lead = inner.last_lead.filter(|(last, _)| *last < index);
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
        let upto = inner.entries.iter().take_while(|(e, _)| e.log_id.index <= index).map(|(_, size)| size).sum();
        let gone = inner.evict(upto);
        self.memory.give_back(gone);
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
            // The bound is on encoded bytes.
            bytes += (size - ENTRY_OVERHEAD) / BYTES_PER_ENCODED;
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

    /// Waits until an entry with this stamp or a later one was appended.
    pub(crate) async fn wait_stamp(&self, ts: Timestamp) {
        // The sender is this one's own.
        let _ = self.stamped.subscribe().wait_for(|stamped| *stamped >= ts).await;
    }

    /// Waits until an entry with this stamp or a later one was appended, and everything that was appended is synced.
    pub(crate) async fn wait_stamp_synced(&self, ts: Timestamp) {
        let mut synced = self.synced.subscribe();
        loop {
            synced.mark_unchanged();
            {
                // Not under the channel's lock, which is taken under this one.
                let inner = self.lock();
                if inner.last_stamp >= ts && inner.pending.is_empty() {
                    return;
                }
            }
            if synced.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::{Command, RaftLeaderId, RaftLogId};
    use meridian_proto::internal::v1 as pb;

    /// A cache that has all the memory it wants.
    fn cache(next_index: u64, last_stamp: Timestamp) -> Arc<LogCache> {
        LogCache::new(next_index, last_stamp, &LogMemory::new(usize::MAX))
    }

    /// What an entry of these tests takes.
    const ENTRY: usize = 100 * BYTES_PER_ENCODED + ENTRY_OVERHEAD;

    fn entry(index: u64, ts: u64) -> (RaftEntry, usize) {
        let log_id = RaftLogId { leader_id: RaftLeaderId { term: 1, node_id: 1 }, index };
        let body = Some(pb::command::Body::Barrier(pb::command::Barrier {}));
        let command = pb::Command { ts, body, lead_ns: ts * 10, ..pb::Command::default() };
        (RaftEntry { log_id, payload: RaftPayload::Normal(Command::new(command)) }, 100)
    }

    #[tokio::test]
    async fn a_stamp_is_waited_for_until_it_is_synced() {
        use futures::FutureExt as _;
        let cache = cache(0, Timestamp(5));
        cache.wait_stamp_synced(Timestamp(5)).await;
        let mut waiting = Box::pin(cache.wait_stamp_synced(Timestamp(10)));
        assert!((&mut waiting).now_or_never().is_none(), "not appended");
        cache.append([entry(0, 9)]);
        cache.append([entry(1, 10)]);
        assert!((&mut waiting).now_or_never().is_none(), "not synced");
        cache.synced_one();
        assert!((&mut waiting).now_or_never().is_none(), "that was the one before");
        cache.synced_one();
        assert!(waiting.now_or_never().is_some());
    }

    #[test]
    fn the_watermark_follows_syncs_in_order() {
        let cache = cache(0, Timestamp::ZERO);
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
        let cache = cache(0, Timestamp::ZERO);
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
        let cache = cache(0, Timestamp::ZERO);
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
        let cache = cache(0, Timestamp::ZERO);
        cache.append([entry(0, 1)]);
        cache.purge(100);
        cache.synced_one();
        assert_eq!(cache.synced(), 101);
    }

    #[test]
    fn reads_are_whole_or_refused_and_bounded_in_bytes() {
        let cache = cache(0, Timestamp::ZERO);
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
        let cache = cache(0, Timestamp(5));
        cache.append([entry(0, 7)]);
        cache.truncate_from(0);
        assert_eq!(cache.last_stamp(), Timestamp(7));
    }

    #[test]
    fn the_last_lead_time_is_that_of_the_last_entry_that_is_left() {
        let cache = cache(0, Timestamp::ZERO);
        assert_eq!(cache.last_lead(), None);
        cache.append([entry(0, 1), entry(1, 2), entry(2, 3)]);
        assert_eq!(cache.last_lead(), Some((2, Duration::from_nanos(30))));
        cache.truncate_from(5);
        assert_eq!(cache.last_lead(), Some((2, Duration::from_nanos(30))));
        cache.truncate_from(2);
        assert_eq!(cache.last_lead(), None, "the log has to be asked");
        cache.set_last_lead(Some((1, Duration::from_nanos(20))));
        cache.purge(1);
        assert_eq!(cache.last_lead(), Some((1, Duration::from_nanos(20))), "what is applied is newer, if it differs");
    }

    #[test]
    fn all_caches_of_a_node_stay_within_one_budget_and_the_largest_gives_way() {
        let memory = LogMemory::new(100 * ENTRY);
        let small = LogCache::new(0, Timestamp::ZERO, &memory);
        let large = LogCache::new(0, Timestamp::ZERO, &memory);
        small.append((0..10).map(|i| entry(i, i + 1)));
        for i in 0..1_000 {
            large.append([entry(i, i + 1)]);
            assert!(memory.used() <= memory.limit());
        }
        assert!(small.get(0..10, usize::MAX).is_some(), "a small cache keeps what it has");
        assert!(large.get(990..1_000, usize::MAX).is_some(), "the newest entries stay");
        assert!(large.get(900..1_000, usize::MAX).is_none());
        assert!(memory.used() >= 80 * ENTRY, "no more is given up than needed");
        let (of_small, of_large) = (small.bytes(), large.bytes());
        assert_eq!(memory.used(), of_small + of_large);
        large.truncate_from(995);
        large.purge(992);
        assert_eq!(memory.used(), of_small + 2 * ENTRY);
        drop(large);
        assert_eq!(memory.used(), of_small);
        small.purge(100);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn one_append_larger_than_the_budget_is_taken_and_not_kept() {
        let memory = LogMemory::new(3 * ENTRY);
        let cache = LogCache::new(0, Timestamp::ZERO, &memory);
        cache.append((0..10).map(|i| entry(i, i + 1)));
        assert!(memory.used() <= memory.limit());
        cache.synced_one();
        assert_eq!((cache.synced(), cache.last_stamp()), (10, Timestamp(10)));
    }
}
