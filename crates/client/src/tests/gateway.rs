//! A gateway on a loopback port that does what a script says and remembers what it was asked.

use crate::{ClientConfig, Gateway, RetryPolicy};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use meridian_proto::v1::cluster_server::{Cluster, ClusterServer};
use meridian_proto::v1::kv_server::{Kv, KvServer};
use meridian_proto::v1::operation_reply::Reply;
use meridian_proto::v1::tables_server::{Tables, TablesServer};
use meridian_proto::v1::{self as pb, operation};
use meridian_transport::{Answers, Begun, Done, Limits};
use meridian_types::{CausalityToken, Error, Reason, Timestamp};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// What happens to one request.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// It succeeds at this timestamp.
    Commit(u64),
    /// It fails with this reason and its usual fate.
    Fail(Reason),
    /// A status that no Meridian node makes.
    Foreign(tonic::Code),
    /// It is received, and then the connection breaks.
    Cut,
    /// It is received and never answered.
    Hang,
}

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Asked {
    Write(pb::RequestId),
    Read(pb::Consistency),
    Create,
}

/// The script of one gateway; when it has run out, everything succeeds at the timestamp after the last one.
#[derive(Debug, Default)]
pub(super) struct Script {
    steps: Mutex<VecDeque<Step>>,
    asked: Mutex<Vec<Asked>>,
    last_ts: Mutex<u64>,
    cut: Notify,
    /// It knows no stream of operations.
    calls_only: bool,
    /// Operations that came on a stream.
    streamed: Mutex<usize>,
}

/// The gateway; it stops with the runtime.
pub(super) struct ScriptedGateway {
    pub(super) address: String,
    pub(super) script: Arc<Script>,
    relay: tokio::task::JoinHandle<()>,
}

impl ScriptedGateway {
    pub(super) async fn start(region: &str, steps: impl IntoIterator<Item = Step>) -> Self {
        Self::start_with(region, Script { steps: Mutex::new(steps.into_iter().collect()), ..Script::default() }).await
    }

    /// One that knows calls and no stream.
    pub(super) async fn start_old(region: &str) -> Self {
        Self::start_with(region, Script { calls_only: true, ..Script::default() }).await
    }

    async fn start_with(region: &str, script: Script) -> Self {
        let script = Arc::new(script);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = listener.local_addr().unwrap();
        let service = Service { script: script.clone(), region: region.to_owned() };
        let server = tonic::transport::Server::builder()
            .add_service(KvServer::new(service.clone()))
            .add_service(TablesServer::new(service.clone()))
            .add_service(ClusterServer::new(service));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap().to_string();
        let relay = tokio::spawn(relay(front, behind, script.clone()));
        Self { address, script, relay }
    }

    /// Stops listening and breaks all connections.
    pub(super) async fn stop(self) {
        self.relay.abort();
        assert!(self.relay.await.unwrap_err().is_cancelled());
        self.script.cut.notify_waiters();
    }

    pub(super) fn gateway(&self) -> Gateway {
        Gateway::new(&self.address)
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().unwrap().clone()
    }

    /// How many operations came on a stream.
    pub(super) fn streamed(&self) -> usize {
        *self.script.streamed.lock().unwrap()
    }
}

/// A configuration whose pauses suit a test.
pub(super) fn config(gateways: &[&ScriptedGateway]) -> ClientConfig {
    let mut config = ClientConfig::new(gateways.iter().map(|g| g.gateway()).collect());
    config.retry = RetryPolicy {
        attempts_max: 6,
        backoff_base: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        attempt_timeout: Duration::from_millis(500),
    };
    config
}

/// Carries bytes between the client and the server; a cut drops both sides at once.
async fn relay(front: TcpListener, behind: std::net::SocketAddr, script: Arc<Script>) {
    while let Ok((mut near, _)) = front.accept().await {
        let script = script.clone();
        tokio::spawn(async move {
            let mut far = TcpStream::connect(behind).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                () = script.cut.notified() => {}
            }
        });
    }
}

#[derive(Clone)]
struct Service {
    script: Arc<Script>,
    region: String,
}

impl Service {
    async fn answer(&self, asked: Asked) -> Result<Option<pb::ReplyHeader>, Status> {
        self.script.asked.lock().unwrap().push(asked);
        let step = self.script.steps.lock().unwrap().pop_front();
        match step {
            None => {
                let ts = *self.script.last_ts.lock().unwrap() + 1;
                Ok(Some(self.header(ts)))
            }
            Some(Step::Commit(ts)) => Ok(Some(self.header(ts))),
            Some(Step::Fail(reason)) => Err(meridian_wire::status::to_status(&Error::new(reason, "by script"))),
            Some(Step::Foreign(code)) => Err(Status::new(code, "from elsewhere")),
            Some(Step::Cut) => {
                self.script.cut.notify_waiters();
                std::future::pending().await
            }
            Some(Step::Hang) => std::future::pending().await,
        }
    }

    fn header(&self, ts: u64) -> pb::ReplyHeader {
        *self.script.last_ts.lock().unwrap() = ts;
        let token = Bytes::from(CausalityToken(Timestamp(ts)).to_bytes());
        pb::ReplyHeader { timestamp: ts, served_by: 1, region: self.region.clone(), token, ..Default::default() }
    }
}

