//! Group commit on a simulated disk: the same rules as the thread's (see `sync.rs`), worked off by a task of the
//! runtime that the writer runs on. The disk says how long a sync takes and whether it fails.
//!
//! The task exists only while something is queued. It keeps nothing open: when the store is closed it ends.

use super::SyncDone;
use super::sync::Shared;
use crate::StorageError;
use crate::sim::SimDb;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;

/// The queue of one open raft store.
pub(super) struct SimQueue {
    shared: Arc<Shared>,
    db: Arc<SimDb>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Callbacks that the next sync will take.
    waiting: Vec<SyncDone>,
    /// The sync under way.
    group: Option<Group>,
    /// Whether a task works the queue off.
    running: bool,
    /// Syncs begun, to tell one from the next.
    begun: u64,
}

/// Callbacks that wait for one sync, of everything written before it began.
struct Group {
    number: u64,
    upto: u64,
    took: Duration,
    callbacks: Vec<SyncDone>,
}

impl SimQueue {
    pub(super) fn new(shared: Arc<Shared>, db: Arc<SimDb>) -> Arc<Self> {
        Arc::new(Self { shared, db, state: Mutex::default() })
    }

    /// Queues a callback for a write that has returned. Without a runtime to wait on, the sync is done at once.
    pub(super) fn push(self: &Arc<Self>, done: SyncDone) {
        if let Err(dead) = self.db.check() {
            return done(Err(dead));
        }
        {
            let mut state = self.lock();
            state.waiting.push(done);
            if std::mem::replace(&mut state.running, true) {
                return;
            }
        }
        let stalled = *self.db.disk().stalled().borrow();
        match Handle::try_current() {
            Ok(runtime) if stalled || !self.db.disk().syncs_at_once() => {
                drop(runtime.spawn(run(Arc::downgrade(self))));
            }
            // Nothing could end the stall for it; the next write tries again.
            Err(_) if stalled => self.lock().running = false,
            _ => {
                while let Some((number, _)) = self.begin() {
                    self.finish(number);
                }
            }
        }
    }

    /// Syncs everything written so far within this call, and completes what is queued before. While the disk is
    /// stalled only this call is not held up.
    pub(super) fn sync_now(&self) -> Result<(), StorageError> {
        self.db.check()?;
        self.shared.check()?;
        if !*self.db.disk().stalled().borrow() {
            self.drain();
            self.shared.check()?;
        }
        let synced = self.db.sync(self.db.written());
        self.shared.count(Duration::ZERO, 1);
        synced.inspect_err(|error| self.shared.fail(error.clone()))
    }

    /// Completes what is queued, because the store is being closed.
    pub(super) fn close(&self) {
        if !*self.db.disk().stalled().borrow() {
            return self.drain();
        }
        let left: Vec<SyncDone> = {
            let mut state = self.lock();
            let begun = state.group.take().map(|group| group.callbacks).unwrap_or_default();
            begun.into_iter().chain(std::mem::take(&mut state.waiting)).collect()
        };
        for done in left {
            let stalled = std::io::Error::new(std::io::ErrorKind::TimedOut, "closed while the disk was stalled");
            done(Err(StorageError::file("sync", Path::new("raft"))(stalled)));
        }
    }

    /// Ends the sync under way and does another for what is waiting. The task finds nothing left.
    fn drain(&self) {
        let under_way = self.lock().group.as_ref().map(|group| group.number);
        if let Some(number) = under_way {
            self.finish(number);
        }
        if let Some(number) = self.begin_waiting() {
            self.finish(number);
        }
    }

    /// Begins a sync; says which and how long it will take. `None`, if nothing waits, ends the one who asks.
    fn begin(&self) -> Option<(u64, Duration)> {
        let mut state = self.lock();
        if state.waiting.is_empty() {
            state.running = false;
            return None;
        }
        let took = self.db.disk().draw_sync();
        let number = self.group(&mut state, took);
        Some((number, took))
    }

    fn begin_waiting(&self) -> Option<u64> {
        let mut state = self.lock();
        (!state.waiting.is_empty()).then(|| self.group(&mut state, Duration::ZERO))
    }

    fn group(&self, state: &mut State, took: Duration) -> u64 {
        state.begun += 1;
        let (number, upto) = (state.begun, self.db.written());
        state.group = Some(Group { number, upto, took, callbacks: std::mem::take(&mut state.waiting) });
        number
    }

    /// Ends a sync, unless that was done already, and completes its callbacks in order.
    fn finish(&self, number: u64) {
        let Some(group) = self.lock().group.take_if(|group| group.number == number) else { return };
        let result = self.db.check().and_then(|()| self.shared.check()).and_then(|()| {
            let synced = self.db.sync(group.upto);
            self.shared.count(group.took, group.callbacks.len());
            synced.inspect_err(|error| self.shared.fail(error.clone()))
        });
        for done in group.callbacks {
            done(result.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Works the queue off until it is empty or the store is closed.
async fn run(queue: Weak<SimQueue>) {
    loop {
        let Some((number, took, mut stalled)) = queue.upgrade().and_then(|queue| {
            let (number, took) = queue.begin()?;
            Some((number, took, queue.db.disk().stalled()))
        }) else {
            return;
        };
        tokio::time::sleep(took).await;
        // An error means that the disk is gone, and the store with it.
        let _ = stalled.wait_for(|stalled| !stalled).await;
        let Some(queue) = queue.upgrade() else { return };
        queue.finish(number);
    }
}
