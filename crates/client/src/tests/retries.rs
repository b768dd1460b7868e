//! Retries keep their request id, and nothing is claimed that is not known.

use super::gateway::{Asked, ScriptedGateway, Step, config};
use crate::{Client, Fate, Placement, Reason, Result, Session, Transaction};
use std::time::Duration;
use tonic::Code;

/// One put against a gateway with this script, by a call: the result, the attempts' ids, the session. On a stream it has
/// to go the same way.
async fn put(steps: Vec<Step>) -> (Result<crate::Reply<()>>, Vec<Asked>, Session) {
    let (streamed, ..) = put_by(true, steps.clone()).await;
    let (called, asked, session) = put_by(false, steps).await;
    let said = |r: &Result<crate::Reply<()>>| match r {
        Ok(reply) => (None, None, reply.attempts),
        Err(e) => (Some(e.reason()), Some(e.fate()), e.attempts),
    };
    assert_eq!(said(&streamed), said(&called));
    (called, asked, session)
}

async fn put_by(pipelining: bool, steps: Vec<Step>) -> (Result<crate::Reply<()>>, Vec<Asked>, Session) {
    let gateway = ScriptedGateway::start("us", steps).await;
    let session = Client::connect(config(&[&gateway]).pipelining(pipelining)).await.unwrap().session();
    let result = session.put("t", "k", "v").await;
    assert_eq!(gateway.streamed(), if pipelining { gateway.asked().len() } else { 0 });
    (result, gateway.asked(), session)
}

#[tokio::test]
async fn every_attempt_carries_the_same_id() {
    let refusals = [Reason::NoQuorum, Reason::OutcomeUnknown, Reason::Overloaded].map(Step::Fail);
    let (result, asked, session) = put([refusals.to_vec(), vec![Step::Commit(7)]].concat()).await;
    let reply = result.unwrap();
    assert_eq!((reply.attempts, reply.timestamp.0, asked.len()), (4, 7, 4));
    assert!(asked.iter().all(|a| *a == asked[0]), "{asked:?}");
    session.put("t", "k", "v").await.unwrap();
}

