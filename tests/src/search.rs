//! The search for an order: Wing and Gong's algorithm with Lowe's memoization, for one register.
//!
//! It repeatedly picks an operation that may come next (none that has ended before it was asked for is still to be
//! ordered) and goes back when none fits; a configuration, which is the set of ordered operations and the state, is
//! entered at most once. Four facts keep the search short; none of them changes its answer:
//! * An operation that changes nothing and fits is taken at once: being earlier, it can hinder no other.
//! * A write that requires nothing, and whose value nobody requires, is taken at once when nobody to come requires the
//!   present state either: one state that nobody looks at is as good as the other. (Not where somebody requires that
//!   a value is *not* there.)
//! * A state that only one operation ever makes is not left while an operation that requires it is still to come.
//! * What is tried first follows the timestamps in the history: where the database is right, they are the answer.
//!
//! Source: Wing and Gong, "Testing and Verifying Concurrent Objects", JPDC 1993; Lowe, "Testing for Linearizability",
//! CCPE 2017, section 3. Configurations are remembered as 128-bit Zobrist hashes; that two of one search collide has a
//! probability below 1e-20 for a thousand million of them.

use crate::register::{ABSENT, RegisterOp, State};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{HashMap, HashSet};

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is an order.
    Order,
    /// There is none; the operation that had to come next in the longest attempt, and the state that it met.
    NoOrder { stuck: usize, state: State },
    /// The budget was spent.
    Undecided,
}

/// One of several operations that may come next; the smallest is tried first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Choice {
    hint: u64,
    op: usize,
}

/// A place taken in the order, and what to restore when it is given up.
#[derive(Clone, Copy, Debug)]
struct Step {
    op: usize,
    before: State,
    /// `None`: no other operation needs to be tried here.
    choice: Option<Choice>,
}

/// Who requires a state. A state that nobody ever requires has none.
#[derive(Clone, Copy, Debug, Default)]
struct Need {
    /// Operations to come that require it.
    all: usize,
    /// Those of them that certainly happened.
    certain: usize,
    /// Only one operation makes it; for the first state: none does.
    unique: bool,
}

/// The head of the list of events.
const HEAD: usize = 0;

pub(crate) struct Search<'o, 'a> {
    ops: &'o [RegisterOp<'a>],
    /// Events in order of time, as a linked list without those of ordered operations. Event 0 is the head; a call of
    /// operation `i` is event `1 + 2 i`, its end is event `2 + 2 i`.
    next: Vec<usize>,
    previous: Vec<usize>,
    state: State,
    /// Certain operations that are still to be ordered.
    left: usize,
    needs: HashMap<State, Need>,
    /// By operation: whether nobody will see its effect.
    unseen: Vec<bool>,
    steps: Vec<Step>,
    hashes: Vec<u128>,
    hash: u128,
    entered: HashSet<(u128, State)>,
    deepest: usize,
    stuck: (usize, State),
}

