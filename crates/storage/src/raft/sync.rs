//! Group commit: one thread, one write and one fsync for everything that was appended before it, whichever shard
//! appended it.
//!
//! A writer puts its batch into RocksDB's memtable and into the buffer of its write-ahead log (`manual_wal_flush`),
//! which is memory only, then queues its callback here. The thread takes all callbacks there are, writes the buffer to
//! the file and syncs it, then completes them in the order in which they were queued. While it syncs, the next group
//! gathers: the slower the disk, the larger the groups.
//!
//! What of RocksDB this rests on, read in its source (11.8, `db/db_impl/db_impl.cc`, `FlushWAL` and `SyncWalImpl`;
//! `db_impl_write.cc`, `SwitchMemtable`):
//! * A write returns with its record in the buffer of the newest log file, and `FlushWAL` writes out that buffer under
//!   the lock under which records get into it. A log file's buffer is written out before a newer file takes its place.
//! * The sync after it takes every log file up to the newest, and the directory when a file is new. A file that is gone
//!   by then belonged to a memtable whose flush is durable.
//! * If the buffer cannot be written, RocksDB refuses every later write as well. The first invariant below would keep us
//!   from believing it anyway.
//!
//! A process that is killed loses what is in the buffer. None of that was acknowledged: a kill costs no more than a
//! power cut, and shows the same prefix of the log.
//!
//! The other way to one write for all, a thread that merges the batches of all shards, would need a copy of what is
//! queued for those who read it back at once, and does the same work later; the figures are in `docs/performance.md`.
//!
//! Invariants:
//! 1. A callback reports success only after a sync that began after its write had returned.
//! 2. Callbacks complete in queue order, so a completed one vouches for all queued before it.
//! 3. After the first failure nothing ever succeeds again: what a failed fsync left on disk is unknown, and the
//!    next one may report success without having written it.
//!
//! The queue holds callbacks, not data. Its length is bounded by what the shards have in flight.

#[cfg(feature = "simulation")]
use super::simulated::SimQueue;
use crate::StorageError;
use crate::options::FatalHook;
#[cfg(feature = "simulation")]
use crate::sim::SimDb;
use meridian_clock::Mono;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What is called when a write has become durable, or when that can no longer be known.
pub type SyncDone = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// Counts of the sync thread since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// Syncs done.
    pub syncs: u64,
    /// Writes that waited for them; `writes / syncs` is the mean group.
    pub writes: u64,
    /// How long the last sync took.
    pub last: Duration,
    /// How long all of them took together.
    pub total: Duration,
}

impl SyncStats {
    /// Mean duration of a sync.
    pub fn mean(&self) -> Duration {
        match self.syncs {
            0 => Duration::ZERO,
            syncs => Duration::from_nanos(u64::try_from(self.total.as_nanos()).unwrap_or(u64::MAX) / syncs),
        }
    }
}

/// The queue and who works it off. Dropping it completes what is queued first.
pub(super) struct SyncQueue {
    shared: Arc<Shared>,
    worker: Worker,
}

enum Worker {
    Thread(SyncThread),
    #[cfg(feature = "simulation")]
    Simulated(Arc<SimQueue>),
}

/// The thread and the way to it. Dropping it completes what is queued, then ends the thread.
struct SyncThread {
    jobs: Mutex<Option<Sender<SyncDone>>>,
    thread: Option<JoinHandle<()>>,
}

/// The state that outlives every sync.
pub(super) struct Shared {
    poison: OnceLock<StorageError>,
    on_fatal: FatalHook,
    syncs: AtomicU64,
    writes: AtomicU64,
    last_ns: AtomicU64,
    total_ns: AtomicU64,
}

impl SyncQueue {
    /// Starts the thread. `sync` makes everything durable that was written before it is called.
    pub(super) fn start(
        sync: impl FnMut() -> Result<(), StorageError> + Send + 'static,
        on_fatal: FatalHook,
    ) -> Result<Self, StorageError> {
        let shared = Shared::new(on_fatal);
        let (sender, receiver) = mpsc::channel();
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("raft-sync".into())
            .spawn(move || theirs.run(&receiver, sync))
            .map_err(StorageError::file("start", std::path::Path::new("the sync thread")))?;
        let worker = Worker::Thread(SyncThread { jobs: Mutex::new(Some(sender)), thread: Some(thread) });
        Ok(Self { shared, worker })
    }

