//! What every node's log of every shard holds, from the events alone.
//!
//! A power loss leaves some earlier state of a log: it can take unsynced entries away, and it can bring back entries
//! whose removal was not synced. The first is seen when the log is opened again; of the second nobody says which
//! entries came back, so those places are [`Slot::Doubtful`] and prove nothing either way.

use crate::sim::invariant::{Seen, Stop, What};
use meridian_probe::Event;
use meridian_types::{NodeId, ShardId};
use std::collections::{BTreeMap, VecDeque};

/// Most places of unknown content that are kept after a log was opened; a longer log is one that was never seen.
const FOUND_MAX: u64 = 1 << 20;

/// What a log has at an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot<'a, T> {
    /// Given up: it was committed, and is in the state of this replica.
    Gone,
    /// This entry.
    Known(&'a T),
    /// Some entry.
    Doubtful,
    /// Nothing yet.
    Missing,
}

/// Something that was written and is not known to be synced, in the order of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsynced {
    Entry(u64),
    Cut(u64),
}

/// One node's log of one shard, with something about each entry.
#[derive(Debug)]
pub(super) struct Log<T> {
    /// Index of the first entry; what was below is gone.
    first: u64,
    entries: VecDeque<Option<T>>,
    /// Below this, an installed snapshot stands for what is not here.
    covered: u64,
    unsynced: VecDeque<Unsynced>,
    /// Removals from here on may come back when the log is opened after a power loss.
    revived: Option<u64>,
    /// Places of unknown content are below this.
    doubtful: u64,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        let (entries, unsynced) = (VecDeque::new(), VecDeque::new());
        Self { first: 0, entries, covered: 0, unsynced, revived: None, doubtful: 0 }
    }
}

impl<T> Log<T> {
    /// Index after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// What is at `index`.
    pub(super) fn get(&self, index: u64) -> Slot<'_, T> {
        let Some(offset) = index.checked_sub(self.first) else { return Slot::Gone };
        match usize::try_from(offset).ok().and_then(|i| self.entries.get(i)) {
            Some(Some(entry)) => Slot::Known(entry),
            Some(None) => Slot::Doubtful,
            None if index < self.covered => Slot::Gone,
            None => Slot::Missing,
        }
    }

    /// What is just before `index`; `None` at the log's beginning.
    pub(super) fn before(&self, index: u64) -> Option<Slot<'_, T>> {
        index.checked_sub(1).map(|i| self.get(i))
    }

    /// Whether the content of some place may be unknown.
    pub(super) fn is_doubtful(&self) -> bool {
        self.first < self.doubtful
    }

    /// Adds an entry; `Err` says why it does not belong there. It is taken in all the same.
    pub(super) fn append(&mut self, index: u64, entry: T) -> Result<(), String> {
        let end = self.end();
        let mut fits = Ok(());
        if index > end {
            if index > self.covered {
                fits = Err(format!("index {index} is appended to a log that ends before {end}"));
            }
            self.entries.clear();
        } else if index < end {
            if matches!(self.get(index), Slot::Known(_)) {
                fits = Err(format!("index {index} is appended to a log that has it, up to {end}"));
            }
            self.cut(index);
        }
        if self.entries.is_empty() {
            self.first = index;
        }
        self.entries.push_back(Some(entry));
        self.unsynced.push_back(Unsynced::Entry(index));
        fits
    }

    fn cut(&mut self, from: u64) {
        let keep = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.entries.truncate(keep);
        self.doubtful = self.doubtful.min(from);
    }

    fn truncate(&mut self, from: u64) {
        if from < self.end() {
            self.cut(from);
            self.unsynced.push_back(Unsynced::Cut(from));
        }
    }

    fn purge(&mut self, upto: u64) {
        while self.first <= upto && self.entries.pop_front().is_some() {
            self.first += 1;
        }
        self.first = self.first.max(upto + 1);
    }

    /// The node said that it is durable up to `upto`. Returns up to where that vouches for what is in the log now:
    /// what was removed since and written anew is another matter.
    fn synced(&mut self, upto: u64) -> Option<u64> {
        let at = self.unsynced.iter().position(|u| *u == Unsynced::Entry(upto))?;
        self.unsynced.drain(..=at);
        let removed = self.unsynced.iter().filter_map(|u| if let Unsynced::Cut(from) = u { Some(*from) } else { None });
        removed.min().map_or(Some(upto), |from| from.min(upto + 1).checked_sub(1))
    }

    fn stopped(&mut self, stop: Stop) {
        if stop == Stop::PowerLost {
            let removed = self.unsynced.iter().filter_map(|u| if let Unsynced::Cut(at) = u { Some(*at) } else { None });
            self.revived = removed.min();
            self.unsynced.clear();
        }
    }

    fn opened(&mut self, end: u64) {
        // Opening a store makes what it finds durable.
        self.unsynced.clear();
        if let Some(from) = self.revived.take() {
            self.cut(from);
        }
        if end <= self.first {
            self.entries.clear();
        } else if end < self.end() {
            self.cut(end);
        } else if end - self.end() > FOUND_MAX {
            self.entries.clear();
            self.first = end;
        } else {
            let found = usize::try_from(end - self.first).unwrap_or(usize::MAX);
            if found > self.entries.len() {
                self.entries.resize_with(found, || None);
                self.doubtful = end;
            }
        }
    }
}

