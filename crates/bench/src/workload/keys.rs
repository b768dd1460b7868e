//! The key space: key number `n` has the name `user` and twelve digits, and inserts add numbers at its end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The name of key `number`. Names sort like numbers.
pub(crate) fn key_name(number: u64) -> String {
    format!("user{number:012}")
}

/// Which keys exist, shared by all clients of a run. A number is handed out for an insert at once and chosen by
/// reads only when that insert and all before it have ended, whatever came of them.
#[derive(Debug)]
pub(crate) struct KeySpace {
    next: AtomicU64,
    /// All inserts below this number have ended.
    visible: AtomicU64,
    /// Inserts at or above `visible` that have ended.
    ended: Mutex<BTreeSet<u64>>,
}

impl KeySpace {
    /// Keys `0..keys` exist.
    pub(crate) fn new(keys: u64) -> Self {
        Self { next: AtomicU64::new(keys), visible: AtomicU64::new(keys), ended: Mutex::default() }
    }

    /// A number for a new key.
    pub(crate) fn allocate(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The insert of `number` has ended.
    pub(crate) fn insert_ended(&self, number: u64) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.insert(number);
        let mut visible = self.visible.load(Ordering::Relaxed);
        while ended.remove(&visible) {
            visible += 1;
        }
        self.visible.store(visible, Ordering::Relaxed);
    }

    /// Keys `0..visible()` may be chosen.
    pub(crate) fn visible(&self) -> u64 {
        self.visible.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_chosen_once_all_before_it_are_there() {
        let space = KeySpace::new(10);
        assert_eq!((space.allocate(), space.allocate()), (10, 11));
        space.insert_ended(11);
        assert_eq!(space.visible(), 10);
        space.insert_ended(10);
        assert_eq!(space.visible(), 12);
        assert!(key_name(9) < key_name(10));
    }
}