    /// A queue without a thread: the runtime of the node that uses the disk works it off.
    #[cfg(feature = "simulation")]
    pub(super) fn simulated(db: Arc<SimDb>, on_fatal: FatalHook) -> Self {
        let shared = Shared::new(on_fatal);
        let queue = SimQueue::new(Arc::clone(&shared), db);
        Self { shared, worker: Worker::Simulated(queue) }
    }

    /// Queues a callback for a write that has returned. It is called exactly once, from the sync thread, or here
    /// with an error if the queue is poisoned.
    pub(super) fn push(&self, done: SyncDone) {
        match &self.worker {
            Worker::Thread(thread) => {
                // The thread outlives the sender, so sending cannot fail; were it gone, nothing could be vouched for.
                if let Err(done) = thread.send(done) {
                    let gone = StorageError::corrupt("the sync thread is gone");
                    self.poison(gone.clone());
                    done(Err(gone));
                }
            }
            #[cfg(feature = "simulation")]
            Worker::Simulated(queue) => queue.push(done),
        }
    }

    /// Returns when everything written so far is durable, after all callbacks queued before. Blocks for a sync, and
    /// must not be called from a callback.
    pub(super) fn wait(&self) -> Result<(), StorageError> {
        #[cfg(feature = "simulation")]
        if let Worker::Simulated(queue) = &self.worker {
            return queue.sync_now();
        }
        let (sender, receiver) = mpsc::channel();
        self.push(Box::new(move |result| drop(sender.send(result))));
        receiver.recv().unwrap_or_else(|_| Err(StorageError::corrupt("the sync thread dropped a callback")))
    }

    /// Fails if the store is poisoned.
    pub(super) fn check(&self) -> Result<(), StorageError> {
        self.shared.check()
    }

    /// Refuses everything from now on, and calls the fatal hook if this is the first failure.
    pub(super) fn poison(&self, error: StorageError) {
        self.shared.fail(error);
    }

    pub(super) fn stats(&self) -> SyncStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SyncStats {
            syncs: get(&self.shared.syncs),
            writes: get(&self.shared.writes),
            last: Duration::from_nanos(get(&self.shared.last_ns)),
            total: Duration::from_nanos(get(&self.shared.total_ns)),
        }
    }
}

#[cfg(feature = "simulation")]
impl Drop for SyncQueue {
    fn drop(&mut self) {
        if let Worker::Simulated(queue) = &self.worker {
            queue.close();
        }
    }
}

impl SyncThread {
    /// Gives the callback back if the thread is gone.
    fn send(&self, done: SyncDone) -> Result<(), SyncDone> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = jobs.as_ref().expect("the sender is taken only when the queue is dropped");
        sender.send(done).map_err(|mpsc::SendError(done)| done)
    }
}

impl Drop for SyncThread {
    fn drop(&mut self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A callback may hold the last handle of the store; then this runs on the sync thread, which ends by itself.
        if let Some(thread) = self.thread.take_if(|t| t.thread().id() != std::thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the sync thread panicked");
        }
    }
}

impl Shared {
    fn new(on_fatal: FatalHook) -> Arc<Self> {
        Arc::new(Self {
            poison: OnceLock::new(),
            on_fatal,
            syncs: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            last_ns: AtomicU64::new(0),
            total_ns: AtomicU64::new(0),
        })
    }

    fn run(&self, jobs: &Receiver<SyncDone>, mut sync: impl FnMut() -> Result<(), StorageError>) {
        while let Ok(first) = jobs.recv() {
            let group: Vec<SyncDone> = std::iter::once(first).chain(jobs.try_iter()).collect();
            let result = self.check().and_then(|()| self.sync(&mut sync, group.len()));
            for done in group {
                done(result.clone());
            }
        }
    }

