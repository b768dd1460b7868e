//! Every checker, on the history of a run.

use crate::linearizability::Verdict;
use crate::soak::closing::{final_states, is_closing};
use crate::soak::keys::{shard_of, spans_shards};
use crate::{Violation, exactly_once, external_consistency, linearizability, sessions, snapshots, staleness};
use meridian_bench::history::{OpKind, Record};
use meridian_clock::Mono;
use std::fmt;
use std::time::Duration;

/// What a checker came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The guarantee holds in this history.
    Holds,
    /// It does not.
    Violated(Box<Violation>),
    /// The search gave up; of these keys neither can be said.
    Undecided(Vec<String>),
    /// Not checked: clocks left their bounds, and the guarantee rests on them.
    LeftOut,
}

/// One guarantee, checked.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// The answer.
    pub answer: Answer,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, answer, took } = self;
        match answer {
            Answer::Holds => write!(f, "holds      {name} ({:.1} s)", took.as_secs_f64()),
            Answer::LeftOut => write!(f, "left out   {name}: clocks were beyond their bounds"),
            Answer::Undecided(keys) => write!(f, "undecided  {name}: {}", keys.join(", ")),
            Answer::Violated(violation) => write!(f, "VIOLATED   {name}: {violation}"),
        }
    }
}

/// Looks at a history; is told whether clocks left their bounds in it.
type Checker = fn(&[Record], bool) -> Answer;

/// The checkers, and whether they hold whatever clocks do. Session guarantees are among those that do not: a token is a
/// timestamp, and a replica that was told that it is safe at one when it was not serves a state without it.
const CHECKERS: [(&str, bool, Checker); 8] = [
    ("linearizability of every key (G4)", true, linearizable),
    ("exactly once, nothing lost (G1, G9, G10)", true, once),
    ("order of timestamps within a shard (G3)", true, ordered),
    ("agreement of replicas in the end (G1)", true, agreed),
    ("external consistency (G2)", false, |h, _| external_consistency::check(h).into()),
    ("snapshots (G5)", false, |h, _| snapshots::check(h).into()),
    ("staleness (G6)", false, |h, _| staleness::check(h).into()),
    ("sessions (G7)", false, |h, _| sessions::check(h).into()),
];

/// Checks a history, two guarantees at a time. With `broken_clocks` only what asks no clock.
pub fn all(history: &[Record], broken_clocks: bool) -> Vec<Check> {
    let run = |(name, clockless, checker): (&'static str, bool, Checker)| {
        let start = Mono::now();
        let answer = if broken_clocks && !clockless { Answer::LeftOut } else { checker(history, broken_clocks) };
        Check { name, answer, took: start.elapsed() }
    };
    let (first, others) = CHECKERS.split_at(1);
    std::thread::scope(|scope| {
        // The search takes the longest by far.
        let search = scope.spawn(|| first.iter().copied().map(run).collect::<Vec<_>>());
        let others: Vec<_> = others.iter().copied().map(run).collect();
        let mut checks = search.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        checks.extend(others);
        checks
    })
}

impl From<Result<(), Violation>> for Answer {
    fn from(result: Result<(), Violation>) -> Self {
        result.map_or_else(|violation| Self::Violated(Box::new(violation)), |()| Self::Holds)
    }
}

/// Scans over several shards rest on clocks: they read all of them at a timestamp that the gateway's clock chose.
fn linearizable(history: &[Record], broken_clocks: bool) -> Answer {
    let rests_on_clocks = |r: &&Record| broken_clocks && r.op == OpKind::Scan && !is_closing(r) && spans_shards(r);
    let verdict = if history.iter().any(|r| rests_on_clocks(&r)) {
        let others: Vec<_> = history.iter().filter(|r| !rests_on_clocks(r)).cloned().collect();
        linearizability::check(&others)
    } else {
        linearizability::check(history)
    };
    match verdict {
        Verdict::Linearizable => Answer::Holds,
        Verdict::Violation(violation) => Answer::Violated(violation),
        Verdict::Undecided { keys } => Answer::Undecided(keys),
    }
}

fn once(history: &[Record], _: bool) -> Answer {
    let ends = final_states(history);
    if ends.is_empty() {
        return Err(Violation::new("the history has no final state: no closing read of a whole table", &[])).into();
    }
    exactly_once::check(history, &ends).into()
}

fn ordered(history: &[Record], _: bool) -> Answer {
    external_consistency::check_within(history, |r| (r.table.as_str(), shard_of(&r.table, &r.key))).into()
}

/// Once everything has ended all replicas have the same versions, so at any timestamp, even one that was read too early
/// under a wrong clock, they give the same answer: the newest version by then.
fn agreed(history: &[Record], _: bool) -> Answer {
    let last: Vec<_> = history.iter().filter(|r| !r.writes().is_empty() || is_closing(r)).cloned().collect();
    snapshots::check(&last).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{EPOCH, Shape, final_state, generate};
    use crate::sample::{history, put, scan};
    use meridian_bench::history::ScanResult;

    /// A generated history, and a closing read of each kind.
    fn closed() -> Vec<Record> {
        let mut records = generate(5, &Shape::default());
        let end = records.iter().map(|r| r.completed_ns).max().unwrap() + 1_000_000;
        let found = final_state(5, &Shape::default()).rows;
        for level in ["linearizable", "snapshot"] {
            let read = scan(99, "", u32::MAX, &[]).level(level).at(end, end + 1).ts(EPOCH + end);
            let scan = Some(ScanResult { rows_max: u32::MAX, found: found.clone() });
            records.push(Record { scan, ..history([read]).remove(0) });
        }
        records
    }

    fn answers(records: &[Record], broken_clocks: bool) -> Vec<Answer> {
        all(records, broken_clocks).into_iter().map(|check| check.answer).collect()
    }

    #[test]
    fn every_guarantee_is_checked_or_left_out() {
        let records = closed();
        assert_eq!(answers(&records, false), vec![Answer::Holds; CHECKERS.len()]);
        let (left_out, checked): (Vec<_>, Vec<_>) =
            answers(&records, true).into_iter().partition(|answer| *answer == Answer::LeftOut);
        assert_eq!((left_out.len(), checked), (4, vec![Answer::Holds; 4]));
    }

    #[test]
    fn scans_over_several_shards_rest_on_clocks() {
        let write = put(1, "a1", "x").at(0, 10).ts(EPOCH);
        let read = scan(2, "a0", 5, &[]).at(20, 30).ts(EPOCH - 1);
        let of = |table: &str| history([write.clone().table(table), read.clone().table(table)]);
        assert_eq!(linearizable(&of("eu"), true), Answer::Holds);
        assert!(matches!(linearizable(&of("eu"), false), Answer::Violated(_)));
        assert!(matches!(linearizable(&of("us"), true), Answer::Violated(_)), "one shard: its leader answers");
    }

    #[test]
    fn replicas_that_differ_in_the_end_are_found_whatever_clocks_do() {
        let mut records = closed();
        let last = records.last_mut().and_then(|r| r.scan.as_mut()).unwrap();
        last.found.pop();
        let checks = all(&records, true);
        let agreed = checks.iter().find(|c| c.name.starts_with("agreement")).unwrap();
        assert!(matches!(agreed.answer, Answer::Violated(_)), "{agreed}");
    }

    #[test]
    fn a_history_without_an_end_is_not_called_complete() {
        let records = generate(5, &Shape::default());
        assert!(matches!(answers(&records, true)[1], Answer::Violated(_)));
    }
}
