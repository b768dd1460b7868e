//! Reads with a latency budget: the strongest level that fits is given, the reply says which, and it has that level (G4, G6,
//! G7); what does not fit fails early and says what would.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_client::{
    Achievable, CausalityToken, Client, Consistency, Error, Fate, KeyRange, Reason, Reply, Row, ScanOptions, Session,
    Within,
};
use meridian_clock::Mono;
use meridian_tests::harness::{History, Load, Mix, Process, REGIONS, TestCluster, until};
use meridian_tests::{linearizability, sessions, snapshots, staleness};
use std::time::Duration;

const TABLE: &str = "t";
/// The region that is farthest from the leader's, 140 ms.
const FAR: &str = "ap-northeast";
const BOUNDED: Consistency = Consistency::BoundedStaleness(Duration::from_secs(60));

/// What a read with any budget may take, whatever the machine does.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a read is repeated for which the machine was too busy.
const TRIES: usize = 300;

fn millis(ms: u64) -> Within {
    Within::new(Duration::from_millis(ms))
}

/// A cluster far apart, its table of two shards led from the first region, and a client in the farthest.
async fn far(seed: u64) -> (TestCluster, Client) {
    let cluster = TestCluster::start_far(seed).await;
    let shards = cluster.create(TABLE, "global:us-east", &["m"]).await;
    let writer = cluster.client(REGIONS[0]).await.session();
    for key in ["k", "z"] {
        writer.put(TABLE, key, "v").await.unwrap();
    }
    for shard in shards {
        cluster.converged(shard).await;
    }
    let client = cluster.client(FAR).await;
    (cluster, client)
}

/// The machine was too busy for a budget, or seemed to be: no wrong answer.
fn is_stall(error: &Error) -> bool {
    matches!(error.reason(), Reason::BudgetSpent | Reason::BudgetTooSmall) && error.fate() == Fate::NotApplied
}

