//! Each precondition, each outcome and each rule of the ledger, on a real store.

mod common;

use common::{SECOND, START, Say, Shard, TABLE, request, row};
use meridian_proto::internal::v1::outcome::{
    Committed, IdExpired, IdInFuture, IdReused, Malformed, ReadsTooLarge, Refused, Result as Decision, StaleTimestamp,
    WrongShard,
};
use meridian_proto::internal::v1::{Mutation, ShardState};
use meridian_proto::v1::precondition::Condition::{self, Exists, Value, Version};
use meridian_proto::v1::{Precondition, RequestId, WriteOp, write_op::Action};
use meridian_storage::DataBatch;
use meridian_txn::{LogPosition, READS_BYTES_MAX, RETENTION, ReadPlan, Stamped, apply_all, id_from_proto, read};
use meridian_types::{KeyRange, Limits, Timestamp};

fn committed() -> Decision {
    Decision::Committed(Committed::default())
}

/// `live` was put at START, `dead` put at START + 1 and deleted at START + 2; `never` was never written.
fn with_history() -> Shard {
    let mut shard = Shard::new();
    assert_eq!(shard.one(&request(100).put("live", "v")), committed());
    assert_eq!(shard.one(&request(101).put("dead", "v")), committed());
    assert_eq!(shard.one(&request(102).delete("dead")), committed());
    shard
}

