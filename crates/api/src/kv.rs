//! The public service of keys and values: checks requests, finds shards, turns answers into replies.

use crate::admission::charge_of;
use crate::context::Context;
use crate::failure;
use crate::gateway::{self, Answered, Arrival, ShardRead};
use crate::tables;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use meridian_catalog::{CatalogView, Table};
use meridian_clock::Mono;
use meridian_consensus::Charge;
use meridian_probe::{Sabotage, sabotaged};
use meridian_proto::internal::v1 as internal;
use meridian_proto::v1 as pb;
use meridian_proto::v1::kv_server::{Kv, KvServer};
use meridian_txn::{Committed, ReadPlan, id_to_proto};
use meridian_types::{Consistency, Error, KeyRange, Reason, Receipt, Result, ShardId, Timestamp};
use meridian_wire::header::{Served, decode_request, encode_reply};
use meridian_wire::{consistency, range, status::to_status};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// Part of a client's own deadline that the gateway uses, so that its answer still arrives.
const DEADLINE_PERCENT: u32 = 90;
/// Format of page tokens.
const PAGE_TOKEN_FORMAT: u32 = 1;

mod pipeline;
mod within;

/// Serves keys and values.
#[derive(Clone)]
pub(crate) struct KvService {
    ctx: Context,
}

impl KvService {
    pub(crate) fn server(ctx: &Context) -> KvServer<Self> {
        // Room for the largest request; what is larger by Meridian's own count gets an error that says so.
        let bytes = 2 * ctx.limits.request_bytes_max;
        KvServer::new(Self { ctx: ctx.clone() }).max_decoding_message_size(bytes).max_encoding_message_size(bytes)
    }
}

/// When a request came, and how long it may take by the client's `grpc-timeout` and the gateway's own limit.
pub(crate) fn arrival<'a>(ctx: &Context, metadata: &MetadataMap, charge: &'a Charge) -> Arrival<'a> {
    let asked = metadata.get("grpc-timeout").and_then(|v| parse_timeout(v.to_str().ok()?));
    Arrival { at: Mono::now(), deadline: deadline(ctx, asked), latest: ctx.latest(), charge }
}

/// How long a request may take whose client waits as long as `asked`.
fn deadline(ctx: &Context, asked: Option<Duration>) -> Duration {
    let own = ctx.deadlines.request;
    asked.map_or(own, |d| own.min(d * DEADLINE_PERCENT / 100))
}

