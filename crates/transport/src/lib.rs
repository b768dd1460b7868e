//! How a call reaches another process.
//!
//! This crate alone knows that a gRPC call need not travel over TCP. Whoever makes connections is given a [`Connect`]:
//! [`Tcp`] in every real process, a simulated network in tests. Everything above, codecs, services, retries and
//! deadlines, is the same code on both.
//!
//! * [`Channel`]: a connection, [`Meter`]: what went over it, and [`keep_steady`]: its congestion control.
//! * [`Calls`] and [`Answers`]: many calls over one long-lived stream, in batches.

mod answers;
mod calls;
mod congestion;
mod meter;
#[cfg(test)]
mod tests;

pub use answers::{Answers, Begun, Done, Limits};
pub use calls::{Calls, Failed, Incoming, Outgoing, Sending};
pub use congestion::keep_steady;
pub use meter::Meter;

use meter::MeteredConnector;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::transport::Endpoint;
use tower_service::Service;

/// Why a call failed underneath gRPC. A cause of type [`tonic::ConnectError`] proves that nothing was sent.
pub type CallError = Box<dyn std::error::Error + Send + Sync>;
/// What a call comes to.
pub type CallResult = Result<http::Response<Body>, CallError>;
/// A call under way.
pub type BoxCall = Pin<Box<dyn Future<Output = CallResult> + Send>>;

/// Makes connections.
pub trait Connect: Send + Sync + Debug {
    /// A connection to this endpoint, whose bytes `meter` counts if they travel over TCP. Does not wait: it is established by
    /// its first call, and again after it broke.
    fn connect(&self, endpoint: &Endpoint, meter: &Meter) -> Channel;
}

/// Real connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Connect for Tcp {
    fn connect(&self, endpoint: &Endpoint, meter: &Meter) -> Channel {
        let connector = MeteredConnector::new(endpoint, meter);
        Channel(Way::Tcp(endpoint.connect_with_connector_lazy(connector)))
    }
}

/// Real connections, as they are passed around.
pub fn tcp() -> Arc<dyn Connect> {
    Arc::new(Tcp)
}

/// Carries calls by other means than TCP.
pub trait Carry: Send + Sync + Debug {
    /// Sends a request. Dropping the call cancels it, as far as the other side has not answered yet.
    fn call(&self, request: http::Request<Body>) -> BoxCall;
}

/// A connection to one process. Clones share it.
#[derive(Clone, Debug)]
pub struct Channel(Way);

#[derive(Clone, Debug)]
enum Way {
    Tcp(tonic::transport::Channel),
    Other(Arc<dyn Carry>),
}

impl Channel {
    /// A connection by other means.
    pub fn carried(by: Arc<dyn Carry>) -> Self {
        Self(Way::Other(by))
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = CallError;
    type Future = Call;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        match &mut self.0 {
            Way::Tcp(channel) => channel.poll_ready(cx).map_err(Into::into),
            Way::Other(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: http::Request<Body>) -> Call {
        Call(match &mut self.0 {
            Way::Tcp(channel) => Under::Tcp(channel.call(request)),
            Way::Other(carrier) => Under::Other(carrier.call(request)),
        })
    }
}

/// The future of a call on a [`Channel`].
#[must_use = "a call is not made until it is awaited"]
pub struct Call(Under);

enum Under {
    Tcp(tonic::transport::channel::ResponseFuture),
    Other(BoxCall),
}

impl Future for Call {
    type Output = CallResult;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CallResult> {
        match &mut self.0 {
            Under::Tcp(call) => Pin::new(call).poll(cx).map_err(Into::into),
            Under::Other(call) => call.as_mut().poll(cx),
        }
    }
}
