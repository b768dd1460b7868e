//! etcd: three members as child processes, and sessions over its public API.

mod cluster;
#[cfg(target_os = "linux")]
mod leader;
mod members;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use cluster::EtcdCluster;
#[cfg(target_os = "linux")]
pub(crate) use cluster::connect;
#[cfg(target_os = "linux")]
pub(crate) use leader::lead_at;
pub(crate) use members::find_program;
#[cfg(target_os = "linux")]
pub(crate) use members::{Addresses, Members, prepare};
pub(crate) use session::{EtcdSession, KvClient};