/// The gRPC timeout header: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let n: u32 = digits.parse().ok()?;
    let one = match unit {
        "H" => Duration::from_secs(3600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    one.checked_mul(n)
}

/// A reply's header; the receipt only if it was asked for.
fn header(mut served: Served, receipt: bool) -> Option<pb::ReplyHeader> {
    if !receipt {
        served.receipt = None;
    }
    Some(encode_reply(&served))
}

struct Found {
    view: Arc<CatalogView>,
    table: Arc<Table>,
}

impl KvService {
    /// The table of a name. One that is not known here may just have been made elsewhere: asks shard 0 then.
    async fn table(&self, name: &str, arrival: Arrival<'_>) -> Result<Found> {
        let view = self.ctx.catalog.view();
        if let Some(table) = view.table(name) {
            return Ok(Found { table: table.clone(), view: view.clone() });
        }
        let view = tables::catalog_now(&self.ctx, arrival).await?;
        let table = view.table(name).cloned().ok_or_else(|| tables::unknown(name))?;
        Ok(Found { view, table })
    }

    /// The one shard that holds all of `keys`.
    fn shard_of<'k>(found: &Found, keys: impl IntoIterator<Item = &'k Bytes>) -> Result<ShardId> {
        let mut shard = None;
        for key in keys {
            let id = found.view.shard_for_key(found.table.id, key).map(|s| s.id);
            let id = id.ok_or_else(|| Error::new(Reason::Internal, "the table's shards leave a gap"))?;
            if *shard.get_or_insert(id) != id {
                let text = "the keys lie in several shards; this version commits transactions inside one shard only; \
                            see `meridian table describe` for the shards";
                return Err(Error::new(Reason::CrossShard, text));
            }
        }
        shard.ok_or_else(|| Error::new(Reason::BadRequest, "the request names no key"))
    }

    async fn write(
        &self,
        found: &Found,
        header: Option<pb::RequestHeader>,
        mutation: internal::Mutation,
        arrival: Arrival<'_>,
    ) -> Result<(Answered<Committed>, bool)> {
        let (id, receipt) = decode_request(header);
        let id = id.unwrap_or_else(|| self.ctx.request_id());
        // Refused here, before it could be recorded for as long as its claimed age.
        if id.time > self.ctx.latest().plus(self.ctx.clock.max_offset()) {
            let text = "the request id's issue time is in the future; correct the client's clock and use a new id";
            return Err(Error::new(Reason::TimestampInFuture, text));
        }
        let mutation = internal::Mutation { request_id: Some(id_to_proto(id)), table: found.table.id.0, ..mutation };
        let checked = mutation.preconditions.iter().map(|p| &p.key);
        let written = mutation.writes.iter().map(|w| &w.key);
        let shard = Self::shard_of(found, checked.chain(written).chain(&mutation.reads))?;
        Ok((gateway::mutate(&self.ctx, &found.view, shard, mutation, arrival).await?, receipt))
    }

    async fn write_one(
        &self,
        header: Option<pb::RequestHeader>,
        table: &str,
        key: Bytes,
        action: pb::write_op::Action,
        arrival: Arrival<'_>,
    ) -> Result<(Answered<Committed>, bool)> {
        self.ctx.limits.check_key(&key)?;
        if let pb::write_op::Action::Put(value) = &action {
            self.ctx.limits.check_value(value)?;
        }
        let found = self.table(table, arrival).await?;
        let writes = vec![pb::WriteOp { key, action: Some(action) }];
        self.write(&found, header, internal::Mutation { writes, ..internal::Mutation::default() }, arrival).await
    }

    fn check_transaction(&self, request: &pb::TransactRequest) -> Result<()> {
        let limits = &self.ctx.limits;
        limits.check_request(request.encoded_len())?;
        let ops = request.preconditions.len() + request.writes.len() + request.reads.len();
        if ops > limits.ops_max {
            let text = format!("the transaction has {ops} operations, the limit is {}; split it", limits.ops_max);
            return Err(Error::new(Reason::RequestTooLarge, text));
        }
        for p in &request.preconditions {
            limits.check_key(&p.key)?;
            if p.condition.is_none() {
                let text = "a precondition without a condition; give it a value, `exists`, or a version";
                return Err(Error::new(Reason::BadRequest, text));
            }
        }
        for w in &request.writes {
            limits.check_key(&w.key)?;
            match &w.action {
                Some(pb::write_op::Action::Put(value)) => limits.check_value(value)?,
                Some(pb::write_op::Action::Delete(_)) => {}
                None => return Err(Error::new(Reason::BadRequest, "a write that neither puts nor deletes")),
            }
        }
        request.reads.iter().try_for_each(|key| limits.check_key(key))
    }

    async fn do_put(&self, request: pb::PutRequest, arrival: Arrival<'_>) -> Result<pb::PutReply> {
        let pb::PutRequest { header: asked, table, key, value } = request;
        let action = pb::write_op::Action::Put(value);
        let (answer, receipt) = self.write_one(asked, &table, key, action, arrival).await?;
        Ok(pb::PutReply { header: header(answer.served, receipt) })
    }

    async fn do_delete(&self, request: pb::DeleteRequest, arrival: Arrival<'_>) -> Result<pb::DeleteReply> {
        let pb::DeleteRequest { header: asked, table, key } = request;
        let action = pb::write_op::Action::Delete(pb::write_op::Remove {});
        let (answer, receipt) = self.write_one(asked, &table, key, action, arrival).await?;
        Ok(pb::DeleteReply { header: header(answer.served, receipt) })
    }

    async fn do_get(&self, request: pb::GetRequest, arrival: Arrival<'_>) -> Result<pb::GetReply> {
        self.ctx.limits.check_key(&request.key)?;
        let level = consistency::decode(request.consistency)?;
        let ladder = within::ladder(&level, request.within)?;
        let found = self.table(&request.table, arrival).await?;
        let shard = Self::shard_of(&found, [&request.key])?;
        let plan = ReadPlan::Keys(vec![request.key]);
        let read = ShardRead { view: &found.view, shard, table: found.table.id, plan: &plan, consistency: &level };
        let answer = match ladder {
            None => gateway::read(&self.ctx, &read, arrival).await?,
            Some(ladder) => self.get_within(&found, shard, &plan, &ladder, arrival).await?,
        };
        let (_, receipt) = decode_request(request.header);
        Ok(pb::GetReply { header: header(answer.served, receipt), row: answer.value.rows.into_iter().next() })
    }

    async fn do_transact(&self, request: pb::TransactRequest, arrival: Arrival<'_>) -> Result<pb::TransactReply> {
        self.check_transaction(&request)?;
        let found = self.table(&request.table, arrival).await?;
        let mutation = internal::Mutation {
            preconditions: request.preconditions,
            writes: request.writes,
            reads: request.reads,
            ..internal::Mutation::default()
        };
        let (answer, receipt) = self.write(&found, request.header, mutation, arrival).await?;
        Ok(pb::TransactReply { header: header(answer.served, receipt), reads: answer.value.reads })
    }

    async fn do_scan(&self, request: pb::ScanRequest, arrival: Arrival<'_>) -> Result<pb::ScanReply> {
        let level = consistency::decode(request.consistency)?;
        let mut ladder = within::ladder(&level, request.within)?;
        let keys = range::decode(request.start.clone(), request.end.clone())?;
        let found = self.table(&request.table, arrival).await?;
        let scan = match decode_page_token(&request.page_token)? {
            None => {
                let limit = request.limit;
                let shards = found.view.shards_for_range(found.table.id, &keys);
                let ids: Vec<ShardId> = shards.iter().map(|s| s.id).collect();
                let consistency = if ladder.is_none() { self.one_timestamp(level, &ids)? } else { level };
                Scan { keys, consistency, remaining: limit, limited: limit > 0 }
            }
            Some(token) => {
                let keys = resume(keys, token.resume, request.reverse)?;
                let consistency = Consistency::Snapshot(Timestamp(token.timestamp));
                ladder = within::later_page(ladder, consistency.clone());
                Scan { keys, consistency, remaining: token.remaining, limited: request.limit > 0 }
            }
        };
        let (_, receipt) = decode_request(request.header);
        match ladder {
            None => self.scan_page(&found, scan, request.reverse, receipt, arrival).await,
            Some(ladder) => self.scan_within(&found, &scan, (request.reverse, receipt), &ladder, arrival).await,
        }
    }

    /// A scan over several shards reads all of them at one timestamp (rule N1).
    ///
    /// Linearizable and bounded ones take it from this node's clock, which must be safe then (W3): a clock that is behind
    /// would have every replica answer at once, without what was written since.
    fn one_timestamp(&self, level: Consistency, shards: &[ShardId]) -> Result<Consistency> {
        if shards.len() < 2 || sabotaged(Sabotage::ReadShardsApart) {
            return Ok(level);
        }
        let now = match level {
            Consistency::Linearizable | Consistency::BoundedStaleness(_) => {
                self.ctx.clock.safe_now().map_err(|_| failure::clock_unsafe())?
            }
            Consistency::Snapshot(_) | Consistency::Causal(_) | Consistency::Local => self.ctx.clock.now(),
        };
        let past = now.earliest.prev();
        let local = shards.iter().filter_map(|s| self.ctx.replicas.get(*s)).map(|r| r.safe_time().safe()).min();
        let freshest = local.unwrap_or(past).min(past);
        let at = match level {
            Consistency::Linearizable => now.latest,
            Consistency::Snapshot(at) => at,
            Consistency::BoundedStaleness(bound) => freshest.max(now.latest.minus(bound)),
            Consistency::Causal(token) => freshest.max(token.0),
            Consistency::Local => freshest,
        };
        Ok(Consistency::Snapshot(at))
    }

    async fn scan_page(
        &self,
        found: &Found,
        scan: Scan,
        reverse: bool,
        receipt: bool,
        arrival: Arrival<'_>,
    ) -> Result<pb::ScanReply> {
        let limits = &self.ctx.limits;
        let mut shards = found.view.shards_for_range(found.table.id, &scan.keys);
        if reverse {
            shards.reverse();
        }
        let mut page = PageBuilder::new(scan.remaining);
        for shard in shards {
            let Some(range) = scan.keys.intersect(&shard.range) else { continue };
            let left = limits.page_rows_max.saturating_sub(page.rows.len());
            let limit = if scan.limited { left.min(page.remaining as usize) } else { left };
            let plan = ReadPlan::Range { range, limit, reverse };
            let read = ShardRead {
                view: &found.view,
                shard: shard.id,
                table: found.table.id,
                plan: &plan,
                consistency: &scan.consistency,
            };
            let answer = gateway::read(&self.ctx, &read, arrival).await?;
            let more = page.take(answer, scan.limited);
            let done = scan.limited && page.remaining == 0;
            if done {
                break;
            }
            if more || page.rows.len() >= limits.page_rows_max || page.bytes >= limits.page_bytes_max {
                // No token if nothing of the range is left after the last row.
                let after = page.rows.last().map(|r| resume_key(&r.key, reverse));
                page.next = after.filter(|at| resume(scan.keys.clone(), at.clone(), reverse).is_ok());
                break;
            }
        }
        page.finish(receipt, scan.limited, arrival)
    }
}

