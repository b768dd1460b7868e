//! The load generator's session over etcd's public API: plain unary calls, without retries.

use bytes::Bytes;
use meridian_bench::{Answer, Failure, Request, Row, Session};
use meridian_types::{CausalityToken, Consistency, Error, Reason, Timestamp};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Code generated from `proto/etcd.proto`.
pub(super) mod pb {
    #![expect(unreachable_pub, reason = "generated")]
    tonic::include_proto!("etcdserverpb");
}

/// A client of etcd's service `KV`; clones share its connection.
pub(crate) type KvClient = pb::kv_client::KvClient<Channel>;

/// As long as the Meridian client gives an operation.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One client of one member.
#[derive(Clone, Debug)]
pub(crate) struct EtcdSession(KvClient);

impl EtcdSession {
    /// Over this connection.
    pub(crate) fn new(client: KvClient) -> Self {
        Self(client)
    }

    /// The newest value of a key, as of when the call began or later: etcd confirms its leader first.
    async fn get(&mut self, key: Bytes) -> Result<Answer, Status> {
        let request = pb::RangeRequest { key, serializable: false, ..pb::RangeRequest::default() };
        let reply = self.0.range(timed(request)).await?.into_inner();
        let row = |kv: pb::KeyValue| Row { key: kv.key, value: kv.value, version: revision(kv.mod_revision) };
        let rows = reply.kvs.into_iter().map(row).collect();
        Ok(Answer { rows, ..answer(reply.header) })
    }

    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<Answer, Status> {
        let request = pb::PutRequest { key, value, ..pb::PutRequest::default() };
        let reply = self.0.put(timed(request)).await?.into_inner();
        Ok(answer(reply.header))
    }
}

impl Session for EtcdSession {
    fn token(&self) -> CausalityToken {
        CausalityToken::default()
    }

    async fn call(&mut self, _table: &str, request: Request) -> Result<Answer, Failure> {
        match request {
            Request::Get { key, consistency: Consistency::Linearizable } => {
                self.get(key).await.map_err(|status| failure(&status, Reason::NoQuorum))
            }
            Request::Put { key, value } => {
                self.put(key, value).await.map_err(|status| failure(&status, Reason::OutcomeUnknown))
            }
            other => {
                let message = format!("the comparison has no such request: {other:?}");
                Err(Failure { error: Error::new(Reason::BadRequest, message), attempts: 0 })
            }
        }
    }
}

fn timed<M>(message: M) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

fn answer(header: Option<pb::ResponseHeader>) -> Answer {
    Answer { timestamp: revision(header.unwrap_or_default().revision), attempts: 1, ..Answer::default() }
}

/// etcd's order of writes, in the place of a timestamp.
fn revision(number: i64) -> Timestamp {
    Timestamp(u64::try_from(number).unwrap_or_default())
}

/// A call that was not answered, or refused.
fn failure(status: &Status, lost: Reason) -> Failure {
    let reason = if status.code() == Code::ResourceExhausted { Reason::Overloaded } else { lost };
    Failure { error: Error::new(reason, format!("etcd: {status}")), attempts: 1 }
}
