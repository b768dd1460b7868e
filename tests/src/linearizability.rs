//! Linearizability (G4) of every key: its puts, gets, deletes, transactions and scans, all linearizable ones, can be
//! put in one order that respects real time and in which each sees what those before it left. An operation of unknown
//! outcome may have taken effect at any time since it was asked for, or never.
//!
//! Linearizability is local (Herlihy and Wing, TOPLAS 1990): a history is linearizable if each of its registers is, so
//! each key is searched by itself. The search is exponential in the worst case. It has a budget, and says
//! [`Verdict::Undecided`] instead of guessing.

use crate::Violation;
use crate::register::{ABSENT, registers};
use crate::search::{Found, Search};
use meridian_bench::history::Record;

/// Operations looked at per history, unless told otherwise: some seconds' work.
pub const BUDGET: u64 = 50_000_000;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every key has an order.
    Linearizable,
    /// A key has none.
    Violation(Box<Violation>),
    /// No violation was found, and the budget ended before these keys (`table/key`) had an answer.
    Undecided {
        /// The keys.
        keys: Vec<String>,
    },
}

impl Verdict {
    /// Whether every key has an order.
    pub fn is_linearizable(&self) -> bool {
        *self == Self::Linearizable
    }
}

/// Checks a history with the usual budget.
pub fn check(history: &[Record]) -> Verdict {
    check_within(history, BUDGET)
}

/// Checks a history. Keys share the budget evenly; what one leaves, later ones may use.
pub fn check_within(history: &[Record], budget: u64) -> Verdict {
    let keys = match registers(history) {
        Ok(keys) => keys,
        Err(violation) => return Verdict::Violation(Box::new(violation)),
    };
    let (mut left, mut keys_left, mut undecided) = (budget, keys.len() as u64, Vec::new());
    for ((table, key), ops) in keys {
        let share = left / keys_left.max(1);
        let mut own = share;
        match Search::new(&ops).run(&mut own) {
            Found::Order => {}
            Found::NoOrder { stuck, state } => {
                let op = &ops[stuck];
                let holding = if state == ABSENT { "without a value".to_owned() } else { describe(&ops, state) };
                let message = format!(
                    "{table}/{key} is not linearizable: no order lets this operation come next; the longest one ends {holding}"
                );
                return Verdict::Violation(Box::new(Violation::new(message, &[op.record])));
            }
            Found::Undecided => undecided.push(format!("{table}/{key}")),
        }
        left -= share - own;
        keys_left -= 1;
    }
    if undecided.is_empty() { Verdict::Linearizable } else { Verdict::Undecided { keys: undecided } }
}

