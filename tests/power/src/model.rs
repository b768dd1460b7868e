//! What may be found in a store after a loss.
//!
//! Each shard's log has one writer and lies in one write-ahead log with all others. So what is found of it is what it was
//! after some of the operations that were asked for, in their order: at least after those that were acknowledged. Both
//! "nothing acknowledged is lost" and "nothing that was removed comes back" follow from that one sentence. The same
//! holds for a shard's data, where a flush acknowledges.
//!
//! Operations carry the position of their note in the journal. While one thread writes, all shards' logs are cut at one
//! position, and all shards' data is at another; an installed snapshot is durable ahead of its neighbours.

use crate::workload::{DataOp, Entry, LogOp, Note};
use std::collections::BTreeMap;
use std::fmt;

/// A shard's log, as far as a loss matters.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last vote.
    pub vote: Option<u64>,
    /// The last index known to be committed.
    pub committed: Option<u64>,
    /// The last purged index.
    pub purged: Option<u64>,
    /// The entries.
    pub entries: BTreeMap<u64, Entry>,
}

impl LogState {
    fn apply(&mut self, op: &LogOp) {
        match op {
            LogOp::Append(first, entries) => self.entries.extend((*first..).zip(entries.iter().copied())),
            LogOp::Truncate(from) => drop(self.entries.split_off(from)),
            LogOp::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto + 1));
                self.purged = Some(*upto);
            }
            LogOp::Vote(term) => self.vote = Some(*term),
            LogOp::Committed(index) => self.committed = Some(*index),
        }
    }
}

impl fmt::Display for LogState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = self.entries.first_key_value().zip(self.entries.last_key_value());
        let ends = ends.map(|((first, _), (last, entry))| (*first, *last, entry.term));
        let Self { vote, committed, purged, .. } = self;
        write!(f, "vote {vote:?}, committed {committed:?}, purged {purged:?}, entries ")?;
        match ends {
            None => f.write_str("none"),
            Some((first, last, term)) => {
                write!(f, "{first}..={last} ({} of them, last of term {term})", self.entries.len())
            }
        }
    }
}

/// A shard's data, as far as a loss matters.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct DataState {
    /// Index of the last applied entry; 0: none.
    pub applied: u64,
    /// The newest version of each key: its index, and the entry if that did not delete it.
    pub newest: BTreeMap<u8, (u64, Option<Entry>)>,
}

impl DataState {
    /// Applies entries, or a snapshot with these entries.
    pub fn apply(&mut self, op: &DataOp) {
        for (index, entry) in op.entries() {
            self.newest.insert(entry.key, (*index, entry.put()));
            self.applied = *index;
        }
    }
}

/// A state and the operations that may have changed it since.
#[derive(Clone)]
struct Tracked<S, O> {
    base: S,
    /// With the position of each in the journal.
    ops: Vec<(u64, O)>,
    /// So many of them are durable.
    acked: usize,
}

impl<S: Default, O> Default for Tracked<S, O> {
    fn default() -> Self {
        Self { base: S::default(), ops: Vec::new(), acked: 0 }
    }
}

/// What a state found was: after which operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Positions in the journal at which a loss would explain it, in order. There are several where operations have
    /// undone one another.
    pub cuts: Vec<Cut>,
    /// Operations that were acknowledged, and are there.
    pub acked: u64,
    /// Operations that nobody was told of, and are there all the same; the fewest that explain it.
    pub extra: u64,
}

/// Positions in a journal: from the first up to, not including, the second.
pub type Cut = (u64, u64);

/// The positions that both have.
pub fn common(a: &[Cut], b: &[Cut]) -> Vec<Cut> {
    let each = a.iter().flat_map(|a| b.iter().map(|b| (a.0.max(b.0), a.1.min(b.1))));
    each.filter(|(from, until)| from < until).collect()
}

