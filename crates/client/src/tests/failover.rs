//! The nearest gateway, and what happens when it goes away.

use super::gateway::{ScriptedGateway, Step, config};
use crate::{Client, ClientConfig, Fate, Gateway, Reason, RetryPolicy};
use tonic::Code;

#[tokio::test]
async fn the_own_region_comes_first() {
    let us = ScriptedGateway::start("us", []).await;
    let eu = ScriptedGateway::start("eu", []).await;
    for region in ["eu", "us"] {
        let client = Client::connect(config(&[&us, &eu]).in_region(region)).await.unwrap();
        assert_eq!(client.gateway().1.map(|r| r.as_str()), Some(region));
        assert_eq!(client.session().put("t", "k", "v").await.unwrap().region.as_str(), region);
    }
}

#[tokio::test]
async fn a_region_that_the_caller_names_needs_no_answer() {
    let node = ScriptedGateway::start("", []).await;
    let config = ClientConfig::new(vec![Gateway::in_region(&node.address, "eu")]);
    assert_eq!(Client::connect(config).await.unwrap().gateway().1, Some(&"eu".into()));
}

#[tokio::test]
async fn a_gateway_that_is_gone_is_passed_over() {
    let us = ScriptedGateway::start("us", []).await;
    let eu = ScriptedGateway::start("eu", []).await;
    let client = Client::connect(config(&[&us, &eu]).in_region("us")).await.unwrap();
    let session = client.session();
    assert_eq!(session.put("t", "k", "v").await.unwrap().region.as_str(), "us");
    us.stop().await;
    let reply = session.put("t", "k", "v").await.unwrap();
    assert_eq!((reply.region.as_str(), reply.attempts), ("eu", 2));
    let reply = session.put("t", "k", "v").await.unwrap();
    assert_eq!((reply.region.as_str(), reply.attempts), ("eu", 1), "the mark is remembered");
}

#[tokio::test]
async fn a_gateway_that_answers_again_is_used_again() {
    let us = ScriptedGateway::start("us", [Step::Cut]).await;
    let eu = ScriptedGateway::start("eu", []).await;
    let client = Client::connect(config(&[&us, &eu]).in_region("us")).await.unwrap();
    let session = client.session();
    assert_eq!(session.put("t", "k", "v").await.unwrap().region.as_str(), "eu");
    tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while session.put("t", "k", "v").await.unwrap().region.as_str() != "us" {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the nearest gateway answers and is used");
}

#[tokio::test]
async fn a_status_about_one_request_does_not_count_against_the_gateway() {
    let us = ScriptedGateway::start("us", [Step::Foreign(Code::OutOfRange)]).await;
    let eu = ScriptedGateway::start("eu", []).await;
    let client = Client::connect(config(&[&us, &eu]).in_region("us")).await.unwrap();
    let session = client.session();
    assert_eq!(session.put("t", "k", "v").await.unwrap().region.as_str(), "eu", "the retry goes elsewhere");
    assert_eq!(session.put("t", "k", "v").await.unwrap().region.as_str(), "us");
}

#[tokio::test]
async fn an_unreachable_gateway_does_not_keep_the_client_from_connecting() {
    let gone = ScriptedGateway::start("us", []).await;
    let address = gone.address.clone();
    gone.stop().await;
    let eu = ScriptedGateway::start("eu", []).await;
    let mut config = config(&[&eu]).in_region("us");
    config.gateways.insert(0, Gateway::in_region(address, "us"));
    let client = Client::connect(config).await.unwrap();
    assert_eq!(client.session().put("t", "k", "v").await.unwrap().region.as_str(), "eu");
}

#[tokio::test]
async fn no_gateway_at_all_is_an_error_that_names_them() {
    let gone = ScriptedGateway::start("us", []).await;
    let config = config(&[&gone]);
    let address = gone.address.clone();
    gone.stop().await;
    let error = Client::connect(config).await.unwrap_err();
    assert_eq!((error.reason(), error.attempts), (Reason::NoQuorum, 0));
    assert!(error.to_string().contains(&address), "{error}");
    let none = Client::connect(ClientConfig::new(vec![])).await.unwrap_err();
    assert_eq!(none.reason(), Reason::BadRequest);
}

#[tokio::test]
async fn a_write_that_was_never_sent_is_known_not_to_have_happened() {
    let gateway = ScriptedGateway::start("us", []).await;
    let mut config = config(&[&gateway]);
    config.retry = RetryPolicy { attempts_max: 3, ..config.retry };
    let session = Client::connect(config).await.unwrap().session();
    gateway.stop().await;
    // The broken connection is noticed by this read, so that the write below meets only refused connections.
    session.get_causal("t", "k").await.unwrap_err();
    let error = session.put("t", "k", "v").await.unwrap_err();
    assert_eq!((error.reason(), error.fate(), error.attempts), (Reason::NoQuorum, Fate::NotApplied, 3));
}
