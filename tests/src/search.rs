//! The search for an order: Wing and Gong's algorithm with Lowe's memoization, for one register.
//!
//! It repeatedly picks an operation that may come next (none that has ended before it was asked for is still to be
//! ordered) and goes back when none fits; a configuration, which is the set of ordered operations and the state, is
//! entered at most once. Three facts keep the search short; none of them changes its answer:
//! * An operation that changes nothing and fits is taken at once: being earlier, it can hinder no other.
//! * A state that only one operation ever makes is not left while an operation that requires it is still to come.
//! * Operations that may never have happened are tried last.
//!
//! Source: Wing and Gong, "Testing and Verifying Concurrent Objects", JPDC 1993; Lowe, "Testing for Linearizability",
//! CCPE 2017, section 3. Configurations are remembered as 128-bit Zobrist hashes; that two of one search collide has a
//! probability below 1e-20 for a million million of them.

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

/// Which operations are looked at for the next place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Those that change nothing.
    Reads,
    /// Those that change the state and certainly happened.
    Writes,
    /// Those that may have happened.
    Optional,
}

/// A place taken in the order, and what to restore when it is given up.
#[derive(Clone, Copy, Debug)]
struct Step {
    op: usize,
    before: State,
    pass: Pass,
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
    /// Of states that only one operation makes: how many certain operations that require it are to come.
    waiting: HashMap<State, usize>,
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
            waiting: waiting(ops),
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
        let mut place = (Pass::Reads, self.next[HEAD]);
        while self.left > 0 {
            match self.find(place, budget) {
                Some(Some((pass, op))) => {
                    self.take(pass, op);
                    place = (Pass::Reads, self.next[HEAD]);
                }
                Some(None) => match self.give_up() {
                    Some(back) => place = back,
                    None => return Found::NoOrder { stuck: self.stuck.0, state: self.stuck.1 },
                },
                None => return Found::Undecided,
            }
        }
        Found::Order
    }

    /// The next operation that fits, from a place on. `None`: the budget is spent.
    fn find(&mut self, (mut pass, mut event): (Pass, usize), budget: &mut u64) -> Option<Option<(Pass, usize)>> {
        loop {
            *budget = budget.checked_sub(1)?;
            let op = event.wrapping_sub(1) / 2;
            if event == HEAD || event.is_multiple_of(2) {
                // The end of the list, or of an operation that must be ordered before anything that follows.
                pass = match pass {
                    Pass::Reads => Pass::Writes,
                    Pass::Writes => Pass::Optional,
                    Pass::Optional => {
                        self.remember_stuck(event);
                        return Some(None);
                    }
                };
                event = self.next[HEAD];
                continue;
            }
            if self.fits(pass, op) {
                return Some(Some((pass, op)));
            }
            event = self.next[event];
        }
    }

    fn fits(&mut self, pass: Pass, number: usize) -> bool {
        let op = &self.ops[number];
        let of_pass = match (op.sets, op.completed) {
            (None, _) => Pass::Reads,
            (Some(_), Some(_)) => Pass::Writes,
            (Some(_), None) => Pass::Optional,
        };
        if of_pass != pass || !op.allowed_in(self.state) {
            return false;
        }
        let Some(sets) = op.sets else { return true };
        let own = usize::from(op.completed.is_some() && op.requires_value(self.state));
        if sets != self.state && self.waiting.get(&self.state).is_some_and(|waiting| *waiting > own) {
            return false;
        }
        self.entered.insert((self.hash ^ self.hashes[number], sets))
    }

    fn take(&mut self, pass: Pass, number: usize) {
        let op = &self.ops[number];
        self.steps.push(Step { op: number, before: self.state, pass });
        self.hash ^= self.hashes[number];
        self.unlink(call(number));
        if op.completed.is_some() {
            self.unlink(end(number));
            self.left -= 1;
            self.count(number, self.state, |waiting| waiting - 1);
        }
        self.state = op.sets.unwrap_or(self.state);
    }

    /// Gives up the last place at which there was a choice; returns where to look on.
    fn give_up(&mut self) -> Option<(Pass, usize)> {
        loop {
            let step = self.steps.pop()?;
            self.state = step.before;
            self.hash ^= self.hashes[step.op];
            if self.ops[step.op].completed.is_some() {
                self.relink(end(step.op));
                self.left += 1;
                self.count(step.op, self.state, |waiting| waiting + 1);
            }
            self.relink(call(step.op));
            if step.pass != Pass::Reads {
                return Some((step.pass, self.next[call(step.op)]));
            }
        }
    }

    fn count(&mut self, number: usize, state: State, change: fn(usize) -> usize) {
        if self.ops[number].requires_value(state)
            && let Some(waiting) = self.waiting.get_mut(&state)
        {
            *waiting = change(*waiting);
        }
    }

    fn remember_stuck(&mut self, event: usize) {
        if event != HEAD && self.steps.len() >= self.deepest {
            self.deepest = self.steps.len();
            self.stuck = ((event - 1) / 2, self.state);
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

fn waiting(ops: &[RegisterOp<'_>]) -> HashMap<State, usize> {
    // The first state counts as made by an operation of its own.
    let mut makers = HashMap::from([(ABSENT, 1)]);
    for state in ops.iter().filter_map(|op| op.sets) {
        *makers.entry(state).or_default() += 1;
    }
    makers.retain(|_, makers: &mut usize| *makers == 1);
    for (state, waiting) in &mut makers {
        *waiting = ops.iter().filter(|op| op.completed.is_some() && op.requires_value(*state)).count();
    }
    makers
}
