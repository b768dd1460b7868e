//! The control server and its client.

#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use meridian_wan::{ControlError, Endpoint, Place, Topology, Wan, WanControl, control};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn place(text: &str) -> Place {
    text.parse().unwrap()
}

async fn started() -> (Wan, WanControl, std::net::SocketAddr) {
    let wan = Wan::new(Topology::preset("three").unwrap(), 1);
    let endpoint = |region: &str| Endpoint { region: region.into(), zone: "a".into() };
    wan.link(&endpoint("us-east"), &endpoint("eu-west"), "127.0.0.1:9".parse().unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(control::serve(wan.clone(), listener));
    (wan, WanControl::new(address), address)
}

#[tokio::test]
async fn every_request_does_what_it_says() {
    let (wan, control, _) = started().await;
    assert_eq!(control.links().await.unwrap(), wan.links());
    let state = |links: &[meridian_wan::LinkStatus]| (links[0].out.blocked, links[0].back.blocked);
    let (us, eu) = (|| place("us-east"), || place("eu-west"));
    assert_eq!(state(&control.partition_one_way(eu(), us()).await.unwrap()), (false, true));
    assert_eq!(state(&control.partition(us(), eu()).await.unwrap()), (true, true));
    assert_eq!(state(&control.heal(us(), eu()).await.unwrap()), (false, false));
    assert_eq!(state(&control.isolate(us()).await.unwrap()), (true, true));
    assert_eq!(state(&control.heal_all().await.unwrap()), (false, false));
    let links = control.set_delay(us(), eu(), Duration::from_millis(151)).await.unwrap();
    assert_eq!((links[0].out.delay_us, links[0].back.delay_us), (75_500, 75_500));
    assert_eq!(links, wan.links());
}

#[tokio::test]
async fn refusals_are_4xx_and_say_why() {
    let (_, control, address) = started().await;
    let refused = control.isolate(place("mars")).await.unwrap_err();
    assert!(
        matches!(&refused, ControlError::Refused { status: 404, message } if message.contains("mars")),
        "{refused}"
    );
    let refused = control.set_delay(place("us-east"), place("eu-west"), Duration::from_secs(3_600)).await.unwrap_err();
    assert!(matches!(&refused, ControlError::Refused { status: 400, .. }), "{refused}");
    for (path, body, status) in [
        ("/heal", r#"{"a":"us-east"}"#, "400"),
        ("/partition", r#"{"a":"us-east"}"#, "422"),
        ("/partition", r#"{"a":"us-east","b":"us-east"}"#, "400"),
        ("/partition", "nonsense", "400"),
        ("/delay", r#"{"a":"us-east","b":"eu-west","rtt_ms":-1}"#, "400"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {body}: {answer}");
        assert!(answer.contains(r#"{"error":""#), "{answer}");
    }
}

#[tokio::test]
async fn only_loopback_is_served_and_absence_is_named() {
    let wan = Wan::new(Topology::preset("three").unwrap(), 1);
    let open = TcpListener::bind("0.0.0.0:0").await.unwrap();
    assert!(control::serve(wan, open).await.is_err());
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = WanControl::new(gone).links().await.unwrap_err();
    assert!(matches!(error, ControlError::Unreachable(..)), "{error}");
}
