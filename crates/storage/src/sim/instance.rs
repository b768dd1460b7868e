//! One database of the disk: its records as they are visible, and as a power loss would leave them.

use super::disk::Compaction;
use crate::engine::FamilyName;
use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// Records of one family. Views share it; it is copied when it changes under one.
pub(super) type Records = Arc<BTreeMap<Bytes, Bytes>>;

/// One change of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    family: FamilyName,
    op: Op,
}

#[derive(Clone, Debug)]
enum Op {
    Put(Bytes, Bytes),
    Delete(Bytes),
    DeleteRange(Bytes, Bytes),
}

impl Change {
    pub(crate) fn put(family: FamilyName, key: &[u8], value: &[u8]) -> Self {
        Self { family, op: Op::Put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)) }
    }

    pub(crate) fn delete(family: FamilyName, key: &[u8]) -> Self {
        Self { family, op: Op::Delete(Bytes::copy_from_slice(key)) }
    }

    pub(crate) fn delete_range(family: FamilyName, start: &[u8], end: &[u8]) -> Self {
        Self { family, op: Op::DeleteRange(Bytes::copy_from_slice(start), Bytes::copy_from_slice(end)) }
    }

    /// Whether it changes a record from `first` to `last`, both included.
    pub(crate) fn touches(&self, family: FamilyName, first: &[u8], last: &[u8]) -> bool {
        self.family == family
            && match &self.op {
                Op::Put(key, _) | Op::Delete(key) => first <= &key[..] && &key[..] <= last,
                Op::DeleteRange(start, end) => first < &end[..] && &start[..] <= last && start < end,
            }
    }

    /// Bytes of its keys and values.
    fn bytes(&self) -> u64 {
        let bytes = match &self.op {
            Op::Put(key, value) => key.len() + value.len(),
            Op::Delete(key) => key.len(),
            Op::DeleteRange(start, end) => start.len() + end.len(),
        };
        bytes as u64
    }

    fn apply(&self, records: &mut BTreeMap<Bytes, Bytes>) {
        match &self.op {
            Op::Put(key, value) => {
                records.insert(key.clone(), value.clone());
            }
            Op::Delete(key) => {
                records.remove(key);
            }
            Op::DeleteRange(start, end) if start < end => {
                let bounds = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
                let doomed: Vec<Bytes> = records.range::<[u8], _>(bounds).map(|(key, _)| key.clone()).collect();
                for key in doomed {
                    records.remove(&key);
                }
            }
            Op::DeleteRange(..) => {}
        }
    }
}

/// One database.
#[derive(Default)]
pub(crate) struct Instance {
    /// What is visible.
    now: BTreeMap<FamilyName, Records>,
    /// What a power loss leaves for certain.
    stable: BTreeMap<FamilyName, BTreeMap<Bytes, Bytes>>,
    /// The batches in between, oldest first.
    pending: VecDeque<Vec<Change>>,
    /// Batches ever written.
    written: u64,
}

impl Instance {
    pub(super) fn write(&mut self, batch: Vec<Change>) {
        for change in &batch {
            change.apply(Arc::make_mut(self.now.entry(change.family).or_default()));
        }
        self.pending.push_back(batch);
        self.written += 1;
    }

    /// How many batches were written: [`Instance::settle`] takes it.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Makes the batches durable that were written when [`Instance::written`] returned this.
    pub(super) fn settle(&mut self, upto: u64) {
        while self.written - (self.pending.len() as u64) < upto {
            let Some(batch) = self.pending.pop_front() else { return };
            for change in batch {
                change.apply(self.stable.entry(change.family).or_default());
            }
        }
    }

    pub(super) fn settle_all(&mut self) {
        self.settle(self.written);
    }

    /// Batches that are not durable.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Bytes of those batches in one family.
    pub(super) fn pending_bytes(&self, family: FamilyName) -> u64 {
        self.pending.iter().flatten().filter(|change| change.family == family).map(Change::bytes).sum()
    }

