//! Calls on the simulated network: the caller's channel, and the callee's service of what arrives.

use super::net::{Delivery, Frame, HostId, Net, Side};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use meridian_transport::{BoxCall, CallError, CallResult, Carry, Channel, Connect, Meter};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::AbortHandle;
use tonic::ConnectError;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tower_service::Service as _;

/// Methods whose requests are streams; all others are unary.
const STREAMING: [&str; 8] =
    ["/Append", "/Accept", "/Beat", "/TransferSnapshot", "/InstallSnapshot", "/Gossip", "/Forward", "/Pipeline"];

/// How a host makes connections.
#[derive(Clone, Debug)]
pub(crate) struct SimConnect {
    pub(crate) net: Net,
    pub(crate) from: HostId,
}

impl Connect for SimConnect {
    fn connect(&self, endpoint: &Endpoint, _: &Meter) -> Channel {
        let address = endpoint.uri().authority().map(ToString::to_string).unwrap_or_default();
        let connected = Arc::new(AtomicBool::new(false));
        Channel::carried(Arc::new(Connection { net: self.net.clone(), from: self.from, address, connected }))
    }
}

/// A connection: established by its first call, and again after it broke.
#[derive(Clone, Debug)]
struct Connection {
    net: Net,
    from: HostId,
    address: String,
    connected: Arc<AtomicBool>,
}

impl Carry for Connection {
    fn call(&self, request: http::Request<Body>) -> BoxCall {
        Box::pin(self.clone().carry(request))
    }
}

impl Connection {
    async fn carry(self, request: http::Request<Body>) -> CallResult {
        let (head, body) = request.into_parts();
        let streaming = STREAMING.iter().any(|s| head.uri.path().ends_with(s));
        let (whole, rest) = if streaming { (None, Some(body)) } else { (Some(collect(body).await?), None) };
        let (tx, mut frames) = unbounded_channel();
        let connected = self.connected.swap(true, Ordering::Relaxed);
        let call = self.net.lock().open(self.from, &self.address, connected, head, whole, tx);
        let mut line = Line { net: self.net.clone(), call, side: Side::Caller, pump: None };
        if let Some(body) = rest {
            line.pump = Some(tokio::spawn(pump(self.net.clone(), call, Side::Callee, body)).abort_handle());
        }
        loop {
            let broken: CallError = match frames.recv().await {
                Some(Frame::Response(head)) => {
                    let body = FrameBody { frames, ended: false, _line: line };
                    return Ok(http::Response::from_parts(*head, Body::new(body)));
                }
                Some(Frame::Refused(why)) => Box::new(ConnectError(why.into())),
                Some(Frame::Reset(why)) => std::io::Error::new(std::io::ErrorKind::ConnectionReset, why).into(),
                Some(Frame::Data(_) | Frame::End(_) | Frame::Request(..)) => continue,
                None => std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the call was closed").into(),
            };
            self.connected.store(false, Ordering::Relaxed);
            return Err(broken);
        }
    }
}

async fn collect(mut body: Body) -> Result<Vec<Bytes>, CallError> {
    let mut chunks = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            chunks.push(data);
        }
    }
    Ok(chunks)
}

/// Sends a body to the other side as it is made.
async fn pump(net: Net, call: u64, to: Side, mut body: Body) {
    loop {
        let frame = match body.frame().await {
            None => Frame::End(None),
            Some(Err(_)) => Frame::Reset("the sender failed"),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Frame::Data(data),
                Err(frame) => Frame::End(frame.into_trailers().ok()),
            },
        };
        let last = !matches!(frame, Frame::Data(_));
        net.lock().send(call, to, frame);
        if last {
            return;
        }
    }
}

/// One side's interest in a call. Dropping it cancels what is left of the call.
struct Line {
    net: Net,
    call: u64,
    side: Side,
    pump: Option<AbortHandle>,
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(pump) = &self.pump {
            pump.abort();
        }
        let mut net = self.net.lock();
        if let Some(call) = net.calls.get_mut(&self.call)
            && self.side == Side::Caller
        {
            call.caller = None;
            net.send(self.call, Side::Callee, Frame::Reset("the caller hung up"));
        }
    }
}

/// A body whose frames come over the network.
struct FrameBody {
    frames: UnboundedReceiver<Frame>,
    ended: bool,
    _line: Line,
}

impl http_body::Body for FrameBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let broken = |why| Some(Err(std::io::Error::new(std::io::ErrorKind::ConnectionReset, why)));
        let next = match ready!(self.frames.poll_recv(cx)) {
            Some(Frame::Data(data)) => return Poll::Ready(Some(Ok(http_body::Frame::data(data)))),
            Some(Frame::End(trailers)) => trailers.map(|t| Ok(http_body::Frame::trailers(t))),
            Some(Frame::Reset(why) | Frame::Refused(why)) => broken(why),
            Some(Frame::Request(..) | Frame::Response(_)) => broken("a head inside a body"),
            None => broken("the call was closed"),
        };
        self.ended = true;
        Poll::Ready(next)
    }
}

/// A body that arrived with its request.
struct Whole(std::vec::IntoIter<Bytes>);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.next().map(|data| Ok(http_body::Frame::data(data))))
    }
}

/// Takes in what has arrived at a host. Runs as code of that host.
pub(crate) fn deliver(net: &Net, delivery: Delivery) {
    let Delivery { call: id, side, frame, to } = delivery;
    match (side, frame) {
        (Side::Callee, Frame::Request(head, whole)) => accept(net, to, id, *head, whole),
        (Side::Callee, frame) => {
            let mut state = net.lock();
            let Some(call) = state.calls.get_mut(&id) else { return };
            if matches!(frame, Frame::Reset(_)) {
                // As HTTP/2 does it: the handler is dropped wherever it is.
                if let Some(work) = call.work.take() {
                    work.abort();
                }
                state.close(id);
            } else if let Some(callee) = &call.callee {
                // The handler has stopped reading: the rest is ignored.
                let _ = callee.send(frame);
            }
        }
        (Side::Caller, frame) => {
            let mut state = net.lock();
            let Some(call) = state.calls.get_mut(&id) else { return };
            let ends = matches!(frame, Frame::Reset(_) | Frame::Refused(_) | Frame::End(_));
            if let Some(caller) = &call.caller {
                let _ = caller.send(frame);
            }
            if ends {
                state.close(id);
            }
        }
    }
}

fn accept(net: &Net, host: HostId, id: u64, head: http::request::Parts, whole: Option<Vec<Bytes>>) {
    let Some(routes) = net.lock().routes(host) else {
        // The process runs and does not listen yet.
        net.lock().send(id, Side::Caller, Frame::Refused("connection refused"));
        return;
    };
    let (tx, frames) = unbounded_channel();
    let body = match whole {
        Some(chunks) => Body::new(Whole(chunks.into_iter())),
        None => {
            let line = Line { net: net.clone(), call: id, side: Side::Callee, pump: None };
            Body::new(FrameBody { frames, ended: false, _line: line })
        }
    };
    let request = http::Request::from_parts(head, body);
    let work = tokio::spawn(answer(net.clone(), id, routes, request));
    let mut state = net.lock();
    if let Some(call) = state.calls.get_mut(&id) {
        call.callee = Some(tx);
        call.work = Some(work.abort_handle());
    }
}

async fn answer(net: Net, id: u64, mut routes: tonic::service::Routes, request: http::Request<Body>) {
    let response = match routes.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (head, body) = response.into_parts();
    net.lock().send(id, Side::Caller, Frame::Response(Box::new(head)));
    pump(net, id, Side::Caller, body).await;
}
