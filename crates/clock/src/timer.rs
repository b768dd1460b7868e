//! Sleeping to a tenth of a millisecond.
//!
//! tokio's timers tick once a millisecond and round up, which is most of a commit wait in one region and half of
//! an emulated link inside it. One thread per process, started at the first sleep, waits on the kernel's
//! high-resolution timers instead and wakes tasks; nobody spins, and with nothing to wait for it sleeps.
//! Late by what it takes to wake two threads, typically 0.05 to 0.1 ms. Never early.

use crate::Mono;
use meridian_probe::machine;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The longest the thread waits without looking at the clock: the kernel's timer for a thread does not count time
/// in suspension, [`Mono`] does.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// How late the kernel may make the thread's timers in order to bundle them, in nanoseconds; its default is 50 000.
#[cfg(target_os = "linux")]
const TIMER_SLACK_NS: std::num::NonZeroU64 = std::num::NonZeroU64::MIN;

/// Returns at `deadline`, never before.
pub fn sleep_until(deadline: Mono) -> Sleep {
    Sleep { deadline, registered: None, simulated: None }
}

/// Returns after `duration`, never before.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Mono::now().plus(duration))
}

/// The future of [`sleep_until`]. Dropping it cancels it.
#[derive(Debug)]
#[must_use = "a sleep does nothing until it is awaited"]
pub struct Sleep {
    deadline: Mono,
    registered: Option<(u64, Waker)>,
    /// On a simulated machine, which has no threads: its runtime's timer.
    simulated: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Sleep {
    /// When it returns.
    pub fn deadline(&self) -> Mono {
        self.deadline
    }

    fn poll_simulated(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let left = self.deadline.since(Mono::now());
            if left.is_zero() {
                return Poll::Ready(());
            }
            let timer = self.simulated.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // The two clocks of a machine need not run at the same rate.
            self.simulated = None;
        }
    }

    fn unregister(&mut self) {
        if let Some((id, _)) = self.registered.take() {
            timer().waiting().remove(&(self.deadline, id));
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Mono::now() >= self.deadline {
            self.unregister();
            return Poll::Ready(());
        }
        if machine::is_simulated() {
            return self.poll_simulated(cx);
        }
        // If the deadline passes right here, the thread finds the entry overdue and wakes the task at once.
        if self.registered.as_ref().is_none_or(|(_, waker)| !waker.will_wake(cx.waker())) {
            let id = timer().register(self.deadline, self.registered.as_ref().map(|(id, _)| *id), cx.waker());
            self.registered = Some((id, cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.unregister();
    }
}

/// Who waits, soonest first; ids tell apart those who wait for the same instant.
#[derive(Debug, Default)]
struct Timer {
    waiting: Mutex<BTreeMap<(Mono, u64), Waker>>,
    sooner: Condvar,
    next_id: AtomicU64,
}

fn timer() -> &'static Timer {
    static TIMER: OnceLock<&'static Timer> = OnceLock::new();
    TIMER.get_or_init(|| {
        let timer: &'static Timer = Box::leak(Box::default());
        std::thread::Builder::new()
            .name("meridian-timer".into())
            .spawn(move || timer.run())
            .expect("the process can start one thread");
        timer
    })
}

impl Timer {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<(Mono, u64), Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, deadline: Mono, id: Option<u64>, waker: &Waker) -> u64 {
        let id = id.unwrap_or_else(|| self.next_id.fetch_add(1, Ordering::Relaxed));
        let mut waiting = self.waiting();
        let sooner = waiting.first_key_value().is_none_or(|(first, _)| (deadline, id) < *first);
        waiting.insert((deadline, id), waker.clone());
        drop(waiting);
        if sooner {
            self.sooner.notify_one();
        }
        id
    }

    fn run(&self) {
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS)) {
            tracing::debug!(%error, "timer slack stays as it is: sleeps are 0.05 ms less precise");
        }
        let mut due = Vec::new();
        let mut waiting = self.waiting();
        loop {
            let now = Mono::now();
            while let Some(first) = waiting.first_entry()
                && first.key().0 <= now
            {
                due.push(first.remove());
            }
            if !due.is_empty() {
                drop(waiting);
                due.drain(..).for_each(Waker::wake);
                waiting = self.waiting();
                continue;
            }
            waiting = match waiting.first_key_value().map(|((deadline, _), _)| deadline.since(now)) {
                None => self.sooner.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.sooner.wait_timeout(waiting, left.min(LOOK_MAX)).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn never_early_whatever_the_order() {
        let start = Mono::now();
        let sleeps = [3_000u64, 500, 40, 7_000, 500, 0].map(|us| {
            let d = Duration::from_micros(us);
            tokio::spawn(async move {
                sleep_until(start.plus(d)).await;
                (start.elapsed(), d)
            })
        });
        for task in sleeps {
            let (took, asked) = task.await.unwrap();
            assert!(took >= asked, "{took:?} for {asked:?}");
        }
    }

    #[tokio::test]
    async fn a_dropped_sleep_leaves_nothing_behind() {
        let far = Mono::now().plus(Duration::from_secs(3_600));
        tokio::select! {
            () = sleep_until(far) => panic!("too early"),
            () = sleep(Duration::from_millis(2)) => {}
        }
        assert!(!timer().waiting().keys().any(|(deadline, _)| *deadline == far));
    }
}
