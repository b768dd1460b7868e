//! The machine under a node: its clocks and its randomness.
//!
//! Nobody but the clock crate asks for time here. Whoever needs randomness (identities, request ids, election
//! timeouts) draws it from [`random`], so that a simulated node repeats itself under the same seed.

#[cfg(feature = "simulation")]
use std::cell::RefCell;
#[cfg(feature = "simulation")]
use std::rc::Rc;

/// A simulated machine. One thread runs many of them, one at a time.
#[cfg(feature = "simulation")]
pub trait Machine {
    /// A monotonic clock, in nanoseconds since some instant of its own.
    fn mono_ns(&self) -> u64;
    /// True time, in nanoseconds since the Unix epoch. What a node's clock makes of it is the clock source's business.
    fn true_ns(&self) -> u64;
    /// The next number of the machine's random sequence.
    fn random(&self) -> u64;
}

#[cfg(feature = "simulation")]
thread_local! {
    static CURRENT: RefCell<Option<Rc<dyn Machine>>> = const { RefCell::new(None) };
}

/// Puts the code that runs on this thread onto `machine`, or back onto the real one. Returns what was there before.
#[cfg(feature = "simulation")]
pub fn enter(machine: Option<Rc<dyn Machine>>) -> Option<Rc<dyn Machine>> {
    CURRENT.with_borrow_mut(|current| std::mem::replace(current, machine))
}

#[cfg(feature = "simulation")]
fn ask<T>(what: impl FnOnce(&dyn Machine) -> T) -> Option<T> {
    // A thread that is ending has no machine any more.
    CURRENT.try_with(|current| current.borrow().as_deref().map(what)).ok().flatten()
}

/// The simulated machine's monotonic clock; `None`: this is a real machine.
#[inline]
pub fn mono_ns() -> Option<u64> {
    #[cfg(feature = "simulation")]
    return ask(|m| m.mono_ns());
    #[cfg(not(feature = "simulation"))]
    None
}

/// True time on a simulated machine; `None`: this is a real machine.
#[inline]
pub fn true_ns() -> Option<u64> {
    #[cfg(feature = "simulation")]
    return ask(|m| m.true_ns());
    #[cfg(not(feature = "simulation"))]
    None
}

/// Whether this thread runs on a simulated machine.
#[inline]
pub fn is_simulated() -> bool {
    #[cfg(feature = "simulation")]
    return ask(|_| ()).is_some();
    #[cfg(not(feature = "simulation"))]
    false
}

/// A random number, of the operating system or of the simulated machine.
pub fn random() -> u64 {
    #[cfg(feature = "simulation")]
    if let Some(number) = ask(|m| m.random()) {
        return number;
    }
    rand::random()
}