fn describe(ops: &[crate::register::RegisterOp<'_>], state: crate::register::State) -> String {
    let writer = ops.iter().find(|op| op.sets == Some(state)).map(|op| op.record);
    writer.map_or("with another value".to_owned(), |r| {
        format!("with the value of process {}'s write of {} ns", r.process, r.invoked_ns)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{LARGE, Shape, generate};
    use crate::sample::{Sample, delete, get, history, put, txn_value, txn_version};

    fn holds(ops: impl IntoIterator<Item = Sample>) -> bool {
        match check(&history(ops)) {
            Verdict::Linearizable => true,
            Verdict::Violation(_) => false,
            Verdict::Undecided { keys } => panic!("undecided: {keys:?}"),
        }
    }

    #[test]
    fn a_read_sees_the_last_write_that_had_ended() {
        let write = put(1, "k", "a").at(0, 10).ts(5);
        assert!(holds([write.clone(), get(2, "k", Some(("a", 5))).at(11, 12).ts(6)]));
        assert!(!holds([write.clone(), get(2, "k", None).at(11, 12).ts(6)]));
        assert!(holds([write.clone(), get(2, "k", None).at(10, 12).ts(6)]), "they overlap");
        assert!(!holds([write, get(2, "k", Some(("b", 5))).at(11, 12).ts(6)]), "nobody wrote it");
        assert!(
            !holds([get(2, "k", Some(("a", 5))).at(0, 5).ts(6), put(1, "k", "a").at(6, 10).ts(8)]),
            "not yet written"
        );
    }

    #[test]
    fn readers_agree_on_the_order_of_overlapping_writes() {
        let writes = [put(1, "k", "a").at(0, 100).ts(5), put(2, "k", "b").at(0, 100).ts(6)];
        let reads = |first, second, third| {
            let mut ops = writes.to_vec();
            for (i, value) in [first, second, third].into_iter().enumerate() {
                let start = 10 + 10 * i as u64;
                ops.push(get(3 + i as u64, "k", value).at(start, start + 5).ts(7));
            }
            holds(ops)
        };
        let (a, b) = (Some(("a", 5)), Some(("b", 6)));
        assert!(reads(None, a, b) && reads(b, a, a) && reads(b, b, b));
        assert!(!reads(a, b, a) && !reads(a, None, b));
    }

    #[test]
    fn an_unknown_write_takes_effect_late_or_never_but_once() {
        let ops = |reads: &[Option<(&str, u64)>]| {
            let mut ops = vec![put(1, "k", "a").at(0, 5).ts(1), put(2, "k", "u").at(10, 20).unknown()];
            for (i, value) in reads.iter().enumerate() {
                let start = 30 + 10 * i as u64;
                ops.push(get(3, "k", *value).at(start, start + 5).ts(9));
            }
            holds(ops)
        };
        let (a, u) = (Some(("a", 1)), Some(("u", 8)));
        assert!(ops(&[a, a, a]) && ops(&[u, u, u]) && ops(&[a, u, u]));
        assert!(!ops(&[a, u, a]) && !ops(&[u, a, u]) && !ops(&[a, None]));
    }

    #[test]
    fn an_unknown_write_is_not_seen_before_it_was_asked_for() {
        assert!(!holds([get(1, "k", Some(("u", 2))).at(0, 5).ts(3), put(2, "k", "u").at(6, 9).unknown()]));
        assert!(!holds([get(1, "k", Some(("f", 2))).at(8, 9).ts(3), put(2, "k", "f").at(0, 5).failed("OVERLOADED")]));
    }

    #[test]
    fn removals_count_and_unknown_ones_may() {
        let write = put(1, "k", "a").at(0, 5).ts(1);
        let read = |value| get(2, "k", value).at(30, 35).ts(9);
        assert!(holds([write.clone(), delete(1, "k").at(10, 20).ts(15), read(None)]));
        assert!(!holds([write.clone(), delete(1, "k").at(10, 20).ts(15), read(Some(("a", 1)))]));
        for seen in [None, Some(("a", 1))] {
            assert!(holds([write.clone(), delete(1, "k").at(10, 20).unknown(), read(seen)]));
        }
        assert!(!holds([write, delete(1, "k").at(40, 50).unknown(), read(None)]));
    }

    #[test]
    fn of_two_conditional_writes_on_one_version_one_wins() {
        let write = put(1, "k", "a").at(0, 5).ts(1);
        let cas = |process, value| txn_version(process, "k", 1, value).at(10, 20);
        assert!(holds([write.clone(), cas(1, "b").ts(12), cas(2, "c").failed("PRECONDITION_FAILED")]));
        assert!(!holds([write.clone(), cas(1, "b").ts(12), cas(2, "c").ts(13)]));
        assert!(!holds([write.clone(), cas(1, "b").failed("PRECONDITION_FAILED")]), "it could not have failed");
        assert!(holds([write.clone(), cas(1, "b").failed("OVERLOADED")]));
        let other = |value| txn_value(2, "k", value, "c").at(30, 40).ts(35);
        assert!(holds([write.clone(), cas(1, "b").unknown(), other("b")]));
        assert!(holds([write.clone(), cas(1, "b").unknown(), other("a")]));
        assert!(!holds([write, cas(1, "b").ts(12), other("a")]));
    }

    #[test]
    fn an_unknown_write_can_explain_why_a_precondition_failed() {
        let write = put(1, "k", "a").at(0, 5).ts(1);
        let refused = txn_value(2, "k", "a", "c").at(30, 40).failed("PRECONDITION_FAILED");
        assert!(holds([write.clone(), put(3, "k", "u").at(10, 20).unknown(), refused.clone()]));
        assert!(!holds([write, put(3, "k", "u").at(50, 60).unknown(), refused]));
    }

    #[test]
    fn random_valid_histories_pass_and_lies_are_refused() {
        for seed in 0..60 {
            let shape = Shape { unknown_percent: if seed % 2 == 0 { 5 } else { 25 }, ..Shape::default() };
            let mut history = generate(seed, &shape);
            let verdict = check(&history);
            assert!(verdict.is_linearizable(), "seed {seed}: {verdict:?}");
            let lied = crate::sample::overwritten_value_in_some_read(&mut history, seed);
            assert!(lied && matches!(check(&history), Verdict::Violation(_)), "seed {seed}");
        }
    }

    #[test]
    fn the_search_agrees_with_trying_every_order() {
        let (mut good, mut bad) = (0, 0);
        for seed in 0..20_000 {
            let history = crate::sample::tiny_random(seed);
            let expected = crate::sample::some_order_works(&history);
            assert_eq!(check(&history).is_linearizable(), expected, "seed {seed}: {history:#?}");
            if expected { good += 1 } else { bad += 1 }
        }
        assert!(good > 2000 && bad > 2000, "{good} good, {bad} bad");
    }

    #[test]
    fn a_hundred_thousand_operations_are_decided() {
        let mut history = generate(11, &LARGE);
        assert!(check(&history).is_linearizable());
        assert!(crate::sample::overwritten_value_in_some_read(&mut history, 11));
        assert!(matches!(check(&history), Verdict::Violation(_)));
    }

    #[test]
    fn many_overlapping_writes_to_one_key_are_decided() {
        let mut ops: Vec<_> = (0..60).map(|i| put(i, "k", &format!("v{i}")).at(0, 1000).ts(i + 1)).collect();
        for (i, value) in [7_u64, 3, 55, 30].into_iter().enumerate() {
            let start = 100 + 100 * i as u64;
            ops.push(get(100, "k", Some((&format!("v{value}"), value + 1))).at(start, start + 50).ts(99));
        }
        assert!(holds(ops.clone()));
        ops.push(get(101, "k", Some(("v7", 8))).at(700, 750).ts(99));
        assert!(!holds(ops));
    }

    #[test]
    fn hot_keys_with_many_unknown_outcomes_are_decided() {
        for (seed, processes, unknown_percent) in [(1, 12, 20), (2, 24, 10), (3, 64, 3)] {
            let shape = Shape { processes, ops: 6000, keys: 2, unknown_percent };
            let mut history = generate(seed, &shape);
            let verdict = check(&history);
            assert!(verdict.is_linearizable(), "seed {seed}: {verdict:?}");
            assert!(crate::sample::overwritten_value_in_some_read(&mut history, seed));
            assert!(matches!(check(&history), Verdict::Violation(_)), "seed {seed}");
        }
    }

    #[test]
    fn a_spent_budget_is_not_an_answer() {
        let history = generate(3, &Shape::default());
        assert!(matches!(check_within(&history, 20), Verdict::Undecided { keys } if !keys.is_empty()));
    }

    #[test]
    fn whatever_the_budget_no_answer_is_wrong() {
        // Hard ones: two keys, and every fourth write's outcome is unknown.
        let shape = Shape { processes: 12, ops: 600, keys: 2, unknown_percent: 25 };
        let (mut decided, mut undecided) = (0, 0);
        for seed in 0..12 {
            let good = generate(seed, &shape);
            let mut bad = good.clone();
            assert!(crate::sample::overwritten_value_in_some_read(&mut bad, seed));
            let mut budget = 1;
            while budget <= 1 << 20 {
                for (history, is_good) in [(&good, true), (&bad, false)] {
                    match check_within(history, budget) {
                        Verdict::Undecided { .. } => undecided += 1,
                        verdict => {
                            decided += 1;
                            assert_eq!(verdict.is_linearizable(), is_good, "seed {seed}, budget {budget}");
                        }
                    }
                }
                budget *= 4;
            }
        }
        assert!(decided > 80 && undecided > 80, "{decided} decided, {undecided} not");
    }

    #[test]
    fn a_search_that_cannot_end_is_undecided_and_not_valid() {
        // The last read fits nowhere, and to know that every subset of the unknown writes has to be tried: refused
        // preconditions make them count.
        let mut ops: Vec<_> = (0..40).map(|i| put(i, "k", &format!("u{i}")).at(0, 10).unknown()).collect();
        ops.push(delete(300, "k").at(0, 10).ts(1));
        ops.extend((0..40).map(|i| {
            let from = format!("u{i}");
            txn_value(100 + i, "k", &from, &format!("w{i}")).at(20, 10_000).failed("PRECONDITION_FAILED")
        }));
        ops.push(put(200, "k", "a").at(20_000, 20_010).ts(5));
        ops.push(get(201, "k", None).at(20_020, 20_030).ts(6));
        let verdict = check_within(&history(ops), 200_000);
        assert_eq!(verdict, Verdict::Undecided { keys: vec!["t/k".to_owned()] });
    }
}
