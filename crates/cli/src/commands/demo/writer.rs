//! A writer: one client in one region that writes new keys, one after another, whatever happens, and keeps account of
//! what it was told.

use super::account::{Attempt, Outcome};
use super::stage::PAYMENTS;
use meridian_client::{Client, Error, Fate, Session, Transaction};
use meridian_clock::Mono;
use meridian_types::RegionId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The keys of all writers begin with this.
pub(super) const PREFIX: &str = "w/";

/// The writers of one region while they run.
pub(super) struct Writers {
    pub(super) region: RegionId,
    stop: Arc<AtomicBool>,
    /// When the newest acknowledged write was begun.
    acknowledged: watch::Receiver<Mono>,
    tasks: Vec<JoinHandle<Result<Vec<Attempt>, Error>>>,
}

impl Writers {
    /// Starts `count` of them. `round` sets their keys apart from those of earlier ones.
    pub(super) fn start(region: RegionId, client: &Client, round: u32, count: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, acknowledged) = watch::channel(Mono::default());
        let sender = Arc::new(sender);
        let spawn = |n| {
            let name = format!("{PREFIX}{region}/{round}/{n}");
            tokio::spawn(write_on(client.session(), name, Arc::clone(&stop), Arc::clone(&sender)))
        };
        let tasks = (0..count).map(spawn).collect();
        Self { region, stop, acknowledged, tasks }
    }

    /// Waits until a write that was begun after `instant` is acknowledged.
    ///
    /// Errors: all writers have ended, which only a failure that no retry can help brings about.
    pub(super) async fn acknowledged_after(&self, instant: Mono) -> anyhow::Result<()> {
        let mut acknowledged = self.acknowledged.clone();
        let waited = acknowledged.wait_for(|begun| *begun > instant).await;
        waited.map(drop).map_err(|_| anyhow::anyhow!("the writers in {} have ended", self.region))
    }

    /// Lets them finish the writes under way, then asks, through `client`, after those whose outcome is unknown.
    /// Returns all.
    pub(super) async fn finish(self, client: &Client) -> anyhow::Result<Vec<Attempt>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut attempts = Vec::new();
        for task in self.tasks {
            attempts.extend(task.await??);
        }
        let session = client.session();
        for attempt in &mut attempts {
            settle(&session, attempt).await;
        }
        Ok(attempts)
    }
}

/// Writes until told to stop, or until an error that repeating cannot help.
async fn write_on(
    session: Session,
    name: String,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<watch::Sender<Mono>>,
) -> Result<Vec<Attempt>, Error> {
    let mut attempts = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let n = attempts.len();
        let (key, value) = (format!("{name}/{n:06}"), format!("payment {n} of {name}"));
        let invoked = Mono::now();
        let written = session.transact(PAYMENTS, &put(&key, &value)).await;
        let outcome = match written {
            Ok(reply) => {
                acknowledged.send_modify(|newest| *newest = invoked.max(*newest));
                Outcome::Acknowledged(reply.timestamp)
            }
            Err(error) => outcome(&error).ok_or(error)?,
        };
        attempts.push(Attempt { key, value, invoked, completed: Mono::now(), outcome });
    }
    Ok(attempts)
}

fn put(key: &str, value: &str) -> Transaction {
    Transaction::new().put(key.to_owned(), value.to_owned())
}

/// What a failed write means for its account; `None` when there is no point in going on.
fn outcome(error: &Error) -> Option<Outcome> {
    match (error.fate(), error.request_id) {
        (Fate::Unknown, Some(id)) if error.reason().is_retryable() => Some(Outcome::Unknown(id)),
        (Fate::NotApplied, _) if error.reason().is_retryable() => Some(Outcome::Refused(error.reason())),
        (Fate::Unknown | Fate::NotApplied, _) => None,
    }
}

/// Sends an unknown write again under its own id: if it took effect, the answer is the old one, else it does now.
async fn settle(session: &Session, attempt: &mut Attempt) {
    if let Outcome::Unknown(id) = attempt.outcome
        && let Ok(reply) = session.transact_as(id, PAYMENTS, &put(&attempt.key, &attempt.value)).await
    {
        attempt.outcome = Outcome::Settled(reply.timestamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_client::{Reason, RequestId};

    #[test]
    fn only_passing_failures_are_booked() {
        let error = |reason, fate| {
            let cause = meridian_types::Error::new(reason, "why").with_fate(fate);
            Error { cause, request_id: Some(RequestId::default()), attempts: 1 }
        };
        let unknown = outcome(&error(Reason::OutcomeUnknown, Fate::Unknown));
        assert_eq!(unknown, Some(Outcome::Unknown(RequestId::default())));
        let refused = outcome(&error(Reason::NoQuorum, Fate::NotApplied));
        assert_eq!(refused, Some(Outcome::Refused(Reason::NoQuorum)));
        assert_eq!(outcome(&error(Reason::UnknownTable, Fate::NotApplied)), None);
        assert_eq!(outcome(&error(Reason::Internal, Fate::Unknown)), None);
    }
}
