//! What requests have in memory, counted for the whole node.
//!
//! A request is charged when it arrives and while it is read; its answer when that is known. What does not fit any more
//! is refused before anything was done for it, so the refusal is the truth about its effect. An entry that was handed
//! over holds its request's charge until it is applied, whatever became of the request: a charge is given back when what
//! it stands for is gone, never earlier.
//!
//! Invariants:
//! 1. The charges together never exceed the limit.
//! 2. What was admitted is never dropped for the lack of memory. Only a read, or a request that is still arriving, can
//!    be refused by a charge that grows.
//!
//! What the node does for itself (barriers, the catalog, heartbeats, appends of other leaders) is not charged: it is
//! small, or bounded by what its sender was charged, and refusing it would help nobody.

use crate::backlog::Backlog;
use crate::log_cache::LogMemory;
use crate::packing::Packer;
use meridian_types::MemoryBudget;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the requests of a node are charged to, and the ring of recent log entries. Clones share it.
#[derive(Clone, Debug)]
pub struct NodeMemory {
    /// How the budget is divided.
    pub budget: MemoryBudget,
    /// Requests that are being served.
    pub in_flight: InFlight,
    /// Recent log entries of all shards.
    pub log: LogMemory,
    /// What packs the log for other regions.
    pub packer: Packer,
    /// Log on disk that waits for a flush of the data.
    pub backlog: Backlog,
}

/// Log that may wait for a flush, for each byte of the data's memtables: as much as they can hold is ordinary, more only
/// gathers where entries are larger than what they write, or flushes lag.
const BACKLOG_PER_MEMTABLES: u64 = 8;
/// And at least this many bytes.
const BACKLOG_MIN: u64 = 256 << 20;

impl NodeMemory {
    /// Nothing is in use yet.
    pub fn new(budget: MemoryBudget) -> Self {
        let log = LogMemory::new(usize::try_from(budget.log_entries).unwrap_or(usize::MAX));
        let backlog = Backlog::new(budget.data_memtables.saturating_mul(BACKLOG_PER_MEMTABLES).max(BACKLOG_MIN));
        Self { budget, in_flight: InFlight::new(budget.in_flight), log, packer: Packer::default(), backlog }
    }
}

/// The node has as much in memory as it may: refused before anything was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node's memory for requests is in use ({used} of {limit} bytes, {wanted} more asked for)")]
pub struct OverBudget {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that may be.
    pub limit: u64,
    /// Bytes that were asked for.
    pub wanted: u64,
}

/// The account of a node's requests. Clones share it.
#[derive(Clone, Debug)]
pub struct InFlight {
    account: Arc<Account>,
}

#[derive(Debug)]
struct Account {
    limit: u64,
    used: AtomicU64,
    refused: AtomicU64,
}

/// What one request has of the account. Clones stand for the same bytes, which are given back with the last of them.
#[derive(Clone, Debug, Default)]
pub struct Charge {
    held: Option<Arc<Held>>,
}

#[derive(Debug)]
struct Held {
    account: Arc<Account>,
    bytes: AtomicU64,
}

impl Account {
    fn take(&self, wanted: u64) -> Result<(), OverBudget> {
        let add = |used: u64| used.checked_add(wanted).filter(|sum| *sum <= self.limit);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        taken.map(drop).map_err(|used| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            OverBudget { used, limit: self.limit, wanted }
        })
    }
}

impl InFlight {
    /// An account of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        let account = Account { limit, used: AtomicU64::new(0), refused: AtomicU64::new(0) };
        Self { account: Arc::new(account) }
    }

    /// Charges a request.
    ///
    /// * Errors: it does not fit; nothing is charged then.
    pub fn admit(&self, bytes: u64) -> Result<Charge, OverBudget> {
        self.account.take(bytes)?;
        let held = Held { account: self.account.clone(), bytes: AtomicU64::new(bytes) };
        Ok(Charge { held: Some(Arc::new(held)) })
    }

    /// Bytes charged now.
    pub fn used(&self) -> u64 {
        self.account.used.load(Ordering::Relaxed)
    }

    /// Most bytes that are ever charged.
    pub fn limit(&self) -> u64 {
        self.account.limit
    }

    /// How often something did not fit.
    pub fn refused(&self) -> u64 {
        self.account.refused.load(Ordering::Relaxed)
    }
}

impl Charge {
    /// Of work that the node does for itself: it is not charged.
    pub const NONE: Self = Self { held: None };

    /// Charges more bytes for the same request.
    ///
    /// * Errors: they do not fit; what was charged before stays.
    pub fn grow(&self, bytes: u64) -> Result<(), OverBudget> {
        let Some(held) = &self.held else { return Ok(()) };
        held.account.take(bytes)?;
        held.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes charged, 0 if it is not charged.
    pub fn bytes(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.bytes.load(Ordering::Relaxed))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.used.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_no_trace() {
        let account = InFlight::new(100);
        let first = account.admit(60).unwrap();
        assert_eq!(account.admit(41).unwrap_err(), OverBudget { used: 60, limit: 100, wanted: 41 });
        assert_eq!(first.grow(41).unwrap_err(), OverBudget { used: 60, limit: 100, wanted: 41 });
        assert_eq!((account.used(), account.refused(), first.bytes()), (60, 2, 60));
        first.grow(40).unwrap();
        assert!(account.admit(1).is_err() && account.admit(u64::MAX).is_err());
        drop(first);
        assert_eq!(account.used(), 0);
        assert!(account.admit(100).is_ok());
    }

    #[test]
    fn a_charge_is_held_as_long_as_any_clone_of_it() {
        let account = InFlight::new(100);
        let request = account.admit(10).unwrap();
        let entry = request.clone();
        request.grow(5).unwrap();
        drop(request);
        assert_eq!(account.used(), 15, "the entry is still in flight");
        drop(entry);
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn the_nodes_own_work_is_not_charged() {
        Charge::NONE.grow(u64::MAX).unwrap();
        assert_eq!(Charge::NONE.bytes(), 0);
    }

    proptest! {
        /// Whatever comes and goes: never more than the limit, and nothing left at the end.
        #[test]
        fn the_account_balances(ops in proptest::collection::vec((0..8usize, 0..3u8, 0..60u64), 1..200)) {
            let account = InFlight::new(100);
            let mut held = vec![Charge::NONE; 8];
            for (i, op, bytes) in ops {
                match op {
                    0 => held[i] = account.admit(bytes).unwrap_or_default(),
                    1 => drop(held[i].grow(bytes)),
                    _ => held[i] = held[(i + 1) % 8].clone(),
                }
                prop_assert!(account.used() <= account.limit());
            }
            held.clear();
            prop_assert_eq!(account.used(), 0);
        }
    }

    #[test]
    fn many_threads_never_pass_the_limit_together() {
        let account = InFlight::new(1_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..10_000 {
                        let charge = account.admit(n % 400);
                        assert!(account.used() <= 1_000);
                        drop(charge);
                    }
                });
            }
        });
        assert_eq!(account.used(), 0);
    }
}
