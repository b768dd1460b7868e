//! One shard's log, vote and small records.
//!
//! Calls of one shard are made one after another, by its one writer; reads may come from anywhere. Every write is
//! in the same write-ahead log, so what is synced later covers all that was written earlier: a saved vote covers
//! the entries appended before it.

use super::ends::{self, Ends, KnownEnds};
use super::store::LOG;
use super::{RaftLogStore, SyncDone, keys, record};
use crate::StorageError;
use crate::engine::{Batch, Iter, Reach, Scan};
use bytes::Bytes;
use meridian_types::ShardId;
use std::ops::Range;
use tokio::sync::oneshot;

/// Up to this many entries are removed one by one; more by one range deletion, which costs every later read in
/// that range a little until it is compacted away.
const POINT_DELETES_MAX: u64 = 32;

/// The handle of one shard's part of the raft store. Clones are equal.
#[derive(Clone)]
pub struct RaftLog {
    store: RaftLogStore,
    shard: ShardId,
    ends: KnownEnds,
}

impl RaftLog {
    pub(super) fn new(store: RaftLogStore, shard: ShardId, ends: KnownEnds) -> Self {
        Self { store, shard, ends }
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Appends entries: readable when this returns, durable when `done` is called with `Ok`.
    ///
    /// * Shape: `(index, encoded entry)`, indexes following one another and the log's last.
    /// * `done` is called exactly once, from the sync thread, after all callbacks queued before it; it must not
    ///   block. If the write itself fails it is called at once, and the same error is returned.
    /// * Cost: one batch into the memory of RocksDB; no call into the system and no wait for the disk.
    pub fn append(&self, entries: &[(u64, Bytes)], done: SyncDone) -> Result<(), StorageError> {
        let (mut batch, mut sealed) = (self.store.db().batch(), Vec::new());
        for (index, entry) in entries {
            let key = keys::entry(self.shard, *index);
            record::seal_into(&mut sealed, &key, entry);
            batch.put(LOG, &key, &sealed);
        }
        let written = self.change_ends(batch, |ends| match (entries.first(), entries.last()) {
            (Some((first, _)), Some((last, _))) => ends::appended(ends, *first, *last),
            _ => ends,
        });
        match written {
            Ok(()) => {
                self.store.when_synced(done);
                Ok(())
            }
            Err(error) => {
                done(Err(error.clone()));
                Err(error)
            }
        }
    }

    /// Saves the vote; returns when it, and everything appended before, is durable.
    pub async fn save_vote(&self, vote: Bytes) -> Result<(), StorageError> {
        self.put(&keys::single(self.shard, keys::VOTE), &vote)?;
        let (sender, receiver) = oneshot::channel();
        // A caller that no longer waits is no failure.
        self.store.when_synced(Box::new(move |result| drop(sender.send(result))));
        receiver.await.unwrap_or_else(|_| Err(StorageError::corrupt("the sync thread dropped a callback")))
    }

    /// The last saved vote.
    pub fn vote(&self) -> Result<Option<Bytes>, StorageError> {
        self.get(&keys::single(self.shard, keys::VOTE), "vote")
    }

    /// Removes the entries from `index` on. Not synced, but ordered before every later write.
    pub fn truncate_from(&self, index: u64) -> Result<(), StorageError> {
        let mut batch = self.store.db().batch();
        if let Some(last) = self.last_index()? {
            self.delete_entries(&mut batch, index, last);
        }
        self.change_ends(batch, |ends| ends::cut(ends, index))
    }

    /// Removes the entries up to and including `upto` and records that entry's log id. `upto` may lie past the
    /// last entry. Not synced: a purge that is lost only keeps more.
    pub fn purge(&self, upto: u64, log_id: Bytes) -> Result<(), StorageError> {
        let mut batch = self.store.db().batch();
        if let Some((first, last)) = self.ends()? {
            self.delete_entries(&mut batch, first, upto.min(last));
        }
        let key = keys::single(self.shard, keys::PURGED);
        batch.put(LOG, &key, &record::seal(&key, &log_id));
        self.change_ends(batch, |ends| ends::purged(ends, upto))
    }

    /// The log id recorded by the last purge.
    pub fn purged(&self) -> Result<Option<Bytes>, StorageError> {
        self.get(&keys::single(self.shard, keys::PURGED), "purged log id")
    }

    /// Records the committed log id. Not synced: it rides with the next sync and only speeds up a restart.
    pub fn save_committed(&self, log_id: Bytes) -> Result<(), StorageError> {
        self.put(&keys::single(self.shard, keys::COMMITTED), &log_id)
    }

    /// The committed log id recorded last.
    pub fn committed(&self) -> Result<Option<Bytes>, StorageError> {
        self.get(&keys::single(self.shard, keys::COMMITTED), "committed log id")
    }

    /// The entries in `range`, from the first that is there, up to `max_bytes` of them but at least one.
    ///
    /// * Errors: [`StorageError::Corrupt`] for a checksum that fails and for a hole between two entries.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, StorageError> {
        self.store.check()?;
        let (mut entries, mut bytes) = (Vec::new(), 0_usize);
        if range.is_empty() {
            return Ok(entries);
        }
        let mut iter = self.entries(keys::entry(self.shard, range.start), keys::entry(self.shard, range.end));
        iter.seek_to_first();
        while let Some((key, value)) = iter.item() {
            let index = self.index_of(key)?;
            let entry = record::open(key, value, || format!("entry {index} of {}", self.shard))?;
            if let Some(last) = entries.last().map(|(last, _)| *last).filter(|last| last + 1 != index) {
                let hole = format!("log of {}: entry {index} follows entry {last}", self.shard);
                return Err(StorageError::corrupt(hole));
            }
            bytes = bytes.saturating_add(entry.len());
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push((index, entry));
            iter.next();
        }
        iter.status("read the raft log")?;
        Ok(entries)
    }

