//! Why a run could not be made. Failures of single operations are results, not errors: they are counted.

use meridian_types::RegionId;
use std::path::PathBuf;

/// An option that cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad {option}: {why}")]
pub struct BadOption {
    /// Which one.
    pub option: &'static str,
    /// What is wrong with it, and what to give instead.
    pub why: String,
}

impl BadOption {
    pub(crate) fn new(option: &'static str, why: impl Into<String>) -> Self {
        Self { option, why: why.into() }
    }
}

/// Why a run ended without a report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// An option cannot be obeyed.
    #[error(transparent)]
    Option(#[from] BadOption),
    /// No region to drive was given.
    #[error("no region to drive: give at least one region with a gateway")]
    NoRegion,
    /// A region's gateways could not be reached.
    #[error("cannot reach a gateway of {region}")]
    Connect {
        /// The region.
        region: RegionId,
        /// Why.
        source: meridian_client::Error,
    },
    /// The table could not be described or created, or the cluster's status not be read.
    #[error("cannot prepare table `{table}`")]
    Table {
        /// The table.
        table: String,
        /// Why.
        source: meridian_client::Error,
    },
    /// A key could not be loaded after all retries.
    #[error("loading stopped at key `{key}`: {why}")]
    Load {
        /// The key.
        key: String,
        /// What the cluster said.
        why: meridian_types::Error,
    },
    /// The history could not be written.
    #[error("cannot write the history to {}", path.display())]
    History {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A task of the harness panicked: a defect of the harness.
    #[error("a task of the harness failed")]
    Task(#[from] tokio::task::JoinError),
}
