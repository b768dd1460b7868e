//! Deterministic simulation: whole clusters in one thread, from one seed.

pub mod invariant;
pub mod invariants;
