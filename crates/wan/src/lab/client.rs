//! A client of a lab's control, for the command line and tests.

use super::control::LabStatus;
use super::state::LabFolder;
use super::{Host, LabError, find_host};
use crate::Place;
use crate::control::{Delay, Heal, Isolate, Partition, Refusal};
use crate::http::{HttpError, exchange};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Serialize;
use std::time::Duration;
use tokio::net::UnixStream;

/// How long a request may take: the router is on this machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Talks to a lab's router: one connection for each request.
#[derive(Clone, Debug)]
pub struct LabControl {
    folder: LabFolder,
}

impl LabControl {
    /// A client of the lab in this folder; connects at each request.
    pub fn new(folder: LabFolder) -> Self {
        Self { folder }
    }

    /// Hosts, ways and counters.
    pub async fn status(&self) -> Result<LabStatus, LabError> {
        self.ask(Method::GET, "/status", Bytes::new()).await
    }

    /// The host of this name, else the first host at the place of this name.
    pub async fn host(&self, name: &str) -> Result<Host, LabError> {
        find_host(&self.status().await?.hosts, name).cloned()
    }

    /// Cuts two places off from each other; only what goes from `a` to `b` if `one_way`.
    pub async fn partition(&self, a: Place, b: Place, one_way: bool) -> Result<LabStatus, LabError> {
        self.post("/partition", &Partition { a, b, one_way }).await
    }

    /// Cuts a place off from everything outside it.
    pub async fn isolate(&self, region: Place) -> Result<LabStatus, LabError> {
        self.post("/isolate", &Isolate { region }).await
    }

    /// Lets everything between two places through, or everything.
    pub async fn heal(&self, pair: Option<(Place, Place)>) -> Result<LabStatus, LabError> {
        let (a, b) = pair.unzip();
        self.post("/heal", &Heal { a, b }).await
    }

    /// Changes the RTT between two places.
    pub async fn set_delay(&self, a: Place, b: Place, rtt: Duration) -> Result<LabStatus, LabError> {
        self.post("/delay", &Delay { a, b, rtt_ms: rtt.as_secs_f64() * 1e3 }).await
    }

    /// Asks the router to remove the lab and to end. Returns before it has.
    pub(crate) async fn stop(&self) -> Result<(), LabError> {
        self.ask(Method::POST, "/stop", Bytes::new()).await.map(drop)
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<LabStatus, LabError> {
        let body = serde_json::to_vec(body).expect("places and numbers can always be written as JSON");
        self.ask(Method::POST, path, body.into()).await
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<LabStatus, LabError> {
        if self.folder.router()?.is_none() {
            let name = self.folder.name().to_owned();
            return Err(if self.folder.exists() { LabError::LeftOver(name) } else { LabError::NotUp(name) });
        }
        let unanswered = |source| LabError::Unanswered { name: self.folder.name().to_owned(), source };
        let asked = async {
            let stream = UnixStream::connect(self.folder.socket()).await?;
            exchange(stream, "lab".to_owned(), method, path, body).await
        };
        let answer = tokio::time::timeout(TIMEOUT, asked).await.unwrap_or(Err(HttpError::Timeout(TIMEOUT)));
        let (status, body) = answer.map_err(unanswered)?;
        if status != StatusCode::OK {
            return Err(LabError::Refused { status: status.as_u16(), message: Refusal::text(&body) });
        }
        serde_json::from_slice(&body).map_err(|e| unanswered(HttpError::Answer(e.into())))
    }
}