/// One page's worth of a scan.
#[derive(Clone)]
struct Scan {
    keys: KeyRange,
    consistency: Consistency,
    remaining: u32,
    limited: bool,
}

/// Collects the rows of a page from one shard after another.
struct PageBuilder {
    rows: Vec<pb::Row>,
    bytes: usize,
    remaining: u32,
    next: Option<Bytes>,
    served: Option<Served>,
    receipt: Receipt,
}

impl PageBuilder {
    fn new(remaining: u32) -> Self {
        Self { rows: Vec::new(), bytes: 0, remaining, next: None, served: None, receipt: Receipt::default() }
    }

    /// Takes in one shard's rows; whether that shard has more.
    fn take(&mut self, answer: Answered<meridian_txn::Page>, limited: bool) -> bool {
        let page = answer.value;
        self.bytes += page.rows.iter().map(|r| r.key.len() + r.value.len()).sum::<usize>();
        if limited {
            self.remaining = self.remaining.saturating_sub(u32::try_from(page.rows.len()).unwrap_or(u32::MAX));
        }
        self.rows.extend(page.rows);
        let part = answer.served.receipt.unwrap_or_default();
        let sum = &mut self.receipt;
        sum.forward += part.forward;
        sum.queue += part.queue;
        sum.fsync += part.fsync;
        sum.quorum += part.quorum;
        sum.apply += part.apply;
        sum.commit_wait += part.commit_wait;
        sum.floor += part.floor;
        let staleness = self.served.as_ref().map_or(Duration::ZERO, |s| s.staleness).max(answer.served.staleness);
        self.served = Some(Served { staleness, ..answer.served });
        page.more
    }

