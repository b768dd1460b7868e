//! A short run of the loop: nothing is lost on a disk that keeps its word, whatever it makes of the rest; and a disk that
//! does not is found out. `make power` runs thousands.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_power::check::Wrong;
use meridian_power::cycle::{Failure, Options, Summary, run};
use meridian_power::disk::Loss;
use std::path::PathBuf;

fn options(dir: &tempfile::TempDir, losses: u64, seed: u64) -> Options {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_power"));
    Options { losses, seed, loss: None, lies: false, program, dir: dir.path().canonicalize().unwrap() }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let found = run(&options(&dir, 60, 1), |_| {}).unwrap_or_else(|failure| panic!("{failure}"));
    println!("{found}");
    let Summary { losses, acked, entries, operations, opening, .. } = found;
    // The run is worth something only if there was something to lose.
    assert!(losses.iter().all(|of_kind| *of_kind >= 5) && opening > 0 && opening < 60, "{found}");
    assert!(acked > 1_000 && entries > 1_000 && operations > 1_000, "{found}");
}

/// The check is worth something only if it would have noticed: a disk on which syncs of write-ahead logs do nothing is
/// found out after a few losses, however kind it is to what was written.
#[test]
fn a_disk_that_lies_is_found_out() {
    for (seed, loss) in [(1, Loss::Ordered), (2, Loss::Nasty), (3, Loss::Chaotic)] {
        let dir = tempfile::tempdir().unwrap();
        let lying = Options { lies: true, loss: Some(loss), ..options(&dir, 60, seed) };
        match run(&lying, |_| {}) {
            Err(Failure::Found { wrong: Wrong::Content(_) | Wrong::Refused(_), at, of, .. }) => assert!(at <= of),
            Err(other) => panic!("{other}"),
            Ok(summary) => panic!("not found out:\n{summary}"),
        }
    }
}
