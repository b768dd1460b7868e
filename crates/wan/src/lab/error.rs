//! Why a lab cannot do what it is asked.

use crate::WanError;
use std::io;
use std::path::PathBuf;

/// A lab that cannot be made, reached or removed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Network namespaces and TUN devices are Linux's.
    #[error("a WAN lab needs Linux: it is made of network namespaces and TUN devices")]
    NotLinux,
    /// The process may not make namespaces.
    #[error("a WAN lab needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN): run this with sudo")]
    Privilege,
    /// A program or a device of the system is missing.
    #[error("a WAN lab needs {what}: {hint}")]
    Missing {
        /// What is missing.
        what: &'static str,
        /// How to get it.
        hint: &'static str,
    },
    /// A name that cannot be part of a namespace's name.
    #[error("`{0}` is no name for a lab: use up to {max} letters, digits and `-`", max = super::plan::NAME_BYTES_MAX)]
    BadName(String),
    /// More hosts than a lab has addresses or the router has room for.
    #[error("the topology has {what}: a lab has room for {max}")]
    TooMany {
        /// What there is too much of.
        what: String,
        /// How many fit.
        max: usize,
    },
    /// The lab exists and its router runs.
    #[error("lab `{name}` is up already (router: process {pid}); `meridian wan down --name {name}` removes it")]
    IsUp {
        /// Which lab.
        name: String,
        /// Its router.
        pid: u32,
    },
    /// The lab's router has gone without cleaning up.
    #[error("lab `{0}` has no router any more, but is not removed: run `meridian wan down --name {0}` first")]
    LeftOver(String),
    /// There is no such lab.
    #[error("there is no lab `{0}`: make it with `meridian wan up TOPOLOGY --name {0}`")]
    NotUp(String),
    /// No host has this name.
    #[error("there is no host `{host}` in this lab; there are {known}")]
    UnknownHost {
        /// What was asked for.
        host: String,
        /// Names of all hosts.
        known: String,
    },
    /// The router does not end.
    #[error("the router of lab `{name}` (process {pid}) does not end")]
    Stuck {
        /// Which lab.
        name: String,
        /// Its router.
        pid: u32,
    },
    /// A command of the system failed.
    #[error("`{command}` failed: {message}")]
    Command {
        /// The whole command line.
        command: String,
        /// What it said.
        message: String,
    },
    /// The kernel refused something.
    #[error("cannot {what}: {source}")]
    System {
        /// What was attempted.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A file of the lab that makes no sense.
    #[error("{path} is not what a lab writes: {source}")]
    State {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The router did not answer, or not in a way that makes sense.
    #[error("the router of lab `{name}` did not answer: {source}")]
    Unanswered {
        /// Which lab.
        name: String,
        /// Why.
        source: crate::http::HttpError,
    },
    /// The router refused the request.
    #[error("the router refused ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What to do.
        message: String,
    },
    /// The network has no such place or link.
    #[error(transparent)]
    Wan(#[from] WanError),
}

impl LabError {
    /// A refusal of the kernel.
    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }

    /// Whether no lab at all can be made here, now and by this user.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::NotLinux | Self::Privilege | Self::Missing { .. })
    }
}
