//! A key as a register: the operations of one key, stripped to what decides linearizability.
//!
//! A transaction over several keys is projected onto each of them: what holds for the whole holds for every
//! projection, so a violation found is one; that several keys changed at one instant is not checked here (timestamps
//! show it: `external_consistency`, `snapshots`). Only linearizable reads take part.

use crate::Violation;
use crate::index::{Index, KeyId};
use crate::observe::observations;
use meridian_bench::history::{Condition, OpKind, Outcome, Precondition, Record};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What a register holds: a number per value; [`ABSENT`] for none.
pub(crate) type State = u32;

/// No value; also the first state.
pub(crate) const ABSENT: State = 0;

/// What an operation requires of the state that it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requires {
    Is(State),
    IsNot(State),
}

impl Requires {
    pub(crate) fn holds(self, state: State) -> bool {
        match self {
            Self::Is(s) => s == state,
            Self::IsNot(s) => s != state,
        }
    }
}

/// One operation on one register.
#[derive(Clone, Debug)]
pub(crate) struct RegisterOp<'a> {
    pub(crate) invoked: u64,
    /// By when it has taken effect; `None`: it may never do so.
    pub(crate) completed: Option<u64>,
    /// All must hold.
    pub(crate) requires: Vec<Requires>,
    /// The state that it leaves; `None`: as it was.
    pub(crate) sets: Option<State>,
    /// Where the database says it took effect. Guides the search and decides nothing.
    pub(crate) timestamp: Option<u64>,
    pub(crate) record: &'a Record,
}

impl RegisterOp<'_> {
    pub(crate) fn allowed_in(&self, state: State) -> bool {
        self.requires.iter().all(|r| r.holds(state))
    }

    pub(crate) fn requires_value(&self, state: State) -> bool {
        self.requires.contains(&Requires::Is(state))
    }

    /// The state that it requires. One that requires two different ones fits nowhere; then this is the first.
    pub(crate) fn required_value(&self) -> Option<State> {
        self.requires.iter().find_map(|r| if let Requires::Is(state) = r { Some(*state) } else { None })
    }

    /// Whether it requires that some value is not there.
    pub(crate) fn requires_otherness(&self) -> bool {
        self.requires.iter().any(|r| matches!(r, Requires::IsNot(_)))
    }
}

/// Splits a history into registers, and simplifies each.
pub(crate) fn registers(history: &[Record]) -> Result<BTreeMap<KeyId<'_>, Vec<RegisterOp<'_>>>, Violation> {
    let index = Index::new(history)?;
    let mut builder = Builder { states: States::new(history), keys: BTreeMap::new() };
    for record in history {
        match record.op {
            OpKind::Get | OpKind::Scan => builder.read(record, &index),
            OpKind::Put | OpKind::Delete => builder.write(record),
            OpKind::Txn => builder.transaction(record),
        }
    }
    let mut keys = builder.keys;
    keys.values_mut().for_each(settle_unknown);
    Ok(keys)
}

/// Numbers for values, and the values of versions as far as anybody was told.
struct States<'a> {
    numbers: HashMap<String, State>,
    versions: HashMap<(KeyId<'a>, u64), State>,
    /// The opposite.
    versions_of: HashMap<(KeyId<'a>, State), u64>,
}

impl<'a> States<'a> {
    fn new(history: &'a [Record]) -> Self {
        let mut new = Self { numbers: HashMap::new(), versions: HashMap::new(), versions_of: HashMap::new() };
        for record in history.iter().filter(|r| r.outcome == Outcome::Ok) {
            for (key, value) in record.writes() {
                new.told((&record.table, key), value, record.timestamp);
            }
            for found in record.found() {
                new.told((&record.table, found.key), found.value, found.version);
            }
        }
        new
    }

    fn told(&mut self, key: KeyId<'a>, value: Option<&str>, version: Option<u64>) {
        if let (Some(_), Some(version)) = (value, version) {
            let state = self.number(value);
            self.versions.insert((key, version), state);
            self.versions_of.insert((key, state), version);
        }
    }

    fn number(&mut self, value: Option<&str>) -> State {
        let Some(value) = value else { return ABSENT };
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = State::try_from(self.numbers.len() + 1).expect("fewer than four thousand million values");
        self.numbers.insert(value.to_owned(), number);
        number
    }
}

struct Builder<'a> {
    states: States<'a>,
    keys: BTreeMap<KeyId<'a>, Vec<RegisterOp<'a>>>,
}

impl<'a> Builder<'a> {
    fn push(&mut self, record: &'a Record, key: &'a str, requires: Vec<Requires>, sets: Option<State>) {
        let completed = (record.outcome != Outcome::Unknown).then_some(record.completed_ns);
        let version = || self.states.versions_of.get(&((&record.table, key), sets?)).copied();
        let timestamp = record.timestamp.or_else(version);
        let op = RegisterOp { invoked: record.invoked_ns, completed, requires, sets, timestamp, record };
        self.keys.entry((&record.table, key)).or_default().push(op);
    }

