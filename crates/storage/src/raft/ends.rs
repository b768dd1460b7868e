//! Where a shard's log begins and ends, remembered.
//!
//! Looking for either end on disk steps over the tombstones of what was purged or cut, which pile up exactly there,
//! and both are asked for by every purge, cut and read. So they are looked up once, and kept in step by the writes of
//! the shard's one writer.
//!
//! Invariant: once known, the ends are those of the entries that a read of the same moment finds. They are changed
//! after the write that moves them, under the lock under which it was made.

use meridian_types::ShardId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Index of the first and of the last entry; `None`: there are no entries.
pub(super) type Ends = Option<(u64, u64)>;

/// The ends of one shard's log, shared by its handles; `None` until they are looked up.
#[derive(Clone, Default)]
pub(super) struct KnownEnds(Arc<Mutex<Option<Ends>>>);

impl KnownEnds {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Ends>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ends of every shard that a handle was asked for.
#[derive(Default)]
pub(super) struct AllEnds(Mutex<HashMap<ShardId, KnownEnds>>);

impl AllEnds {
    pub(super) fn of(&self, shard: ShardId) -> KnownEnds {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(shard).or_default().clone()
    }
}

/// The ends after entries from `first` to `last` were put, which follow the last one there was.
pub(super) fn appended(ends: Ends, first: u64, last: u64) -> Ends {
    Some(ends.map_or((first, last), |(begin, end)| (begin.min(first), end.max(last))))
}

/// The ends after everything from `index` on was removed.
pub(super) fn cut(ends: Ends, index: u64) -> Ends {
    let (first, last) = ends?;
    let kept = index.checked_sub(1)?;
    (first <= kept).then(|| (first, last.min(kept)))
}

/// The ends after everything up to and including `upto` was removed.
pub(super) fn purged(ends: Ends, upto: u64) -> Ends {
    let (first, last) = ends?;
    let kept = upto.checked_add(1)?;
    (kept <= last).then(|| (first.max(kept), last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_follow_what_is_put_and_removed() {
        assert_eq!(appended(None, 5, 9), Some((5, 9)));
        assert_eq!(appended(Some((5, 9)), 10, 10), Some((5, 10)));
        let table = [
            (cut(Some((5, 9)), 7), Some((5, 6)), "a tail"),
            (cut(Some((5, 9)), 10), Some((5, 9)), "beyond the end"),
            (cut(Some((5, 9)), 5), None, "all of it"),
            (cut(Some((5, 9)), 0), None, "from the first possible index"),
            (cut(None, 3), None, "of nothing"),
            (purged(Some((5, 9)), 6), Some((7, 9)), "a front"),
            (purged(Some((5, 9)), 3), Some((5, 9)), "before the beginning"),
            (purged(Some((5, 9)), 9), None, "all of it"),
            (purged(Some((5, 9)), u64::MAX), None, "up to the last possible index"),
            (purged(None, 3), None, "of nothing"),
        ];
        for (found, expected, what) in table {
            assert_eq!(found, expected, "{what}");
        }
    }
}
