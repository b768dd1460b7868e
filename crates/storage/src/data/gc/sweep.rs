//! Removes tombstones that hide nothing any more.
//!
//! A compaction of some files keeps a tombstone at or below the floor, because something older may lie in another file,
//! and notes it. Here it is looked up: if the state as it is now has nothing older of the key, it may be deleted like any
//! record, and reads do not change at any timestamp. What is not visible now never comes back: compactions appear
//! whole and are durable, and nothing older is written later, except where a range is cleared and filled again; there
//! is no floor between the two (rule 4), and flushes and clears are kept away meanwhile.

use crate::data::batch::DataBatch;
use crate::data::families::Family;
use crate::data::key;
use crate::data::view::DataView;
use crate::engine::{Reach, Scan};
use crate::{DataStore, StorageError};

impl DataStore {
    /// Removes the tombstones that compactions have noted, as far as nothing older is left of their keys; returns how
    /// many. Call it now and then. Not durable until the next flush: a crash brings them back, and a compaction notes
    /// them again. Reads from the disk: not for use on an asynchronous thread.
    pub fn sweep_tombstones(&self) -> Result<usize, StorageError> {
        let noted = self.registry().take_lonely();
        if noted.is_empty() {
            return Ok(0);
        }
        let _nothing_is_cleared = self.hold_flushes();
        let view = self.view();
        let mut batch = DataBatch::default();
        let mut removed = 0;
        for encoded in noted {
            let (_, ts) = key::split(&encoded)?;
            let below = self.registry().floor_of(&encoded).is_some_and(|floor| ts <= floor);
            if below && is_last(&view, &encoded)? {
                batch.remove_version(&encoded);
                removed += 1;
            }
        }
        if !batch.is_empty() {
            self.write(batch)?;
        }
        Ok(removed)
    }
}

/// Whether this version is there and nothing older of its key.
fn is_last(view: &DataView, encoded: &[u8]) -> Result<bool, StorageError> {
    let mut iter = view.iter(Family::Versions, Scan::all(Reach::OnePrefix));
    iter.seek(encoded);
    let mut last = false;
    if iter.key() == Some(encoded) {
        iter.next();
        last = iter.key().is_none_or(|next| key::stem_of(next) != key::stem_of(encoded));
    }
    iter.status("look for older versions")?;
    Ok(last)
}
