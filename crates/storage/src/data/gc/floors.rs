//! The floors that a compaction goes by, by range of keys.

use crate::data::key::Span;
use meridian_types::{ShardId, Timestamp};
use std::sync::Arc;

/// One shard's floor: of its versions at or below it, only the newest of each key is still read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(crate) shard: ShardId,
    pub(crate) span: Span,
    pub(crate) floor: Timestamp,
}

/// Floors of some shards, in order of their ranges, which do not overlap. Keys of no shard have none: nothing of them
/// is collected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floors {
    by_start: Arc<[Floor]>,
}

impl Floors {
    /// Those of these shards that are above zero.
    pub(crate) fn of(floors: impl IntoIterator<Item = (ShardId, Span, Timestamp)>) -> Self {
        let some = floors.into_iter().filter(|(_, _, floor)| *floor > Timestamp::ZERO);
        let mut by_start: Vec<Floor> = some.map(|(shard, span, floor)| Floor { shard, span, floor }).collect();
        by_start.sort_by(|a, b| a.span.start.cmp(&b.span.start));
        Self { by_start: by_start.into() }
    }

    /// The shards that have one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Floor> {
        self.by_start.iter()
    }
}

/// Finds the floors of keys that come in ascending order.
pub(crate) struct Cursor {
    floors: Floors,
    place: usize,
}

impl Cursor {
    pub(crate) fn new(floors: Floors) -> Self {
        Self { floors, place: 0 }
    }

    /// The floor of an encoded key that is not below the one asked for before.
    pub(crate) fn at(&mut self, encoded: &[u8]) -> Timestamp {
        let rest = self.floors.by_start.get(self.place..).unwrap_or_default();
        let passed = |f: &&Floor| f.span.end.as_ref().is_some_and(|end| encoded >= &end[..]);
        self.place += rest.iter().take_while(passed).count();
        let here = self.floors.by_start.get(self.place).filter(|f| encoded >= &f.span.start[..]);
        here.map_or(Timestamp::ZERO, |f| f.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::key;
    use meridian_types::{KeyRange, TableId};

    #[test]
    fn every_key_has_its_shards_floor_or_none() {
        let range =
            |start: &'static str, end: Option<&'static str>| KeyRange::new(start.into(), end.map(Into::into)).unwrap();
        let span = |table, range: &KeyRange| Span::of(TableId(table), range);
        let floors = Floors::of([
            (ShardId(3), span(5, &range("m", None)), Timestamp(30)),
            (ShardId(1), span(5, &range("", Some("d"))), Timestamp(10)),
            (ShardId(2), span(5, &range("d", Some("m"))), Timestamp(0)),
            (ShardId(4), span(9, &KeyRange::all()), Timestamp(40)),
        ]);
        assert_eq!(floors.iter().map(|f| f.shard.0).collect::<Vec<_>>(), [1, 3, 4]);
        let keys = [(1, "x"), (5, "a"), (5, "c"), (5, "d"), (5, "l"), (5, "m"), (5, "z"), (6, ""), (9, "q"), (10, "a")];
        let mut cursor = Cursor::new(floors);
        let found = keys.map(|(table, key)| cursor.at(&key::version(TableId(table), key.as_bytes(), Timestamp(1))).0);
        assert_eq!(found, [0, 10, 10, 0, 0, 30, 30, 0, 40, 0]);
    }
}
