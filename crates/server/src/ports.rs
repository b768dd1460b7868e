//! Free ports on loopback that stay free for a restart.

use rand::RngExt as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Where ports are looked for: below what systems give to outgoing connections (32768 on Linux). A port from there
/// could be taken by a connection while its node is down, and a node that dials its own port could reach itself.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// How many ports are tried.
const TRIES: usize = 1_000;

/// An address on loopback.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Calls `take` with free-looking addresses until it succeeds, or fails with anything but "address in use".
pub(crate) fn with_free<T, E>(
    mut take: impl FnMut(SocketAddr) -> Result<T, E>,
    in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut rng = rand::rng();
    for _ in 1..TRIES {
        match take(loopback(rng.random_range(RANGE))) {
            Err(error) if in_use(&error) => {}
            other => return other,
        }
    }
    take(loopback(0))
}

/// A listener on a free port of loopback. Released, the port stays free of outgoing connections.
pub fn listen_free() -> io::Result<TcpListener> {
    with_free(TcpListener::bind, |e| e.kind() == io::ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_get_different_ports_in_the_range() {
        let listeners: Vec<_> = (0..20).map(|_| listen_free().unwrap()).collect();
        let mut ports: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| RANGE.contains(port)), "{ports:?}");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }

    #[test]
    fn other_errors_are_not_tried_again() {
        let mut tries = 0;
        let denied = with_free(
            |_| {
                tries += 1;
                Err::<(), _>(io::ErrorKind::PermissionDenied)
            },
            |kind| *kind == io::ErrorKind::AddrInUse,
        );
        assert_eq!((denied, tries), (Err(io::ErrorKind::PermissionDenied), 1));
    }
}
