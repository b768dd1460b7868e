//! A session: what one user of the database has seen, carried from reply to reply.

use crate::attempts::Operation;
use crate::{Client, Error, Reply, Row, Scan, ScanOptions, Transaction};
use bytes::Bytes;
use meridian_clock::{FixedSource, TimeSource as _};
use meridian_probe::machine;
use meridian_proto::v1::operation::Request;
use meridian_proto::v1::operation_reply::Reply as Answer;
use meridian_proto::v1::{self as pb};
use meridian_types::{CausalityToken, Consistency, Error as Cause, Fate, Reason, RequestId, Timestamp, Within};
use meridian_wire::header::{Served, decode_reply, encode_request};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Reads and writes, with a causality token that takes in every reply. Methods take `&self`: a session may be used
/// by several tasks at once; each of them then reads what any of them has seen.
#[derive(Debug)]
pub struct Session {
    client: Client,
    /// Random; makes this session's request ids its own.
    id: u64,
    sequence: AtomicU64,
    /// The token's timestamp; only grows.
    seen: AtomicU64,
    receipts: bool,
}

impl Session {
    pub(crate) fn new(client: Client) -> Self {
        let (id, sequence, seen) = (machine::random(), AtomicU64::new(0), AtomicU64::new(0));
        Self { client, id, sequence, seen, receipts: false }
    }

    /// The same session, with or without a latency receipt in every reply.
    #[must_use]
    pub fn with_receipts(mut self, receipts: bool) -> Self {
        self.receipts = receipts;
        self
    }

    /// The same session, continuing where another one, perhaps in another region, was at `token`.
    #[must_use]
    pub fn with_token(self, token: CausalityToken) -> Self {
        self.observe(token);
        self
    }

    /// The client that the session belongs to.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Everything that this session has written or read so far.
    pub fn token(&self) -> CausalityToken {
        CausalityToken(Timestamp(self.seen.load(Ordering::Acquire)))
    }

    /// Takes in what somebody else has seen: this session's causal reads include it from now on.
    pub fn observe(&self, token: CausalityToken) {
        self.seen.fetch_max(token.0.0, Ordering::AcqRel);
    }

    /// The consistency of a read that follows everything this session has seen.
    pub fn causal(&self) -> Consistency {
        Consistency::Causal(self.token())
    }

    /// A request id that was never used.
    ///
    /// Errors: [`Reason::Internal`] when the wall clock stands before 1970.
    pub fn request_id(&self) -> Result<RequestId, Error> {
        let wall =
            FixedSource::new(Duration::ZERO).read().map_err(|e| Error::unsent(Reason::Internal, e.to_string()))?;
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        Ok(RequestId { time: wall.earliest, client: self.id, sequence })
    }

