//! A lab as its programs see it: real connections between real namespaces.
//!
//! Where the machine cannot make namespaces, the tests say so and are skipped. Nothing here is decided by how long
//! something takes at most; what is checked is that nothing arrives too early, and what arrives at all.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use meridian_clock::Mono;
use meridian_types::RegionId;
use meridian_wan::lab::{self, Found, Host, Lab, LabControl, LabError, LabFolder, LabStatus};
use meridian_wan::{Place, Topology};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long anything may take that has to happen: generous, and met in no good run.
const WITHIN: Duration = Duration::from_secs(30);

/// How long is waited for what must not happen. A failure may be missed on a slow machine, but none is made up.
const QUIET: Duration = Duration::from_millis(400);

const PORT: u16 = 7000;

/// A lab of this test's own; `None` where there can be none.
async fn up(dir: &Path, name: &str, topology: Topology) -> Option<(Lab, LabFolder)> {
    let folder = LabFolder::inside(dir, &format!("test-{name}-{}", std::process::id())).unwrap();
    match Lab::up(folder.clone(), topology, 1).await {
        Ok(lab) => Some((lab, folder)),
        Err(error) if error.is_unsupported() => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Runs `f` on a thread in the host's network.
fn on<T: Send>(host: &Host, f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = || {
            lab::enter(host).unwrap();
            f()
        };
        scope.spawn(run).join().unwrap()
    })
}

/// Sends back what one connection at a time sends, until this process ends.
fn serve_echo(host: &Host) -> SocketAddr {
    let listener = on(host, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Ends with the connection.
            std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    (host.address, PORT).into()
}

fn connect(from: &Host, to: SocketAddr) -> TcpStream {
    let stream = on(from, || TcpStream::connect_timeout(&to, WITHIN).unwrap());
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream
}

fn echo(stream: &mut TcpStream, text: &str) -> Duration {
    let start = Mono::now();
    stream.write_all(text.as_bytes()).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text.as_bytes());
    start.elapsed()
}

fn place(text: &str) -> Place {
    text.parse().unwrap()
}

fn namespaces(prefix: &str) -> usize {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return 0 };
    entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).count()
}

