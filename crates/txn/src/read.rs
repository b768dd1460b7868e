//! Evaluates a read against one replica's state at a timestamp.
//!
//! Whether the replica may answer at that timestamp, and when the reply may leave, is decided by the caller; the
//! page says what it reveals for that (W1).

use bytes::Bytes;
use meridian_proto::internal::v1::read_request::What;
use meridian_proto::v1::Row;
use meridian_storage::{DataView, StorageError};
use meridian_types::{Error, KeyRange, Limits, Reason, TableId, Timestamp};

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadPlan {
    /// Single keys, in this order.
    Keys(Vec<Bytes>),
    /// The keys in a range that have a value.
    Range {
        /// The range.
        range: KeyRange,
        /// Most rows; 0: as many as a page holds.
        limit: usize,
        /// From the end of the range to its start.
        reverse: bool,
    },
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The rows, absent keys left out.
    pub rows: Vec<Row>,
    /// A limit was met before the plan's end.
    pub more: bool,
    /// The newest timestamp that the page reveals: of the rows' versions, and of the tombstones that made a key
    /// absent. Zero: none.
    pub reveals: Timestamp,
}

impl Page {
    /// Bytes of its keys and values.
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(|r| r.key.len() + r.value.len()).sum()
    }
}

impl ReadPlan {
    /// The plan of a request between nodes.
    pub fn from_proto(what: &What) -> Result<Self, Error> {
        match what {
            What::Keys(keys) => Ok(Self::Keys(keys.keys.clone())),
            What::Range(r) => {
                let end = (!r.end.is_empty()).then(|| r.end.clone());
                let range = KeyRange::new(r.start.clone(), end)
                    .map_err(|e| Error::new(Reason::BadRange, format!("{e}; swap them, or leave the end empty")))?;
                Ok(Self::Range { range, limit: r.limit as usize, reverse: r.reverse })
            }
        }
    }

    /// The plan as a request between nodes.
    pub fn to_proto(&self) -> What {
        use meridian_proto::internal::v1::read_request::{Keys, Range};
        match self {
            Self::Keys(keys) => What::Keys(Keys { keys: keys.clone() }),
            Self::Range { range, limit, reverse } => What::Range(Range {
                start: range.start.clone(),
                end: range.end.clone().unwrap_or_default(),
                limit: u32::try_from(*limit).unwrap_or(u32::MAX),
                reverse: *reverse,
            }),
        }
    }
}

/// Reads `plan` from the state in `view` as it was at `at`; [`Timestamp::MAX`]: the newest.
///
/// A page has at least one row if there is any, and then no more than the limits allow.
pub fn read(
    view: &DataView,
    table: TableId,
    plan: &ReadPlan,
    at: Timestamp,
    limits: &Limits,
) -> Result<Page, StorageError> {
    match plan {
        ReadPlan::Keys(keys) => read_keys(view, table, keys, at, limits),
        ReadPlan::Range { range, limit, reverse } => {
            let rows_max = if *limit == 0 { limits.page_rows_max } else { (*limit).min(limits.page_rows_max) };
            let found = view.scan(table, range, at, *reverse, rows_max, limits.page_bytes_max)?;
            let rows = found.rows.into_iter().map(|r| Row { key: r.key, value: r.value, version: r.ts.0 });
            Ok(Page { rows: rows.collect(), more: found.more, reveals: found.reveals })
        }
    }
}

fn read_keys(
    view: &DataView,
    table: TableId,
    keys: &[Bytes],
    at: Timestamp,
    limits: &Limits,
) -> Result<Page, StorageError> {
    let mut page = Page::default();
    let mut bytes = 0;
    for key in keys {
        if bytes >= limits.page_bytes_max {
            page.more = true;
            break;
        }
        let Some(version) = view.get(table, key, at)? else { continue };
        page.reveals = page.reveals.max(version.ts);
        if let Some(value) = version.value {
            bytes += key.len() + value.len();
            page.rows.push(Row { key: key.clone(), value, version: version.ts.0 });
        }
    }
    Ok(page)
}
