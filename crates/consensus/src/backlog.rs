//! How much log waits for the data to be flushed, and the bound on it.
//!
//! An entry stays in the raft log until what it did is durable in the data store. How much that is depends on how fast
//! the data is flushed: a flush that lags would let the log fill the disk, with entries that do nothing to the data, such
//! as refused conditions, no less than with others. So the bytes are counted, for all shards of a node together, since one
//! flush makes all of them durable:
//!
//! * Each [`FLUSH_LOG_BYTES`] that have gathered ask for a flush, however little is in the memtables.
//! * Beyond the limit a leader takes no writes from clients, and a follower no entries with writes from its leader, until
//!   a flush has caught up. The leader sends them again after a pause; heartbeats and votes always pass.
//!
//! Counted is what this process has appended. What it found in the log when it was opened was counted by the one before,
//! so it is bounded too.

use meridian_types::ShardId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of log for whose sake the data is flushed.
const FLUSH_LOG_BYTES: u64 = 64 << 20;

/// Appends are counted in pieces of at least this many bytes.
const PIECE_BYTES: u64 = 64 << 10;

/// The log that waits for a flush of the data is as long as it may be: refused before anything was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{held} bytes of log wait for the data to be flushed, {limit} may")]
pub struct FlushLags {
    /// Bytes that wait.
    pub held: u64,
    /// Bytes that may.
    pub limit: u64,
}

/// The account of a node. Clones share it.
#[derive(Clone, Debug)]
pub struct Backlog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: AtomicU64,
    held: AtomicU64,
    logs: Mutex<Logs>,
}

#[derive(Debug)]
struct Logs {
    /// Of each shard what waits, oldest first.
    of: BTreeMap<ShardId, VecDeque<Piece>>,
    /// The next flush is asked for when this much waits.
    due: u64,
}

/// Consecutive entries.
#[derive(Debug)]
struct Piece {
    first: u64,
    last: u64,
    bytes: u64,
}

impl Backlog {
    /// An account with a limit in bytes.
    pub fn new(limit: u64) -> Self {
        let logs = Logs { of: BTreeMap::new(), due: step(limit) };
        Self { shared: Arc::new(Shared { limit: limit.into(), held: AtomicU64::new(0), logs: Mutex::new(logs) }) }
    }

