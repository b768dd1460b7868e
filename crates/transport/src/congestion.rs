//! Which congestion control connections between nodes run under.
//!
//! Every ten seconds BBR asks what the shortest round trip of the path is: it lets no more than four packets be on the way
//! for 200 ms (`PROBE_RTT`; Cardwell et al., *BBR: Congestion-Based Congestion Control*, ACM Queue 14(5), 2016). A
//! connection between continents that carries small messages has dozens of packets on the way. At 200 reads a second over
//! 140 ms, those of one probe took up to 130 ms longer, which is what the slowest percent of all reads was made of.
//!
//! So where BBR is the system's choice, connections that Meridian makes or accepts use CUBIC, or Reno where a process may
//! not choose that one: neither pauses for itself. Whatever else the system has chosen stays.

use std::io;

/// What takes the place of BBR: the first of these that this process may choose. Reno is there on every system.
#[cfg(target_os = "linux")]
const STEADY: [&str; 2] = ["cubic", "reno"];

/// Has this TCP socket use a congestion control without pauses of its own; what a listener accepts from then on inherits
/// it. Best called before the socket is connected: BBR leaves its pacing behind. Returns what it uses now, where that can be
/// known.
#[cfg(target_os = "linux")]
pub fn keep_steady(socket: &impl std::os::fd::AsFd) -> io::Result<Option<String>> {
    let socket = socket2::SockRef::from(socket);
    if name(&socket)?.starts_with("bbr") {
        let mut refused = Ok(());
        for control in STEADY {
            refused = socket.set_tcp_congestion(control.as_bytes());
            if refused.is_ok() {
                break;
            }
        }
        refused?;
    }
    name(&socket).map(Some)
}

/// What a socket uses.
#[cfg(target_os = "linux")]
fn name(socket: &socket2::Socket) -> io::Result<String> {
    // As long as the kernel's longest name, filled up with zeros.
    let name = socket.tcp_congestion()?;
    Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
}

/// Elsewhere than on Linux the system's choice stays.
#[cfg(not(target_os = "linux"))]
pub fn keep_steady<S>(_: &S) -> io::Result<Option<String>> {
    Ok(None)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn bbr_gives_way_on_both_ends_and_nothing_else_does() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listens = keep_steady(&listener).unwrap().unwrap();
        assert!(!listens.starts_with("bbr"), "{listens}");
        let made = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(name(&socket2::SockRef::from(&accepted)).unwrap(), listens);
        // Reno may be chosen everywhere, BBR where the system has it.
        for chosen in ["reno", "bbr"] {
            if socket2::SockRef::from(&made).set_tcp_congestion(chosen.as_bytes()).is_err() {
                continue;
            }
            let now = keep_steady(&made).unwrap().unwrap();
            assert_eq!(now, name(&socket2::SockRef::from(&made)).unwrap());
            assert!(if chosen == "reno" { now == "reno" } else { STEADY.contains(&now.as_str()) }, "{chosen}: {now}");
        }
    }
}
