//! A lab: emulated regions for programs that know nothing of it.
//!
//! Links inside a process (the rest of this crate) stand between sockets, so whoever runs over them has to dial other
//! addresses. A lab needs nothing of its programs. Each node of a topology becomes a host: a network namespace with an
//! address of its own and one way out, a TUN device. At the other end of all devices is one router, a thread that takes
//! each packet and hands it on when the topology's matrix says that it would have arrived. The kernel needs no
//! emulation (`netem`), and TCP, UDP and ping behave as over that distance: handshakes, windows and retransmissions are
//! the kernel's own.
//!
//! ```text
//!   namespace meridian-wan-n1            namespace meridian-wan-n2
//!   ┌──────────────────────┐             ┌──────────────────────┐
//!   │ etcd   10.77.1.1     │             │ etcd   10.77.2.1     │
//!   │        wan0 (TUN) ◄──┼──► router ◄─┼──► wan0 (TUN)        │
//!   └──────────────────────┘   35 ms     └──────────────────────┘
//! ```
//!
//! 1. A packet is delivered one delay after the router took it, or later, never earlier; a busy machine makes it late.
//! 2. From one place to another nothing overtakes.
//! 3. What is cut off is lost, with what is on its way: programs see what they see when a cable is cut.
//! 4. Queues are bounded; what does not fit is lost and counted, as everything else that is lost.
//! 5. Whatever became of the router, [`down`] removes all that it has made.
//!
//! Not here: the machine's own network. A host reaches the other hosts of its lab and nothing else.

mod error;
mod plan;

#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod control;
#[cfg(target_os = "linux")]
mod frame;
#[cfg(target_os = "linux")]
mod lifecycle;
#[cfg(target_os = "linux")]
mod namespace;
#[cfg(target_os = "linux")]
mod router;
#[cfg(target_os = "linux")]
mod state;
#[cfg(target_os = "linux")]
mod switch;
#[cfg(target_os = "linux")]
mod tun;
#[cfg(target_os = "linux")]
mod way;

#[cfg(target_os = "linux")]
pub use client::LabControl;
#[cfg(target_os = "linux")]
pub use control::{LabStatus, SCHEMA};
pub use error::LabError;
#[cfg(target_os = "linux")]
pub use lifecycle::{ADDRESS_VARIABLE, Found, HOST_VARIABLE, Lab, down, enter, exec};
#[cfg(target_os = "linux")]
pub use namespace::check_privilege;
pub use plan::{Host, NAME_DEFAULT, find_host};
#[cfg(target_os = "linux")]
pub use state::LabFolder;
#[cfg(target_os = "linux")]
pub use way::WayStatus;
