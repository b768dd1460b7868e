//! Reads away from the leader: served in the client's own region, never staler than they say or were allowed to be
//! (G6), and with a token never behind what the session has seen, wherever it goes (G7).

use meridian_client::{Consistency, Error, Reply, Row};
use meridian_tests::harness::{History, Level, Load, Mix, Process, REGIONS, TestCluster};
use meridian_tests::{sessions, snapshots, staleness};
use std::time::Duration;

const TABLES: [&str; 2] = ["global", "regional"];

/// Two tables: one with a voter in every region, one with learners in two of them.
async fn cluster(seed: u64) -> TestCluster {
    let cluster = TestCluster::start(seed).await;
    cluster.create("global", "global:us-east", &[]).await;
    cluster.create("regional", "regional:eu-west", &[]).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_reads_are_local_and_say_the_truth() {
    const BOUND: Duration = Duration::from_millis(500);
    let cluster = cluster(31).await;
    let (history, clients) = (History::default(), cluster.clients().await);
    let writers = Load::start(&history, &clients, &Mix { processes: 1, ..Mix::writes(&TABLES) }, 31);
    writers.progress(20).await;
    let mut local = [0_u32; 3];
    for turn in 0..150 {
        let (region, client) = &clients[turn % 3];
        let mut reader = history.process(region.clone(), client);
        let key = format!("k{:03}", turn % 8);
        for table in TABLES {
            let read = reader.get(table, &key, Consistency::Local).await.unwrap();
            assert_eq!(read.region, *region, "a LOCAL read is answered by the gateway itself");
            let read = reader.get(table, &key, Consistency::BoundedStaleness(BOUND)).await.unwrap();
            assert!(read.staleness <= BOUND, "{read:?}");
            local[turn % 3] += u32::from(read.region == *region);
        }
    }
    writers.finish().await;
    // A replica is well within such a bound unless the machine stalls: most of them are local too.
    assert!(local.iter().all(|count| *count > 50), "bounded reads served locally, by region: {local:?}");
    let records = history.records();
    staleness::check(&records).unwrap();
    snapshots::check(&records).unwrap();
    lie_is_refused(&records);
    cluster.stop().await;
}

/// The same history with reads that claim to be fresh is refused.
fn lie_is_refused(records: &[meridian_bench::history::Record]) {
    let mut records = records.to_vec();
    for record in records.iter_mut().filter(|r| r.consistency.is_some()) {
        (record.staleness_ns, record.timestamp) = (Some(0), Some(1));
        (record.value, record.version) = (None, None);
    }
    assert!(staleness::check(&records).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_that_no_replica_keeps_is_answered_by_the_leader() {
    let cluster = cluster(32).await;
    let (history, clients) = (History::default(), cluster.clients().await);
    let mut writer = history.process(REGIONS[0], &clients[0].1);
    for (region, client) in &clients {
        let mut reader = history.process(region.clone(), client);
        for table in TABLES {
            writer.put(table, "k").await.unwrap();
            let bound = Consistency::BoundedStaleness(Duration::from_nanos(1));
            let read = reader.get(table, "k", bound).await;
            // Fresher than the clocks can tell: the leader may serve it, and says how stale it may be.
            if let Ok(read) = read {
                assert!(read.value.is_some(), "{read:?}");
            }
        }
    }
    staleness::check(&history.records()).unwrap();
    cluster.stop().await;
}

/// Reads a key of both tables with the session's token.
async fn read_all(process: &mut Process) -> Vec<Result<Reply<Option<Row>>, Error>> {
    let mut all = Vec::new();
    for table in TABLES {
        for key in ["k000", "k001", "k002"] {
            all.push(process.get_causal(table, key).await);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_keeps_a_session_whole_in_every_region() {
    let cluster = cluster(33).await;
    let (history, clients) = (History::default(), cluster.clients().await);
    let levels = vec![Level::Causal];
    let mix = Mix { keys: 3, processes: 1, puts: 4, gets: 4, levels, ..Mix::writes(&TABLES) };
    let load = Load::start(&history, &clients, &mix, 33);
    // A traveller writes here, reads there, and hands its token on.
    let mut traveller = history.process(REGIONS[0], &clients[0].1);
    for turn in 0..20 {
        let written = traveller.put(TABLES[turn % 2], "k000").await.unwrap();
        let (region, client) = &clients[(turn + 1) % 3];
        traveller.travel(region.clone(), client);
        let read = traveller.get_causal(TABLES[turn % 2], "k000").await.unwrap();
        // Somebody may have removed or overwritten it, but nobody has gone back.
        assert!(read.timestamp >= written.timestamp && read.token >= written.token);
        assert!(read_all(&mut traveller).await.iter().all(Result::is_ok));
    }
    load.progress(30).await;
    load.finish().await;
    let records = history.records();
    sessions::check(&records).unwrap();
    staleness::check(&records).unwrap();
    snapshots::check(&records).unwrap();

    // A session that forgets its token is refused: the checker can fail.
    let mut lied = records;
    let read = lied.iter_mut().rfind(|r| r.token.is_some_and(|t| t > 0)).expect("a causal read");
    (read.token, read.timestamp) = (Some(0), Some(1));
    (read.value, read.version) = (None, None);
    assert!(sessions::check(&lied).is_err());
    cluster.stop().await;
}
