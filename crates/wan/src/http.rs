//! One HTTP request over a connection of its own: how clients of both controls ask.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// The largest answer taken.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A request that was not answered.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody listens.
    #[error("it cannot be reached: {0}")]
    Connect(#[from] std::io::Error),
    /// No answer in time.
    #[error("it took longer than {0:?}")]
    Timeout(std::time::Duration),
    /// The conversation broke.
    #[error("it broke off: {0}")]
    Http(#[from] hyper::Error),
    /// The answer is too long, or not what was asked for.
    #[error("its answer makes no sense: {0}")]
    Answer(Box<dyn std::error::Error + Send + Sync>),
}

/// Sends a request with a JSON body and takes the answer.
pub(crate) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    host: String,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), HttpError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .expect("method, path and headers are well formed");
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok::<_, HttpError>((status, body.map_err(HttpError::Answer)?.to_bytes()))
    };
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection ends when the response is complete; what it has read is still to be taken.
        ended = &mut connection => { ended?; answer.await }
    }
}
