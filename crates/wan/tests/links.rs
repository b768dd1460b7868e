//! Real sockets over emulated links. Lower bounds are physics and strict; upper bounds are generous, machines are busy.

#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use meridian_clock::Mono;
use meridian_wan::{Endpoint, Place, Topology, Wan};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const MS: Duration = Duration::from_millis(1);
/// RTT of the pair under test in the preset `three`.
const RTT: Duration = Duration::from_millis(70);
/// How long something that should happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn endpoint(region: &str) -> Endpoint {
    Endpoint { region: region.into(), zone: "a".into() }
}

fn place(text: &str) -> Place {
    text.parse().unwrap()
}

fn three() -> Wan {
    Wan::new(Topology::preset("three").unwrap(), 7)
}

/// Serves every connection with this; returns the address.
async fn server<F: Future<Output = ()> + Send + 'static>(f: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(f(stream));
        }
    });
    address
}

/// Sends back what it gets.
async fn echo() -> SocketAddr {
    server(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// An echo server in eu-west, dialled from us-east.
async fn dial_echo(wan: &Wan) -> TcpStream {
    let address = wan.link(&endpoint("us-east"), &endpoint("eu-west"), echo().await).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn ping(stream: &mut TcpStream, byte: u8) -> Duration {
    let start = Mono::now();
    stream.write_all(&[byte]).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), byte);
    start.elapsed()
}

#[tokio::test]
async fn a_round_trip_takes_the_rtt_and_the_first_one_twice_that() {
    let wan = three();
    let mut stream = dial_echo(&wan).await;
    let first = ping(&mut stream, 0).await;
    assert!(first >= 2 * RTT, "handshake and round trip took {first:?}");
    let mut took = Vec::new();
    for i in 1..=20 {
        took.push(ping(&mut stream, i).await);
    }
    took.sort_unstable();
    println!("first {first:?}, then {:?} / {:?} / {:?}", took[0], took[10], took[19]);
    assert!(took[0] >= RTT, "faster than light: {took:?}");
    assert!(took[10] < RTT + 15 * MS, "too slow: {took:?}");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_heard_before_the_handshake_is_over() {
    let wan = three();
    let target = server(|mut stream| async move {
        let _ = stream.write_all(b"!").await;
        let _ = stream.read_u8().await;
    })
    .await;
    let address = wan.link(&endpoint("us-east"), &endpoint("eu-west"), target).unwrap();
    let start = Mono::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'!');
    assert!(start.elapsed() >= 2 * RTT, "{:?}", start.elapsed());
}

#[tokio::test]
async fn zones_of_one_region_are_a_quarter_of_a_millisecond_apart() {
    let wan = Wan::new(Topology::preset("lan").unwrap(), 7);
    let zone = |z: &str| Endpoint { region: "local".into(), zone: z.into() };
    let target = echo().await;
    assert_eq!(wan.link(&zone("a"), &zone("a"), target).unwrap(), target, "no link inside a zone");
    let address = wan.link(&zone("a"), &zone("b"), target).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut took = Vec::new();
    for i in 0..200 {
        took.push(ping(&mut stream, i).await);
    }
    took.sort_unstable();
    println!("fastest {:?}, median {:?}, slowest {:?}", took[0], took[100], took[199]);
    assert!(took[0] >= Duration::from_micros(250), "{took:?}");
    assert!(took[100] < 5 * MS, "{took:?}");
}

#[tokio::test]
async fn throughput_does_not_wait_for_round_trips() {
    const BYTES: usize = 8 << 20;
    let wan = three();
    let mut stream = dial_echo(&wan).await;
    ping(&mut stream, 0).await;
    let (mut read, mut write) = stream.split();
    let start = Mono::now();
    let data: Vec<u8> = (0..BYTES).map(|i| (i % 251) as u8).collect();
    let mut back = vec![0; BYTES];
    let (sent, received) = tokio::join!(write.write_all(&data), read.read_exact(&mut back));
    sent.unwrap();
    received.unwrap();
    let took = start.elapsed();
    println!("8 MiB there and back in {took:?}");
    assert!(back == data, "bytes were changed or reordered");
    // One 64 KiB chunk for each round trip would take 128 * 70 ms = 9 s.
    assert!(took >= RTT && took < 4 * RTT + Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn bandwidth_limits_a_transfer() {
    let mut topology = Topology::preset("three").unwrap();
    topology.bandwidth_bytes_per_s = Some(4 << 20);
    let wan = Wan::new(topology, 7);
    let mut stream = dial_echo(&wan).await;
    let (mut read, mut write) = stream.split();
    let start = Mono::now();
    let data = vec![7; 1 << 20];
    let mut back = vec![0; 1 << 20];
    let (sent, received) = tokio::join!(write.write_all(&data), read.read_exact(&mut back));
    sent.unwrap();
    received.unwrap();
    assert!(start.elapsed() >= 250 * MS + RTT, "1 MiB at 4 MiB/s took {:?}", start.elapsed());
}

#[tokio::test]
async fn a_partition_holds_everything_and_a_heal_delivers_it_in_order() {
    let mut topology = Topology::preset("three").unwrap();
    topology.jitter = 5 * MS;
    let wan = Wan::new(topology, 7);
    let mut stream = dial_echo(&wan).await;
    ping(&mut stream, 0).await;
    wan.partition(&place("us-east"), &place("eu-west")).unwrap();
    for i in 0..100u8 {
        stream.write_all(&[i]).await.unwrap();
    }
    assert!(timeout(3 * RTT, stream.read_u8()).await.is_err(), "something came through a partition");
    // A connection made meanwhile hangs, others are not concerned.
    let mut held = TcpStream::connect(wan.links()[0].listen).await.unwrap();
    held.write_all(b"x").await.unwrap();
    assert!(timeout(3 * RTT, held.read_u8()).await.is_err(), "a connection was made through a partition");

    let healed = Mono::now();
    wan.heal(&place("us-east"), &place("eu-west")).unwrap();
    let mut back = [0; 100];
    timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert!(healed.elapsed() >= RTT, "what was held still has to travel: {:?}", healed.elapsed());
    assert!(back.iter().copied().eq(0..100), "order was not kept: {back:?}");
    assert_eq!(timeout(SOON, held.read_u8()).await.unwrap().unwrap(), b'x');
}

#[tokio::test]
async fn a_one_way_partition_blocks_one_direction() {
    let wan = three();
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let target = server(move |mut stream| {
        let heard = heard.clone();
        async move {
            while let Ok(byte) = stream.read_u8().await {
                heard.send(byte).unwrap();
                let _ = stream.write_all(&[byte]).await;
            }
        }
    })
    .await;
    let address = wan.link(&endpoint("us-east"), &endpoint("eu-west"), target).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    ping(&mut stream, 1).await;
    assert_eq!(hears.recv().await, Some(1));

    wan.partition_one_way(&place("eu-west"), &place("us-east")).unwrap();
    stream.write_all(&[2]).await.unwrap();
    assert_eq!(timeout(SOON, hears.recv()).await.unwrap(), Some(2), "requests still arrive");
    assert!(timeout(3 * RTT, stream.read_u8()).await.is_err(), "the answer got through");
    let status = &wan.links()[0];
    assert!(!status.out.blocked && status.back.blocked, "{status:?}");
    wan.heal_all();
    assert_eq!(timeout(SOON, stream.read_u8()).await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn an_isolated_region_is_cut_off_from_all_others_and_only_it() {
    let wan = three();
    let target = echo().await;
    let pairs = [("us-east", "eu-west"), ("eu-west", "ap-northeast"), ("ap-northeast", "us-east")];
    for (a, b) in pairs {
        wan.link(&endpoint(a), &endpoint(b), target).unwrap();
    }
    wan.isolate(&place("eu-west")).unwrap();
    let blocked: Vec<_> = wan.links().iter().map(|l| (l.out.blocked, l.back.blocked)).collect();
    assert_eq!(blocked, [(true, true), (true, true), (false, false)]);
    wan.heal(&place("eu-west"), &place("us-east")).unwrap();
    assert!(!wan.links()[0].out.blocked && wan.links()[1].out.blocked);
}

#[tokio::test]
async fn delay_changes_hold_for_open_connections_and_links_are_reused() {
    let wan = three();
    let mut stream = dial_echo(&wan).await;
    ping(&mut stream, 0).await;
    wan.set_delay(&place("eu-west"), &place("us-east"), 200 * MS).unwrap();
    assert!(ping(&mut stream, 1).await >= 200 * MS);
    let link = wan.links().remove(0);
    let again = wan.link(&endpoint("us-east"), &endpoint("eu-west"), link.target).unwrap();
    assert_eq!((again, wan.links().len()), (link.listen, 1));
    assert_eq!((link.connections, link.connections_total), (1, 1));
    assert_eq!((link.out.bytes, link.back.bytes, link.out.delay_us), (2, 2, 100_000));
}

#[tokio::test]
async fn ends_of_streams_travel_too() {
    let wan = three();
    // Reads to the end, then answers, then closes.
    let target = server(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    })
    .await;
    let address = wan.link(&endpoint("us-east"), &endpoint("eu-west"), target).unwrap();
    let start = Mono::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    timeout(SOON, stream.read_to_end(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, b"hello");
    assert!(start.elapsed() >= 2 * RTT);
}

#[tokio::test]
async fn a_dead_target_breaks_the_connection_one_round_trip_later() {
    let wan = three();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = wan.link(&endpoint("us-east"), &endpoint("eu-west"), gone).unwrap();
    let start = Mono::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let read = timeout(SOON, stream.read_u8()).await.unwrap();
    assert!(read.is_err());
    assert!(start.elapsed() >= RTT, "{:?}", start.elapsed());
}

#[tokio::test]
async fn places_that_do_not_exist_are_refused() {
    let wan = three();
    let error = wan.isolate(&place("mars")).unwrap_err().to_string();
    assert!(error.contains("mars") && error.contains("us-east/a"), "{error}");
    assert!(wan.partition(&place("us-east"), &place("us-east")).is_err());
    assert!(wan.link(&endpoint("mars"), &endpoint("us-east"), "127.0.0.1:1".parse().unwrap()).is_err());
}

#[tokio::test]
async fn a_dropped_network_closes_its_connections() {
    let wan = three();
    let mut stream = dial_echo(&wan).await;
    ping(&mut stream, 0).await;
    let listen = wan.links()[0].listen;
    drop(wan);
    assert!(timeout(SOON, stream.read_u8()).await.unwrap().is_err());
    let refused = async { while TcpStream::connect(listen).await.is_ok() {} };
    timeout(SOON, refused).await.expect("the link no longer listens");
}
