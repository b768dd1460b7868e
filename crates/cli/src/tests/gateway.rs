//! A gateway that keeps rows in memory: enough of the API for the commands, with pages of two rows.

use bytes::Bytes;
use meridian_proto::v1::cluster_server::{Cluster, ClusterServer};
use meridian_proto::v1::kv_server::{Kv, KvServer};
use meridian_proto::v1::precondition::Condition;
use meridian_proto::v1::tables_server::{Tables, TablesServer};
use meridian_proto::v1::write_op::Action;
use meridian_proto::v1::{self as pb};
use meridian_types::{CausalityToken, Error, Reason, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// Rows in a page.
const PAGE: usize = 2;

#[derive(Debug, Default)]
struct State {
    tables: BTreeMap<String, BTreeMap<Bytes, Bytes>>,
    clock: u64,
    /// Consistency of the last read.
    asked: Option<pb::Consistency>,
    /// Its latency budget.
    within: Option<pb::Within>,
    /// Puts of this key lose their answer.
    loses: Option<Bytes>,
}

/// The gateway; it stops with the runtime.
#[derive(Clone)]
pub(super) struct MemoryGateway {
    pub(super) address: String,
    state: Arc<Mutex<State>>,
}

impl MemoryGateway {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let gateway = Self { address, state: Arc::default() };
        let server = tonic::transport::Server::builder()
            .add_service(KvServer::new(gateway.clone()))
            .add_service(TablesServer::new(gateway.clone()))
            .add_service(ClusterServer::new(gateway.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        gateway
    }

    pub(super) fn value(&self, table: &str, key: &str) -> Option<String> {
        let state = self.state.lock().unwrap();
        let value = state.tables.get(table)?.get(key.as_bytes())?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    pub(super) fn rows(&self, table: &str) -> usize {
        self.state.lock().unwrap().tables[table].len()
    }

    pub(super) fn last_read(&self) -> pb::Consistency {
        self.state.lock().unwrap().asked.clone().unwrap()
    }

    pub(super) fn last_budget(&self) -> Option<pb::Within> {
        self.state.lock().unwrap().within.clone()
    }

    /// From now on nobody learns what became of a put of this key.
    pub(super) fn lose_answers(&self, key: &'static str) {
        self.state.lock().unwrap().loses = Some(key.into());
    }

    fn run<T>(&self, action: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<Response<T>, Status> {
        let mut state = self.state.lock().unwrap();
        action(&mut state).map(Response::new).map_err(|e| meridian_wire::status::to_status(&e))
    }
}

impl State {
    fn table(&mut self, name: &str) -> Result<&mut BTreeMap<Bytes, Bytes>, Error> {
        self.tables.get_mut(name).ok_or_else(|| Error::new(Reason::UnknownTable, format!("no table {name}")))
    }

    fn header(&mut self, timestamp: Option<u64>) -> Option<pb::ReplyHeader> {
        self.clock += 1;
        let timestamp = timestamp.unwrap_or(self.clock);
        let token = CausalityToken(Timestamp(timestamp)).to_bytes().into();
        Some(pb::ReplyHeader { timestamp, served_by: 1, region: "us".into(), token, ..Default::default() })
    }
}

fn row(key: &Bytes, value: &Bytes) -> pb::Row {
    pb::Row { key: key.clone(), value: value.clone(), version: 1 }
}

#[tonic::async_trait]
impl Kv for MemoryGateway {
    type PipelineStream = tokio_stream::Empty<Result<pb::PipelineReply, Status>>;

    async fn pipeline(
        &self,
        _: Request<Streaming<pb::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        Err(Status::unimplemented("this gateway takes calls"))
    }

    async fn put(&self, r: Request<pb::PutRequest>) -> Result<Response<pb::PutReply>, Status> {
        let put = r.into_inner();
        self.run(|state| {
            let lost = state.loses.as_ref() == Some(&put.key);
            state.table(&put.table)?.insert(put.key, put.value);
            if lost {
                return Err(Error::new(Reason::OutcomeUnknown, "lost"));
            }
            Ok(pb::PutReply { header: state.header(None) })
        })
    }

    async fn get(&self, r: Request<pb::GetRequest>) -> Result<Response<pb::GetReply>, Status> {
        let get = r.into_inner();
        self.run(|state| {
            (state.asked, state.within) = (get.consistency, get.within);
            let row = state.table(&get.table)?.get(&get.key).map(|v| row(&get.key, v));
            Ok(pb::GetReply { header: state.header(None), row })
        })
    }

    async fn delete(&self, r: Request<pb::DeleteRequest>) -> Result<Response<pb::DeleteReply>, Status> {
        let delete = r.into_inner();
        self.run(|state| {
            state.table(&delete.table)?.remove(&delete.key);
            Ok(pb::DeleteReply { header: state.header(None) })
        })
    }

    /// The page token is the scan's timestamp and the number of rows given so far.
    async fn scan(&self, r: Request<pb::ScanRequest>) -> Result<Response<pb::ScanReply>, Status> {
        let scan = r.into_inner();
        self.run(|state| {
            (state.asked, state.within) = (scan.consistency, scan.within);
            let (ts, given) = match scan.page_token[..] {
                [] => (None, 0),
                [ts, given] => (Some(u64::from(ts)), usize::from(given)),
                _ => return Err(Error::new(Reason::BadRequest, "not a page token")),
            };
            let range = meridian_wire::range::decode(scan.start, scan.end)?;
            let header = state.header(ts);
            let mut rows: Vec<_> =
                state.table(&scan.table)?.iter().filter(|(k, _)| range.contains(k)).map(|(k, v)| row(k, v)).collect();
            if scan.reverse {
                rows.reverse();
            }
            let more = rows.len() > given + PAGE;
            let page = rows.into_iter().skip(given).take(PAGE).collect();
            let ts = header.as_ref().map_or(0, |h| u8::try_from(h.timestamp).unwrap());
            let next_page_token =
                if more { vec![ts, u8::try_from(given + PAGE).unwrap()].into() } else { Bytes::new() };
            Ok(pb::ScanReply { header, rows: page, next_page_token })
        })
    }

    async fn transact(&self, r: Request<pb::TransactRequest>) -> Result<Response<pb::TransactReply>, Status> {
        let txn = r.into_inner();
        self.run(|state| {
            let table = state.table(&txn.table)?;
            for precondition in &txn.preconditions {
                let found = table.get(&precondition.key);
                let holds = match &precondition.condition {
                    Some(Condition::Value(value)) => found == Some(value),
                    Some(Condition::Exists(exists)) => found.is_some() == *exists,
                    Some(Condition::Version(_)) | None => false,
                };
                if !holds {
                    return Err(Error::new(Reason::PreconditionFailed, "a precondition did not hold"));
                }
            }
            let reads = txn.reads.iter().filter_map(|k| table.get(k).map(|v| row(k, v))).collect();
            for write in txn.writes {
                match write.action {
                    Some(Action::Put(value)) => drop(table.insert(write.key, value)),
                    Some(Action::Delete(_)) | None => drop(table.remove(&write.key)),
                }
            }
            Ok(pb::TransactReply { header: state.header(None), reads })
        })
    }
}

#[tonic::async_trait]
impl Tables for MemoryGateway {
    async fn create_table(&self, r: Request<pb::CreateTableRequest>) -> Result<Response<pb::CreateTableReply>, Status> {
        let name = r.into_inner().name;
        self.run(|state| {
            if state.tables.insert(name.clone(), BTreeMap::new()).is_some() {
                return Err(Error::new(Reason::TableExists, "the table exists"));
            }
            Ok(pb::CreateTableReply { table: Some(pb::Table { name, ..Default::default() }) })
        })
    }

    async fn list_tables(&self, _: Request<pb::ListTablesRequest>) -> Result<Response<pb::ListTablesReply>, Status> {
        self.run(|state| {
            let tables = state.tables.keys().map(|name| pb::Table { name: name.clone(), ..Default::default() });
            Ok(pb::ListTablesReply { tables: tables.collect() })
        })
    }

    async fn describe_table(
        &self,
        r: Request<pb::DescribeTableRequest>,
    ) -> Result<Response<pb::DescribeTableReply>, Status> {
        let name = r.into_inner().name;
        self.run(|state| {
            state.table(&name)?;
            Ok(pb::DescribeTableReply { table: Some(pb::Table { name, ..Default::default() }) })
        })
    }

    async fn drop_table(&self, r: Request<pb::DropTableRequest>) -> Result<Response<pb::DropTableReply>, Status> {
        let name = r.into_inner().name;
        self.run(|state| {
            state.table(&name)?;
            state.tables.remove(&name);
            Ok(pb::DropTableReply {})
        })
    }
}

#[tonic::async_trait]
impl Cluster for MemoryGateway {
    async fn get_status(&self, _: Request<pb::GetStatusRequest>) -> Result<Response<pb::GetStatusReply>, Status> {
        let node = pb::NodeStatus { node: 1, region: "us".into(), reachable: true, ..Default::default() };
        Ok(Response::new(pb::GetStatusReply { served_by: 1, nodes: vec![node], ..Default::default() }))
    }

    async fn transfer_leader(
        &self,
        _: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderReply>, Status> {
        Ok(Response::new(pb::TransferLeaderReply {}))
    }
}
