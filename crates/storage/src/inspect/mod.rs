//! The data directory of a stopped node, read and checked without changing anything in it; [`cut_log`] alone changes
//! something.
//!
//! Everything here is for `meridian debug` and for tests. A running node is refused: its files change under the reader.

mod cut;
mod lock;
mod log;
mod shards;
mod stopped;
mod verify;
mod versions;

pub use cut::{Cut, cut_log};
pub use log::{DecodedEntry, LogDump, LogEntry, SmallRecord};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use log::{decode_entry, small};
pub use shards::ShardInfo;
pub use stopped::StoppedNode;
pub use verify::{CheckedFile, FileKind, Finding, Place, Report, verify};
pub use versions::StoredVersion;
