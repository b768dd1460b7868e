//! The invariants, one file each, headed by its statement and source.

use super::invariant::Invariant;

/// All of them, fresh.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![]
}
