//! A region cut off: the others go on, it serves what it has and says how old that is, and when the cut heals nothing
//! is lost.

use meridian_client::{Consistency, Fate, Reason};
use meridian_tests::harness::{History, Level, Load, Mix, REGIONS, TestCluster, nothing_lost, until};
use std::time::Duration;

const TABLE: &str = "t";

fn mix() -> Mix {
    Mix { processes: 1, gets: 3, levels: vec![Level::Linearizable, Level::Local], ..Mix::writes(&[TABLE]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_cut_off_and_comes_back() {
    for (seed, cut_off) in [(41, "ap-northeast"), (42, "us-east")] {
        let cluster = TestCluster::start(seed).await;
        let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
        let (history, clients) = (History::default(), cluster.clients().await);
        let inside = clients.iter().find(|(region, _)| region.as_str() == cut_off).unwrap();
        let outside: Vec<_> = clients.iter().filter(|(region, _)| region.as_str() != cut_off).cloned().collect();
        let load = Load::start(&history, &outside, &mix(), seed);
        load.progress(15).await;
        let mut islander = history.process(cut_off, &inside.1);
        let before = islander.put(TABLE, "island").await.unwrap();
        cluster.converged(shard).await;
        cluster.wan().isolate(&TestCluster::place(cut_off)).unwrap();

        // The others go on, through an election if the leader is gone.
        load.progress(15).await;

        // It still answers what needs nobody else, older and older by its own account.
        let first = islander.get(TABLE, "island", Consistency::Local).await.unwrap();
        assert_eq!((first.region.as_str(), first.value.unwrap().version), (cut_off, before.timestamp));
        until("the island knows that it is stale", || async {
            let read = inside.1.session().get(TABLE, "island", Consistency::Local).await.unwrap();
            read.staleness > first.staleness + Duration::from_secs(1)
        })
        .await;
        let later = islander.get(TABLE, "island", Consistency::Local).await.unwrap();
        assert!(later.staleness > first.staleness, "{later:?}");

        // What needs a majority is refused, and it says what became of it. Each of them waits as long as it may.
        let [mut strict, mut bounded] = [(); 2].map(|()| history.process(cut_off, &inside.1));
        let bound = Consistency::BoundedStaleness(Duration::from_millis(100));
        let (read, other, write) = tokio::join!(
            strict.get(TABLE, "island", Consistency::Linearizable),
            bounded.get(TABLE, "island", bound),
            islander.put(TABLE, "island")
        );
        for error in [read.unwrap_err(), other.unwrap_err()] {
            assert_eq!((error.reason(), error.fate()), (Reason::NoQuorum, Fate::NotApplied), "{error}");
        }
        let error = write.unwrap_err();
        let honest = match error.reason() {
            Reason::OutcomeUnknown => error.fate() == Fate::Unknown,
            Reason::NoQuorum => error.fate() == Fate::NotApplied,
            _ => false,
        };
        assert!(honest, "{error}");

        cluster.wan().heal_all();
        until("the island writes again", || async {
            inside.1.session().get(TABLE, "island", Consistency::Linearizable).await.is_ok()
        })
        .await;
        islander.put(TABLE, "island").await.unwrap();
        load.progress(15).await;
        load.finish().await;
        cluster.converged(shard).await;
        nothing_lost(&history, &cluster, TABLE).await;
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_leader_sends_is_lost_one_way() {
    // The leader hears everybody and nobody hears it: no write may be acknowledged by it, and the others elect.
    let cluster = TestCluster::start(43).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    let (history, clients) = (History::default(), cluster.clients().await);
    let load = Load::start(&history, &clients, &mix(), 43);
    load.progress(10).await;
    let [leader, others @ ..] = REGIONS;
    for other in others {
        cluster.wan().partition_one_way(&TestCluster::place(leader), &TestCluster::place(other)).unwrap();
    }
    load.progress_in(15, |region| region.as_str() != leader).await;
    cluster.wan().heal_all();
    load.progress(10).await;
    load.finish().await;
    cluster.converged(shard).await;
    nothing_lost(&history, &cluster, TABLE).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_one_follower_is_lost_one_way() {
    // A follower that is heard and hears nothing calls elections that it cannot win; writes go on meanwhile.
    let cluster = TestCluster::start(44).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    let (history, clients) = (History::default(), cluster.clients().await);
    let load = Load::start(&history, &clients, &mix(), 44);
    load.progress(10).await;
    let [others @ .., deaf] = REGIONS;
    for other in others {
        cluster.wan().partition_one_way(&TestCluster::place(other), &TestCluster::place(deaf)).unwrap();
    }
    load.progress_in(40, |region| region.as_str() != deaf).await;
    cluster.wan().heal_all();
    load.progress(10).await;
    load.finish().await;
    cluster.converged(shard).await;
    nothing_lost(&history, &cluster, TABLE).await;
    cluster.stop().await;
}
