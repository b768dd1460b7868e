//! Which floors are in force on this node. The module above has the rules.

use super::floors::Floors;
use super::protected::{Collected, ProtectedTimestamps, Protection};
use crate::data::key::Span;
use meridian_probe::{Event, Sabotage, emit, sabotaged};
use meridian_types::{ShardId, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tombstones remembered for the sweep; those of the largest keys take about 4 MiB.
const LONELY_MAX: usize = 4_096;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    /// Encoded keys of tombstones that may hide nothing any more.
    lonely: Mutex<Vec<Vec<u8>>>,
}

#[derive(Default)]
struct Inner {
    /// What is collected at all: the ranges of the replicas that are open here.
    spans: BTreeMap<ShardId, Span>,
    /// Floors of the state that is durable for certain.
    durable: BTreeMap<ShardId, Timestamp>,
    protected: ProtectedTimestamps,
    /// Floors of the past that open views may need, oldest first, and last the present ones.
    times: VecDeque<Arc<Floors>>,
}

impl Inner {
    /// The floors as they are now, or what they are of, have changed.
    fn turn(&mut self) -> Arc<Floors> {
        let floor = |shard| self.durable.get(shard).copied().unwrap_or_default();
        let now = Floors::of(self.spans.iter().map(|(shard, span)| (*shard, span.clone(), floor(shard))));
        let now = Arc::new(now);
        self.times.push_back(now.clone());
        self.forget_past();
        now
    }

