//! Versions as they are stored, old ones and tombstones included.

use super::StoppedNode;
use crate::StorageError;
use crate::data::{Family, Span, decode_version};
use crate::engine::{Reach, Scan};
use bytes::Bytes;
use meridian_types::{KeyRange, TableId, Timestamp};

/// One version of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVersion {
    /// The key.
    pub key: Bytes,
    /// Commit timestamp.
    pub ts: Timestamp,
    /// What it holds; `None` is a tombstone.
    pub value: Option<Bytes>,
}

impl StoppedNode {
    /// Hands out the stored versions of the keys in a range: keys in order, of each key the newest first. With `at`, only
    /// the newest version at or below it.
    ///
    /// * Errors: damage, or `each` fails.
    pub fn versions<E: From<StorageError>>(
        &self,
        table: TableId,
        range: &KeyRange,
        at: Option<Timestamp>,
        mut each: impl FnMut(StoredVersion) -> Result<(), E>,
    ) -> Result<(), E> {
        let span = Span::of(table, range);
        let scan = Scan { start: Some(span.start), end: span.end, reach: Reach::Once };
        let view = self.data.view();
        let mut iter = view.iter(Family::Versions, scan);
        let mut told: Option<Bytes> = None;
        iter.seek_to_first();
        while let Some((key, value)) = iter.item() {
            let (_, version) = decode_version(key, value)?;
            let wanted = at.is_none_or(|at| version.ts <= at && told.as_ref() != Some(&version.key));
            if wanted {
                told = Some(version.key.clone());
                each(version)?;
            }
            iter.next();
        }
        Ok(iter.status("read versions")?)
    }
}
