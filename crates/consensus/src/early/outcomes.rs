//! Requests of this node's gateway that wait until this node's own replica has applied them.
//!
//! Whichever copy of a request is applied first has the outcome, and the ledger gives it to all later ones (rule X2): so the
//! request's id is all there is to wait for.

use meridian_proto::internal::v1::Outcome;
use meridian_proto::v1::RequestId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

type Key = (u64, u64, u64);

fn key(id: &RequestId) -> Key {
    (id.time_ns, id.client, id.sequence)
}

#[derive(Debug)]
struct Waiter {
    /// Tells several waiters for one request apart.
    number: u64,
    answer: oneshot::Sender<Outcome>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    waiting: HashMap<Key, Vec<Waiter>>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    inner: Mutex<Inner>,
}

/// The outcome of one request, once this node's replica has applied it. Dropped: nobody waits any more.
#[derive(Debug)]
pub struct Awaited {
    of: Arc<Outcomes>,
    key: Key,
    number: u64,
    answer: oneshot::Receiver<Outcome>,
}

impl Outcomes {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a request's outcome, from now on.
    pub(crate) fn wait_for(self: &Arc<Self>, id: &RequestId) -> Awaited {
        let (tx, answer) = oneshot::channel();
        let mut inner = self.lock();
        inner.next += 1;
        let (key, number) = (key(id), inner.next);
        inner.waiting.entry(key).or_default().push(Waiter { number, answer: tx });
        drop(inner);
        Awaited { of: self.clone(), key, number, answer }
    }

    /// Whether anybody waits.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// A request was applied, and its effects are visible here.
    pub(crate) fn applied<'a>(&self, outcomes: impl IntoIterator<Item = (Option<&'a RequestId>, &'a Outcome)>) {
        let mut inner = self.lock();
        for (id, outcome) in outcomes {
            let waiters = id.and_then(|id| inner.waiting.remove(&key(id)));
            for waiter in waiters.into_iter().flatten() {
                // Whoever has hung up meanwhile does not want to know.
                let _ = waiter.answer.send(outcome.clone());
            }
        }
    }
}

impl Awaited {
    /// The outcome. Cancel-safe; never returns if this replica does not apply the request, or has told already.
    pub async fn outcome(&mut self) -> Outcome {
        match (&mut self.answer).await {
            Ok(outcome) => outcome,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut inner = self.of.lock();
        if let Some(waiters) = inner.waiting.get_mut(&self.key) {
            waiters.retain(|w| w.number != self.number);
            if waiters.is_empty() {
                inner.waiting.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn id(sequence: u64) -> RequestId {
        RequestId { time_ns: 1, client: 2, sequence }
    }

    fn outcome(ts: u64) -> Outcome {
        Outcome { ts, result: None }
    }

    #[test]
    fn every_waiter_of_a_request_is_told_once() {
        let outcomes = Arc::new(Outcomes::default());
        let (mut a, mut b, mut other) =
            (outcomes.wait_for(&id(1)), outcomes.wait_for(&id(1)), outcomes.wait_for(&id(2)));
        outcomes.applied([(Some(&id(1)), &outcome(5)), (None, &outcome(6))]);
        assert_eq!(a.outcome().now_or_never(), Some(outcome(5)));
        assert_eq!(b.outcome().now_or_never(), Some(outcome(5)));
        assert_eq!(other.outcome().now_or_never(), None);
        outcomes.applied([(Some(&id(1)), &outcome(7))]);
    }

    #[test]
    fn who_hangs_up_is_forgotten() {
        let outcomes = Arc::new(Outcomes::default());
        let (a, b) = (outcomes.wait_for(&id(1)), outcomes.wait_for(&id(1)));
        drop(a);
        assert!(outcomes.is_waited_for());
        drop(b);
        assert!(!outcomes.is_waited_for());
    }
}
