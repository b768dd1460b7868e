//! Exactly once (G9): a request takes effect at most once under its id, however often it is sent, wherever it is sent
//! to, and whoever leads by then; what was answered once is answered the same again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meridian_client::{Consistency, Fate, Reason, RequestId, Session, Transaction};
use meridian_tests::harness::{History, Load, Mix, REGIONS, TestCluster};
use meridian_tests::{exactly_once, external_consistency};
use meridian_types::{NodeId, ShardId};

const TABLE: &str = "t";

/// What one request was told the first time.
struct Asked {
    id: RequestId,
    transaction: Transaction,
    told: Result<meridian_client::Timestamp, Reason>,
}

async fn ask(
    session: &Session,
    id: RequestId,
    transaction: &Transaction,
) -> Result<meridian_client::Timestamp, Reason> {
    session.transact_as(id, TABLE, transaction).await.map(|reply| reply.timestamp).map_err(|e| e.reason())
}

/// Makes requests of all kinds: some that took effect, some whose precondition did not hold.
async fn requests(session: &Session) -> Vec<Asked> {
    let mut asked = Vec::new();
    for i in 0..4 {
        let (counter, once) = (format!("counter{i}"), format!("once{i}"));
        let transactions = [
            Transaction::new().put(counter.clone(), "1"),
            // Holds once; a second time it would not, because it has written the key itself.
            Transaction::new().if_absent(once.clone()).put(once.clone(), "taken").read(counter.clone()),
            // Does not hold now, and would hold later.
            Transaction::new().if_value(counter.clone(), "2").put(counter.clone(), "stolen"),
            Transaction::new().delete(format!("gone{i}")),
        ];
        for transaction in transactions {
            let id = session.request_id().unwrap();
            let told = ask(session, id, &transaction).await;
            asked.push(Asked { id, transaction, told });
        }
        assert!(asked[asked.len() - 4].told.is_ok() && asked[asked.len() - 3].told.is_ok());
        assert_eq!(asked[asked.len() - 2].told, Err(Reason::PreconditionFailed));
        // From here on the refused one would be welcome, and the first would undo this.
        session.put(TABLE, counter, "2").await.unwrap();
    }
    asked
}

/// Repeats everything from every region: the answers are those of the first time, and nothing has changed.
async fn same_answers(asked: &[Asked], cluster: &TestCluster, regions: &[&str]) {
    for region in regions {
        let client = cluster.client(region).await;
        let session = client.session();
        for a in asked {
            assert_eq!(ask(&session, a.id, &a.transaction).await, a.told, "in {region}: {:?}", a.transaction);
        }
        for i in 0..4 {
            let read = session.get(TABLE, format!("counter{i}"), Consistency::Linearizable).await.unwrap();
            assert_eq!(read.value.unwrap().value, "2", "in {region}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_answered_from_the_ledger_by_every_later_leader() {
    let mut cluster = TestCluster::start(51).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    let client = cluster.client(REGIONS[0]).await;
    let session = client.session();
    let asked = requests(&session).await;
    same_answers(&asked, &cluster, &REGIONS).await;
    cluster.move_leader(shard, NodeId(2)).await;
    same_answers(&asked, &cluster, &REGIONS).await;
    let leader = cluster.led(shard).await;
    cluster.stop_node(leader).await;
    let left: Vec<_> = REGIONS.into_iter().filter(|region| TestCluster::node_in(region) != leader).collect();
    same_answers(&asked, &cluster, &left).await;
    cluster.restart_node(leader).await;
    same_answers(&asked, &cluster, &REGIONS).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_belongs_to_one_request() {
    let cluster = TestCluster::start(52).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    let client = cluster.client(REGIONS[0]).await;
    let session = client.session();
    let id = session.request_id().unwrap();
    session.transact_as(id, TABLE, &Transaction::new().put("a", "1")).await.unwrap();
    cluster.move_leader(shard, NodeId(3)).await;
    for other in [
        Transaction::new().put("a", "2"),
        Transaction::new().put("b", "1"),
        Transaction::new().delete("a"),
        Transaction::new().if_exists("a").put("a", "1"),
        Transaction::new().put("a", "1").read("a"),
    ] {
        let error = session.transact_as(id, TABLE, &other).await.unwrap_err();
        assert_eq!((error.reason(), error.fate()), (Reason::RequestIdReused, Fate::NotApplied), "{other:?}");
    }
    let read = session.get(TABLE, "a", Consistency::Linearizable).await.unwrap();
    assert_eq!(read.value.unwrap().value, "1");
    assert_eq!(session.get(TABLE, "b", Consistency::Linearizable).await.unwrap().value, None);
    cluster.stop().await;
}

/// What happens to the leader while copies of requests are under way.
async fn disturb(cluster: &mut TestCluster, shard: ShardId, load: &Load) {
    for to in [NodeId(2), NodeId(3)] {
        load.progress(6).await;
        cluster.move_leader(shard, to).await;
    }
    load.progress(6).await;
    let leader = cluster.led(shard).await;
    let cut_off = REGIONS[usize::try_from(leader.0).unwrap() - 1];
    cluster.stop_node(leader).await;
    load.progress_in(10, |region| region.as_str() != cut_off).await;
    cluster.restart_node(leader).await;
    load.progress(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_copies_of_a_request_take_effect_once() {
    let cluster = TestCluster::start(53).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    let clients = cluster.clients().await;
    // Copies of the same request from all regions at the same time, while the leader moves: one effect, one answer.
    for round in 0..6_u64 {
        let id = clients[0].1.session().request_id().unwrap();
        let (key, seen) = (format!("k{round}"), format!("seen{round}"));
        let transaction = Transaction::new().if_absent(key.clone()).put(key.clone(), "1").put(seen, "1");
        let sessions: Vec<_> = clients.iter().map(|(_, client)| client.session()).collect();
        let copies = sessions.iter().map(|session| ask(session, id, &transaction));
        let moved = cluster.move_leader(shard, NodeId(1 + (round + 1) % 3));
        let (answers, ()) = tokio::join!(futures::future::join_all(copies), moved);
        let first = answers[0];
        assert!(first.is_ok() && answers.iter().all(|a| *a == first), "round {round}: {answers:?}");
        let row = sessions[0].get(TABLE, key, Consistency::Linearizable).await.unwrap().value.unwrap();
        assert_eq!(Ok(row.version), first);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_retries_leaves_one_version_of_each_write() {
    let mut cluster = TestCluster::start(54).await;
    let shard = cluster.create(TABLE, "global:us-east", &[]).await[0];
    let (history, clients) = (History::default(), cluster.clients().await);
    let load = Load::start(&history, &clients, &Mix { swaps: 3, ..Mix::writes(&[TABLE]) }, 54);
    disturb(&mut cluster, shard, &load).await;
    load.finish().await;
    let mut reader = history.process(REGIONS[0], &cluster.client(REGIONS[0]).await);
    let last = reader.final_state(TABLE).await;
    let records = history.records();
    exactly_once::check(&records, &[last]).unwrap();
    external_consistency::check(&records).unwrap();
    cluster.stop().await;
}