    /// Whether what is not durable changes a record from `first` to `last`, both included.
    pub(crate) fn pending_touches(&self, family: FamilyName, first: &[u8], last: &[u8]) -> bool {
        self.pending.iter().flatten().any(|change| change.touches(family, first, last))
    }

    /// Keeps the durable records and the first `survivors` of the other batches; returns how many are lost.
    pub(super) fn lose(&mut self, survivors: usize) -> usize {
        let lost = self.pending.len().saturating_sub(survivors);
        self.pending.truncate(survivors);
        self.written -= lost as u64;
        self.settle_all();
        self.now = self.stable.iter().map(|(family, records)| (*family, Arc::new(records.clone()))).collect();
        lost
    }

    /// Puts a record that is durable at once, whatever was written before.
    pub(super) fn put_stable(&mut self, family: FamilyName, key: Bytes, value: Bytes) {
        Arc::make_mut(self.now.entry(family).or_default()).insert(key.clone(), value.clone());
        self.stable.entry(family).or_default().insert(key, value);
    }

    /// Shows `goes` the durable records of a family that the compaction takes, in order; removes those that go. One that
    /// is about to change stays.
    pub(super) fn compact(
        &mut self,
        family: FamilyName,
        compaction: Compaction,
        mut goes: impl FnMut(&[u8], &[u8]) -> bool,
    ) {
        let mut choice = ChaCha8Rng::seed_from_u64(compaction.choice);
        let Some(stable) = self.stable.get(family) else { return };
        let taken = stable.iter().filter(|_| compaction.whole || choice.random());
        let gone: Vec<Bytes> = taken.filter(|(key, value)| goes(key, value)).map(|(key, _)| key.clone()).collect();
        for key in gone.into_iter().filter(|key| !self.pending_touches(family, key, key)).collect::<Vec<_>>() {
            self.stable.entry(family).or_default().remove(&key);
            Arc::make_mut(self.now.entry(family).or_default()).remove(&key);
        }
    }

    /// What is visible, by family.
    pub(super) fn now(&self) -> &BTreeMap<FamilyName, Records> {
        &self.now
    }

    /// What is durable of one family.
    pub(crate) fn stable(&self, family: FamilyName) -> Option<&BTreeMap<Bytes, Bytes>> {
        self.stable.get(family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: FamilyName = "f";

    fn keys(records: Option<&BTreeMap<Bytes, Bytes>>) -> Vec<&[u8]> {
        records.into_iter().flatten().map(|(key, _)| &key[..]).collect()
    }

    #[test]
    fn what_is_settled_stays_and_of_the_rest_a_prefix() {
        let mut db = Instance::default();
        for key in [b"a", b"b", b"c", b"d", b"e"] {
            db.write(vec![Change::put(F, key, b"1")]);
        }
        db.settle(2);
        db.write(vec![Change::delete_range(F, b"a", b"c"), Change::put(F, b"f", b"1")]);
        assert_eq!(keys(db.now().get(F).map(|r| &**r)), [b"c", b"d", b"e", b"f"]);
        assert_eq!((keys(db.stable(F)), db.pending()), (vec![&b"a"[..], b"b"], 4));
        assert_eq!(db.lose(1), 3);
        assert_eq!(keys(db.now().get(F).map(|r| &**r)), [b"a", b"b", b"c"]);
        // The count goes on where it was lost.
        db.write(vec![Change::put(F, b"z", b"1")]);
        db.settle(db.written());
        assert_eq!(keys(db.stable(F)), [b"a", b"b", b"c", b"z"]);
    }

    #[test]
    fn a_change_touches_what_it_names() {
        let range = Change::delete_range(F, b"b", b"d");
        let touched = |first: &[u8], last: &[u8]| range.touches(F, first, last);
        assert!(touched(b"a", b"b") && touched(b"c", b"c") && touched(b"a", b"z") && touched(b"c", b"z"));
        assert!(!touched(b"d", b"z") && !touched(b"a", b"a") && !range.touches("g", b"a", b"z"));
        assert!(!Change::delete_range(F, b"d", b"b").touches(F, b"a", b"z"), "an empty range");
    }
}