fn lost(status: &LabStatus) -> u64 {
    status.ways.iter().map(|way| way.lost_blocked + way.lost_full + way.lost_host).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn distance_partition_heal_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let topology = Topology::preset("three").unwrap();
    let Some((lab, folder)) = up(dir.path(), "echo", topology.clone()).await else { return };
    let hosts = lab.hosts();
    let prefix = hosts[0].namespace.trim_end_matches("n1").to_owned();
    assert_eq!(namespaces(&prefix), 3);

    // Every pair is as far apart as the matrix says, the connection's own handshake included.
    for to in &hosts {
        let address = serve_echo(to);
        for from in hosts.iter().filter(|from| from.name != to.name) {
            let rtt = topology.rtt(&from.region, &to.region);
            let start = Mono::now();
            let mut stream = connect(from, address);
            let handshake = start.elapsed();
            assert!(handshake >= rtt, "{} to {}: connected in {handshake:?}", from.name, to.name);
            for _ in 0..3 {
                let took = echo(&mut stream, "hello");
                assert!(took >= rtt, "{} to {}: {took:?}", from.name, to.name);
                println!("{} to {}: {took:?} (at least {rtt:?})", from.name, to.name);
            }
        }
    }
    let status = lab.status();
    assert_eq!((status.ways.len(), lost(&status)), (6, 0));
    assert!(status.ways.iter().all(|way| way.packets > 0 && way.bytes > 0 && !way.blocked), "{status:?}");

    // A partition stops what is sent; a heal lets TCP deliver it after all.
    let mut stream = connect(&hosts[0], (hosts[1].address, PORT).into());
    let mut other = connect(&hosts[0], (hosts[2].address, PORT).into());
    let control = LabControl::new(folder.clone());
    let status = control.partition(place("us-east"), place("eu-west"), false).await.unwrap();
    assert_eq!(status.ways.iter().filter(|way| way.blocked).count(), 2);
    stream.write_all(b"late").unwrap();
    stream.set_read_timeout(Some(QUIET)).unwrap();
    let kind = stream.read(&mut [0; 4]).unwrap_err().kind();
    assert!(matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{kind:?}");
    echo(&mut other, "the others are not cut off");
    assert!(lost(&control.status().await.unwrap()) > 0);
    control.heal(None).await.unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"late");

    // A longer delay holds at once.
    control.set_delay(place("us-east"), place("eu-west"), Duration::from_millis(130)).await.unwrap();
    let took = echo(&mut stream, "further");
    assert!(took >= Duration::from_millis(130), "{took:?}");

    // Afterwards nothing is left, and the name is free.
    lab.down().unwrap();
    assert_eq!(namespaces(&prefix), 0);
    assert!(matches!(control.status().await, Err(LabError::NotUp(_))));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    Lab::up(folder, topology, 1).await.unwrap().down().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_region_hears_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some((lab, _)) = up(dir.path(), "udp", Topology::preset("three").unwrap()).await else { return };
    let hosts = lab.hosts();
    let socket = |host: &Host| on(host, || UdpSocket::bind((host.address, PORT)).unwrap());
    let sockets: Vec<_> = hosts.iter().map(socket).collect();
    sockets[1].set_read_timeout(Some(WITHIN)).unwrap();
    let mut buffer = [0; 8];
    sockets[0].send_to(b"one", (hosts[1].address, PORT)).unwrap();
    assert_eq!(sockets[1].recv(&mut buffer).unwrap(), 3);
    lab.isolate(&place("eu-west")).unwrap();
    for from in [0, 2] {
        sockets[from].send_to(b"two", (hosts[1].address, PORT)).unwrap();
    }
    sockets[1].set_read_timeout(Some(QUIET)).unwrap();
    assert!(sockets[1].recv(&mut buffer).is_err());
    lab.heal_all();
    sockets[2].send_to(b"four", (hosts[1].address, PORT)).unwrap();
    sockets[1].set_read_timeout(Some(WITHIN)).unwrap();
    assert_eq!(sockets[1].recv(&mut buffer).unwrap(), 4, "what was cut off is lost");
    lab.down().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_whole_and_many_segments_travel_at_once() {
    const BYTES: usize = 32 << 20;
    let dir = tempfile::tempdir().unwrap();
    let topology = Topology { jitter: Duration::from_millis(2), ..Topology::preset("three").unwrap() };
    let Some((lab, _)) = up(dir.path(), "bulk", topology).await else { return };
    let hosts = lab.hosts();
    let listener = on(&hosts[2], || TcpListener::bind((hosts[2].address, PORT)).unwrap());
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        let mut got = Vec::with_capacity(BYTES);
        stream.read_to_end(&mut got).unwrap();
        got
    });
    let sent: Vec<u8> = (0..BYTES as u32 / 4).flat_map(u32::to_le_bytes).collect();
    let start = Mono::now();
    let mut stream = connect(&hosts[0], (hosts[2].address, PORT).into());
    stream.write_all(&sent).unwrap();
    drop(stream);
    assert!(receiver.join().unwrap() == sent, "bytes are missing or changed");
    println!("{:.1} MiB/s over 140 ms", (BYTES >> 20) as f64 / start.elapsed().as_secs_f64());
    let status = lab.status();
    let way = status.ways.iter().find(|w| w.from == place("us-east/a") && w.to == place("ap-northeast/a")).unwrap();
    assert!(way.bytes > BYTES as u64, "{way:?}");
    assert_eq!(lost(&status), 0, "{status:?}");
    lab.down().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_one_zone_and_of_two() {
    let dir = tempfile::tempdir().unwrap();
    let mut topology = Topology::preset("lan").unwrap().with_nodes_per_region(4);
    topology.intra_rtt = Duration::from_millis(20);
    let Some((lab, _)) = up(dir.path(), "lan", topology).await else { return };
    let hosts = lab.hosts();
    assert_eq!(lab.host("local/a").unwrap().name, "n1");
    let (same, other) = (serve_echo(&hosts[3]), serve_echo(&hosts[1]));
    let near = echo(&mut connect(&hosts[0], same), "near");
    let far = echo(&mut connect(&hosts[0], other), "far");
    println!("same zone {near:?}, another zone {far:?}");
    assert!(far >= Duration::from_millis(20));
    // A host talks to itself without the router.
    echo(&mut connect(&hosts[1], other), "self");
    lab.down().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_is_made_once_and_what_is_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let Some((lab, folder)) = up(dir.path(), "left", Topology::preset("three").unwrap()).await else { return };
    let prefix = lab.hosts()[0].namespace.trim_end_matches("n1").to_owned();
    let again = Lab::up(folder.clone(), Topology::preset("lan").unwrap(), 1).await.unwrap_err();
    assert!(matches!(again, LabError::IsUp { pid, .. } if pid == std::process::id()), "{again}");
    assert!(lab.host("mars").is_err());
    lab.down().unwrap();
    assert_eq!(lab::down(&folder).await.unwrap(), (Found::Nothing, 0));

    // A namespace as a router that was killed leaves it, with a program in it.
    let name = format!("{prefix}n1");
    assert!(Command::new("ip").args(["netns", "add", &name]).status().unwrap().success());
    let mut program = Command::new("ip").args(["netns", "exec", &name, "sleep", "60"]).spawn().unwrap();
    while !in_namespace(&name, program.id()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let left = Lab::up(folder.clone(), Topology::preset("lan").unwrap(), 1).await.unwrap_err();
    assert!(matches!(left, LabError::LeftOver(_)), "{left}");
    assert!(matches!(LabControl::new(folder.clone()).status().await, Err(LabError::LeftOver(_))));
    assert_eq!(lab::down(&folder).await.unwrap(), (Found::LeftOver, 1));
    assert_eq!(namespaces(&prefix), 0);
    assert_eq!(lab::down(&folder).await.unwrap(), (Found::Nothing, 0));
    program.kill().unwrap();
    program.wait().unwrap();
}

fn in_namespace(name: &str, pid: u32) -> bool {
    let pids = Command::new("ip").args(["netns", "pids", name]).output().unwrap();
    String::from_utf8_lossy(&pids.stdout).lines().any(|line| line == pid.to_string())
}

#[test]
fn regions_have_the_distances_that_the_tests_assume() {
    let three = Topology::preset("three").unwrap();
    let rtt = three.rtt(&RegionId::from("us-east"), &RegionId::from("ap-northeast"));
    assert_eq!(rtt, Duration::from_millis(140));
}
