//! Scans: a range of keys, page by page, all pages at one timestamp.

use crate::{Error, Reply, Row, Session};
use bytes::Bytes;
use meridian_proto::v1 as pb;
use meridian_types::{Consistency, KeyRange, Reason, Within};

/// What to scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// The keys.
    pub range: KeyRange,
    /// Most rows in all; 0: no limit.
    pub limit: u32,
    /// From the end of the range to its start.
    pub reverse: bool,
    /// How fresh. Later pages are read at the timestamp of the first.
    pub consistency: Consistency,
    /// How long each page may take, and how weak the first may be instead; `None`: no limit but the client's.
    pub within: Option<Within>,
}

impl ScanOptions {
    /// Every key of the range, linearizable.
    pub fn range(range: KeyRange) -> Self {
        Self { range, ..Self::default() }
    }

    /// Every key that begins with `prefix`, linearizable.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::range(KeyRange::prefix(prefix.into()))
    }
}

/// A scan in progress.
#[derive(Debug)]
pub struct Scan<'s> {
    session: &'s Session,
    request: pb::ScanRequest,
    /// Rows that the limit leaves; `None` without one.
    left: Option<usize>,
    done: bool,
}

impl<'s> Scan<'s> {
    pub(crate) fn new(session: &'s Session, table: &str, options: ScanOptions) -> Self {
        let (start, end) = meridian_wire::range::encode(&options.range);
        let request = pb::ScanRequest {
            header: None,
            table: table.to_owned(),
            start,
            end,
            limit: options.limit,
            reverse: options.reverse,
            consistency: Some(meridian_wire::consistency::encode(&options.consistency)),
            page_token: Bytes::new(),
            within: options.within.as_ref().map(meridian_wire::within::encode),
        };
        let left = (options.limit > 0).then(|| usize::try_from(options.limit).unwrap_or(usize::MAX));
        Self { session, request, left, done: false }
    }

    /// The next page; `None` after the last. A page may be empty without being the last.
    ///
    /// Errors: after one, the same page may be asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Reply<Vec<Row>>>, Error> {
        if self.done {
            return Ok(None);
        }
        let (mut reply, next) = self.session.page(self.request.clone()).await?;
        if let Some(left) = &mut self.left {
            reply.value.truncate(*left);
            *left -= reply.value.len();
        }
        self.done = next.is_empty() || self.left == Some(0);
        self.request.page_token = next;
        Ok(Some(reply))
    }

    /// All rows that are left. What the reply says of itself is from the first of these pages, its attempts are of
    /// all of them, and its staleness is the largest.
    pub async fn collect(mut self) -> Result<Reply<Vec<Row>>, Error> {
        let Some(mut all) = self.next_page().await? else {
            return Err(Error::unsent(Reason::BadRequest, "the scan has ended already; start a new one"));
        };
        while let Some(page) = self.next_page().await? {
            all.value.extend(page.value);
            all.attempts += page.attempts;
            all.staleness = all.staleness.max(page.staleness);
        }
        Ok(all)
    }
}
