//! The thread that carries frames between the hosts' devices.
//!
//! It sleeps in `poll` until a host has sent something or a frame is due, to the nanosecond that the kernel's timers
//! allow; it never spins. It runs before other programs, as far as it is allowed to: emulated distance should not depend
//! on how busy the machine is.

use super::LabError;
use super::frame::FRAME_BYTES_MAX;
use super::switch::Switch;
use super::tun::Tun;
use meridian_clock::Mono;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::num::NonZeroU64;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The most frames taken from one host before it is the turn of the others.
const BATCH_FRAMES: usize = 64;

/// The most frames delivered before the hosts are asked again.
const DELIVERIES: usize = 256;

/// The kernel may wake a sleeper so much later in order to wake several at once.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

/// The nicest priority that there is.
const PRIORITY: i32 = -20;

/// A running router; dropping it ends its thread and with it the devices.
#[derive(Debug)]
pub(crate) struct Router {
    /// The thread ends when this is closed.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Router {
    /// Carries frames between these devices, which are in the order of the plan's hosts.
    pub(crate) fn start(switch: Arc<Mutex<Switch>>, tuns: Vec<Tun>) -> Result<Self, LabError> {
        let (stop, stopped) = UnixStream::pair().map_err(|e| LabError::system("make a socket", e))?;
        let thread = std::thread::Builder::new().name("wan-router".to_owned()).spawn(move || {
            hurry();
            if let Err(error) = carry(&switch, &tuns, &stopped) {
                tracing::error!("the router has ended: {error}");
            }
        });
        let thread = thread.map_err(|e| LabError::system("start a thread", e))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It fails if the thread has panicked, which has been told.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Lets this thread be woken on time. Both are improvements that a user without the right to them goes without.
fn hurry() {
    if let Err(error) = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS)) {
        tracing::warn!("delays are less exact: {error}");
    }
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), PRIORITY) {
        tracing::warn!("delays depend on how busy the machine is: {error}");
    }
}

/// Returns when `stopped` is closed from the other side, or the kernel refuses to wait.
fn carry(switch: &Mutex<Switch>, tuns: &[Tun], stopped: &UnixStream) -> Result<(), Errno> {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    // Of a device that fails nothing more is asked; it stays here, so that places in the list mean hosts.
    let mut is_broken = vec![false; tuns.len()];
    let mut fds = Vec::with_capacity(tuns.len() + 1);
    loop {
        fds.clear();
        fds.push(PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN));
        let working = tuns.iter().zip(&is_broken).filter(|(_, broken)| !**broken);
        fds.extend(working.map(|(tun, _)| PollFd::from_borrowed_fd(tun.as_fd(), PollFlags::IN)));
        let wait = lock(switch).next_due().map(|due| due.since(Mono::now()));
        // Longer than the kernel's type never happens: a wait is at most a delay.
        match poll(&mut fds, wait.and_then(|wait| Timespec::try_from(wait).ok()).as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            return Ok(());
        }
        let mut is_ready = fds.iter().skip(1).map(|fd| !fd.revents().is_empty());
        for (host, (tun, broken)) in tuns.iter().zip(&mut is_broken).enumerate().filter(|(_, (_, broken))| !**broken) {
            if is_ready.next() == Some(true) {
                *broken = !take(switch, host, tun, &mut buffer);
            }
        }
        deliver(switch, tuns);
    }
}

/// Takes what a host has sent. Returns whether the device still works.
fn take(switch: &Mutex<Switch>, host: usize, tun: &Tun, buffer: &mut [u8]) -> bool {
    let mut switch = lock(switch);
    for _ in 0..BATCH_FRAMES {
        match tun.read(buffer) {
            Ok(Some(bytes)) => switch.accept(host, buffer.get(..bytes).unwrap_or_default(), Mono::now()),
            Ok(None) => return true,
            Err(error) => {
                tracing::error!("host {} is off the network: {error}", host + 1);
                return false;
            }
        }
    }
    true
}

/// Hands out what has arrived.
fn deliver(switch: &Mutex<Switch>, tuns: &[Tun]) {
    let mut switch = lock(switch);
    for _ in 0..DELIVERIES {
        let Some(delivery) = switch.take_due(Mono::now()) else { return };
        let written = tuns.get(delivery.to).map(|tun| tun.write(&delivery.frame));
        if !matches!(written, Some(Ok(()))) {
            switch.refused(&delivery);
        }
    }
}

/// The switch is left whole by whoever panics with it: its methods do not.
pub(crate) fn lock(switch: &Mutex<Switch>) -> MutexGuard<'_, Switch> {
    switch.lock().unwrap_or_else(PoisonError::into_inner)
}