    /// Writes one key.
    pub async fn put(&self, table: &str, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Reply<()>, Error> {
        let id = self.request_id()?;
        let header = Some(encode_request(Some(id), self.receipts));
        let request = pb::PutRequest { header, table: table.to_owned(), key: key.into(), value: value.into() };
        let operation = Operation::Write(id);
        let (reply, attempts) = self.client.operate(operation, Request::Put(request)).await?;
        let reply = if let Answer::Put(reply) = reply { reply } else { pb::PutReply::default() };
        Ok(Reply::new((), self.served(operation, reply.header, attempts)?, attempts))
    }

    /// Removes one key. Removing an absent key succeeds.
    pub async fn delete(&self, table: &str, key: impl Into<Bytes>) -> Result<Reply<()>, Error> {
        let id = self.request_id()?;
        let header = Some(encode_request(Some(id), self.receipts));
        let request = pb::DeleteRequest { header, table: table.to_owned(), key: key.into() };
        let operation = Operation::Write(id);
        let (reply, attempts) = self.client.operate(operation, Request::Delete(request)).await?;
        let reply = if let Answer::Delete(reply) = reply { reply } else { pb::DeleteReply::default() };
        Ok(Reply::new((), self.served(operation, reply.header, attempts)?, attempts))
    }

    /// Reads one key; `None` when it has no value at the read timestamp.
    pub async fn get(
        &self,
        table: &str,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Reply<Option<Row>>, Error> {
        self.get_in(table, key.into(), consistency, None).await
    }

    /// Reads one key at the strongest level that fits into a latency budget, from this consistency down to the weakest that
    /// will do; [`Reply::given`] says which it was. The budget counts at the gateway. What this session has seen is not
    /// included unless the budget says so ([`Within::including`]).
    ///
    /// Errors: [`Reason::BudgetTooSmall`] at once if none of them fits; [`Error::achievable`] says what would.
    pub async fn get_within(
        &self,
        table: &str,
        key: impl Into<Bytes>,
        consistency: Consistency,
        within: &Within,
    ) -> Result<Reply<Option<Row>>, Error> {
        self.get_in(table, key.into(), consistency, Some(meridian_wire::within::encode(within))).await
    }

    async fn get_in(
        &self,
        table: &str,
        key: Bytes,
        consistency: Consistency,
        within: Option<pb::Within>,
    ) -> Result<Reply<Option<Row>>, Error> {
        let request = pb::GetRequest {
            header: Some(encode_request(None, self.receipts)),
            table: table.to_owned(),
            key,
            consistency: Some(meridian_wire::consistency::encode(&consistency)),
            within,
        };
        let operation = Operation::Read;
        let (reply, attempts) = self.client.operate(operation, Request::Get(request)).await?;
        let reply = if let Answer::Get(reply) = reply { reply } else { pb::GetReply::default() };
        let served = self.served(operation, reply.header, attempts)?;
        Ok(Reply::new(reply.row.map(Row::from), served, attempts))
    }

    /// Reads one key, including everything that this session has seen.
    pub async fn get_causal(&self, table: &str, key: impl Into<Bytes>) -> Result<Reply<Option<Row>>, Error> {
        self.get(table, key, self.causal()).await
    }

    /// Reads a range of keys, page by page; nothing is sent before the first page is asked for.
    pub fn scan(&self, table: &str, options: ScanOptions) -> Scan<'_> {
        Scan::new(self, table, options)
    }

    /// Checks preconditions, then reads and writes at one commit timestamp. Returns the rows of the keys to read
    /// that exist, as they were before the writes.
    pub async fn transact(&self, table: &str, transaction: &Transaction) -> Result<Reply<Vec<Row>>, Error> {
        let id = self.request_id()?;
        self.transact_as(id, table, transaction).await
    }

    /// The same under a given request id: repeats an earlier transaction whose outcome is unknown, and settles it.
    /// [`Error::request_id`] has the id; table and transaction must be unchanged.
    pub async fn transact_as(
        &self,
        id: RequestId,
        table: &str,
        transaction: &Transaction,
    ) -> Result<Reply<Vec<Row>>, Error> {
        let request = pb::TransactRequest {
            header: Some(encode_request(Some(id), self.receipts)),
            table: table.to_owned(),
            preconditions: transaction.preconditions.clone(),
            writes: transaction.writes.clone(),
            reads: transaction.reads.clone(),
        };
        let operation = Operation::Write(id);
        let (reply, attempts) = self.client.operate(operation, Request::Transact(request)).await?;
        let reply = if let Answer::Transact(reply) = reply { reply } else { pb::TransactReply::default() };
        let served = self.served(operation, reply.header, attempts)?;
        Ok(Reply::new(reply.reads.into_iter().map(Row::from).collect(), served, attempts))
    }

    /// One page of a scan.
    pub(crate) async fn page(&self, mut request: pb::ScanRequest) -> Result<(Reply<Vec<Row>>, Bytes), Error> {
        request.header = Some(encode_request(None, self.receipts));
        let operation = Operation::Read;
        let (reply, attempts) = self.client.operate(operation, Request::Scan(request)).await?;
        let reply = if let Answer::Scan(reply) = reply { reply } else { pb::ScanReply::default() };
        let served = self.served(operation, reply.header, attempts)?;
        let rows = reply.rows.into_iter().map(Row::from).collect();
        Ok((Reply::new(rows, served, attempts), reply.next_page_token))
    }

    /// Reads a reply's header and takes in its token. A reply of another kind than was asked for has none either.
    fn served(&self, operation: Operation, header: Option<pb::ReplyHeader>, attempts: u32) -> Result<Served, Error> {
        let Some(header) = header else {
            let (fate, request_id) = match operation {
                Operation::Read => (Fate::NotApplied, None),
                Operation::Write(id) => (Fate::Unknown, Some(id)),
                Operation::Once => (Fate::Unknown, None),
            };
            let cause = Cause::new(Reason::Internal, "the gateway's reply has no header; compare versions");
            return Err(Error { cause: cause.with_fate(fate), request_id, attempts });
        };
        let served = decode_reply(header);
        self.observe(served.token);
        Ok(served)
    }
}