impl<'o, 'a> Search<'o, 'a> {
    pub(crate) fn new(ops: &'o [RegisterOp<'a>]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let (next, previous) = list(ops);
        Self {
            ops,
            next,
            previous,
            state: ABSENT,
            left: ops.iter().filter(|op| op.completed.is_some()).count(),
            needs: needs(ops),
            unseen: unseen(ops),
            steps: Vec::new(),
            hashes: ops.iter().map(|_| rng.random()).collect(),
            hash: 0,
            entered: HashSet::new(),
            deepest: 0,
            stuck: (0, ABSENT),
        }
    }

    /// Searches, taking one from `budget` for each operation that it looks at.
    pub(crate) fn run(mut self, budget: &mut u64) -> Found {
        let mut after = None;
        while self.left > 0 {
            let (window, end) = self.window();
            let Some(rest) = budget.checked_sub(1 + window.len() as u64) else { return Found::Undecided };
            *budget = rest;
            if after.is_none()
                && let Some(op) = window.iter().copied().find(|op| self.is_harmless(*op))
            {
                self.take(op, None);
                continue;
            }
            match self.choose(&window, after) {
                Some(choice) => {
                    self.take(choice.op, Some(choice));
                    after = None;
                }
                None => {
                    self.remember_stuck(end);
                    after = self.give_up();
                    if after.is_none() {
                        return Found::NoOrder { stuck: self.stuck.0, state: self.stuck.1 };
                    }
                }
            }
        }
        Found::Order
    }

    /// The operations that may come next as far as real time goes, and the end event that closes them off.
    fn window(&self) -> (Vec<usize>, usize) {
        let mut window = Vec::new();
        let mut event = self.next[HEAD];
        while !event.is_multiple_of(2) {
            window.push((event - 1) / 2);
            event = self.next[event];
        }
        (window, event)
    }

    fn need(&self) -> Need {
        self.needs.get(&self.state).copied().unwrap_or_default()
    }

    /// Whether taking the operation now can be no mistake.
    fn is_harmless(&self, number: usize) -> bool {
        let op = &self.ops[number];
        match (op.sets, op.completed) {
            (None, _) => op.allowed_in(self.state),
            (Some(_), Some(_)) => self.unseen[number] && self.need().all == 0,
            (Some(_), None) => false,
        }
    }

    /// The best choice after another one that leads to a new configuration.
    fn choose(&mut self, window: &[usize], after: Option<Choice>) -> Option<Choice> {
        let fitting = window.iter().copied().filter(|op| self.fits(*op));
        let mut choices: Vec<_> = fitting.map(|op| Choice { hint: self.hint(op, window), op }).collect();
        choices.retain(|choice| after.is_none_or(|after| *choice > after));
        choices.sort_unstable();
        choices.into_iter().find(|choice| {
            let state = self.ops[choice.op].sets.unwrap_or(self.state);
            self.entered.insert((self.hash ^ self.hashes[choice.op], state))
        })
    }

    fn fits(&self, number: usize) -> bool {
        let op = &self.ops[number];
        let Some(sets) = op.sets.filter(|_| op.allowed_in(self.state)) else { return false };
        let need = self.need();
        let own = usize::from(op.completed.is_some() && op.requires_value(self.state));
        sets == self.state || !need.unique || need.certain <= own
    }

    /// Where timestamps place the operation. One that may not have happened, and has none, is placed just before the
    /// first that does not fit now and would fit after it.
    fn hint(&self, number: usize, window: &[usize]) -> u64 {
        let op = &self.ops[number];
        let (None, None, Some(sets)) = (op.timestamp, op.completed, op.sets) else {
            return op.timestamp.unwrap_or(u64::MAX);
        };
        let wants = |op: &&RegisterOp<'_>| !op.allowed_in(self.state) && op.allowed_in(sets);
        let wanting = window.iter().map(|op| &self.ops[*op]).filter(wants);
        wanting.filter_map(|op| op.timestamp).min().unwrap_or(u64::MAX)
    }

    fn take(&mut self, number: usize, choice: Option<Choice>) {
        let op = &self.ops[number];
        self.steps.push(Step { op: number, before: self.state, choice });
        self.hash ^= self.hashes[number];
        self.unlink(call(number));
        if op.completed.is_some() {
            self.unlink(end(number));
            self.left -= 1;
        }
        self.count(number, |count| count - 1);
        self.state = op.sets.unwrap_or(self.state);
    }

    /// Gives up places until one at which there was a choice; returns that choice.
    fn give_up(&mut self) -> Option<Choice> {
        loop {
            let step = self.steps.pop()?;
            self.state = step.before;
            self.hash ^= self.hashes[step.op];
            if self.ops[step.op].completed.is_some() {
                self.relink(end(step.op));
                self.left += 1;
            }
            self.relink(call(step.op));
            self.count(step.op, |count| count + 1);
            if step.choice.is_some() {
                return step.choice;
            }
        }
    }

    /// Changes the counts of who requires the present state, if this operation does. (It fits, so it requires no other.)
    fn count(&mut self, number: usize, change: fn(usize) -> usize) {
        let op = &self.ops[number];
        if op.requires_value(self.state)
            && let Some(need) = self.needs.get_mut(&self.state)
        {
            need.all = change(need.all);
            if op.completed.is_some() {
                need.certain = change(need.certain);
            }
        }
    }

    fn remember_stuck(&mut self, end: usize) {
        if end != HEAD && self.steps.len() >= self.deepest {
            self.deepest = self.steps.len();
            self.stuck = ((end - 1) / 2, self.state);
        }
    }

    fn unlink(&mut self, event: usize) {
        let (next, previous) = (self.next[event], self.previous[event]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    /// Undoes [`Self::unlink`]; only in the opposite order.
    fn relink(&mut self, event: usize) {
        let (next, previous) = (self.next[event], self.previous[event]);
        self.next[previous] = event;
        self.previous[next] = event;
    }
}

fn call(op: usize) -> usize {
    1 + 2 * op
}

fn end(op: usize) -> usize {
    2 + 2 * op
}

/// All events in order of time; of equal times calls come first, so that operations that touch overlap.
fn list(ops: &[RegisterOp<'_>]) -> (Vec<usize>, Vec<usize>) {
    let calls = ops.iter().enumerate().map(|(i, op)| (op.invoked, 0, call(i)));
    let ends = ops.iter().enumerate().filter_map(|(i, op)| Some((op.completed?, 1, end(i))));
    let mut events: Vec<_> = calls.chain(ends).collect();
    events.sort_unstable();
    let (mut next, mut previous) = (vec![HEAD; 1 + 2 * ops.len()], vec![HEAD; 1 + 2 * ops.len()]);
    let mut last = HEAD;
    for (_, _, event) in events {
        (next[last], previous[event]) = (event, last);
        last = event;
    }
    previous[HEAD] = last;
    (next, previous)
}

fn needs(ops: &[RegisterOp<'_>]) -> HashMap<State, Need> {
    let mut makers: HashMap<State, usize> = HashMap::from([(ABSENT, 1)]);
    for state in ops.iter().filter_map(|op| op.sets) {
        *makers.entry(state).or_default() += 1;
    }
    let mut needs: HashMap<State, Need> = HashMap::new();
    for op in ops {
        let Some(state) = op.required_value() else { continue };
        let need = needs.entry(state).or_default();
        need.unique = makers.get(&state) == Some(&1);
        need.all += 1;
        need.certain += usize::from(op.completed.is_some());
    }
    needs
}

fn unseen(ops: &[RegisterOp<'_>]) -> Vec<bool> {
    let seen: HashSet<State> = ops.iter().filter_map(RegisterOp::required_value).collect();
    let all_ask_for_values = !ops.iter().any(RegisterOp::requires_otherness);
    let unseen = |op: &RegisterOp<'_>| op.requires.is_empty() && op.sets.is_some_and(|state| !seen.contains(&state));
    ops.iter().map(|op| all_ask_for_values && unseen(op)).collect()
}