    fn finish(mut self, receipt: bool, limited: bool, arrival: Arrival<'_>) -> Result<pb::ScanReply> {
        let mut served =
            self.served.ok_or_else(|| Error::new(Reason::Internal, "the table has no shard for the range"))?;
        self.receipt.total = crate::serve::nanos(Mono::now().since(arrival.at));
        self.receipt.gateway = self.receipt.total.saturating_sub(self.receipt.parts());
        served.receipt = Some(self.receipt);
        let token = self.next.map(|resume| internal::PageToken {
            format: PAGE_TOKEN_FORMAT,
            timestamp: served.timestamp.0,
            resume,
            remaining: if limited { self.remaining } else { 0 },
        });
        Ok(pb::ScanReply {
            header: header(served, receipt),
            rows: self.rows,
            next_page_token: token.map(|t| t.encode_to_vec().into()).unwrap_or_default(),
        })
    }
}

/// Where the page after one that ended with `last` starts.
fn resume_key(last: &Bytes, reverse: bool) -> Bytes {
    if reverse {
        return last.clone();
    }
    let mut next = last.to_vec();
    next.push(0);
    next.into()
}

fn resume(keys: KeyRange, at: Bytes, reverse: bool) -> Result<KeyRange> {
    let bad = |_| Error::new(Reason::BadRequest, "the page token does not belong to this range");
    let rest = if reverse { KeyRange::new(keys.start, Some(at)) } else { KeyRange::new(at, keys.end) };
    rest.map_err(bad)
}

