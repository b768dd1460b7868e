//! Time: the interval clock, its sources, commit wait, and the comparison with other nodes' clocks.
//!
//! This crate alone knows how to ask the machine what time it is, and how far off the answer may be. No
//! other crate calls `SystemTime::now` or `Instant::now` (a lint says so): they hold a [`Clock`], which
//! answers with an interval that contains true time, or a [`Mono`], which measures durations.
//!
//! Rules it carries (`W1` to `W3`, `R5`, `S2` of the design's invariants):
//! 1. Neither end of the interval ever goes backward in one process.
//! 2. While the clock is unsafe, no commit wait ends and [`Clock::safe_now`] refuses.
//! 3. Durations are measured with a clock that keeps counting while the machine is suspended.

mod clock;
mod config;
mod error;
mod kernel;
mod mono;
mod peers;
mod simulated;
mod source;
mod timer;
mod timex;

pub use clock::{Clock, ClockStatus, Unsafe};
pub use config::{ClockConfig, SimulatedConfig, SourceKind, duration_text};
pub use error::ClockError;
pub use kernel::KernelSource;
pub use mono::Mono;
pub use peers::{Exchange, PeerClocks, PeerVerdict};
pub use simulated::SimulatedSource;
pub use source::{FixedSource, TimeSource};
pub use timer::{Sleep, sleep, sleep_until};
