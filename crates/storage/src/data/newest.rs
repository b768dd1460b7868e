//! Which version of a key is its newest, remembered for keys that were read.
//!
//! To find the newest version at or below a timestamp takes an iterator over every level. Once it is known which version a
//! key's newest is, a lookup of that one does, which stops at the first file that has it. What is remembered here decides
//! nothing by itself: it says where to look first.
//!
//! Invariant: what is remembered of a key is not below any of its versions that a view sees, or will see. Hence a view that
//! has the remembered version has nothing newer; one that does not have it is searched as if nothing were remembered. Two
//! rules keep it:
//!
//! 1. *Raised before it is written.* A change first raises what is remembered of its keys, and is visible only afterwards.
//! 2. *Learned only from a view that saw all changes.* Each set remembers the number of the last change of any key in it,
//!    whether or not the key was remembered. What a view found is taken only if it was taken after that change was done.
//!
//! Versions that go by garbage collection break nothing: a key's newest one that is no tombstone stays. Those that go by
//! clearing, or come by other ways than changes of keys ([`Newest::change_everything`]), make everything forgotten; and a
//! view that was taken before does not use what is remembered any more, since what was learned afterwards may be below
//! what it sees.

use meridian_types::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::xxh3_64;

/// Keys of one set: one that comes replaces the one that came first.
const WAYS: usize = 4;

/// Bytes of the block cache, at least, for each key that can be remembered.
const CACHE_BYTES_PER_KEY: usize = 8 << 10;

/// Bytes of the longest stem that is remembered: all that is remembered stays below a fortieth of the cache.
const STEM_MAX: usize = 128;

/// See the module's documentation.
pub(super) struct Newest {
    /// Changes that have begun: the number of each is what this is then.
    begun: AtomicU64,
    /// How many of them are done.
    done: AtomicU64,
    /// All changes up to this number were done when somebody looked.
    settled: AtomicU64,
    /// Number of the last change of everything.
    everything: AtomicU64,
    sets: Box<[Mutex<Set>]>,
}

#[derive(Default)]
struct Set {
    /// Number of the last change of any key that belongs here.
    changed: u64,
    /// Which of the keys goes next.
    next: usize,
    known: [Known; WAYS],
}

/// One key. An empty stem is none.
#[derive(Default)]
struct Known {
    stem: Box<[u8]>,
    newest: Timestamp,
}

/// A moment up to which all changes with a number up to this one are visible.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(u64);

/// A change that has begun; done when it is dropped.
pub(super) struct Change<'a> {
    of: &'a Newest,
    number: u64,
}

impl Newest {
    /// For a store with a block cache of so many bytes.
    pub(super) fn beside(cache_bytes: usize) -> Self {
        let sets = 1_usize << (cache_bytes / CACHE_BYTES_PER_KEY / WAYS).max(1).ilog2();
        Self {
            begun: AtomicU64::new(0),
            done: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            everything: AtomicU64::new(0),
            sets: (0..sets).map(|_| Mutex::default()).collect(),
        }
    }

    /// What a view takes *before* it takes its moment of the database.
    pub(super) fn moment(&self) -> Moment {
        // In this order: all that have begun by the second look were done by the first.
        let done = self.done.load(Ordering::SeqCst);
        if done == self.begun.load(Ordering::SeqCst) {
            self.settled.fetch_max(done, Ordering::SeqCst);
            return Moment(done);
        }
        Moment(self.settled.load(Ordering::SeqCst))
    }

    /// A timestamp that none of the key's versions is above that a view of this moment sees, if the key is remembered.
    pub(super) fn of(&self, moment: Moment, stem: &[u8]) -> Option<Timestamp> {
        let set = self.set(stem);
        // Looked at while the set is held: what was learned after the change was learned from a later view.
        if moment.0 < self.everything.load(Ordering::SeqCst) {
            return None;
        }
        set.known.iter().find(|known| *known.stem == *stem).map(|known| known.newest)
    }

    /// Remembers the newest version that a view of this moment sees of a key.
    pub(super) fn learn(&self, moment: Moment, stem: &[u8], newest: Timestamp) {
        if stem.len() > STEM_MAX {
            return;
        }
        let mut set = self.set(stem);
        if set.changed > moment.0 {
            return;
        }
        if let Some(known) = set.known.iter_mut().find(|known| *known.stem == *stem) {
            known.newest = newest;
            return;
        }
        let next = set.next;
        set.next = (next + 1) % WAYS;
        set.known[next] = Known { stem: stem.into(), newest };
    }

    /// Begins a change. What it changes has to be told to it before it is made.
    pub(super) fn change(&self) -> Change<'_> {
        Change { of: self, number: self.begun.fetch_add(1, Ordering::SeqCst) + 1 }
    }

    /// Begins a change of which nobody knows what keys it gives versions to. Forgets everything.
    pub(super) fn change_everything(&self) -> Change<'_> {
        let change = self.change();
        self.everything.fetch_max(change.number, Ordering::SeqCst);
        for set in &self.sets {
            let mut set = lock(set);
            *set = Set { changed: set.changed.max(change.number), ..Set::default() };
        }
        change
    }

    fn set(&self, stem: &[u8]) -> MutexGuard<'_, Set> {
        // Low bits: there are fewer sets than numbers of any width.
        let hash = usize::try_from(xxh3_64(stem) & u64::from(u32::MAX)).unwrap_or_default();
        lock(&self.sets[hash & (self.sets.len() - 1)])
    }
}

fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Change<'_> {
    /// A version that will be there.
    pub(super) fn version(&self, stem: &[u8], ts: Timestamp) {
        let mut set = self.of.set(stem);
        set.changed = set.changed.max(self.number);
        if let Some(known) = set.known.iter_mut().find(|known| *known.stem == *stem) {
            known.newest = known.newest.max(ts);
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.of.done.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: fn(u64) -> Timestamp = Timestamp;

    /// One set for all keys.
    fn newest() -> Newest {
        Newest::beside(0)
    }

    #[test]
    fn what_a_view_found_is_remembered_and_raised_by_later_changes() {
        let newest = newest();
        assert_eq!(newest.of(newest.moment(), b"a"), None);
        newest.learn(newest.moment(), b"a", T(5));
        assert_eq!(newest.of(newest.moment(), b"a"), Some(T(5)));
        newest.change().version(b"a", T(7));
        newest.change().version(b"a", T(6));
        newest.change().version(b"b", T(9));
        assert_eq!((newest.of(newest.moment(), b"a"), newest.of(newest.moment(), b"b")), (Some(T(7)), None));
        // Nothing was there after all, so less than was expected is the newest.
        newest.learn(newest.moment(), b"a", T(3));
        assert_eq!(newest.of(newest.moment(), b"a"), Some(T(3)));
    }

    #[test]
    fn what_a_view_found_before_a_change_was_done_is_not_taken() {
        let newest = newest();
        let before = newest.moment();
        let change = newest.change();
        let during = newest.moment();
        // It has touched nothing yet: it will find and raise what is learned now.
        newest.learn(during, b"a", T(5));
        change.version(b"a", T(8));
        assert_eq!(newest.of(newest.moment(), b"a"), Some(T(8)));
        change.version(b"b", T(8));
        for moment in [before, during, newest.moment()] {
            newest.learn(moment, b"b", T(5));
            newest.learn(moment, b"a", T(5));
        }
        assert_eq!((newest.of(newest.moment(), b"a"), newest.of(newest.moment(), b"b")), (Some(T(8)), None));
        drop(change);
        newest.learn(during, b"b", T(5));
        assert_eq!(newest.of(newest.moment(), b"b"), None);
        newest.learn(newest.moment(), b"b", T(8));
        assert_eq!(newest.of(newest.moment(), b"b"), Some(T(8)));
    }

    #[test]
    fn a_moment_counts_what_was_done_when_nothing_was_under_way() {
        let newest = newest();
        newest.change().version(b"a", T(1));
        let first = newest.moment();
        let (one, two) = (newest.change(), newest.change());
        drop(two);
        // Of three one is still under way, maybe the first.
        assert_eq!((first.0, newest.moment().0), (1, 1));
        drop(one);
        assert_eq!(newest.moment().0, 3);
    }

    #[test]
    fn a_change_of_everything_forgets_and_bars_what_was_seen_before_it() {
        let newest = newest();
        newest.learn(newest.moment(), b"a", T(5));
        let before = newest.moment();
        let change = newest.change_everything();
        newest.learn(newest.moment(), b"a", T(5));
        drop(change);
        newest.learn(before, b"b", T(5));
        assert_eq!((newest.of(newest.moment(), b"a"), newest.of(newest.moment(), b"b")), (None, None));
        newest.learn(newest.moment(), b"a", T(6));
        assert_eq!(newest.of(newest.moment(), b"a"), Some(T(6)));
    }

    #[test]
    fn a_set_has_room_for_some_keys_and_the_first_goes_first() {
        let newest = newest();
        let keys = [b"a", b"b", b"c", b"d", b"e"];
        keys.iter().for_each(|key| newest.learn(newest.moment(), *key, T(1)));
        assert_eq!(keys.map(|key| newest.of(newest.moment(), key).is_some()), [false, true, true, true, true]);
        newest.learn(newest.moment(), &[b'x'; STEM_MAX + 1], T(1));
        assert_eq!(newest.of(newest.moment(), &[b'x'; STEM_MAX + 1]), None);
        assert!(newest.of(newest.moment(), b"b").is_some());
    }

    /// A view of before a clearing sees versions that are above all that came after it.
    #[test]
    fn a_view_from_before_a_change_of_everything_uses_nothing_that_was_learned_later() {
        let newest = newest();
        newest.change().version(b"a", T(18));
        let before = newest.moment();
        drop(newest.change_everything());
        newest.change().version(b"a", T(17));
        newest.learn(newest.moment(), b"a", T(17));
        assert_eq!((newest.of(before, b"a"), newest.of(newest.moment(), b"a")), (None, Some(T(17))));
    }
}
