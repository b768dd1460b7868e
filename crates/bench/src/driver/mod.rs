//! Drivers: what starts when.

mod closed;
mod load;
mod open;

pub(crate) use closed::closed_loop;
pub(crate) use load::load;
pub(crate) use open::{OpenLoop, open_loop};
