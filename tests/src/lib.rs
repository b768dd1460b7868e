//! Checkers of histories, and what whole-cluster tests share.
//!
//! Each checker holds one guarantee against what clients recorded ([`meridian_bench::history`]), in a file of its
//! own. A checker trusts nothing but the record: it never asks the cluster. Histories start from an empty table; the
//! harness records its load phase, so its histories do.
//!
//! Every checker is itself tested in both directions: seeded valid histories must pass ([`generate`]), and the same
//! histories with one lie put in must be refused.

pub mod exactly_once;
pub mod external_consistency;
pub mod generate;
pub mod harness;
mod index;
pub mod linearizability;
pub mod node;
mod observe;
mod register;
#[cfg(test)]
mod sample;
mod search;
pub mod sessions;
pub mod sim;
pub mod snapshots;
pub mod soak;
pub mod staleness;
mod violation;

pub use violation::Violation;
