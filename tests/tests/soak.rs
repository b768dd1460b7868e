//! A short history of real processes under a seeded schedule of faults: every guarantee holds in it, and a lie in that
//! same history is refused. `soak` runs longer ones.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_bench::history::{OpKind, Outcome, Record};
use meridian_tests::harness::logging;
use meridian_tests::soak::workload::Pace;
use meridian_tests::soak::{Answer, Check, Kind, Options, checks, closing, run};
use std::path::PathBuf;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn every_guarantee_holds_under_faults() {
    logging();
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        seed: 81,
        span: Duration::from_secs(45),
        faults: Kind::within_bounds(),
        every: Duration::from_secs(2),
        nodes: 3,
        pace: Pace { clients: 8, rate: 200 },
        program: PathBuf::from(env!("CARGO_BIN_EXE_test-node")),
        dir: dir.path().to_owned(),
    };
    let run = run(&options).await.unwrap();
    println!("{}", run.summary);
    let broken: Vec<_> = run.checks.iter().filter(|c| c.answer != Answer::Holds).map(ToString::to_string).collect();
    assert!(broken.is_empty() && run.faults_found.is_empty(), "{broken:#?}\n{:#?}\n{}", run.faults_found, run.summary);

    // Asked for counts as done here: a transfer is refused while there is no leader.
    let done = |kind: Kind| run.summary.faults.get(&kind).map_or(0, |(done, not_done)| done + not_done);
    let enough = [(Kind::Kill, 2), (Kind::Pause, 1), (Kind::Partition, 1), (Kind::Transfer, 1)];
    assert!(enough.iter().all(|(kind, least)| done(*kind) >= *least), "{}", run.summary);
    assert!(run.summary.ops_all() >= 1_000, "{}", run.summary);
    let replicas = &run.summary.compared.by_replica;
    assert!(replicas.len() == 3 && replicas.values().all(|answers| *answers > 0), "{replicas:?}");
    lies_are_refused(&run.history);
}

/// The check is worth something only if it would have noticed.
fn lies_are_refused(history: &[Record]) {
    let refused = |name: &str, lie: fn(&mut Vec<Record>)| {
        let mut history = history.to_vec();
        lie(&mut history);
        let answers = checks::all(&history, false);
        let of = |check: &&Check| check.name.starts_with(name);
        let answer = answers.iter().find(of).map(|check| check.answer.clone());
        assert!(matches!(answer, Some(Answer::Violated(_))), "{name}: {answer:?}");
    };
    refused("exactly once", |h| {
        let closing = h.iter_mut().rev().find(|r| closing::is_closing(r) && level(r, "linearizable")).unwrap();
        closing.scan.as_mut().unwrap().found.pop();
    });
    refused("agreement", |h| {
        let closing = h.iter_mut().rev().find(|r| closing::is_closing(r) && level(r, "snapshot")).unwrap();
        closing.scan.as_mut().unwrap().found.pop();
    });
    for name in ["external consistency", "order of timestamps"] {
        refused(name, |h| {
            let mut of_table: Vec<_> = h.iter_mut().filter(|r| acknowledged(r) && r.table == "us").collect();
            of_table.sort_by_key(|r| r.invoked_ns);
            let last = of_table.pop().unwrap();
            std::mem::swap(&mut last.timestamp, &mut of_table[0].timestamp);
        });
    }
    refused("linearizability", |h| {
        let read = h.iter_mut().rev().find(|r| level(r, "linearizable") && r.op == OpKind::Get && r.value.is_some());
        read.unwrap().value = Some("nobody".to_owned());
    });
    refused("staleness", |h| {
        let seen = h.iter().rev().find(|r| level(r, "local") && r.value.is_some()).unwrap();
        let read = Record { staleness_ns: Some(0), timestamp: Some(1), value: None, version: None, ..seen.clone() };
        h.push(read);
    });
    refused("sessions", |h| {
        let read = h.iter_mut().rev().find(|r| level(r, "causal") && r.token > Some(0)).unwrap();
        read.timestamp = read.token.map(|token| token - 1);
    });
    refused("snapshots", |h| {
        let read = h.iter_mut().rev().find(|r| level(r, "snapshot") && r.op == OpKind::Get && r.value.is_some());
        let read = read.unwrap();
        (read.value, read.version) = (None, None);
    });
}

fn level(record: &Record, level: &str) -> bool {
    record.outcome == Outcome::Ok && record.consistency.as_deref() == Some(level)
}

fn acknowledged(record: &Record) -> bool {
    record.outcome == Outcome::Ok && !record.writes().is_empty()
}
