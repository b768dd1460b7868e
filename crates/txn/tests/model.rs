//! Random logs against a plain model (exactly once, preconditions, ledger), and the same log on two stores,
//! grouped into entries differently (A1).

mod common;

use bytes::Bytes;
use common::{SECOND, START, Say, Shard, TABLE, request, row};
use meridian_proto::internal::v1::outcome::{
    Committed, IdExpired, IdInFuture, IdReused, Refused, Result as Decision, WrongShard,
};
use meridian_proto::internal::v1::{Mutation, Outcome};
use meridian_proto::v1::Row;
use meridian_proto::v1::precondition::Condition;
use meridian_proto::v1::write_op::Action;
use meridian_txn::id_from_proto;
use meridian_types::{KeyRange, RequestId, Timestamp};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

const KEYS: [&str; 4] = ["a", "b", "c", "m"];
const VALUES: [&str; 3] = ["", "x", "y"];
const MINUTE: u64 = 60 * SECOND;

/// The same rules, said as plainly as possible: every version in a list, every record in a map.
#[derive(Default)]
struct Model {
    versions: BTreeMap<Bytes, Vec<(u64, Option<Bytes>)>>,
    ledger: BTreeMap<RequestId, (Mutation, Outcome)>,
    last: u64,
}

impl Model {
    fn newest(&self, key: &Bytes) -> Option<(u64, Option<Bytes>)> {
        self.versions.get(key)?.last().cloned()
    }

    fn apply(&mut self, ts: u64, mutation: &Mutation) -> Outcome {
        if self.last / MINUTE < ts / MINUTE {
            let now = ts / MINUTE * MINUTE;
            self.ledger.retain(|id, _| now - id.time.0.min(now) <= 10 * MINUTE);
        }
        self.last = ts;
        let id = id_from_proto(mutation.request_id.as_ref().expect("every request has an id"));
        let outcome = |result| Outcome { ts, result: Some(result) };
        if let Some((first, known)) = self.ledger.get(&id) {
            return if first == mutation { known.clone() } else { outcome(Decision::IdReused(IdReused {})) };
        }
        if ts > id.time.0 + 10 * MINUTE {
            return outcome(Decision::IdExpired(IdExpired {}));
        }
        let outcome = outcome(self.decide(ts, &id, mutation));
        self.ledger.insert(id, (mutation.clone(), outcome.clone()));
        outcome
    }

    fn decide(&mut self, ts: u64, id: &RequestId, mutation: &Mutation) -> Decision {
        if id.time.0 > ts + 10 * SECOND {
            return Decision::IdInFuture(IdInFuture {});
        }
        if mutation.writes.iter().any(|w| w.key >= "n") {
            return Decision::WrongShard(WrongShard {});
        }
        for (precondition, p) in (0..).zip(&mutation.preconditions) {
            let newest = self.newest(&p.key);
            let live = newest.clone().and_then(|(ts, value)| value.map(|value| (ts, value)));
            let holds = match p.condition.as_ref().expect("every precondition has a condition") {
                Condition::Value(value) => live.as_ref().is_some_and(|(_, v)| v == value),
                Condition::Exists(exists) => live.is_some() == *exists,
                Condition::Version(0) => live.is_none(),
                Condition::Version(version) => live.as_ref().is_some_and(|(ts, _)| ts == version),
            };
            if !holds {
                let found_version = live.map_or(0, |(ts, _)| ts);
                let reveals = newest.map_or(0, |(ts, _)| ts);
                return Decision::Refused(Refused { precondition, found_version, reveals });
            }
        }
        let reads = mutation.reads.iter().filter_map(|key| {
            let (version, value) = self.newest(key)?;
            Some(Row { key: key.clone(), value: value?, version })
        });
        let reads = reads.collect();
        let mut last: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
        for write in &mutation.writes {
            let Some(action) = &write.action else { continue };
            let value = if let Action::Put(value) = action { Some(value.clone()) } else { None };
            last.insert(write.key.clone(), value);
        }
        for (key, value) in last {
            self.versions.entry(key).or_default().push((ts, value));
        }
        Decision::Committed(Committed { reads })
    }
}