    /// Bytes that wait now.
    pub fn held(&self) -> u64 {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// Bytes that may wait before writes are refused.
    pub fn limit(&self) -> u64 {
        self.shared.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit.
    pub fn set_limit(&self, limit: u64) {
        self.shared.limit.store(limit, Ordering::Relaxed);
        self.lock().due = self.held() + step(limit);
    }

    /// Entries `first` to `last` were appended. Returns whether a flush is due for the log's sake; it is said once for each
    /// [`FLUSH_LOG_BYTES`].
    pub(crate) fn appended(&self, shard: ShardId, first: u64, last: u64, bytes: u64) -> bool {
        let mut logs = self.lock();
        let pieces = logs.of.entry(shard).or_default();
        match pieces.back_mut() {
            Some(piece) if piece.bytes < PIECE_BYTES && piece.last + 1 == first => {
                piece.last = last;
                piece.bytes += bytes;
            }
            _ => pieces.push_back(Piece { first, last, bytes }),
        }
        let held = self.shared.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let due = held >= logs.due;
        if due {
            logs.due = held + step(self.limit());
        }
        due
    }

    /// The entries from `from` on are given up. A piece that is cut counts whole until it is flushed.
    pub(crate) fn truncated(&self, shard: ShardId, from: u64) {
        self.forget(&mut self.lock(), shard, |pieces| pieces.pop_back_if(|piece| piece.first >= from));
    }

    /// The replica is closed: nothing of its log waits any more.
    pub(crate) fn closed(&self, shard: ShardId) {
        let mut logs = self.lock();
        self.forget(&mut logs, shard, VecDeque::pop_front);
        logs.of.remove(&shard);
    }

    /// Takes note of a flush. `durable` is the last entry of a shard whose effects are durable.
    pub(crate) fn flushed(&self, durable: impl Fn(ShardId) -> u64) {
        let waits = |(shard, pieces): (&ShardId, &VecDeque<Piece>)| (!pieces.is_empty()).then_some(*shard);
        let shards: Vec<_> = self.lock().of.iter().filter_map(waits).collect();
        // Looked up without the lock: it may have to read.
        let durable: Vec<_> = shards.into_iter().map(|shard| (shard, durable(shard))).collect();
        let mut logs = self.lock();
        for (shard, upto) in durable {
            self.forget(&mut logs, shard, |pieces| pieces.pop_front_if(|piece| piece.last <= upto));
        }
        logs.due = self.held() + step(self.limit());
    }

    /// Whether another write may be appended.
    ///
    /// * Errors: [`FlushLags`], after looking at what is durable once more.
    pub(crate) fn check(&self, durable: impl Fn(ShardId) -> u64) -> Result<(), FlushLags> {
        let lags = || self.held() > self.limit();
        if lags() {
            self.flushed(durable);
        }
        if lags() { Err(FlushLags { held: self.held(), limit: self.limit() }) } else { Ok(()) }
    }

    fn forget(&self, logs: &mut Logs, shard: ShardId, mut pop: impl FnMut(&mut VecDeque<Piece>) -> Option<Piece>) {
        let Some(pieces) = logs.of.get_mut(&shard) else { return };
        while let Some(piece) = pop(pieces) {
            self.shared.held.fetch_sub(piece.bytes, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Logs> {
        self.shared.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After how many bytes a flush is asked for, below the limit.
fn step(limit: u64) -> u64 {
    FLUSH_LOG_BYTES.min(limit / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: ShardId = ShardId(1);
    const B: ShardId = ShardId(2);
    const MIB: u64 = 1 << 20;

    #[test]
    fn beyond_the_limit_writes_are_refused_until_a_flush_has_caught_up() {
        let backlog = Backlog::new(10 * MIB);
        backlog.appended(A, 1, 8, 8 * MIB);
        backlog.appended(B, 1, 2, 2 * MIB);
        assert_eq!(backlog.check(|_| 0), Ok(()));
        backlog.appended(B, 3, 3, MIB);
        assert_eq!(backlog.check(|_| 0), Err(FlushLags { held: 11 * MIB, limit: 10 * MIB }));
        // A flush that nobody reported, as RocksDB makes them by itself, is found.
        assert_eq!(backlog.check(|shard| if shard == B { 2 } else { 7 }), Ok(()));
        assert_eq!(backlog.held(), 9 * MIB, "a piece waits until all of it is durable");
        backlog.flushed(|_| 8);
        assert_eq!(backlog.held(), 0);
    }

    #[test]
    fn a_flush_is_asked_for_once_for_each_step() {
        let backlog = Backlog::new(1 << 40);
        let due: Vec<_> = (1..=130).filter(|n| backlog.appended(A, *n, *n, MIB)).collect();
        assert_eq!(due, [64, 128]);
        // What stays behind a flush does not ask for the next one by itself.
        backlog.flushed(|_| 30);
        assert_eq!(backlog.held(), 100 * MIB);
        let due: Vec<_> = (131..=260).filter(|n| backlog.appended(A, *n, *n, MIB)).collect();
        assert_eq!(due, [194, 258]);
        // Always before the limit.
        let small = Backlog::new(MIB);
        assert!(small.appended(A, 1, 1, MIB / 2));
    }

    #[test]
    fn what_is_given_up_does_not_wait() {
        let backlog = Backlog::new(MIB);
        for n in 1..=10 {
            backlog.appended(A, n, n, MIB);
        }
        backlog.appended(B, 1, 1, MIB);
        backlog.truncated(A, 6);
        assert_eq!(backlog.held(), 6 * MIB);
        backlog.closed(A);
        assert_eq!(backlog.held(), MIB);
        backlog.flushed(|_| 1);
        assert_eq!(backlog.held(), 0);
    }

    proptest! {
        /// Never less than what is in the log and not durable, and nothing once everything is.
        #[test]
        fn no_waiting_entry_is_forgotten(
            steps in prop::collection::vec((0..2_u64, 0..4_u8, 1..200_000_u64), 1..60)
        ) {
            let backlog = Backlog::new(1 << 40);
            let mut logs: BTreeMap<ShardId, (Vec<u64>, u64)> = BTreeMap::new();
            for (shard, what, n) in steps {
                let shard = ShardId(shard);
                let (log, durable) = logs.entry(shard).or_default();
                match what {
                    0 | 1 => {
                        let index = log.len() as u64 + 1;
                        backlog.appended(shard, index, index, n);
                        log.push(n);
                    }
                    2 => {
                        let from = (n % (log.len() as u64 + 1) + 1).max(*durable + 1);
                        backlog.truncated(shard, from);
                        log.truncate(usize::try_from(from).unwrap() - 1);
                    }
                    _ => *durable = (*durable).max(n % (log.len() as u64 + 1)),
                }
                backlog.flushed(|shard| logs.get(&shard).map_or(0, |(_, durable)| *durable));
                let waiting = |(log, durable): &(Vec<u64>, u64)| log[usize::try_from(*durable).unwrap()..].iter().sum::<u64>();
                prop_assert!(backlog.held() >= logs.values().map(waiting).sum());
            }
            backlog.flushed(|_| u64::MAX);
            prop_assert_eq!(backlog.held(), 0);
        }
    }
}
