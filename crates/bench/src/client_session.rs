//! The harness's [`Session`] over the Rust client.

use crate::request::{Answer, Failure, Request, Row, Session};
use meridian_client::{CausalityToken, Error, KeyRange, Reply, ScanOptions, Transaction};

/// One client session.
#[derive(Debug)]
pub struct ClientSession(meridian_client::Session);

impl ClientSession {
    /// Drives this session.
    pub fn new(session: meridian_client::Session) -> Self {
        Self(session)
    }
}

impl Session for ClientSession {
    fn token(&self) -> CausalityToken {
        self.0.token()
    }

    async fn call(&mut self, table: &str, request: Request) -> Result<Answer, Failure> {
        let session = &self.0;
        let reply = match request {
            Request::Get { key, consistency } => {
                session.get(table, key, consistency).await.map(|reply| reply.map(|row| row.into_iter().collect()))
            }
            Request::Put { key, value } => session.put(table, key, value).await.map(nothing),
            Request::Delete { key } => session.delete(table, key).await.map(nothing),
            Request::Scan { start, rows, consistency } => {
                let range = KeyRange { start, end: None };
                session
                    .scan(table, ScanOptions { range, limit: rows, consistency, ..ScanOptions::default() })
                    .collect()
                    .await
            }
            Request::PutIfVersion { key, version, value } => {
                let transaction = Transaction::new().if_version(key.clone(), version).put(key, value);
                session.transact(table, &transaction).await
            }
        };
        reply.map(answer).map_err(failure)
    }
}

fn nothing(reply: Reply<()>) -> Reply<Vec<meridian_client::Row>> {
    reply.map(|()| Vec::new())
}

fn answer(reply: Reply<Vec<meridian_client::Row>>) -> Answer {
    let row = |row: meridian_client::Row| Row { key: row.key, value: row.value, version: row.version };
    Answer {
        timestamp: reply.timestamp,
        served_in: reply.region,
        staleness: reply.staleness,
        token: reply.token,
        attempts: reply.attempts,
        rows: reply.value.into_iter().map(row).collect(),
    }
}

fn failure(error: Error) -> Failure {
    Failure { attempts: error.attempts, error: error.cause }
}
