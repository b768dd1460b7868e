//! TUN devices: network interfaces whose other end is a file.
//!
//! The only `unsafe` of this crate is here: two `ioctl`s, of which no maintained crate has a safe form that leaves
//! addresses, routes and namespaces to us.

use super::LabError;
use super::frame::HEADER_BYTES;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where devices are made.
const CLONE_DEVICE: &str = "/dev/net/tun";

/// `TUNSETIFF`: makes the device. It is declared as taking an `int`, and takes a [`Request`].
const SET_INTERFACE: Opcode = opcode::write::<i32>(b'T', 202);
/// `TUNSETOFFLOAD`: says which work the kernel may leave undone.
const SET_OFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);

/// `IFF_TUN | IFF_NO_PI | IFF_VNET_HDR`: IP packets, behind the header that `frame.rs` describes.
const FLAGS: i16 = 0x0001 | 0x1000 | 0x4000;
/// `TUN_F_CSUM | TUN_F_TSO4`: checksums, and the division of TCP segments over IPv4.
const OFFLOAD: usize = 0x01 | 0x02;

/// Longest name of an interface; the kernel's has a zero behind it.
const NAME_BYTES_MAX: usize = 15;

/// `struct ifreq`, as `TUNSETIFF` uses it.
#[repr(C)]
struct Request {
    name: [u8; NAME_BYTES_MAX + 1],
    flags: i16,
    /// The rest of the kernel's union: 24 bytes in all.
    rest: [u8; 22],
}

const _: () = assert!(size_of::<Request>() == 40 && HEADER_BYTES == 10);

/// One device, made in the network namespace of the thread that made it. It vanishes when this is dropped.
#[derive(Debug)]
pub(crate) struct Tun(OwnedFd);

impl Tun {
    /// Makes a device with this name in the calling thread's network namespace.
    pub(crate) fn create(name: &str) -> Result<Self, LabError> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open(CLONE_DEVICE, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT | Errno::NXIO | Errno::NODEV => LabError::Missing {
                what: "/dev/net/tun",
                hint: "load the module (`modprobe tun`), or give the device to the container",
            },
            Errno::PERM | Errno::ACCESS => LabError::Privilege,
            error => LabError::system(format!("open {CLONE_DEVICE}"), error),
        })?;
        set_interface(&device, name).map_err(|error| LabError::system(format!("make TUN device {name}"), error))?;
        Ok(Self(device))
    }

    /// Takes the next frame that the namespace's kernel has sent; `None` if there is none now.
    pub(crate) fn read(&self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.0, frame) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a frame to the namespace's kernel.
    pub(crate) fn write(&self, frame: &[u8]) -> io::Result<()> {
        // A device takes a frame as a whole or not at all.
        rustix::io::write(&self.0, frame).map(|_| ()).map_err(io::Error::from)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn set_interface(device: &OwnedFd, name: &str) -> io::Result<()> {
    let mut request = Request { name: [0; NAME_BYTES_MAX + 1], flags: FLAGS, rest: [0; 22] };
    let room = request.name.get_mut(..name.len()).filter(|room| room.len() <= NAME_BYTES_MAX);
    let room = room.ok_or_else(|| io::Error::other(format!("{name} is too long a name for an interface")))?;
    room.copy_from_slice(name.as_bytes());
    #[expect(unsafe_code, reason = "rustix knows no TUN devices")]
    // SAFETY: `device` is open on /dev/net/tun, whose TUNSETIFF reads and writes one `struct ifreq`. `Request` has its
    // layout and its size of 40 bytes (asserted above), every bit pattern is valid for it, and it outlives the call.
    unsafe {
        ioctl(device, Updater::<SET_INTERFACE, Request>::new(&mut request))?;
    }
    #[expect(unsafe_code, reason = "rustix knows no TUN devices")]
    // SAFETY: TUNSETOFFLOAD takes its flags by value and touches no memory of this process.
    unsafe {
        ioctl(device, IntegerSetter::<SET_OFFLOAD>::new_usize(OFFLOAD))?;
    }
    Ok(())
}