    fn sync(&self, sync: &mut impl FnMut() -> Result<(), StorageError>, writes: usize) -> Result<(), StorageError> {
        let begun = Mono::now();
        let result = sync();
        self.count(Mono::now().since(begun), writes);
        result.inspect_err(|error| self.fail(error.clone()))
    }

    /// Counts one sync for this many writes.
    pub(super) fn count(&self, took: Duration, writes: usize) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.last_ns.store(took, Ordering::Relaxed);
        self.total_ns.fetch_add(took, Ordering::Relaxed);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.writes.fetch_add(writes as u64, Ordering::Relaxed);
    }

    pub(super) fn check(&self) -> Result<(), StorageError> {
        match self.poison.get() {
            None => Ok(()),
            Some(cause) => Err(StorageError::Poisoned(Arc::new(cause.clone()))),
        }
    }

    pub(super) fn fail(&self, error: StorageError) {
        if self.poison.set(error.clone()).is_ok() {
            (self.on_fatal)(&error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// A hook that only counts.
    fn counting() -> (FatalHook, Arc<AtomicU64>) {
        let calls = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&calls);
        let hook = move |_: &StorageError| {
            theirs.fetch_add(1, Ordering::SeqCst);
        };
        (Arc::new(hook), calls)
    }

    #[test]
    fn what_gathers_during_a_sync_shares_the_next_one_and_completes_in_order() {
        let (begun, on_begun) = channel();
        let (gate, at_gate) = channel::<()>();
        let sync = move || {
            begun.send(()).unwrap();
            at_gate.recv().unwrap();
            Ok(())
        };
        let queue = SyncQueue::start(sync, counting().0).unwrap();
        // Dropped before the queue: a failed assertion must not leave the thread waiting.
        let gate = gate;
        let (done, completed) = channel();
        let push = |n: u32| {
            let done = done.clone();
            queue.push(Box::new(move |result| done.send((n, result.is_ok())).unwrap()));
        };
        push(0);
        on_begun.recv().unwrap();
        (1..100).for_each(push);
        assert!(completed.try_recv().is_err(), "nothing completes before a sync has ended");
        gate.send(()).unwrap();
        gate.send(()).unwrap();
        for n in 0..100 {
            assert_eq!(completed.recv().unwrap(), (n, true));
        }
        let stats = queue.stats();
        assert_eq!((stats.syncs, stats.writes), (2, 100));
    }

    #[test]
    fn after_a_failed_sync_nothing_succeeds_and_the_hook_is_called_once() {
        let calls = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&calls);
        let sync = move || match theirs.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(()),
            1 => Err(StorageError::corrupt("the disk is on fire")),
            _ => Ok(()),
        };
        let (hook, fatal) = counting();
        let queue = SyncQueue::start(sync, hook).unwrap();
        let push = || {
            let (done, completed) = channel();
            queue.push(Box::new(move |result| done.send(result).unwrap()));
            completed.recv().unwrap()
        };
        assert!(push().is_ok() && queue.check().is_ok());
        assert!(matches!(push(), Err(StorageError::Corrupt { .. })));
        assert!(matches!(push(), Err(StorageError::Poisoned(_))), "a later sync would have succeeded");
        assert!(matches!(queue.check(), Err(StorageError::Poisoned(_))));
        assert_eq!((calls.load(Ordering::SeqCst), fatal.load(Ordering::SeqCst)), (2, 1));
    }

    #[test]
    fn closing_completes_what_is_queued() {
        let (gate, at_gate) = channel::<()>();
        let sync = move || {
            at_gate.recv().unwrap();
            Ok(())
        };
        let queue = SyncQueue::start(sync, counting().0).unwrap();
        // Dropped before the queue: a failed assertion must not leave the thread waiting.
        let gate = gate;
        let (done, completed) = channel();
        for _ in 0..3 {
            let done = done.clone();
            queue.push(Box::new(move |result| done.send(result.is_ok()).unwrap()));
        }
        (0..3).for_each(|_| gate.send(()).unwrap());
        drop(queue);
        assert_eq!(completed.try_iter().collect::<Vec<_>>(), [true; 3]);
    }
}
