//! Counters of the servers themselves, from their metrics in Prometheus' text format.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a server may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// All metrics of one server at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// Asks `http://ADDRESS/metrics`.
    pub(crate) async fn fetch(address: &str) -> anyhow::Result<Self> {
        let answer = tokio::time::timeout(TIMEOUT, get(address)).await;
        let text = answer.map_err(anyhow::Error::from).flatten();
        text.map(Self).with_context(|| format!("cannot read the metrics of {address}"))
    }

    /// The sum of all series of this name; `None` if there is none.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            // Not a longer name.
            let value = match rest.strip_prefix('{') {
                Some(labelled) => labelled.rsplit_once('}')?.1,
                None => rest.strip_prefix(' ')?,
            };
            value.split_whitespace().next()?.parse::<f64>().ok()
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }
}

async fn get(address: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/metrics").header(header::HOST, address).body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?;
        Ok::<_, anyhow::Error>((status, body.to_bytes()))
    };
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    let (status, body) = tokio::select! {
        biased;
        answer = &mut answer => answer?,
        // The connection ends when the response is complete; what it has read is still to be taken.
        ended = &mut connection => { ended?; answer.await? }
    };
    if status != StatusCode::OK {
        bail!("the server answered {status}");
    }
    Ok(String::from_utf8(body.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP wal_syncs syncs
# TYPE wal_syncs counter
wal_syncs_total 99
wal_syncs{node=\"1\",note=\"a } in a label\"} 12
wal_syncs{node=\"2\"} 1.5e+01
is_leader 1
empty_label{} 3 1700000000000
broken one two
";

    #[test]
    fn series_of_exactly_this_name_are_summed() {
        let metrics = Metrics(TEXT.to_owned());
        assert_eq!(metrics.sum("wal_syncs"), Some(27.0));
        assert_eq!(metrics.sum("wal_syncs_total"), Some(99.0));
        assert_eq!(metrics.sum("is_leader"), Some(1.0));
        assert_eq!(metrics.sum("empty_label"), Some(3.0));
    }

    #[test]
    fn what_is_not_there_is_not_zero() {
        let metrics = Metrics(TEXT.to_owned());
        assert_eq!(metrics.sum("wal_sync"), None);
        assert_eq!(metrics.sum("broken"), None);
        assert_eq!(metrics.sum("is_leader_changes"), None);
    }
}
