//! A host: a machine with a tokio runtime of its own, whose clock is paused and moves only when the host is given time.
//!
//! Each host has its own runtime so that it can be killed (its runtime is dropped, with every task in it, at whatever
//! point they are) and suspended (it is given no time). This is the shape of turmoil and of openraft's suite on it.
//! Those simulate sockets; here the seam is one layer up, at HTTP requests, which leaves out only HTTP/2 framing,
//! makes a message cost microseconds instead of tens of them, and allows what they have no notion of: suspension, clocks
//! that run at different rates, disks that lose what was not synced.

use super::machine::SimMachine;
use meridian_probe::machine;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep_until};

/// What a host may be given to do at an instant (true time, ns), inside its runtime.
pub(crate) type Due = (u64, Box<dyn FnOnce() + Send>);

/// See the module's documentation.
pub(crate) struct Host {
    machine: Rc<SimMachine>,
    runtime: Option<Runtime>,
    /// True time up to which the host has run.
    now: u64,
}

impl Host {
    /// A host that is switched on at `now`.
    pub(crate) fn new(machine: SimMachine, now: u64) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without threads and sockets can be built");
        let host = Self { machine: Rc::new(machine), runtime: Some(runtime), now };
        host.inside(|runtime| {
            let shown = runtime.block_on(async { Instant::now() });
            host.machine.align(now, shown);
        });
        host
    }

    fn inside<T>(&self, run: impl FnOnce(&Runtime) -> T) -> T {
        let runtime = self.runtime.as_ref().expect("there until the host is dropped");
        let before = machine::enter(Some(self.machine.clone()));
        self.machine.set_running(true, self.now);
        let result = run(runtime);
        self.machine.set_running(false, self.now);
        machine::enter(before);
        result
    }

    /// Starts a task on the host.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inside(|runtime| drop(runtime.spawn(task)));
    }

    /// Runs `f` as code of the host, which may spawn tasks.
    pub(crate) fn with<T>(&self, f: impl FnOnce() -> T) -> T {
        self.inside(|runtime| {
            let _guard = runtime.enter();
            f()
        })
    }

    /// Lets the host run until `until`, with what is due on the way, in order.
    pub(crate) fn run_until(&mut self, until: u64, due: Vec<Due>) {
        let from = self.now;
        self.inside(|runtime| {
            runtime.block_on(async move {
                let start = Instant::now();
                let at = |t: u64| start + Duration::from_nanos(t.saturating_sub(from));
                for (when, act) in due {
                    if when > from {
                        sleep_until(at(when)).await;
                    }
                    act();
                }
                sleep_until(at(until)).await;
            });
        });
        self.now = until;
        self.machine.set_running(false, until);
    }

    /// The host has stood still until `now`. With `catch_up` its timers know, without they go on from where they were.
    pub(crate) fn resume(&mut self, now: u64, catch_up: bool) {
        let stood = Duration::from_nanos(now.saturating_sub(self.now));
        self.now = now;
        let machine = self.machine.clone();
        self.inside(|runtime| {
            runtime.block_on(async {
                if catch_up {
                    // All clocks jump together: a program wakes up into the present.
                    machine.align(now - u64::try_from(stood.as_nanos()).unwrap_or(0), Instant::now());
                    tokio::time::advance(stood).await;
                } else {
                    machine.align(now, Instant::now());
                }
            });
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let runtime = self.runtime.take();
        let before = machine::enter(Some(self.machine.clone()));
        drop(runtime);
        machine::enter(before);
    }
}