/// The logs of all nodes.
#[derive(Debug)]
pub(super) struct Logs<T> {
    logs: BTreeMap<(NodeId, ShardId), Log<T>>,
}

impl<T> Default for Logs<T> {
    fn default() -> Self {
        Self { logs: BTreeMap::new() }
    }
}

impl<T> Logs<T> {
    /// This node's log of the shard, if it ever had one.
    pub(super) fn get(&self, node: NodeId, shard: ShardId) -> Option<&Log<T>> {
        self.logs.get(&(node, shard))
    }

    /// This node's log of the shard.
    pub(super) fn log(&mut self, node: NodeId, shard: ShardId) -> &mut Log<T> {
        self.logs.entry((node, shard)).or_default()
    }

    /// Takes in everything but new entries, which the caller appends as it wants to remember them. If a node said
    /// that its log is synced: up to where that vouches for what is there now.
    pub(super) fn follow(&mut self, seen: &Seen<'_>) -> Option<u64> {
        let node = seen.node;
        match seen.what {
            What::Started | What::Disk(_) => {}
            What::Stopped(stop) => {
                for (_, log) in self.logs.range_mut((node, ShardId(0))..=(node, ShardId(u64::MAX))) {
                    log.stopped(stop);
                }
            }
            What::Event(Event::Opened { shard, log_end, .. }) => self.log(node, *shard).opened(*log_end),
            What::Event(Event::Truncated { shard, from }) => self.log(node, *shard).truncate(*from),
            What::Event(Event::Purged { shard, upto }) => self.log(node, *shard).purge(*upto),
            What::Event(Event::Synced { shard, upto }) => return self.log(node, *shard).synced(*upto),
            What::Event(Event::VoteSaved { shard, .. }) => self.log(node, *shard).unsynced.clear(),
            What::Event(Event::Installed { shard, id: Some(id), .. }) => {
                let log = self.log(node, *shard);
                log.covered = log.covered.max(id.index + 1);
            }
            What::Event(_) => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: impl IntoIterator<Item = (u64, u8)>) -> Log<u8> {
        let mut log = Log::default();
        for (index, entry) in entries {
            log.append(index, entry).unwrap();
        }
        log
    }

    #[test]
    fn entries_come_and_go() {
        let mut log = log((0..6).map(|i| (i, 1)));
        log.truncate(4);
        log.append(4, 2).unwrap();
        log.purge(1);
        assert_eq!((log.first, log.end()), (2, 5));
        assert_eq!((log.get(1), log.get(3), log.get(4)), (Slot::Gone, Slot::Known(&1), Slot::Known(&2)));
        assert_eq!(log.get(5), Slot::Missing);
        assert!(log.append(6, 3).is_err(), "a hole");
    }

    #[test]
    fn an_entry_is_not_written_over() {
        let mut log = log((0..3).map(|i| (i, 1)));
        assert!(log.append(2, 2).is_err());
    }

    #[test]
    fn a_snapshot_stands_for_what_is_missing() {
        let mut log = log([(0, 1), (1, 1)]);
        log.covered = 20;
        assert_eq!((log.get(1), log.get(2), log.get(20)), (Slot::Known(&1), Slot::Gone, Slot::Missing));
        assert_eq!(log.append(20, 2), Ok(()), "before the old ones are purged");
        log.purge(30);
        assert_eq!(log.append(31, 2), Ok(()), "purged beyond its end");
    }

    #[test]
    fn a_sync_of_entries_that_were_removed_since_vouches_for_what_is_left() {
        let mut log = log((0..10).map(|i| (i, 1)));
        log.truncate(7);
        log.append(7, 2).unwrap();
        log.append(8, 2).unwrap();
        assert_eq!(log.synced(9), Some(6));
        assert_eq!(log.synced(8), Some(8));
        assert_eq!(log.synced(8), None, "said twice");
    }

    #[test]
    fn a_power_loss_takes_what_was_not_synced() {
        let mut log = log((0..5).map(|i| (i, 1)));
        log.stopped(Stop::PowerLost);
        log.opened(3);
        assert_eq!((log.end(), log.get(2)), (3, Slot::Known(&1)));
    }

    #[test]
    fn a_power_loss_may_bring_back_what_was_removed() {
        let mut log = log((0..5).map(|i| (i, 1)));
        log.truncate(3);
        log.append(3, 2).unwrap();
        log.stopped(Stop::PowerLost);
        log.opened(5);
        assert_eq!((log.get(2), log.get(3), log.get(4)), (Slot::Known(&1), Slot::Doubtful, Slot::Doubtful));
        assert!(log.is_doubtful());
    }

    #[test]
    fn a_synced_removal_does_not_come_back() {
        let mut log = log((0..5).map(|i| (i, 1)));
        log.truncate(3);
        log.append(3, 2).unwrap();
        assert_eq!((log.synced(4), log.synced(3)), (Some(2), Some(3)));
        log.stopped(Stop::PowerLost);
        log.opened(4);
        assert_eq!(log.get(3), Slot::Known(&2));
    }

    #[test]
    fn a_kill_takes_nothing() {
        let mut log = log((0..5).map(|i| (i, 1)));
        log.truncate(3);
        log.stopped(Stop::Killed);
        log.opened(3);
        assert_eq!((log.end(), log.get(2), log.is_doubtful()), (3, Slot::Known(&1), false));
    }
}
