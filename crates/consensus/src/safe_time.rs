//! Safe time: the largest timestamp at which a replica may answer from its own state.
//!
//! `safe = max(applied stamp, largest closed timestamp whose position is applied)`. Both stay true for ever, so
//! duplicates, reordering and messages of old leaders are harmless (C4), and nothing has to be remembered over a
//! restart (C5).
//!
//! The applied stamp alone is safe because log order is stamp order: whatever is applied later is stamped above.

use crate::sequencer::Closed;
use meridian_probe::{Sabotage, sabotaged};
use meridian_types::Timestamp;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Most promises kept whose position is not applied yet. The newest is worth most, so the oldest is dropped.
const PENDING_MAX: usize = 64;

#[derive(Debug, Default)]
struct Inner {
    applied: Timestamp,
    covered: Timestamp,
    pending: Vec<Closed>,
}

impl Inner {
    fn safe(&self) -> Timestamp {
        self.applied.max(self.covered)
    }

    fn settle(&mut self) {
        let applied = self.applied;
        let covered = self.pending.iter().filter(|c| c.position <= applied).map(|c| c.closed).max();
        self.covered = self.covered.max(covered.unwrap_or_default());
        let floor = self.safe();
        self.pending.retain(|c| c.position > applied && c.closed > floor);
    }
}

/// What one replica has applied, and what it may serve.
#[derive(Debug)]
pub struct SafeTime {
    inner: Mutex<Inner>,
    applied: watch::Sender<Timestamp>,
    safe: watch::Sender<Timestamp>,
}

impl SafeTime {
    /// For a replica that has applied up to `applied`.
    pub fn new(applied: Timestamp) -> Self {
        Self {
            inner: Mutex::new(Inner { applied, ..Inner::default() }),
            applied: watch::Sender::new(applied),
            safe: watch::Sender::new(applied),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Inner)) {
        // Sent under the lock, so that the channels never go back.
        let mut inner = self.lock();
        change(&mut inner);
        inner.settle();
        raise(&self.applied, inner.applied);
        raise(&self.safe, inner.safe());
    }

    /// The state up to `ts` is applied and visible to readers.
    pub fn apply(&self, ts: Timestamp) {
        self.update(|inner| inner.applied = inner.applied.max(ts));
    }

    /// A leader has closed a timestamp.
    pub fn observe(&self, closed: Closed) {
        let position = if sabotaged(Sabotage::ForgetPosition) { Timestamp::ZERO } else { closed.position };
        let closed = Closed { position, ..closed };
        self.update(|inner| {
            inner.pending.push(closed);
            if inner.pending.len() > PENDING_MAX {
                inner.pending.remove(0);
            }
        });
    }

    /// The applied stamp.
    pub fn applied(&self) -> Timestamp {
        *self.applied.borrow()
    }

    /// Safe time.
    pub fn safe(&self) -> Timestamp {
        *self.safe.borrow()
    }

    /// Waits until everything up to `ts` is applied. Cancel-safe.
    pub async fn wait_applied(&self, ts: Timestamp) {
        wait(&self.applied, ts).await;
    }

    /// Waits until safe time has reached `ts`. Cancel-safe.
    pub async fn wait_safe(&self, ts: Timestamp) {
        wait(&self.safe, ts).await;
    }

    /// Follows the applied stamp.
    pub fn watch_applied(&self) -> watch::Receiver<Timestamp> {
        self.applied.subscribe()
    }
}

fn raise(tx: &watch::Sender<Timestamp>, ts: Timestamp) {
    tx.send_if_modified(|now| {
        let higher = *now < ts;
        *now = (*now).max(ts);
        higher
    });
}

async fn wait(tx: &watch::Sender<Timestamp>, ts: Timestamp) {
    // The sender lives as long as `self`, so the wait can only end by the condition.
    let _ = tx.subscribe().wait_for(|now| *now >= ts).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_types::{LeaderId, NodeId};

    fn closed(c: u64, position: u64) -> Closed {
        let leader = LeaderId { term: 1, node: NodeId(1) };
        Closed { leader, closed: Timestamp(c), position: Timestamp(position) }
    }

    #[test]
    fn a_promise_counts_once_its_position_is_applied() {
        let s = SafeTime::new(Timestamp(10));
        s.observe(closed(50, 20));
        assert_eq!(s.safe(), Timestamp(10));
        s.apply(Timestamp(19));
        assert_eq!(s.safe(), Timestamp(19));
        s.apply(Timestamp(20));
        assert_eq!(s.safe(), Timestamp(50));
    }

    #[test]
    fn late_doubled_and_reordered_promises_change_nothing() {
        let s = SafeTime::new(Timestamp(30));
        s.observe(closed(60, 30));
        s.observe(closed(40, 20));
        s.observe(closed(60, 30));
        assert_eq!(s.safe(), Timestamp(60));
        s.apply(Timestamp(35));
        assert_eq!((s.safe(), s.applied()), (Timestamp(60), Timestamp(35)));
    }

    #[test]
    fn a_replica_that_cannot_keep_up_still_uses_the_newest_promises() {
        let s = SafeTime::new(Timestamp(0));
        for i in 1..=2 * PENDING_MAX as u64 {
            s.observe(closed(1000 + i, i));
        }
        s.apply(Timestamp(2 * PENDING_MAX as u64));
        assert_eq!(s.safe(), Timestamp(1000 + 2 * PENDING_MAX as u64));
    }
}
