//! Counting the bytes of connections, as TCP carries them: framing, headers and compression included.

use crate::congestion::keep_steady;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tonic::transport::{Endpoint, Uri};
use tower_service::Service;

/// Bytes over one connection, or over all connections of a kind. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    /// Bytes that this process has sent over connections that it made.
    pub fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Bytes that came back over them.
    pub fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }
}

/// Makes TCP connections that count.
#[derive(Clone)]
pub(crate) struct MeteredConnector {
    nodelay: bool,
    /// Until one of an endpoint's addresses has answered.
    limit: Option<Duration>,
    meter: Meter,
}

impl MeteredConnector {
    /// With the endpoint's choices for TCP; what it says of timeouts, tonic sees to.
    pub(crate) fn new(endpoint: &Endpoint, meter: &Meter) -> Self {
        Self { nodelay: endpoint.get_tcp_nodelay(), limit: endpoint.get_connect_timeout(), meter: meter.clone() }
    }
}

impl Service<Uri> for MeteredConnector {
    type Response = TokioIo<Metered>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { nodelay, limit, meter } = self.clone();
        Box::pin(async move {
            let connected = connect(&uri);
            let stream = match limit {
                Some(limit) => tokio::time::timeout(limit, connected).await.map_err(io::Error::from)??,
                None => connected.await?,
            };
            stream.set_nodelay(nodelay)?;
            Ok(TokioIo::new(Metered { stream, meter }))
        })
    }
}

/// Connects to the first address of a URI's host that answers.
///
/// Not with hyper's connector, because the congestion control has to be chosen before the connection is there: one that was
/// ever BBR's is paced for good, which holds back the first kilobytes after a pause by more than a round trip's fraction.
async fn connect(uri: &Uri) -> io::Result<TcpStream> {
    let host = uri.host().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an address without a host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut refused = io::Error::new(io::ErrorKind::NotFound, "a host without an address");
    for address in tokio::net::lookup_host((host, uri.port_u16().unwrap_or(80))).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Err(e) = keep_steady(&socket) {
            // It works all the same.
            tracing::debug!("a connection keeps the system's congestion control: {e}");
        }
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => refused = e,
        }
    }
    Err(refused)
}

/// A TCP connection whose bytes are counted.
pub(crate) struct Metered {
    stream: TcpStream,
    meter: Meter,
}

impl Metered {
    fn wrote(&self, bytes: io::Result<usize>) -> Poll<io::Result<usize>> {
        if let Ok(bytes) = bytes {
            self.meter.0.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        Poll::Ready(bytes)
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let bytes = (buffer.filled().len() - before) as u64;
        self.meter.0.received.fetch_add(bytes, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bytes));
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn both_directions_are_counted_over_all_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 5];
                stream.read_exact(&mut asked).await.unwrap();
                stream.write_all(b"an answer").await.unwrap();
            }
        });
        let meter = Meter::default();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        for _ in 0..2 {
            let mut connector = MeteredConnector::new(&endpoint, &meter);
            std::future::poll_fn(|cx| connector.poll_ready(cx)).await.unwrap();
            let mut stream = connector.call(endpoint.uri().clone()).await.unwrap().into_inner();
            let parts = [IoSlice::new(b"he"), IoSlice::new(b"ll")];
            assert_eq!(stream.write_vectored(&parts).await.unwrap(), 4);
            stream.write_all(b"o").await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
        }
        server.await.unwrap();
        assert_eq!((meter.sent(), meter.received()), (10, 18));
    }
}
