//! `kill -9` in a loop: nodes of a cluster are killed under load, one, two and all at a time; every acknowledged write is
//! read back from every node. `make kills` does it for longer.

use meridian_tests::harness::logging;
use meridian_tests::soak::workload::Pace;
use meridian_tests::soak::{Answer, Kind, Options, closing, run};
use meridian_tests::{exactly_once, soak};
use std::path::PathBuf;
use std::time::Duration;

const KILLS: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_nodes_are_killed_in_a_loop() {
    logging();
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        seed: 83,
        span: Duration::ZERO,
        faults: vec![Kind::Kill, Kind::KillPair, Kind::KillAll],
        every: Duration::from_secs(2),
        nodes: 3,
        pace: Pace { clients: 6, rate: 200 },
        program: PathBuf::from(env!("CARGO_BIN_EXE_test-node")),
        dir: dir.path().to_owned(),
    };
    let run = run(&options.until_killed(KILLS).unwrap()).await.unwrap();
    println!("{}", run.summary);
    let broken: Vec<_> = run.checks.iter().filter(|c| c.answer != Answer::Holds).map(ToString::to_string).collect();
    assert!(broken.is_empty() && run.faults_found.is_empty(), "{broken:#?}\n{:#?}\n{}", run.faults_found, run.summary);
    assert!(run.summary.kills >= KILLS && run.summary.acknowledged >= 50, "{}", run.summary);

    // Every node was asked for every table, and a row that is missing in one of the answers is noticed.
    let last = closing::final_states(&run.history);
    assert_eq!(last.len(), 3 * soak::keys::TABLES.len());
    for n in 0..last.len() {
        let mut lacking = last.clone();
        lacking[n].rows.retain(|row| row.key != closing::CLOSING_KEY);
        assert!(exactly_once::check(&run.history, &lacking).is_err(), "without a row of answer {n}");
    }
}