    /// Index of the first entry there is.
    pub fn first_index(&self) -> Result<Option<u64>, StorageError> {
        Ok(self.ends()?.map(|(first, _)| first))
    }

    /// Index of the last entry there is.
    pub fn last_index(&self) -> Result<Option<u64>, StorageError> {
        Ok(self.ends()?.map(|(_, last)| last))
    }

    /// Sets or removes a small named record of this shard; it is durable on return.
    ///
    /// Blocks for a sync: not for use on an asynchronous thread, nor inside a [`SyncDone`] callback.
    pub fn mark(&self, name: &str, value: Option<Bytes>) -> Result<(), StorageError> {
        let key = keys::mark(self.shard, name);
        let mut batch = self.store.db().batch();
        match value {
            Some(value) => batch.put(LOG, &key, &record::seal(&key, &value)),
            None => batch.delete(LOG, &key),
        }
        self.store.write(batch)?;
        self.store.sync()
    }

    /// A record set by [`RaftLog::mark`].
    pub fn get_mark(&self, name: &str) -> Result<Option<Bytes>, StorageError> {
        self.get(&keys::mark(self.shard, name), name)
    }

    /// Removes everything of this shard, its vote included; durable on return. A replica that did this must never
    /// vote in this shard again under the same node id.
    ///
    /// Blocks for a sync, as [`RaftLog::mark`] does.
    pub fn destroy(&self) -> Result<(), StorageError> {
        let mut batch = self.store.db().batch();
        batch.delete_range(LOG, &keys::shard_start(self.shard), &keys::shard_end(self.shard));
        self.change_ends(batch, |_| None)?;
        self.store.sync()
    }

    fn put(&self, key: &[u8], payload: &[u8]) -> Result<(), StorageError> {
        let mut batch = self.store.db().batch();
        batch.put(LOG, key, &record::seal(key, payload));
        self.store.write(batch)
    }

    fn get(&self, key: &[u8], what: &str) -> Result<Option<Bytes>, StorageError> {
        self.store.check()?;
        let open = |value: &[u8]| record::open(key, value, || format!("{what} of {}", self.shard));
        self.store.db().get(LOG, key, "read the raft store", open)?.transpose()
    }

    /// Deletes `first..=last`, as far as it is not empty.
    fn delete_entries(&self, batch: &mut Batch<'_>, first: u64, last: u64) {
        if first > last {
            return;
        }
        if last - first < POINT_DELETES_MAX {
            (first..=last).for_each(|index| batch.delete(LOG, &keys::entry(self.shard, index)));
        } else {
            let end = keys::after_entry(self.shard, last);
            batch.delete_range(LOG, &keys::entry(self.shard, first), &end);
        }
    }