pub(crate) fn decode_page_token(bytes: &Bytes) -> Result<Option<internal::PageToken>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let bad = || Error::new(Reason::BadRequest, "not a page token; pass `next_page_token` as it was returned");
    let token = internal::PageToken::decode(bytes.clone()).map_err(|_| bad())?;
    if token.format == PAGE_TOKEN_FORMAT { Ok(Some(token)) } else { Err(bad()) }
}

fn reply<T>(result: Result<T>) -> std::result::Result<Response<T>, Status> {
    result.map(Response::new).map_err(|e| to_status(&e))
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn put(&self, request: Request<pb::PutRequest>) -> std::result::Result<Response<pb::PutReply>, Status> {
        let charge = charge_of(&request);
        let arrival = arrival(&self.ctx, request.metadata(), &charge);
        reply(self.do_put(request.into_inner(), arrival).await)
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> std::result::Result<Response<pb::GetReply>, Status> {
        let charge = charge_of(&request);
        let arrival = arrival(&self.ctx, request.metadata(), &charge);
        reply(self.do_get(request.into_inner(), arrival).await)
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> std::result::Result<Response<pb::DeleteReply>, Status> {
        let charge = charge_of(&request);
        let arrival = arrival(&self.ctx, request.metadata(), &charge);
        reply(self.do_delete(request.into_inner(), arrival).await)
    }

    async fn scan(&self, request: Request<pb::ScanRequest>) -> std::result::Result<Response<pb::ScanReply>, Status> {
        let charge = charge_of(&request);
        let arrival = arrival(&self.ctx, request.metadata(), &charge);
        reply(self.do_scan(request.into_inner(), arrival).await)
    }

    async fn transact(
        &self,
        request: Request<pb::TransactRequest>,
    ) -> std::result::Result<Response<pb::TransactReply>, Status> {
        let charge = charge_of(&request);
        let arrival = arrival(&self.ctx, request.metadata(), &charge);
        reply(self.do_transact(request.into_inner(), arrival).await)
    }

    type PipelineStream = BoxStream<'static, std::result::Result<pb::PipelineReply, Status>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<pb::PipelineRequest>>,
    ) -> std::result::Result<Response<Self::PipelineStream>, Status> {
        Ok(Response::new(pipeline::answers(self, request.into_inner()).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read() {
        assert_eq!(parse_timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse_timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse_timeout("5u"), Some(Duration::from_micros(5)));
        assert_eq!(parse_timeout("S"), None);
        assert_eq!(parse_timeout("10x"), None);
        assert_eq!(parse_timeout(""), None);
    }

    #[test]
    fn pages_continue_after_the_last_row() {
        let all = KeyRange::all();
        assert_eq!(resume(all.clone(), resume_key(&"b".into(), false), false).unwrap().start, "b\0");
        let back = resume(all, resume_key(&"b".into(), true), true).unwrap();
        assert!(back.contains(b"a") && !back.contains(b"b"));
    }

    #[test]
    fn a_page_token_of_an_unknown_format_is_refused() {
        let token = internal::PageToken { format: 9, ..internal::PageToken::default() };
        assert!(decode_page_token(&token.encode_to_vec().into()).is_err());
        assert!(decode_page_token(&Bytes::from_static(b"\xff\xff")).is_err());
        assert_eq!(decode_page_token(&Bytes::new()).unwrap(), None);
    }
}
