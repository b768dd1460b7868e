//! Changes that a database applies together.

use super::{FamilyName, Rocks};
#[cfg(feature = "simulation")]
use crate::sim::Change;
use rocksdb::WriteBatch;

/// An atomic batch; a later change of the same record wins.
pub(crate) enum Batch<'a> {
    Rocks {
        db: &'a Rocks,
        batch: WriteBatch,
    },
    #[cfg(feature = "simulation")]
    Simulated(Vec<Change>),
}

impl<'a> Batch<'a> {
    /// Whatever goes into a write-ahead log says first how far that was durable before: see [`super::guard`].
    pub(super) fn rocks(db: &'a Rocks) -> Self {
        let mut batch = WriteBatch::default();
        if db.logged {
            batch.put_log_data(db.vouch());
        }
        Self::Rocks { db, batch }
    }

    #[cfg(feature = "simulation")]
    pub(super) fn simulated() -> Self {
        Self::Simulated(Vec::new())
    }

    /// Sets a record.
    pub(crate) fn put(&mut self, family: FamilyName, key: &[u8], value: &[u8]) {
        match self {
            Self::Rocks { db, batch } => batch.put_cf(db.cf(family), key, value),
            #[cfg(feature = "simulation")]
            Self::Simulated(changes) => changes.push(Change::put(family, key, value)),
        }
    }

    /// Removes a record.
    pub(crate) fn delete(&mut self, family: FamilyName, key: &[u8]) {
        match self {
            Self::Rocks { db, batch } => batch.delete_cf(db.cf(family), key),
            #[cfg(feature = "simulation")]
            Self::Simulated(changes) => changes.push(Change::delete(family, key)),
        }
    }

    /// Removes the records from `start` up to, not including, `end`.
    pub(crate) fn delete_range(&mut self, family: FamilyName, start: &[u8], end: &[u8]) {
        match self {
            Self::Rocks { db, batch } => batch.delete_range_cf(db.cf(family), start, end),
            #[cfg(feature = "simulation")]
            Self::Simulated(changes) => changes.push(Change::delete_range(family, start, end)),
        }
    }
}