/// The answer to a linearizable read or what will do instead, asked for again as long as the machine is too busy.
async fn answer(session: &Session, within: &Within) -> Reply<Option<Row>> {
    for _ in 0..TRIES {
        let began = Mono::now();
        let result = session.get_within(TABLE, "k", Consistency::Linearizable, within).await;
        assert!(began.elapsed() < PATIENCE + within.budget, "{result:?}");
        match result {
            Ok(reply) => return reply,
            Err(e) => assert!(is_stall(&e), "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no answer within {:?}, {TRIES} times", within.budget);
}

/// What a failed read says of a level.
fn of<'a>(error: &'a Error, level: &Consistency) -> &'a Achievable {
    let found = error.achievable().iter().find(|a| a.level == *level);
    found.unwrap_or_else(|| panic!("nothing is said of {level}: {error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_region_gets_what_its_budget_buys() {
    let (cluster, client) = far(91).await;
    let session = client.session();

    // Too little for the leader, enough for the replica here.
    let little = millis(20).or_weaker(BOUNDED);
    for _ in 0..10 {
        let reply = answer(&session, &little).await;
        assert_eq!((reply.given.as_ref(), reply.region.as_str()), (Some(&BOUNDED), FAR), "{reply:?}");
        assert!(!reply.staleness.is_zero() && reply.staleness <= Duration::from_secs(60), "{reply:?}");
        assert_eq!(reply.value.unwrap().value, "v");
    }

    // Enough for the leader. A busy machine may make it late: then the reply says so.
    until("a linearizable read fits into half a second", || async {
        let reply = answer(&session, &millis(500).or_weaker(BOUNDED)).await;
        let linearizable = reply.given == Some(Consistency::Linearizable);
        assert!(linearizable || reply.given == Some(BOUNDED), "{reply:?}");
        assert_eq!(linearizable, reply.staleness.is_zero(), "{reply:?}");
        linearizable
    })
    .await;

    // Nothing weaker will do: it is not tried.
    let error = session.get_within(TABLE, "k", Consistency::Linearizable, &millis(20)).await.unwrap_err();
    assert_eq!((error.reason(), error.fate(), error.attempts), (Reason::BudgetTooSmall, Fate::NotApplied, 1));
    let (strong, local) = (of(&error, &Consistency::Linearizable), of(&error, &Consistency::Local));
    assert!(strong.latency.unwrap() >= Duration::from_millis(140), "{strong:?}");
    assert!(local.latency.unwrap() < strong.latency.unwrap() && !local.staleness.unwrap().is_zero(), "{local:?}");
    assert!(error.cause.message.contains("linearizable within"), "{error}");

    // Without a budget nothing is said of what was given.
    let reply = session.get(TABLE, "k", Consistency::Local).await.unwrap();
    assert_eq!(reply.given, None);
    let upside_down = millis(20).or_weaker(Consistency::Linearizable);
    let error = session.get_within(TABLE, "k", Consistency::Local, &upside_down).await.unwrap_err();
    assert_eq!(error.reason(), Reason::BadRequest);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_shards_of_a_scan_have_one_level() {
    let (cluster, client) = far(92).await;
    let session = client.session();
    let scan = |within: Within| {
        let options = ScanOptions { within: Some(within), ..ScanOptions::range(KeyRange::all()) };
        session.scan(TABLE, options).collect()
    };
    until("a scan fits into 40 ms", || async {
        match scan(millis(40).or_weaker(BOUNDED)).await {
            Ok(reply) => {
                assert_eq!((reply.given.as_ref(), reply.value.len()), (Some(&BOUNDED), 2), "{reply:?}");
                assert!(reply.staleness <= Duration::from_secs(60));
                true
            }
            Err(e) => {
                assert!(is_stall(&e), "{e}");
                false
            }
        }
    })
    .await;
    let error = scan(millis(40)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::BudgetTooSmall);
    let strong = of(&error, &Consistency::Linearizable).latency.unwrap();
    assert!(strong >= Duration::from_millis(280), "two shards in turn: {strong:?}");
    until("a linearizable scan fits into four seconds", || async {
        let reply = scan(millis(4_000).or_weaker(BOUNDED)).await.unwrap();
        assert_eq!(reply.value.len(), 2);
        reply.given == Some(Consistency::Linearizable)
    })
    .await;

    // Pages after the first are of its timestamp.
    let writer = cluster.client(REGIONS[0]).await.session();
    for key in ["p1", "p2", "p3"] {
        writer.put(TABLE, key, vec![b'x'; 1 << 20]).await.unwrap();
    }
    let options = ScanOptions {
        range: KeyRange::prefix("p".into()),
        within: Some(Within::new(PATIENCE)),
        ..ScanOptions::default()
    };
    let mut pages = session.scan(TABLE, options);
    let first = pages.next_page().await.unwrap().unwrap();
    assert_eq!(first.given, Some(Consistency::Linearizable));
    let (mut rows, mut later) = (first.value.len(), 0);
    while let Some(page) = pages.next_page().await.unwrap() {
        assert_eq!(page.given, Some(Consistency::Snapshot(first.timestamp)));
        assert_eq!(page.timestamp, first.timestamp);
        (rows, later) = (rows + page.value.len(), later + 1);
    }
    assert!(rows == 3 && later > 0, "{rows} rows, {later} pages after the first");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_has_seen_holds_at_every_level() {
    let (cluster, client) = far(93).await;
    let (writer, reader) = (cluster.client(REGIONS[0]).await.session(), client.session());
    for turn in 0..8 {
        let value = format!("v{turn}");
        let written = writer.put(TABLE, "k", value.clone()).await.unwrap();
        // The replica here may be waited for, but 20 ms buy no way to the leader.
        let (budget, weakest) = [(20, Consistency::Local), (120, BOUNDED)][turn % 2].clone();
        let reply = answer(&reader, &millis(budget).or_weaker(weakest.clone()).including(written.token)).await;
        let expected = if turn % 2 == 0 { Consistency::Causal(written.token) } else { weakest };
        assert_eq!((reply.given, reply.region.as_str()), (Some(expected), FAR));
        assert_eq!(reply.value.unwrap().value, value);
        assert!(reply.timestamp >= written.timestamp);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_cut_off_falls_back_in_time_and_then_knows() {
    let (cluster, client) = far(94).await;
    let session = client.session();
    answer(&session, &millis(2_000)).await;
    cluster.wan().isolate(&TestCluster::place(FAR)).unwrap();
    let began = Mono::now();
    while began.elapsed() < Duration::from_secs(3) {
        let reply = answer(&session, &millis(400).or_weaker(BOUNDED)).await;
        assert_eq!((reply.given.as_ref(), reply.region.as_str()), (Some(&BOUNDED), FAR), "{reply:?}");
        assert_eq!(reply.value.unwrap().value, "v");
    }
    // By now it is not tried any more.
    let error = session.get_within(TABLE, "k", Consistency::Linearizable, &millis(2_000)).await.unwrap_err();
    assert_eq!((error.reason(), of(&error, &Consistency::Linearizable).latency), (Reason::BudgetTooSmall, None));
    // Nor is what the replica here is too old for.
    let fresh = Consistency::BoundedStaleness(Duration::from_millis(500));
    let result = session.get_within(TABLE, "k", fresh.clone(), &millis(2_000)).await;
    let error = result.unwrap_err();
    assert_eq!((error.reason(), of(&error, &fresh).latency), (Reason::BudgetTooSmall, None));
    assert!(of(&error, &Consistency::Local).staleness.unwrap() > Duration::from_secs(1), "{error}");

    cluster.wan().heal_all();
    until("the leader is counted on again", || async {
        let result = session.get_within(TABLE, "k", Consistency::Linearizable, &millis(4_000)).await;
        result.is_ok_and(|reply| reply.given == Some(Consistency::Linearizable))
    })
    .await;
    cluster.stop().await;
}

/// One read with the budget and the levels of its turn; what was given.
async fn read(process: &mut Process, turn: usize) -> Option<Consistency> {
    let within = millis([2, 15, 60, 2_000][turn % 4]);
    let within = match turn / 4 % 4 {
        0 => within.or_weaker(Consistency::Local),
        1 => within.or_weaker(Consistency::BoundedStaleness(Duration::from_millis(500))),
        2 => within.or_weaker(process.session().causal()),
        _ => within,
    };
    let token = if (turn / 16).is_multiple_of(2) { CausalityToken::default() } else { process.session().token() };
    let key = format!("k{:03}", turn % 8);
    let result = process.get_within(TABLE, &key, Consistency::Linearizable, &within.including(token)).await;
    result.ok().map(|reply| reply.given.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_is_what_it_says_also_while_the_leader_is_cut_off() {
    let cluster = TestCluster::start(95).await;
    cluster.create(TABLE, "global:us-east", &[]).await;
    let (history, clients) = (History::default(), cluster.clients().await);
    let others = &clients[1..];
    let load = Load::start(&history, others, &Mix { processes: 1, ..Mix::writes(&[TABLE]) }, 95);
    load.progress(10).await;
    let mut readers: Vec<_> = others.iter().map(|(region, client)| history.process(region.clone(), client)).collect();
    let (mut strong, mut weak) = (0, 0);
    for phase in 0..3 {
        match phase {
            0 => {}
            1 => cluster.wan().isolate(&TestCluster::place(REGIONS[0])).unwrap(),
            _ => cluster.wan().heal_all(),
        }
        for turn in 0..64 {
            for reader in &mut readers {
                match read(reader, turn).await {
                    Some(Consistency::Linearizable) => strong += 1,
                    Some(_) => weak += 1,
                    None => {}
                }
            }
        }
    }
    load.progress(5).await;
    load.finish().await;
    assert!(strong > 10 && weak > 10, "{strong} linearizable, {weak} weaker");
    let records = history.records();
    assert!(history.objections(false).is_empty(), "{:?}", history.objections(false));
    staleness::check(&records).unwrap();
    sessions::check(&records).unwrap();
    snapshots::check(&records).unwrap();
    let verdict = linearizability::check(&records);
    assert!(verdict.is_linearizable(), "{verdict:?}");
    cluster.stop().await;
}