/// One mutation of a random log.
#[derive(Clone, Debug)]
enum Step {
    /// A new request, its id issued this long (seconds) before or after log time.
    New { issued: i64, body: Mutation },
    /// A copy of an earlier one.
    Again(prop::sample::Index),
    /// Another body under an earlier one's id.
    Reused(prop::sample::Index),
}

fn bodies() -> impl Strategy<Value = Mutation> {
    let key = || prop::sample::select(&KEYS[..]);
    let value = || prop::sample::select(&VALUES[..]);
    let condition = prop_oneof![
        value().prop_map(|v| Condition::Value(v.into())),
        any::<bool>().prop_map(Condition::Exists),
        prop_oneof![Just(0), START..START + 40].prop_map(Condition::Version),
    ];
    let given = prop::collection::vec((key(), condition), 0..3);
    let writes = prop::collection::vec((key(), prop::option::of(value())), 0..4);
    let reads = prop::collection::vec(key(), 0..3);
    (given, writes, reads, prop::bool::weighted(0.05)).prop_map(|(given, writes, reads, astray)| {
        let body = given.into_iter().fold(request(0), |m, (key, condition)| m.given(key, condition));
        let body = writes.into_iter().fold(body, |m, (key, value)| match value {
            Some(value) => m.put(key, value),
            None => m.delete(key),
        });
        let body = reads.into_iter().fold(body, |m, key| m.read(key));
        if astray { body.put("zone", "x") } else { body }
    })
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let issued = prop_oneof![8 => Just(0_i64), 1 => Just(-590), 1 => Just(-605), 1 => Just(9), 1 => Just(11)];
    let step = prop_oneof![
        4 => (issued, bodies()).prop_map(|(issued, body)| Step::New { issued, body }),
        2 => any::<prop::sample::Index>().prop_map(Step::Again),
        1 => any::<prop::sample::Index>().prop_map(Step::Reused),
    ];
    prop::collection::vec(prop::collection::vec(step, 1..5), 1..12)
}

/// The log as entries: a stamp and mutations. `gaps` are the seconds between entries.
fn log(steps: Vec<Vec<Step>>, gaps: &[u64]) -> Vec<(u64, Vec<Mutation>)> {
    let mut sent: Vec<Mutation> = Vec::new();
    let mut ts = START;
    let mut entries = Vec::new();
    for (steps, gap) in steps.into_iter().zip(gaps.iter().cycle()) {
        let mut mutations = Vec::new();
        for step in steps {
            let sequence = sent.len() as u64 + 1;
            let mutation = match step {
                Step::New { issued, body } => {
                    let body = body.issued(ts.saturating_add_signed(issued * SECOND as i64));
                    Mutation {
                        request_id: body.request_id.map(|id| meridian_proto::v1::RequestId { sequence, ..id }),
                        ..body
                    }
                }
                Step::Again(i) if !sent.is_empty() => i.get(&sent).clone(),
                Step::Reused(i) if !sent.is_empty() => i.get(&sent).clone().put("a", "reused"),
                Step::Again(_) | Step::Reused(_) => request(sequence),
            };
            sent.push(mutation.clone());
            mutations.push(mutation);
        }
        let count = mutations.len() as u64;
        entries.push((ts, mutations));
        ts += count + gap * SECOND;
    }
    entries
}

/// Everything that can be observed of a shard.
#[derive(Debug, PartialEq)]
struct Dump {
    /// Key, timestamp and value of every version that is visible at some stamp of the log.
    versions: BTreeSet<(Bytes, u64, Option<Bytes>)>,
    /// The ledger's record of every id in the log.
    records: Vec<Option<Bytes>>,
}

