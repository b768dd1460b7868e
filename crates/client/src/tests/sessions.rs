//! Tokens, causal reads and scans.

use super::gateway::{Asked, ScriptedGateway, Step, config};
use crate::{CausalityToken, Client, Consistency, KeyRange, ScanOptions, Timestamp};
use meridian_wire::consistency;

async fn with_script(steps: Vec<Step>) -> (ScriptedGateway, Client) {
    let gateway = ScriptedGateway::start("us", steps).await;
    let client = Client::connect(config(&[&gateway])).await.unwrap();
    (gateway, client)
}

#[tokio::test]
async fn the_token_is_the_newest_that_any_reply_has_shown() {
    let (_gateway, client) = with_script([30, 20, 40].map(Step::Commit).to_vec()).await;
    let session = client.session();
    assert_eq!(session.token(), CausalityToken::default());
    let mut seen = Vec::new();
    session.put("t", "k", "v").await.unwrap();
    seen.push(session.token().0.0);
    let old = session.get("t", "k", Consistency::Snapshot(Timestamp(20))).await.unwrap();
    assert_eq!(old.token, CausalityToken(Timestamp(20)), "a reply has its own token");
    seen.push(session.token().0.0);
    session.delete("t", "k").await.unwrap();
    seen.push(session.token().0.0);
    assert_eq!(seen, [30, 30, 40]);
}

#[tokio::test]
async fn a_causal_read_sends_what_the_session_has_seen() {
    let (gateway, client) = with_script(vec![Step::Commit(30)]).await;
    let session = client.session().with_token(CausalityToken(Timestamp(10)));
    session.get_causal("t", "k").await.unwrap();
    session.get_causal("t", "k").await.unwrap();
    let causal = |ts| Asked::Read(consistency::encode(&Consistency::Causal(CausalityToken(Timestamp(ts)))));
    assert_eq!(gateway.asked(), [causal(10), causal(30)]);
}

#[tokio::test]
async fn sessions_of_one_client_do_not_share_tokens_or_ids() {
    let (gateway, client) = with_script(vec![Step::Commit(30), Step::Commit(20)]).await;
    let (a, b) = (client.session(), client.session());
    a.put("t", "k", "v").await.unwrap();
    b.put("t", "k", "v").await.unwrap();
    assert_eq!((a.token().0.0, b.token().0.0), (30, 20));
    b.observe(a.token());
    assert_eq!(b.token(), a.token());
    let [Asked::Write(first), Asked::Write(second)] = &gateway.asked()[..] else { panic!("two writes") };
    assert_ne!(first.client, second.client);
}

fn keys(rows: &[crate::Row]) -> Vec<u8> {
    rows.iter().map(|r| r.key[0]).collect()
}

#[tokio::test]
async fn a_scan_gathers_its_pages_up_to_the_limit() {
    let (_gateway, client) = with_script(vec![]).await;
    let session = client.session();
    let all = session.scan("t", ScanOptions::range(KeyRange::all())).collect().await.unwrap();
    assert_eq!((keys(&all.value), all.attempts), (vec![0, 1, 2], 3));
    let some = session.scan("t", ScanOptions { limit: 2, ..ScanOptions::default() }).collect().await.unwrap();
    assert_eq!((keys(&some.value), some.attempts), (vec![0, 1], 2));
}

#[tokio::test]
async fn a_page_that_failed_may_be_asked_for_again() {
    let steps = vec![Step::Commit(5), Step::Fail(crate::Reason::Corruption)];
    let (_gateway, client) = with_script(steps).await;
    let session = client.session();
    let mut scan = session.scan("t", ScanOptions::default());
    assert_eq!(keys(&scan.next_page().await.unwrap().unwrap().value), [0]);
    scan.next_page().await.unwrap_err();
    assert_eq!(keys(&scan.next_page().await.unwrap().unwrap().value), [1]);
    assert_eq!(keys(&scan.next_page().await.unwrap().unwrap().value), [2]);
    assert!(scan.next_page().await.unwrap().is_none());
}
