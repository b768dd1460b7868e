//! Every decoder of bytes that come from a disk, a peer or a client, as one list of fuzz targets.
//!
//! This crate alone knows all of them. What must hold of a decoder's answer is said where the decoder is: in the
//! modules `fuzzing` of the crates, or here for what is public anyway. A broken rule is a panic.
//!
//! The folder `fuzz/` runs them under libFuzzer; the tests of this crate run them over `fuzz/corpus` and over seeded
//! changes of it, with an ordinary compiler.

mod client;
mod record;

use std::fmt;

/// A decoder by its name in its group.
type Named = (&'static str, fn(&[u8]));

/// One decoder.
#[derive(Clone, Copy)]
pub struct Target {
    /// What it belongs to: the first part of its name.
    group: &'static str,
    /// Its name there.
    name: &'static str,
    run: fn(&[u8]),
}

impl Target {
    /// Gives it bytes. A panic is a bug.
    pub fn run(&self, data: &[u8]) {
        (self.run)(data);
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.group, self.name)
    }
}

/// All targets. Their names are those of the binaries in `fuzz/` and of the folders in `fuzz/corpus`.
pub fn targets() -> impl Iterator<Item = Target> {
    let groups = [
        ("disk", meridian_storage::fuzzing::TARGETS),
        ("raft", meridian_consensus::fuzzing::TARGETS),
        ("api", meridian_api::fuzzing::TARGETS),
        ("client", client::TARGETS),
        ("record", record::TARGETS),
    ];
    let of = |(group, targets): (&'static str, &'static [Named])| {
        targets.iter().map(move |(name, run)| Target { group, name, run: *run })
    };
    groups.into_iter().flat_map(of)
}

/// Runs the target with this name.
///
/// # Panics
///
/// If there is none, and if the decoder breaks a rule.
pub fn run(name: &str, data: &[u8]) {
    let target =
        targets().find(|target| name.strip_prefix(target.group).and_then(|n| n.strip_prefix('_')) == Some(target.name));
    target.unwrap_or_else(|| panic!("there is no target `{name}`")).run(data);
}