#[test]
fn preconditions_hold_or_refuse() {
    let (live, dead) = (START, START + 2);
    let refused = |found_version, reveals| Some((found_version, reveals));
    type Row = (&'static str, Condition, Option<(u64, u64)>);
    let table: [Row; 18] = [
        ("live", Value("v".into()), None),
        ("live", Value("w".into()), refused(live, live)),
        ("live", Value("".into()), refused(live, live)),
        ("live", Exists(true), None),
        ("live", Exists(false), refused(live, live)),
        ("live", Version(live), None),
        ("live", Version(live + 1), refused(live, live)),
        ("live", Version(0), refused(live, live)),
        // A deleted key has no value and no version, but the refusal reveals its tombstone.
        ("dead", Value("v".into()), refused(0, dead)),
        ("dead", Exists(true), refused(0, dead)),
        ("dead", Exists(false), None),
        ("dead", Version(0), None),
        ("dead", Version(dead), refused(0, dead)),
        ("never", Value("".into()), refused(0, 0)),
        ("never", Exists(true), refused(0, 0)),
        ("never", Exists(false), None),
        ("never", Version(0), None),
        ("never", Version(1), refused(0, 0)),
    ];
    // `never` sorts after the shard's range; give it a name inside.
    let inside = |key| if key == "never" { "blank" } else { key };
    let mut shard = with_history();
    for (sequence, (key, condition, expected)) in (0..).zip(table) {
        let name = format!("{key} {condition:?}");
        let expected = match expected {
            None => committed(),
            Some((found_version, reveals)) => Decision::Refused(Refused { precondition: 1, found_version, reveals }),
        };
        let mutation = request(sequence).given("live", Exists(true)).given(inside(key), condition).put("mark", "m");
        let before = shard.value("mark");
        let got = shard.one(&mutation);
        assert_eq!(got, expected, "{name}");
        let wrote = shard.value("mark").is_some();
        assert_eq!(wrote, before.is_some() || got == committed(), "{name}: a refusal writes nothing");
    }
}

#[test]
fn mutations_of_one_entry_see_those_before_them() {
    let mut shard = Shard::new();
    let outcomes = shard.entry(
        START,
        &[
            request(1).put("a", "1"),
            request(2).given("a", Value("1".into())).read("a").put("a", "2"),
            request(3).given("a", Version(START)).put("a", "3"),
            request(1).put("a", "1"),
            request(4).read("a").delete("a"),
        ],
    );
    let results: Vec<_> = outcomes.into_iter().map(|o| (o.ts, o.result.unwrap())).collect();
    assert_eq!(results[1], (START + 1, Decision::Committed(Committed { reads: vec![row("a", "1", START)] })));
    let refused = Refused { precondition: 0, found_version: START + 1, reveals: START + 1 };
    assert_eq!(results[2], (START + 2, Decision::Refused(refused)));
    assert_eq!(results[3], (START, committed()), "a retry gets the first outcome");
    assert_eq!(results[4], (START + 4, Decision::Committed(Committed { reads: vec![row("a", "2", START + 1)] })));
    // Every version is kept at its own timestamp.
    for (at, expected) in [(START, Some("1")), (START + 1, Some("2")), (START + 3, Some("2")), (START + 4, None)] {
        let version = shard.view().get(TABLE, b"a", Timestamp(at)).unwrap().unwrap();
        assert_eq!(version.value.as_deref(), expected.map(str::as_bytes), "at {at}");
    }
}

#[test]
fn the_last_write_of_a_key_in_a_mutation_wins() {
    let mut shard = Shard::new();
    shard.one(&request(1).put("a", "1").delete("a").put("a", "2").put("b", "1").delete("b"));
    assert_eq!((shard.value("a").as_deref(), shard.value("b")), (Some(b"2".as_slice()), None));
}

#[test]
fn reads_return_what_was_before_the_writes_in_their_order() {
    let mut shard = with_history();
    let got = shard.one(&request(1).put("live", "w").read("live").read("dead").read("blank").read("live"));
    let old = row("live", "v", START);
    assert_eq!(got, Decision::Committed(Committed { reads: vec![old.clone(), old] }));
}

#[test]
fn a_retry_gets_the_first_outcome_whatever_happened_since() {
    let mut shard = Shard::new();
    let put = request(1).put("a", "1");
    let refused = request(2).given("a", Exists(false)).put("b", "1");
    let first = shard.entry(START, &[put.clone(), refused.clone()]);
    shard.one(&request(3).delete("a"));
    let again = shard.entry(shard.last_ts.next().0, &[refused, put]);
    assert_eq!([&again[1], &again[0]], [&first[0], &first[1]]);
    assert_eq!((shard.value("a"), shard.value("b")), (None, None), "neither took effect again");
}

#[test]
fn an_id_stands_for_one_request() {
    let mut shard = Shard::new();
    shard.one(&request(1).put("a", "1"));
    assert_eq!(shard.one(&request(1).put("a", "2")), Decision::IdReused(IdReused {}));
    assert_eq!(shard.one(&request(1).put("a", "1")), committed(), "the record of the first one stays");
    assert_eq!(shard.value("a").unwrap(), "1");
}

#[test]
fn ids_too_old_to_tell_are_refused() {
    let mut shard = Shard::new();
    let old = START - RETENTION.as_nanos() as u64;
    assert_eq!(shard.one(&request(1).issued(old).put("a", "1")), committed(), "at exactly the retention");
    assert_eq!(shard.one(&request(2).issued(old).put("a", "2")), Decision::IdExpired(IdExpired {}));
    assert_eq!(shard.one(&request(1).issued(old).put("a", "1")), committed(), "while the record is there it tells");
    // The next minute drops the record; what is left is that it is too old.
    shard.entry(START + 60 * SECOND, &[request(3)]);
    assert_eq!(shard.one(&request(1).issued(old).put("a", "1")), Decision::IdExpired(IdExpired {}));
    let id = id_from_proto(&RequestId { time_ns: old, client: 1, sequence: 1 });
    assert_eq!(shard.view().ledger(shard.scope.shard, &id).unwrap(), None);
    assert_eq!(shard.one(&request(3)), committed(), "younger records are kept");
}

#[test]
fn a_refused_id_from_the_future_stays_refused() {
    let mut shard = Shard::new();
    let early = request(1).issued(START + 11 * SECOND).put("a", "1");
    assert_eq!(shard.one(&early), Decision::IdInFuture(IdInFuture {}));
    assert_eq!(shard.one(&request(2).issued(START + 9 * SECOND)), committed());
    let later = shard.entry(START + 12 * SECOND, &[early]).remove(0);
    assert_eq!(later.result, Some(Decision::IdInFuture(IdInFuture {})), "the client was told so (X2)");
    assert_eq!(shard.value("a"), None);
}

#[test]
fn keys_outside_the_shard_are_refused() {
    let mut shard = Shard::new();
    let wrong = Decision::WrongShard(WrongShard {});
    assert_eq!(shard.one(&request(1).put("a", "1").put("n", "1")), wrong);
    assert_eq!(shard.one(&request(2).given("z", Exists(false)).put("a", "1")), wrong);
    assert_eq!(shard.one(&request(3).read("Z").put("a", "1")), wrong);
    assert_eq!(shard.one(&Mutation { table: TABLE.0 + 1, ..request(4).put("a", "1") }), wrong);
    assert_eq!(shard.value("a"), None);
}

#[test]
fn malformed_requests_are_refused() {
    let mut shard = Shard::new();
    let malformed = Decision::Malformed(Malformed {});
    let no_id = Mutation { request_id: None, ..request(1).put("a", "1") };
    let zero_id = Mutation { request_id: Some(RequestId::default()), ..request(1).put("a", "1") };
    let mut no_condition = request(2).put("a", "1");
    no_condition.preconditions.push(Precondition { key: "a".into(), condition: None });
    let mut no_action = request(3).put("a", "1");
    no_action.writes.push(WriteOp { key: "a".into(), action: None });
    for mutation in [no_id, zero_id, no_condition, no_action] {
        assert_eq!(shard.one(&mutation), malformed, "{mutation:?}");
    }
    assert_eq!(shard.value("a"), None);
}

#[test]
fn reads_beyond_a_reply_refuse_the_request() {
    let mut shard = Shard::new();
    let big = vec![b'x'; READS_BYTES_MAX / 2];
    let mut put = request(1);
    put.writes = vec![WriteOp { key: "a".into(), action: Some(Action::Put(big.into())) }];
    shard.one(&put);
    assert!(matches!(shard.one(&request(2).read("a").put("b", "1")), Decision::Committed(_)));
    assert_eq!(shard.one(&request(3).read("a").read("a").put("b", "2")), Decision::ReadsTooLarge(ReadsTooLarge {}));
    assert_eq!(shard.value("b").unwrap(), "1");
}

#[test]
fn an_entry_that_is_not_above_its_predecessors_has_no_effect() {
    let mut shard = Shard::new();
    shard.entry(START + 10, &[request(1).put("a", "1")]);
    for ts in [START + 10, START + 9] {
        let mut batch = DataBatch::default();
        let scope = shard.scope.clone();
        let mutations = [request(2).put("a", "2"), request(3).put("b", "2")];
        let log = LogPosition { last_ts: shard.last_ts, ..LogPosition::default() };
        let outcomes = meridian_txn::apply(&scope, &shard.view(), log, Timestamp(ts), &mutations, &mut batch).unwrap();
        assert!(outcomes.iter().all(|o| o.result == Some(Decision::StaleTimestamp(StaleTimestamp {}))));
        shard.store.write(batch).unwrap();
    }
    assert_eq!((shard.value("a").as_deref(), shard.value("b")), (Some(b"1".as_slice()), None));
    assert_eq!(shard.one(&request(2).put("a", "2")), committed(), "it is not recorded: a copy may still take effect");
}

#[test]
fn pages_say_what_they_reveal() {
    let shard = with_history();
    let limits = Limits::default();
    let keys = ReadPlan::Keys(vec!["blank".into(), "live".into(), "dead".into()]);
    let all = ReadPlan::Range { range: KeyRange::all(), limit: 0, reverse: false };
    for plan in [keys, all] {
        let newest = read(&shard.view(), TABLE, &plan, Timestamp::MAX, &limits).unwrap();
        assert_eq!((newest.rows, newest.more), (vec![row("live", "v", START)], false));
        assert_eq!(newest.reveals, Timestamp(START + 2), "the tombstone made a key absent");
        let before = read(&shard.view(), TABLE, &plan, Timestamp(START + 1), &limits).unwrap();
        assert_eq!((before.rows.len(), before.reveals), (2, Timestamp(START + 1)));
        let nothing = read(&shard.view(), TABLE, &plan, Timestamp(START - 1), &limits).unwrap();
        assert_eq!((nothing.rows.len(), nothing.reveals), (0, Timestamp::ZERO));
    }
}

#[test]
fn pages_obey_their_limits_in_both_directions() {
    let mut shard = Shard::new();
    shard.one(&request(1).put("a", "1").put("b", "2").put("c", "3"));
    let view = shard.view();
    let page = |limit, reverse, limits: &Limits| {
        let plan = ReadPlan::Range { range: KeyRange::all(), limit, reverse };
        let page = read(&view, TABLE, &plan, Timestamp::MAX, limits).unwrap();
        (page.rows.iter().map(|r| r.key[0] as char).collect::<String>(), page.more)
    };
    let limits = Limits::default();
    assert_eq!(page(0, false, &limits), ("abc".into(), false));
    assert_eq!(page(2, false, &limits), ("ab".into(), true));
    assert_eq!(page(3, true, &limits), ("cba".into(), false));
    assert_eq!(page(0, true, &Limits { page_rows_max: 1, ..limits }), ("c".into(), true));
    assert_eq!(page(0, false, &Limits { page_bytes_max: 1, ..limits }), ("a".into(), true), "never an empty page");
}

/// One replica has collected a tombstone, the other has not yet: what they answer is the same.
#[test]
fn outcomes_do_not_depend_on_what_is_collected() {
    let mut replicas = [Shard::new(), Shard::new()];
    let floor = START + 100;
    for shard in &mut replicas {
        shard.entry(START + 10, &[request(1).put("a", "1")]);
        shard.entry(START + 20, &[request(2).delete("a")]);
        shard.entry(floor + 1, &[request(3).put("b", "1")]);
        shard.gc_floor = Timestamp(floor);
    }
    let [collected, other] = &mut replicas;
    let mut position = DataBatch::default();
    position.put_shard_state(collected.scope.shard, &ShardState { gc_floor: floor, ..ShardState::default() });
    collected.store.write(position).unwrap();
    collected.store.collect_in(collected.scope.shard, TABLE, &collected.scope.range);
    collected.store.flush().unwrap();
    collected.store.compact(TABLE, &collected.scope.range).unwrap();
    let tombstone = |shard: &Shard| shard.view().get(TABLE, b"a", Timestamp::MAX).unwrap();
    assert_eq!(tombstone(collected), None);
    assert_eq!(tombstone(other).map(|v| v.ts), Some(Timestamp(START + 20)));
    let asked = [
        request(4).given("a", Exists(true)).put("c", "1"),
        request(5).given("a", Value("1".into())).put("c", "2"),
        request(6).given("a", Version(START + 10)).put("c", "3"),
        request(7).given("a", Exists(false)).put("a", "2"),
        request(8).given("a", Exists(false)).read("a"),
    ];
    assert_eq!(collected.entry(floor + 10, &asked), other.entry(floor + 10, &asked));
}

#[test]
fn outcomes_do_not_depend_on_what_is_applied_together() {
    let floor = Timestamp(START + 100);
    let (first, second) = ([request(1).put("a", "1"), request(2).delete("a")], [request(3).given("a", Exists(true))]);
    let mut apart = Shard::new();
    let mut outcomes = vec![apart.entry(START, &first)];
    apart.gc_floor = floor;
    outcomes.push(apart.entry(START + 200, &second));

    let together = Shard::new();
    let before = LogPosition { last_ts: together.last_ts, gc_floor: Timestamp::ZERO };
    // An entry in between has raised the floor above the tombstone.
    let after = LogPosition { last_ts: Timestamp(START + 150), gc_floor: floor };
    let entries = [
        Stamped { log: before, ts: Timestamp(START), mutations: &first },
        Stamped { log: after, ts: Timestamp(START + 200), mutations: &second },
    ];
    let mut batch = DataBatch::default();
    assert_eq!(apply_all(&together.scope, &together.view(), &entries, &mut batch).unwrap(), outcomes);
    together.store.write(batch).unwrap();
    assert_eq!(together.value("a"), apart.value("a"));
}