impl<S: Clone + PartialEq, O> Tracked<S, O> {
    /// After which operations the state was the one found; `None`: after none of those that are possible.
    fn find(&self, found: &S, apply: impl Fn(&mut S, &O)) -> Option<Found> {
        let (mut state, mut cuts, mut extra) = (self.base.clone(), Vec::<Cut>::new(), 0);
        for n in 0..=self.ops.len() {
            let from = n.checked_sub(1).map_or(0, |last| self.ops[last].0);
            if let Some((_, op)) = n.checked_sub(1).and_then(|last| self.ops.get(last)) {
                apply(&mut state, op);
            }
            if n < self.acked || state != *found {
                continue;
            }
            let until = self.ops.get(n).map_or(u64::MAX, |(at, _)| *at);
            match cuts.last_mut() {
                // An operation that changes nothing.
                Some(cut) if cut.1 == from => cut.1 = until,
                Some(_) => cuts.push((from, until)),
                None => {
                    extra = n - self.acked;
                    cuts.push((from, until));
                }
            }
        }
        (!cuts.is_empty()).then_some(Found { cuts, acked: self.acked as u64, extra: extra as u64 })
    }

    fn after(&self, count: usize, apply: impl Fn(&mut S, &O)) -> S {
        let mut state = self.base.clone();
        self.ops[..count].iter().for_each(|(_, op)| apply(&mut state, op));
        state
    }
}

#[derive(Clone, Default)]
struct Shard {
    log: Tracked<LogState, LogOp>,
    data: Tracked<DataState, DataOp>,
}

/// Everything that may be found.
#[derive(Clone, Default)]
pub struct Expected {
    shards: BTreeMap<u64, Shard>,
    /// The store was opened at least once.
    pub opened: bool,
    /// Threads that wrote to logs.
    pub writers: u64,
}

impl Expected {
    /// What is expected once a life has got as far as these notes, given by their positions. `found` is what a store
    /// opened on the files on which the life began has found: as soon as it is open, that much is durable.
    pub fn follow<'a>(&self, found: &Self, notes: impl IntoIterator<Item = (u64, &'a Note)>) -> Self {
        let mut expected = self.clone();
        for (at, note) in notes {
            match note {
                Note::Opened(writers) => {
                    expected = found.clone();
                    expected.opened = true;
                    expected.writers = *writers;
                }
                Note::Log(shard, op) => expected.shard(*shard).log.ops.push((at, op.clone())),
                Note::LogAcked(shard, count) => {
                    let log = &mut expected.shard(*shard).log;
                    log.acked = log.acked.max(usize::try_from(*count).unwrap_or(usize::MAX));
                }
                Note::Data(shard, op) => expected.shard(*shard).data.ops.push((at, op.clone())),
                Note::DataAcked(shard, count) => {
                    let data = &mut expected.shard(*shard).data;
                    data.acked = data.acked.max(usize::try_from(*count).unwrap_or(usize::MAX));
                }
                Note::Durable(shard, index) => {
                    let data = &mut expected.shard(*shard).data;
                    let covered =
                        data.ops.iter().take_while(|(_, op)| op.entries().last().is_none_or(|(last, _)| last <= index));
                    data.acked = data.acked.max(covered.count());
                }
            }
        }
        expected
    }

    /// The shards that were ever asked for anything.
    pub fn shards(&self) -> impl Iterator<Item = u64> {
        self.shards.keys().copied()
    }

    /// Whether a snapshot of the shard was installed since, or is being installed: its data may be ahead of its log, and
    /// durable ahead of other shards' data.
    pub fn installs(&self, shard: u64) -> bool {
        self.shards.get(&shard).is_some_and(|Shard { log, data }| {
            let end = log.base.entries.last_key_value().map(|(index, _)| *index).max(log.base.purged).unwrap_or(0);
            data.base.applied > end || data.ops.iter().any(|(_, op)| matches!(op, DataOp::Install(_)))
        })
    }

    /// After which operations a shard's log was as it was found.
    ///
    /// * Errors: what is wrong, in words.
    pub fn find_log(&self, shard: u64, found: &LogState) -> Result<Found, String> {
        let none = Shard::default();
        let log = &self.shards.get(&shard).unwrap_or(&none).log;
        log.find(found, LogState::apply).ok_or_else(|| {
            let least = log.after(log.acked.min(log.ops.len()), LogState::apply);
            let lost = least.entries.iter().filter(|(index, entry)| found.entries.get(index) != Some(entry)).count();
            let asked = log.after(log.ops.len(), LogState::apply);
            format!(
                "log of shard {shard}: {lost} entries that had been acknowledged are not there (some may have been removed \
                 since). Found: {found}. After the {} acknowledged operations: {least}. After all {}: {asked}",
                log.acked,
                log.ops.len()
            )
        })
    }

    /// After which operations a shard's data was as it was found.
    ///
    /// * Errors: what is wrong, in words.
    pub fn find_data(&self, shard: u64, found: &DataState) -> Result<Found, String> {
        let none = Shard::default();
        let data = &self.shards.get(&shard).unwrap_or(&none).data;
        data.find(found, DataState::apply).ok_or_else(|| {
            let least = data.after(data.acked.min(data.ops.len()), DataState::apply);
            let asked = data.after(data.ops.len(), DataState::apply);
            format!(
                "data of shard {shard}: applied {}, durable {}, last applied before the loss {}; the versions of {} keys \
                 are not those of the log up to there",
                found.applied,
                least.applied,
                asked.applied,
                data.wrong_keys(found)
            )
        })
    }

    /// Sets what a store has found as that on which a life begins.
    pub fn set(&mut self, shard: u64, log: LogState, data: DataState) {
        let tracked = self.shard(shard);
        tracked.log = Tracked { base: log, ops: Vec::new(), acked: 0 };
        tracked.data = Tracked { base: data, ops: Vec::new(), acked: 0 };
    }

    fn shard(&mut self, shard: u64) -> &mut Shard {
        self.shards.entry(shard).or_default()
    }
}

