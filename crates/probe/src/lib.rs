//! The seams at which a test takes hold of a running node.
//!
//! This crate alone knows what a test may decide for a node (the machine that it runs on), see in it (events) and
//! break in it (sabotage). Without the feature `simulation`, which only the tests' package turns on, a node asks the
//! real machine, events are not even made, and no sabotage exists: the calls compile to nothing.
//!
//! * [`machine`]: time and randomness, of the operating system or of a simulated machine.
//! * [`Event`], [`emit`]: what happened inside, for invariants and traces.
//! * [`Sabotage`], [`sabotaged`]: known-wrong behaviours, each of which some check has to catch.
//!
//! All three are bound to the thread: one thread runs one simulation.

mod event;
pub mod machine;
mod sabotage;

pub use event::{Digest, Event, ReadKind, emit, mark};
#[cfg(feature = "simulation")]
pub use event::{Recorder, record};
#[cfg(feature = "simulation")]
pub use sabotage::set_sabotages;
pub use sabotage::{Sabotage, sabotaged};
