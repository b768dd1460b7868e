//! What the tests share: small stores, and crashes.

pub(crate) use crate::crash::crash;
use bytes::Bytes;
use meridian_proto::internal::v1::{LeaderId, LogId, ShardState};
use meridian_storage::{RaftLog, StorageError, Store, StoreOptions, SyncDone};
use std::path::Path;
use std::sync::{Arc, mpsc};

/// A store with small buffers whose fatal hook leaves the process alive.
pub(crate) fn open(dir: &Path) -> Store {
    try_open(dir).unwrap()
}

pub(crate) fn try_open(dir: &Path) -> Result<Store, StorageError> {
    Store::open(dir, small_options())
}

pub(crate) fn small_options() -> StoreOptions {
    StoreOptions {
        raft_write_buffer_bytes: 1 << 20,
        data_write_buffer_bytes: 1 << 20,
        block_cache_bytes: 4 << 20,
        on_fatal: Arc::new(|_| {}),
        ..StoreOptions::default()
    }
}

/// A callback, and where its result arrives.
pub(crate) fn waiter() -> (SyncDone, mpsc::Receiver<Result<(), StorageError>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

/// Appends entries whose content names their index, and waits until they are durable.
pub(crate) fn append(log: &RaftLog, indexes: impl IntoIterator<Item = u64>) {
    let entries: Vec<_> = indexes.into_iter().map(|i| (i, entry(i))).collect();
    let (done, durable) = waiter();
    log.append(&entries, done).unwrap();
    durable.recv().unwrap().unwrap();
}

pub(crate) fn entry(index: u64) -> Bytes {
    format!("entry {index}").into()
}

/// Indexes of the readable entries, whose contents are checked.
pub(crate) fn indexes(log: &RaftLog) -> Vec<u64> {
    let entries = log.read(0..u64::MAX, usize::MAX).unwrap();
    entries.into_iter().map(|(i, e)| (e == entry(i)).then_some(i).expect("the entry's own content")).collect()
}

pub(crate) fn state(index: u64, last_ts: u64) -> ShardState {
    let applied = LogId { leader: Some(LeaderId { term: 1, node: 1 }), index };
    ShardState { applied: Some(applied), last_ts, ..ShardState::default() }
}