fn write(header: &Option<pb::RequestHeader>) -> Asked {
    Asked::Write(header.as_ref().and_then(|h| h.request_id).expect("a write has a request id"))
}

fn read(consistency: &Option<pb::Consistency>) -> Asked {
    Asked::Read(consistency.clone().expect("the client says the consistency"))
}

#[tonic::async_trait]
impl Kv for Service {
    async fn put(&self, r: Request<pb::PutRequest>) -> Result<Response<pb::PutReply>, Status> {
        let header = self.answer(write(&r.get_ref().header)).await?;
        Ok(Response::new(pb::PutReply { header }))
    }

    async fn get(&self, r: Request<pb::GetRequest>) -> Result<Response<pb::GetReply>, Status> {
        let header = self.answer(read(&r.get_ref().consistency)).await?;
        Ok(Response::new(pb::GetReply { header, row: None }))
    }

    async fn delete(&self, r: Request<pb::DeleteRequest>) -> Result<Response<pb::DeleteReply>, Status> {
        let header = self.answer(write(&r.get_ref().header)).await?;
        Ok(Response::new(pb::DeleteReply { header }))
    }

    /// Three rows in all, one a page; the page token is the next row's number.
    async fn scan(&self, r: Request<pb::ScanRequest>) -> Result<Response<pb::ScanReply>, Status> {
        let request = r.into_inner();
        let header = self.answer(read(&request.consistency)).await?;
        let n = request.page_token.first().copied().unwrap_or(0);
        let rows = vec![pb::Row { key: Bytes::from(vec![n]), value: Bytes::new(), version: 1 }];
        let next_page_token = if n < 2 { Bytes::from(vec![n + 1]) } else { Bytes::new() };
        Ok(Response::new(pb::ScanReply { header, rows, next_page_token }))
    }

    async fn transact(&self, r: Request<pb::TransactRequest>) -> Result<Response<pb::TransactReply>, Status> {
        let header = self.answer(write(&r.get_ref().header)).await?;
        Ok(Response::new(pb::TransactReply { header, reads: vec![] }))
    }

    type PipelineStream = BoxStream<'static, Result<pb::PipelineReply, Status>>;

    async fn pipeline(
        &self,
        messages: Request<Streaming<pb::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        if self.script.calls_only {
            return Err(Status::unimplemented("an old gateway"));
        }
        let this = self.clone();
        let begin = move |message: pb::PipelineRequest| {
            let work = message.operations.into_iter().map(|o| (o.number, 1, this.clone().operate(o)));
            Begun { work: work.collect(), dropped: message.dropped }
        };
        let encode = |replies| pb::PipelineReply { replies };
        let stop = Box::pin(std::future::pending());
        Ok(Response::new(Answers::new(messages.into_inner(), Limits::default(), begin, encode, stop).boxed()))
    }
}

impl Service {
    /// Answers an operation of a stream as it answers a call.
    async fn operate(self, operation: pb::Operation) -> Done<pb::OperationReply> {
        *self.script.streamed.lock().unwrap() += 1;
        let pb::Operation { number, timeout_ns, request } = operation;
        assert!(timeout_ns > 0, "the client says how long it waits");
        let reply = match request.expect("an operation asks for something") {
            operation::Request::Put(r) => self.put(Request::new(r)).await.map(|r| Reply::Put(r.into_inner())),
            operation::Request::Get(r) => self.get(Request::new(r)).await.map(|r| Reply::Get(r.into_inner())),
            operation::Request::Delete(r) => self.delete(Request::new(r)).await.map(|r| Reply::Delete(r.into_inner())),
            operation::Request::Scan(r) => self.scan(Request::new(r)).await.map(|r| Reply::Scan(r.into_inner())),
            operation::Request::Transact(r) => {
                self.transact(Request::new(r)).await.map(|r| Reply::Transact(r.into_inner()))
            }
        };
        let failed = |status: Status| {
            let details = Bytes::copy_from_slice(status.details());
            let (code, message) = (i32::from(status.code()), status.message().to_owned());
            Reply::Failed(pb::OperationStatus { code, message, details })
        };
        let reply = Some(reply.unwrap_or_else(failed));
        Done { number, bytes: 1, answer: pb::OperationReply { number, reply } }
    }
}

#[tonic::async_trait]
impl Tables for Service {
    async fn create_table(&self, _: Request<pb::CreateTableRequest>) -> Result<Response<pb::CreateTableReply>, Status> {
        self.answer(Asked::Create).await?;
        Ok(Response::new(pb::CreateTableReply { table: Some(pb::Table::default()) }))
    }

    async fn list_tables(&self, _: Request<pb::ListTablesRequest>) -> Result<Response<pb::ListTablesReply>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn describe_table(
        &self,
        _: Request<pb::DescribeTableRequest>,
    ) -> Result<Response<pb::DescribeTableReply>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn drop_table(&self, _: Request<pb::DropTableRequest>) -> Result<Response<pb::DropTableReply>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn get_status(&self, _: Request<pb::GetStatusRequest>) -> Result<Response<pb::GetStatusReply>, Status> {
        let node = pb::NodeStatus { node: 1, region: self.region.clone(), ..Default::default() };
        Ok(Response::new(pb::GetStatusReply { served_by: 1, nodes: vec![node], ..Default::default() }))
    }

    async fn transfer_leader(
        &self,
        _: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderReply>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
}
