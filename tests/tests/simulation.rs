//! Simulated clusters: the same seed gives the same run; seeds that once showed a defect stay good; a row of fresh ones
//! holds; and every known-wrong behaviour is noticed.
//!
//! Each simulation is a process of the program `sim`, so that it does here what it does on a command line.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(args).output().unwrap()
}

/// Runs `sim` and fails with what it printed if it does.
fn holds(args: &[&str]) -> String {
    let output = sim(args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "sim {}\n{text}{log}", args.join(" "));
    text
}

fn trace(seed: &str, to: &Path) -> Vec<u8> {
    holds(&["--seed", seed, "--trace", to.to_str().unwrap()]);
    std::fs::read(to).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_trace_to_the_last_byte() {
    let dir = tempfile::tempdir().unwrap();
    for seed in ["3", "5", "11", "19"] {
        let (first, second) = (trace(seed, &dir.path().join("first")), trace(seed, &dir.path().join("second")));
        assert!(first.len() > 100_000, "a trace says something");
        assert!(first == second, "seed {seed} does not repeat itself");
    }
    assert!(trace("3", &dir.path().join("a")) != trace("5", &dir.path().join("b")), "seeds differ");
}

/// Seeds that once failed, with what they showed; each was seen to fail on the code as it was then.
///
/// A later change of the simulation changes what a seed does. The defects themselves are kept by unit tests where they
/// could be; these stay because runs that once were odd are good runs to repeat.
const REGRESSIONS: [(&str, &[&str]); 10] = [
    ("184", &[]),                        // a transfer that was given up left a leader that served nobody
    ("291", &[]),                        // the same, after a barrier that was refused
    ("89", &["--break-clocks", "true"]), // a clock vouched for by comparisons from before it jumped
    ("2767", &[]),                       // a snapshot read amid the stamps of one entry
    ("10299", &[]),                      // a leader that was no voter any more, and could not prove that it leads
    ("20025", &[]),                      // a clock too wide for its lease: nothing was closed while nobody wrote
    ("41356", &[]),                      // a snapshot that was not needed vouched for a log that was not synced
    ("392", &[]),                        // a gap behind a barrier whose quorum had no room for it
    ("277", &[]),                        // a commit whose message was lost, and nothing was written afterwards
    ("1234", &["--faults", "compact,pause,one-way,slow,leader"]), // replication to a follower that never resumed
];

#[test]
fn seeds_that_once_failed_hold() {
    for (seed, also) in REGRESSIONS {
        let mut args = vec!["--seed", seed];
        args.extend(also);
        holds(&args);
    }
}

#[test]
fn a_row_of_seeds_holds() {
    let text = holds(&["--from", "1", "--seeds", "200"]);
    println!("{text}");
}

#[test]
fn clusters_with_clocks_out_of_bounds_keep_what_no_clock_is_asked_for() {
    let text =
        holds(&["--from", "5000", "--seeds", "40", "--faults", "clock,leader,transfer", "--break-clocks", "true"]);
    println!("{text}");
}

#[test]
fn every_known_wrong_behaviour_is_noticed() {
    let text = holds(&["--sabotage-suite", "--seeds", "100"]);
    println!("{text}");
}
