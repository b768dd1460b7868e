//! What the router reads from and writes to a TUN device: a header of the kernel, then an IP packet.
//!
//! The header (`struct virtio_net_hdr`) says which work the kernel has left undone: the checksum, and the division of a
//! large TCP segment into packets that fit the MTU. The router hands it on unread, and the other side's kernel does
//! that work or skips it. So one frame may carry 64 KiB of a stream, while TCP counts in segments of an ordinary MTU:
//! its windows open as slowly as they do on a real network.

use std::net::Ipv4Addr;

/// Length of `struct virtio_net_hdr`, the kernel's default for TUN devices.
pub(crate) const HEADER_BYTES: usize = 10;

/// The largest frame: the largest IP packet behind the header.
pub(crate) const FRAME_BYTES_MAX: usize = HEADER_BYTES + 65_535;

/// Bytes of the shortest IPv4 header.
const IPV4_BYTES_MIN: usize = 20;
/// Where an IPv4 header has the destination.
const DESTINATION: std::ops::Range<usize> = 16..20;

/// The destination of an IPv4 packet; `None` for all else, such as IPv6's search for routers.
pub(crate) fn destination(frame: &[u8]) -> Option<Ipv4Addr> {
    let packet = frame.get(HEADER_BYTES..).filter(|packet| packet.len() >= IPV4_BYTES_MIN)?;
    if packet.first()? >> 4 != 4 {
        return None;
    }
    let address: [u8; 4] = packet.get(DESTINATION)?.try_into().ok()?;
    Some(address.into())
}

/// Bytes of the IP packet in a frame.
pub(crate) fn packet_bytes(frame: &[u8]) -> usize {
    frame.len().saturating_sub(HEADER_BYTES)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame to this address with `payload` bytes.
    pub(crate) fn frame_to(address: [u8; 4], payload: usize) -> Vec<u8> {
        let mut frame = vec![0; HEADER_BYTES + IPV4_BYTES_MIN + payload];
        frame[HEADER_BYTES] = 0x45;
        frame[HEADER_BYTES + DESTINATION.start..][..4].copy_from_slice(&address);
        frame
    }

    #[test]
    fn only_whole_ipv4_headers_have_a_destination() {
        let frame = frame_to([10, 77, 3, 1], 7);
        assert_eq!(destination(&frame), Some(Ipv4Addr::new(10, 77, 3, 1)));
        assert_eq!(packet_bytes(&frame), 27);
        assert_eq!(destination(&frame[..HEADER_BYTES + 19]), None);
        assert_eq!((destination(&[]), packet_bytes(&[])), (None, 0));
        let mut six = frame;
        six[HEADER_BYTES] = 0x60;
        assert_eq!(destination(&six), None);
    }
}