fn dump(shard: &Shard, log: &[(u64, Vec<Mutation>)]) -> Dump {
    let view = shard.view();
    let mutations = || log.iter().flat_map(|(_, mutations)| mutations);
    let stamps = log.iter().flat_map(|(ts, mutations)| (0..mutations.len() as u64).map(move |i| ts + i));
    let mut versions = BTreeSet::new();
    for ts in stamps {
        for key in KEYS.iter().copied().chain(["zone"]) {
            if let Some(v) = view.get(TABLE, key.as_bytes(), Timestamp(ts)).expect("the store reads") {
                versions.insert((key.into(), v.ts.0, v.value));
            }
        }
    }
    let id = |m: &Mutation| id_from_proto(m.request_id.as_ref().expect("every request has an id"));
    let record = |m| view.ledger(shard.scope.shard, &id(m)).expect("the store reads");
    let records = mutations().map(record).collect();
    Dump { versions, records }
}

/// Empties a shard, so that many cases share one store.
fn clear(shard: &mut Shard) {
    shard.store.clear_shard(shard.scope.shard, TABLE, &KeyRange::all()).expect("the store clears the shard");
    shard.last_ts = Timestamp(START - 1);
}

fn cases() -> ProptestConfig {
    ProptestConfig { cases: 192, ..ProptestConfig::default() }
}

#[test]
fn a_store_and_the_model_agree() {
    let shard = RefCell::new(Shard::new());
    let gaps = prop::collection::vec(prop::sample::select(vec![0, 1, 45, 400]), 1..6);
    proptest!(cases(), |(steps in steps(), gaps in gaps)| {
        let log = log(steps, &gaps);
        let mut shard = shard.borrow_mut();
        let mut model = Model { last: START - 1, ..Model::default() };
        clear(&mut shard);
        for (ts, mutations) in &log {
            let wanted: Vec<_> = (*ts..).zip(mutations).map(|(ts, m)| model.apply(ts, m)).collect();
            prop_assert_eq!(shard.entry(*ts, mutations), wanted);
        }
        let modelled = model.versions.iter().flat_map(|(key, list)| {
            list.iter().map(|(ts, value)| (key.clone(), *ts, value.clone()))
        });
        prop_assert_eq!(dump(&shard, &log).versions, modelled.collect::<BTreeSet<_>>());
    });
}

#[test]
fn replicas_agree_however_mutations_share_entries() {
    let shards = RefCell::new([Shard::new(), Shard::new(), Shard::new()]);
    let gaps = prop::collection::vec(prop::sample::select(vec![0, 59, 400]), 1..6);
    proptest!(cases(), |(steps in steps(), gaps in gaps)| {
        let log = log(steps, &gaps);
        let mut shards = shards.borrow_mut();
        shards.iter_mut().for_each(clear);
        let [grouped, again, single] = &mut *shards;
        for (ts, mutations) in &log {
            let outcomes = grouped.entry(*ts, mutations);
            prop_assert_eq!(&outcomes, &again.entry(*ts, mutations));
            let one_by_one = (*ts..).zip(mutations).flat_map(|(ts, m)| single.entry(ts, std::slice::from_ref(m)));
            prop_assert_eq!(outcomes, one_by_one.collect::<Vec<_>>());
        }
        prop_assert_eq!(dump(grouped, &log), dump(again, &log));
        prop_assert_eq!(dump(grouped, &log), dump(single, &log));
    });
}

/// One fixed log whose entries cross a minute in their middle: what an entry drops, its own later mutations miss.
#[test]
fn a_minute_that_begins_inside_an_entry_is_seen_by_the_rest_of_it() {
    let old = START - 600 * SECOND;
    let ts = START + MINUTE - 2;
    let copy = request(1).issued(old).put("a", "1");
    let (mut grouped, mut single) = (Shard::new(), Shard::new());
    let batch = [request(2), copy.clone(), copy.clone(), request(3)];
    for shard in [&mut grouped, &mut single] {
        assert_eq!(shard.one(&copy), Decision::Committed(Committed::default()));
    }
    let together = grouped.entry(ts, &batch);
    let apart: Vec<_> = (ts..).zip(&batch).flat_map(|(ts, m)| single.entry(ts, std::slice::from_ref(m))).collect();
    assert_eq!(together, apart);
    assert_eq!(together[1].result, Some(Decision::Committed(Committed::default())));
    assert_eq!(together[2].result, Some(Decision::IdExpired(IdExpired {})));
    assert_eq!(row("a", "1", START).value, grouped.value("a").expect("still there"));
}