    /// The ends of the log, looked up only the first time.
    fn ends(&self) -> Result<Ends, StorageError> {
        self.store.check()?;
        let mut known = self.ends.lock();
        self.look_up(&mut known)
    }

    fn look_up(&self, known: &mut Option<Ends>) -> Result<Ends, StorageError> {
        if let Some(ends) = *known {
            return Ok(ends);
        }
        let first = self.end(|entries| entries.seek_to_first())?;
        let last = self.end(|entries| entries.seek_to_last())?;
        Ok(*known.insert(first.zip(last)))
    }

    /// Writes the batch, and on success says where the log begins and ends from now on.
    fn change_ends(&self, batch: Batch<'_>, change: impl FnOnce(Ends) -> Ends) -> Result<(), StorageError> {
        let mut known = self.ends.lock();
        // Before the write: afterwards the ends on disk are the new ones already.
        let before = self.look_up(&mut known)?;
        self.store.write(batch)?;
        *known = Some(change(before));
        Ok(())
    }

    fn end(&self, seek: impl FnOnce(&mut Iter<'_>)) -> Result<Option<u64>, StorageError> {
        let mut iter = self.entries(keys::entry(self.shard, 0), keys::entries_end(self.shard));
        seek(&mut iter);
        let index = iter.key().map(|key| self.index_of(key)).transpose()?;
        iter.status("find an end of the raft log")?;
        Ok(index)
    }

    fn entries(&self, start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> Iter<'_> {
        let bounds = Scan { start: Some(start.into()), end: Some(end.into()), reach: Reach::Plain };
        self.store.db().iter(LOG, bounds)
    }

    fn index_of(&self, key: &[u8]) -> Result<u64, StorageError> {
        keys::index_of(key).ok_or_else(|| StorageError::corrupt(format!("log of {}: a key without index", self.shard)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Store, StoreOptions};

    const SHARD: ShardId = ShardId(1);

    /// A log with the entries 0 to 9, and a way to do to its rows what no method does.
    fn tampered(tamper: impl FnOnce(&RaftLog, &mut Batch<'_>)) -> (tempfile::TempDir, RaftLog) {
        let dir = tempfile::tempdir().unwrap();
        let log = Store::open(dir.path(), StoreOptions::default()).unwrap().raft.shard(SHARD);
        let entries: Vec<_> = (0..10).map(|i| (i, Bytes::from(format!("entry {i}")))).collect();
        log.append(&entries, Box::new(|_| {})).unwrap();
        let mut batch = log.store.db().batch();
        tamper(&log, &mut batch);
        log.store.write(batch).unwrap();
        (dir, log)
    }

    fn corrupt<T: std::fmt::Debug>(read: Result<T, StorageError>, names: &str) {
        match read {
            Err(StorageError::Corrupt { what }) => assert!(what.contains(names), "{what}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_entry_that_is_not_what_was_written_is_never_returned() {
        let (_dir, log) = tampered(|log, batch| {
            let (five, seven) = (keys::entry(SHARD, 5), keys::entry(SHARD, 7));
            let stored = log.store.db().get(LOG, &seven, "read", <[u8]>::to_vec).unwrap().unwrap();
            // Whole, but another entry's.
            batch.put(LOG, &five, &stored);
        });
        assert_eq!(log.read(0..5, usize::MAX).unwrap().len(), 5);
        corrupt(log.read(0..6, usize::MAX), "entry 5 of s1");
    }

    #[test]
    fn a_damaged_vote_is_not_taken_for_no_vote() {
        let (_dir, log) = tampered(|_, batch| batch.put(LOG, &keys::single(SHARD, keys::VOTE), b"\0\0\0\0 vote"));
        corrupt(log.vote(), "vote of s1");
    }

    #[test]
    fn a_hole_is_reported() {
        let (_dir, log) = tampered(|_, batch| batch.delete(LOG, &keys::entry(SHARD, 4)));
        corrupt(log.read(0..10, usize::MAX), "entry 5 follows entry 3");
        assert_eq!(log.read(5..10, usize::MAX).unwrap().len(), 5);
    }
}