    /// Forgets what no view needs.
    fn forget_past(&mut self) {
        // Views are made of the last one only, so a past one that nobody holds is never held again.
        while self.times.len() > 1 && self.times.front().is_some_and(|oldest| Arc::strong_count(oldest) == 1) {
            self.times.pop_front();
        }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects in this range from now on, below the shard's floor.
    pub(crate) fn cover(&self, shard: ShardId, span: Span) {
        let mut inner = self.lock();
        inner.spans.insert(shard, span);
        inner.turn();
    }

    /// The floors that are durable now, of all shards.
    pub(crate) fn set_durable(&self, floors: impl IntoIterator<Item = (ShardId, Timestamp)>) {
        let floors: BTreeMap<ShardId, Timestamp> = floors.into_iter().collect();
        let mut inner = self.lock();
        if inner.durable != floors {
            inner.durable = floors;
            inner.turn();
        }
    }

    /// The shard has no floor until the next flush: its range is cleared. Returns the mark of this moment.
    pub(crate) fn clear(&self, shard: ShardId) -> Arc<Floors> {
        let mut inner = self.lock();
        inner.durable.remove(&shard);
        inner.turn()
    }

    /// What a view holds, *before* it takes its moment of the database: as long as it does, compactions that begin keep
    /// to the floors of now.
    pub(crate) fn hold(&self) -> Arc<Floors> {
        let mut inner = self.lock();
        match inner.times.back() {
            Some(now) => now.clone(),
            None => {
                let none = Arc::<Floors>::default();
                inner.times.push_back(none.clone());
                none
            }
        }
    }

    /// Whether views are open that were taken before the moment of this mark, or may have been.
    pub(crate) fn has_views_before(&self, mark: &Arc<Floors>) -> bool {
        let mut inner = self.lock();
        inner.forget_past();
        // The mark itself keeps its moment from being forgotten.
        !inner.times.front().is_some_and(|oldest| Arc::ptr_eq(oldest, mark))
    }

    /// The floors for a compaction that begins now.
    pub(crate) fn for_compaction(&self) -> Floors {
        let floors = {
            let mut inner = self.lock();
            inner.forget_past();
            let oldest = inner.times.front().map(|held| Floors::clone(held)).unwrap_or_default();
            let below = |shard, floor: Timestamp| {
                // A range that was cleared since has none.
                let now = inner.durable.get(&shard).copied().unwrap_or_default();
                inner.protected.lowest(shard).map_or(floor, |at| at.min(floor)).min(now)
            };
            if sabotaged(Sabotage::CollectAboveFloor) {
                Floors::of(inner.spans.iter().map(|(shard, span)| (*shard, span.clone(), Timestamp::MAX)))
            } else {
                Floors::of(oldest.iter().map(|f| (f.shard, f.span.clone(), below(f.shard, f.floor))))
            }
        };
        // Not under the lock: whoever records may look at the disk.
        floors.iter().for_each(|f| emit(|| Event::Collecting { shard: f.shard, floor: f.floor }));
        floors
    }

    /// The floor of an encoded key for what is removed now; `None`: nothing of it is.
    pub(crate) fn floor_of(&self, encoded: &[u8]) -> Option<Timestamp> {
        let inner = self.lock();
        let covers = |span: &Span| encoded >= &span.start[..] && span.end.as_ref().is_none_or(|end| encoded < &end[..]);
        let (shard, _) = inner.spans.iter().find(|(_, span)| covers(span))?;
        let floor = inner.durable.get(shard).copied()?;
        Some(inner.protected.lowest(*shard).map_or(floor, |at| at.min(floor)))
    }

    /// Protects a timestamp of one shard, or of all.
    pub(crate) fn protect(self: &Arc<Self>, shard: Option<ShardId>, at: Timestamp) -> Result<Protection, Collected> {
        let mut inner = self.lock();
        let concerned = inner.durable.iter().filter(|(s, _)| shard.is_none_or(|shard| shard == **s));
        if let Some((shard, floor)) = concerned.max_by_key(|(_, floor)| **floor).filter(|(_, floor)| at < **floor) {
            return Err(Collected { shard: *shard, floor: *floor });
        }
        inner.protected.add(shard, at);
        Ok(Protection::new(self.clone(), shard, at))
    }

    pub(super) fn unprotect(&self, shard: Option<ShardId>, at: Timestamp) {
        self.lock().protected.remove(shard, at);
    }

    /// The lowest protected timestamp of a shard.
    pub(crate) fn lowest_protected(&self, shard: ShardId) -> Option<Timestamp> {
        self.lock().protected.lowest(shard)
    }

    /// Remembers tombstones for the sweep, as many as there is room for: a later compaction finds the others again.
    pub(crate) fn note_lonely(&self, keys: Vec<Vec<u8>>) {
        let mut lonely = self.lonely.lock().unwrap_or_else(PoisonError::into_inner);
        let room = LONELY_MAX.saturating_sub(lonely.len());
        lonely.extend(keys.into_iter().take(room));
    }

    /// Takes what was remembered.
    pub(crate) fn take_lonely(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.lonely.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::{KeyRange, TableId};

    const A: ShardId = ShardId(1);
    const B: ShardId = ShardId(2);

    /// Two shards whose floors are durable at 10 and 20.
    fn registry() -> Arc<Registry> {
        let registry = Arc::<Registry>::default();
        registry.cover(A, Span::of(TableId(1), &KeyRange::all()));
        registry.cover(B, Span::of(TableId(2), &KeyRange::all()));
        registry.set_durable([(A, Timestamp(10)), (B, Timestamp(20)), (ShardId(9), Timestamp(5))]);
        registry
    }

    fn floors(registry: &Registry) -> Vec<(u64, u64)> {
        registry.for_compaction().iter().map(|f| (f.shard.0, f.floor.0)).collect()
    }

    #[test]
    fn floors_count_where_a_range_is_covered_and_as_far_as_they_are_durable() {
        let registry = registry();
        assert_eq!(floors(&registry), [(1, 10), (2, 20)]);
        registry.set_durable([(A, Timestamp(15)), (B, Timestamp(20))]);
        assert_eq!(floors(&registry), [(1, 15), (2, 20)]);
        registry.clear(A);
        assert_eq!(floors(&registry), [(2, 20)]);
    }

    #[test]
    fn an_open_view_holds_the_floors_of_its_time_and_only_until_it_is_dropped() {
        let registry = registry();
        let first = registry.hold();
        registry.set_durable([(A, Timestamp(30)), (B, Timestamp(30))]);
        let second = registry.hold();
        registry.set_durable([(A, Timestamp(40)), (B, Timestamp(40))]);
        assert_eq!(floors(&registry), [(1, 10), (2, 20)]);
        drop(first);
        assert_eq!(floors(&registry), [(1, 30), (2, 30)]);
        drop(second);
        assert_eq!(floors(&registry), [(1, 40), (2, 40)]);
    }

    #[test]
    fn a_cleared_range_has_no_floor_whatever_views_are_open() {
        let registry = registry();
        let before = registry.hold();
        let mark = registry.clear(A);
        assert_eq!(floors(&registry), [(2, 20)]);
        let after = registry.hold();
        registry.set_durable([(B, Timestamp(25))]);
        let later = registry.hold();
        assert!(registry.has_views_before(&mark));
        drop(before);
        assert!(!registry.has_views_before(&mark), "two are open, both younger");
        assert_eq!(floors(&registry), [(2, 20)]);
        drop((mark, after, later));
        assert_eq!(floors(&registry), [(2, 25)]);
    }

    #[test]
    fn a_protected_timestamp_stops_the_floor_and_none_is_protected_below_it() {
        let registry = registry();
        assert_eq!(registry.protect(Some(B), Timestamp(19)).err(), Some(Collected { shard: B, floor: Timestamp(20) }));
        assert_eq!(registry.protect(None, Timestamp(15)).err(), Some(Collected { shard: B, floor: Timestamp(20) }));
        let own = registry.protect(Some(A), Timestamp(12)).unwrap();
        let all = [25, 25].map(|at| registry.protect(None, Timestamp(at)).unwrap());
        registry.set_durable([(A, Timestamp(30)), (B, Timestamp(30))]);
        assert_eq!(floors(&registry), [(1, 12), (2, 25)]);
        assert_eq!(registry.lowest_protected(A), Some(Timestamp(12)));
        drop(own);
        assert_eq!(floors(&registry), [(1, 25), (2, 25)]);
        let [one, other] = all;
        drop(one);
        assert_eq!(floors(&registry), [(1, 25), (2, 25)], "protected twice");
        drop(other);
        assert_eq!((floors(&registry), registry.lowest_protected(A)), (vec![(1, 30), (2, 30)], None));
    }
}
