//! A client of the control server, for the command line and tests.

use crate::control::{Delay, Heal, Isolate, Links, Partition, Refusal};
use crate::http::{HttpError, exchange};
use crate::{LinkStatus, Place};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a request may take: the server is on this machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A control request that failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody answers at the address.
    #[error("link control at {0} cannot be reached: {1}; is `meridian dev` running?")]
    Unreachable(SocketAddr, std::io::Error),
    /// No answer in time.
    #[error("link control at {0} did not answer within {TIMEOUT:?}")]
    Timeout(SocketAddr),
    /// The conversation broke, or the answer is not what a control server says.
    #[error("link control did not answer: {0}")]
    Http(#[from] HttpError),
    /// The server refused the request.
    #[error("link control refused ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What to do.
        message: String,
    },
}

/// Talks to a control server: one connection for each request.
#[derive(Clone, Copy, Debug)]
pub struct WanControl {
    address: SocketAddr,
}

impl WanControl {
    /// A client of the server at this address; connects at the first request.
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// All links.
    pub async fn links(&self) -> Result<Vec<LinkStatus>, ControlError> {
        self.ask(Method::GET, "/links", Bytes::new()).await
    }

    /// Blocks both directions between two places.
    pub async fn partition(&self, a: Place, b: Place) -> Result<Vec<LinkStatus>, ControlError> {
        self.post("/partition", &Partition { a, b, one_way: false }).await
    }

    /// Blocks what goes from `a` to `b`.
    pub async fn partition_one_way(&self, a: Place, b: Place) -> Result<Vec<LinkStatus>, ControlError> {
        self.post("/partition", &Partition { a, b, one_way: true }).await
    }

    /// Cuts a place off from everything outside it.
    pub async fn isolate(&self, region: Place) -> Result<Vec<LinkStatus>, ControlError> {
        self.post("/isolate", &Isolate { region }).await
    }

    /// Lets everything between two places through.
    pub async fn heal(&self, a: Place, b: Place) -> Result<Vec<LinkStatus>, ControlError> {
        self.post("/heal", &Heal { a: Some(a), b: Some(b) }).await
    }

    /// Lets everything through.
    pub async fn heal_all(&self) -> Result<Vec<LinkStatus>, ControlError> {
        self.post("/heal", &Heal { a: None, b: None }).await
    }

    /// Changes the RTT between two places.
    pub async fn set_delay(&self, a: Place, b: Place, rtt: Duration) -> Result<Vec<LinkStatus>, ControlError> {
        self.post("/delay", &Delay { a, b, rtt_ms: rtt.as_secs_f64() * 1e3 }).await
    }

    async fn post(&self, path: &str, body: &impl serde::Serialize) -> Result<Vec<LinkStatus>, ControlError> {
        let body = serde_json::to_vec(body).map_err(|e| HttpError::Answer(e.into()))?;
        self.ask(Method::POST, path, body.into()).await
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Vec<LinkStatus>, ControlError> {
        tokio::time::timeout(TIMEOUT, self.exchange(method, path, body))
            .await
            .unwrap_or(Err(ControlError::Timeout(self.address)))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Vec<LinkStatus>, ControlError> {
        let stream = TcpStream::connect(self.address).await.map_err(|e| ControlError::Unreachable(self.address, e))?;
        let (status, body) = exchange(stream, self.address.to_string(), method, path, body).await?;
        if status == StatusCode::OK {
            let links: Links = serde_json::from_slice(&body).map_err(|e| HttpError::Answer(e.into()))?;
            return Ok(links.links);
        }
        Err(ControlError::Refused { status: status.as_u16(), message: Refusal::text(&body) })
    }
}