#[tokio::test]
async fn two_operations_have_two_ids() {
    let gateway = ScriptedGateway::start("us", []).await;
    let session = Client::connect(config(&[&gateway])).await.unwrap().session();
    session.put("t", "k", "v").await.unwrap();
    session.delete("t", "k").await.unwrap();
    let [Asked::Write(a), Asked::Write(b)] = &gateway.asked()[..] else { panic!("two writes") };
    assert_eq!(a.client, b.client);
    assert!(a.sequence < b.sequence && a.time_ns <= b.time_ns);
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_is_retried_under_the_same_id() {
    let (result, asked, _) = put(vec![Step::Cut, Step::Commit(7)]).await;
    assert_eq!(result.unwrap().attempts, 2);
    assert_eq!(asked[0], asked[1]);
}

#[tokio::test]
async fn a_later_refusal_does_not_undo_an_unknown_first_copy() {
    for first in [Step::Cut, Step::Hang, Step::Foreign(Code::Unavailable), Step::Fail(Reason::OutcomeUnknown)] {
        let (result, asked, _) = put(vec![first.clone(), Step::Fail(Reason::UnknownTable)]).await;
        let error = result.unwrap_err();
        assert_eq!((error.reason(), error.fate()), (Reason::OutcomeUnknown, Fate::Unknown), "{first:?}");
        let Asked::Write(id) = asked[0] else { panic!("a write") };
        assert_eq!(error.request_id.map(meridian_wire::request_id::encode), Some(id));
    }
}

#[tokio::test]
async fn refusals_alone_leave_nothing_unknown() {
    let (result, asked, _) = put(vec![Step::Fail(Reason::NoQuorum); 6]).await;
    let error = result.unwrap_err();
    assert_eq!((error.reason(), error.fate(), error.attempts), (Reason::NoQuorum, Fate::NotApplied, 6));
    assert_eq!(asked.len(), 6);
}

#[tokio::test]
async fn a_failed_precondition_settles_what_was_unknown() {
    let gateway = ScriptedGateway::start("us", [Step::Cut, Step::Fail(Reason::PreconditionFailed)]).await;
    let session = Client::connect(config(&[&gateway])).await.unwrap().session();
    let transaction = Transaction::new().if_absent("k").put("k", "v");
    let error = session.transact("t", &transaction).await.unwrap_err();
    assert_eq!((error.reason(), error.fate()), (Reason::PreconditionFailed, Fate::NotApplied));
    assert_eq!(error.attempts, 2);
}

#[tokio::test]
async fn what_cannot_pass_is_not_retried() {
    let (result, asked, _) = put(vec![Step::Fail(Reason::KeyTooLarge)]).await;
    assert_eq!(result.unwrap_err().reason(), Reason::KeyTooLarge);
    assert_eq!(asked.len(), 1);
}

#[tokio::test]
async fn the_deadline_leaves_a_write_unknown_and_a_read_without_effect() {
    let gateway = ScriptedGateway::start("us", vec![Step::Hang; 2]).await;
    let mut config = config(&[&gateway]);
    config.request_deadline = Duration::from_millis(100);
    let session = Client::connect(config).await.unwrap().session();
    let write = session.put("t", "k", "v").await.unwrap_err();
    assert_eq!((write.reason(), write.fate()), (Reason::OutcomeUnknown, Fate::Unknown));
    let read = session.get_causal("t", "k").await.unwrap_err();
    assert_eq!((read.reason(), read.fate()), (Reason::NoQuorum, Fate::NotApplied));
}

#[tokio::test]
async fn administration_is_repeated_only_when_it_did_nothing() {
    let steps = [Step::Fail(Reason::NoQuorum), Step::Fail(Reason::OutcomeUnknown), Step::Commit(1)];
    let gateway = ScriptedGateway::start("us", steps).await;
    let client = Client::connect(config(&[&gateway])).await.unwrap();
    let placement = Placement::parse("global").unwrap();
    let error = client.create_table("t", &placement, vec![]).await.unwrap_err();
    assert_eq!((error.fate(), error.attempts), (Fate::Unknown, 2));
    assert_eq!(gateway.asked().len(), 2);
}

#[tokio::test]
async fn operations_of_all_sessions_share_a_stream_and_fail_each_for_itself() {
    let gateway = ScriptedGateway::start("us", [Step::Hang, Step::Fail(Reason::UnknownTable)]).await;
    let client = Client::connect(config(&[&gateway])).await.unwrap();
    let (first, second, third) = (client.session(), client.session(), client.session());
    let first = tokio::spawn(async move { first.put("t", "a", "v").await });
    while gateway.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    let refused = second.put("t", "b", "v").await.unwrap_err();
    assert_eq!((refused.reason(), refused.attempts), (Reason::UnknownTable, 1));
    third.put("t", "c", "v").await.unwrap();
    // The first one's silence is its own affair.
    assert_eq!(first.await.unwrap().unwrap().attempts, 2);
    assert_eq!(gateway.streamed(), 4);
}

#[tokio::test]
async fn a_gateway_that_knows_no_stream_is_called() {
    let gateway = ScriptedGateway::start_old("us").await;
    let session = Client::connect(config(&[&gateway])).await.unwrap().session();
    let reply = session.put("t", "k", "v").await.unwrap();
    assert_eq!(reply.attempts, 1, "nothing was done by the stream");
    session.get_causal("t", "k").await.unwrap();
    assert_eq!((gateway.asked().len(), gateway.streamed()), (2, 0));
}

#[tokio::test]
async fn what_is_large_has_a_call_of_its_own() {
    let gateway = ScriptedGateway::start("us", []).await;
    let session = Client::connect(config(&[&gateway])).await.unwrap().session();
    session.put("t", "k", vec![0; 2 << 20]).await.unwrap();
    session.put("t", "k", "v").await.unwrap();
    assert_eq!((gateway.asked().len(), gateway.streamed()), (2, 1));
}
