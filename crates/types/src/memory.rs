//! How the memory budget of a node is divided.
//!
//! One number bounds a node. What grows with the load is charged to a part of it, and each part has somebody who keeps
//! it: RocksDB's block cache, the shared ring of recent log entries, the admission of requests. What does not grow with
//! the load (code, stacks, timers, Raft's own state for each replica, what the allocator cannot give back) has the
//! reserve, which nobody counts.

/// Smallest budget that a node starts with, in bytes: below that little would be left beside the process itself.
pub const MEMORY_MIN: u64 = 256 << 20;

/// What a process takes before it does anything, its first hundred replicas included, in bytes.
const BASE: u64 = 96 << 20;

/// Largest budget that a node gives itself if nobody sets one, in bytes.
pub const MEMORY_DEFAULT_MAX: u64 = 2 << 30;

/// Part of the machine's memory that a node takes if nobody says otherwise: one in this many bytes.
const MACHINE_SHARE: u64 = 4;

/// A memory budget and its parts, in bytes. The parts add up to the whole or a few bytes less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBudget {
    /// All of it.
    pub total: u64,
    /// The block cache that both stores share: blocks, their indexes and filters, and the memtables, which are charged to
    /// it.
    pub cache: u64,
    /// What the raft log's memtables may take of the cache.
    pub raft_memtables: u64,
    /// What the data's memtables may take of the cache before they are flushed.
    pub data_memtables: u64,
    /// Recent log entries of all shards together.
    pub log_entries: u64,
    /// Requests that are being served, from their first byte to the last byte of their answer.
    pub in_flight: u64,
    /// Everything else.
    pub reserve: u64,
}

/// A budget below [`MEMORY_MIN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} MiB are too little: a node needs at least {} MiB", .bytes >> 20, MEMORY_MIN >> 20)]
pub struct MemoryTooSmall {
    /// What was asked for.
    pub bytes: u64,
}

impl MemoryBudget {
    /// Divides a budget.
    ///
    /// * Errors: less than [`MEMORY_MIN`].
    pub fn of(bytes: u64) -> Result<Self, MemoryTooSmall> {
        if bytes < MEMORY_MIN {
            return Err(MemoryTooSmall { bytes });
        }
        let shared = bytes - BASE;
        let (cache, log_entries, in_flight) = (shared / 2, shared / 8, shared / 8);
        Ok(Self {
            total: bytes,
            cache,
            raft_memtables: cache / 4,
            data_memtables: cache / 4,
            log_entries,
            in_flight,
            reserve: bytes - cache - log_entries - in_flight,
        })
    }

    /// What a node takes that is not told: a quarter of the memory that the machine, or its control group, has.
    pub fn for_machine(memory: u64) -> Self {
        Self::of((memory / MACHINE_SHARE).clamp(MEMORY_MIN, MEMORY_DEFAULT_MAX)).expect("clamped to what is allowed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use proptest::prelude::*;

    #[test]
    fn less_than_the_minimum_is_refused() {
        assert_eq!(MemoryBudget::of(MEMORY_MIN - 1), Err(MemoryTooSmall { bytes: MEMORY_MIN - 1 }));
        let text = MemoryTooSmall { bytes: 64 << 20 }.to_string();
        assert_eq!(text, "64 MiB are too little: a node needs at least 256 MiB");
    }

    #[test]
    fn a_machine_gives_a_quarter_within_limits() {
        for (machine, budget) in [(0, 256), (1 << 10, 256), (2 << 10, 512), (4 << 10, 1 << 10), (64 << 10, 2 << 10)] {
            assert_eq!(MemoryBudget::for_machine(machine << 20).total, budget << 20, "{machine} MiB");
        }
    }

    proptest! {
        #[test]
        fn parts_never_exceed_the_whole(bytes in MEMORY_MIN..1 << 46) {
            let b = MemoryBudget::of(bytes).unwrap();
            prop_assert!(b.cache + b.log_entries + b.in_flight + b.reserve <= b.total);
            prop_assert!(b.raft_memtables + b.data_memtables <= b.cache / 2, "half of the cache is for blocks");
            prop_assert!(b.reserve >= BASE + b.total / 8);
            // One largest request, its answer and its copies always fit.
            prop_assert!(b.in_flight >= 3 * Limits::default().request_bytes_max as u64);
        }
    }
}