impl Tracked<DataState, DataOp> {
    /// Keys that are not what they were when that index was the last applied one.
    fn wrong_keys(&self, found: &DataState) -> usize {
        let mut state = self.base.clone();
        let upto =
            self.ops.iter().take_while(|(_, op)| op.entries().last().is_none_or(|(last, _)| *last <= found.applied));
        upto.for_each(|(_, op)| state.apply(op));
        let keys = state.newest.keys().chain(found.newest.keys());
        let wrong = keys.filter(|key| state.newest.get(key) != found.newest.get(key));
        wrong.collect::<std::collections::BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(nonce: u64) -> Entry {
        Entry { term: 1, key: (nonce % 3) as u8, nonce, length: 5 }
    }

    fn log(indexes: impl IntoIterator<Item = (u64, u64)>) -> LogState {
        LogState { entries: indexes.into_iter().map(|(i, n)| (i, entry(n))).collect(), ..LogState::default() }
    }

    fn follow(notes: &[Note]) -> Expected {
        let opened = Expected { opened: true, ..Expected::default() };
        Expected::default().follow(&opened, (1..).zip(notes))
    }

    #[test]
    fn a_log_is_what_it_was_after_some_operations_and_all_acknowledged_ones() {
        let notes = [
            Note::Opened(1),
            Note::Log(1, LogOp::Append(1, vec![entry(1), entry(2)])),
            Note::LogAcked(1, 1),
            Note::Log(1, LogOp::Append(3, vec![entry(3)])),
            Note::Log(1, LogOp::Truncate(3)),
            Note::Log(1, LogOp::Append(3, vec![entry(4)])),
        ];
        let expected = follow(&notes);
        let cut = |state: &LogState| expected.find_log(1, state).map(|found| (found.cuts, found.extra)).ok();
        assert_eq!(cut(&log([(1, 1), (2, 2)])), Some((vec![(2, 4), (5, 6)], 0)), "once more after the truncation");
        assert_eq!(cut(&log([(1, 1), (2, 2), (3, 3)])), Some((vec![(4, 5)], 1)));
        assert_eq!(cut(&log([(1, 1), (2, 2), (3, 4)])), Some((vec![(6, u64::MAX)], 3)));
        for lost in [log([]), log([(1, 1)]), log([(2, 2), (3, 3)]), log([(1, 1), (2, 2), (3, 5)])] {
            assert_eq!(cut(&lost), None, "{lost}");
        }
    }

    #[test]
    fn what_two_shards_have_in_common() {
        assert_eq!(common(&[(0, 5), (8, 10)], &[(3, 9)]), [(3, 5), (8, 9)]);
        assert!(common(&[(0, 5)], &[(5, 9)]).is_empty() && common(&[], &[(5, 9)]).is_empty());
    }

    #[test]
    fn what_was_removed_and_acknowledged_does_not_come_back() {
        let notes = [
            Note::Opened(1),
            Note::Log(1, LogOp::Append(1, vec![entry(1), entry(2)])),
            Note::Log(1, LogOp::Truncate(2)),
            Note::Log(1, LogOp::Vote(7)),
            Note::LogAcked(1, 3),
            Note::Log(1, LogOp::Purge(1)),
        ];
        let expected = follow(&notes);
        let voted = |log: LogState| LogState { vote: Some(7), ..log };
        assert!(expected.find_log(1, &voted(log([(1, 1)]))).is_ok());
        assert!(expected.find_log(1, &log([(1, 1)])).is_err(), "without the vote");
        assert!(expected.find_log(1, &voted(log([(1, 1), (2, 2)]))).is_err());
        assert!(expected.find_log(1, &LogState { purged: Some(1), ..voted(log([])) }).is_ok());
        assert!(expected.find_log(1, &LogState { purged: Some(1), ..voted(log([(1, 1)])) }).is_err());
    }

    #[test]
    fn data_is_the_log_up_to_its_position_and_no_older_than_what_was_flushed() {
        let notes = [
            Note::Opened(1),
            Note::Data(1, DataOp::Apply(vec![(1, entry(1)), (2, entry(2))])),
            Note::Data(1, DataOp::Apply(vec![(3, entry(4))])),
            Note::DataAcked(1, 1),
        ];
        let expected = follow(&notes);
        let state = |applied, newest: &[(u64, u64)]| DataState {
            applied,
            newest: newest.iter().map(|(i, n)| (entry(*n).key, (*i, entry(*n).put()))).collect(),
        };
        assert!(expected.find_data(1, &state(2, &[(1, 1), (2, 2)])).is_ok());
        assert!(expected.find_data(1, &state(3, &[(3, 4), (2, 2)])).is_ok());
        assert!(expected.find_data(1, &state(0, &[])).is_err(), "older than the flush");
        assert!(expected.find_data(1, &state(3, &[(1, 1), (2, 2)])).is_err(), "not what was applied");
        let durable = [&notes[..], &[Note::Durable(1, 3)]].concat();
        assert!(follow(&durable).find_data(1, &state(2, &[(1, 1), (2, 2)])).is_err());
    }

    #[test]
    fn before_a_life_has_opened_its_store_the_one_before_it_counts() {
        let earlier = follow(&[Note::Opened(1), Note::Log(1, LogOp::Vote(1)), Note::Log(1, LogOp::Vote(2))]);
        let mut found = Expected::default();
        found.set(1, LogState { vote: Some(1), ..LogState::default() }, DataState::default());
        let vote = |vote| LogState { vote, ..LogState::default() };
        let during = earlier.follow(&found, []);
        assert!(during.find_log(1, &vote(None)).is_ok() && during.find_log(1, &vote(Some(2))).is_ok());
        let after = earlier.follow(&found, [(9, &Note::Opened(1))]);
        assert!(after.find_log(1, &vote(Some(1))).is_ok());
        assert!(after.find_log(1, &vote(None)).is_err() && after.find_log(1, &vote(Some(2))).is_err());
    }
}