    fn read(&mut self, record: &'a Record, index: &Index<'a>) {
        if record.consistency.as_deref() != Some("linearizable") {
            return;
        }
        for seen in observations(record, index) {
            let state = self.states.number(seen.value);
            self.push(record, seen.key, vec![Requires::Is(state)], None);
        }
    }

    fn write(&mut self, record: &'a Record) {
        if record.outcome != Outcome::Fail {
            let sets = self.states.number(record.value.as_deref());
            self.push(record, &record.key, Vec::new(), Some(sets));
        }
    }

    fn transaction(&mut self, record: &'a Record) {
        let Some(txn) = &record.txn else { return };
        if record.outcome == Outcome::Fail {
            // Which of several preconditions did not hold is not recorded; a single one must have been false.
            if let ([only], Some("PRECONDITION_FAILED")) = (txn.preconditions.as_slice(), record.error.as_deref())
                && let Some(requires) = self.requires(record, only)
            {
                let opposite = match requires {
                    Requires::Is(s) => Requires::IsNot(s),
                    Requires::IsNot(s) => Requires::Is(s),
                };
                self.push(record, &only.key, vec![opposite], None);
            }
            return;
        }
        let mut parts: BTreeMap<&str, (Vec<Requires>, Option<State>)> = BTreeMap::new();
        for precondition in &txn.preconditions {
            let requires = self.requires(record, precondition);
            parts.entry(&precondition.key).or_default().0.extend(requires);
        }
        for found in txn.found.iter().filter(|_| record.outcome == Outcome::Ok) {
            let state = self.states.number(found.value.as_deref());
            parts.entry(&found.key).or_default().0.push(Requires::Is(state));
        }
        for write in &txn.writes {
            parts.entry(&write.key).or_default().1 = Some(self.states.number(write.value.as_deref()));
        }
        for (key, (requires, sets)) in parts {
            self.push(record, key, requires, sets);
        }
    }

    /// `None`: the version belongs to a write that nobody was told the version of; anything may hold.
    fn requires(&mut self, record: &'a Record, precondition: &'a Precondition) -> Option<Requires> {
        match &precondition.condition {
            Condition::Value(value) => Some(Requires::Is(self.states.number(Some(value)))),
            Condition::Exists(true) => Some(Requires::IsNot(ABSENT)),
            Condition::Exists(false) | Condition::Version(0) => Some(Requires::Is(ABSENT)),
            Condition::Version(version) => {
                self.states.versions.get(&((&record.table, &precondition.key), *version)).map(|s| Requires::Is(*s))
            }
        }
    }
}

/// Decides of writes with an unknown outcome what can be decided, which spares the search most of its branches.
///
/// * A value that was certainly seen was certainly written, before the first operation that saw it had ended.
/// * A value that nobody saw, in a register where nobody saw that something was *not* there, explains nothing: a
///   history that is linearizable with that write is so without it.
fn settle_unknown(ops: &mut Vec<RegisterOp<'_>>) {
    ops.retain(|op| op.completed.is_some() || op.sets.is_some());
    let mut makers: HashMap<State, u32> = HashMap::new();
    for state in ops.iter().filter_map(|op| op.sets) {
        *makers.entry(state).or_default() += 1;
    }
    let unique = |state: &State| *state != ABSENT && makers.get(state) == Some(&1);
    find_certain(ops, unique);
    if !ops.iter().any(RegisterOp::requires_otherness) {
        drop_idle(ops, unique);
    }
}

/// Gives an end to each write whose value was certainly seen.
fn find_certain(ops: &mut [RegisterOp<'_>], unique: impl Fn(&State) -> bool) {
    // By state: when the first certain operation that requires it had ended.
    let mut seen_by: HashMap<State, u64> = HashMap::new();
    let see = |seen_by: &mut HashMap<State, u64>, op: &RegisterOp<'_>| {
        if let (Some(state), Some(completed)) = (op.required_value(), op.completed) {
            seen_by.entry(state).and_modify(|first| *first = completed.min(*first)).or_insert(completed);
        }
    };
    ops.iter().for_each(|op| see(&mut seen_by, op));
    let mut found = true;
    while found {
        found = false;
        for op in ops.iter_mut().filter(|op| op.completed.is_none()) {
            op.completed = op.sets.filter(&unique).and_then(|state| seen_by.get(&state).copied());
            if op.completed.is_some() {
                see(&mut seen_by, op);
                found = true;
            }
        }
    }
}

/// Drops each write that may not have happened and whose value nobody requires.
fn drop_idle(ops: &mut Vec<RegisterOp<'_>>, unique: impl Fn(&State) -> bool) {
    loop {
        let required: HashSet<State> = ops.iter().filter_map(RegisterOp::required_value).collect();
        let before = ops.len();
        let idle = |state: State| unique(&state) && !required.contains(&state);
        ops.retain(|op| op.completed.is_some() || !op.sets.is_some_and(idle));
        if ops.len() == before {
            return;
        }
    }
}
