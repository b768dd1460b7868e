//! etcd: three members as child processes, and sessions over its public API.

mod cluster;
mod members;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use cluster::EtcdCluster;
pub(crate) use members::find_program;
pub(crate) use session::{EtcdSession, KvClient};
