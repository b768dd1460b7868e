//! One connection to a cluster, and the loop that every call goes through.

use crate::attempts::{Attempts, Operation};
use crate::gateways::Gateways;
use crate::pipeline::{self, gathered_bytes};
use crate::{ClientConfig, Error, Session};
use meridian_proto::v1::{operation, operation_reply};
use meridian_transport::{Channel, Connect, Tcp};
use meridian_types::{Error as Cause, Reason, RegionId};
use meridian_wire::status::{Effect, from_status, is_answer};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Response, Status};

/// Largest reply that is accepted, in bytes: well above a full page of a scan with its row headers.
pub(crate) const REPLY_BYTES_MAX: usize = 16 << 20;

/// A client of one cluster. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    gateways: Arc<Gateways>,
}

impl Client {
    /// Finds the nearest gateway: one in the client's own region if it was named, else the one that answers fastest.
    /// The others are kept in the order of their distance, to fall back on.
    ///
    /// Errors: [`Reason::BadRequest`] when an address is malformed, [`Reason::NoQuorum`] when no gateway answers
    /// within `connect_timeout`.
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        Self::connect_by(config, &Tcp).await
    }

    /// The same over connections of another kind than TCP: for tests on a simulated network.
    pub async fn connect_by(config: ClientConfig, connect: &dyn Connect) -> Result<Self, Error> {
        let gateways = Gateways::connect(&config, connect).await?;
        Ok(Self { config: Arc::new(config), gateways })
    }

    /// A new session: a causality token that has seen nothing, and request ids of its own.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// Address and region of the gateway that the next operation goes to.
    pub fn gateway(&self) -> (&str, Option<&RegionId>) {
        self.gateways.nearest()
    }

    /// Sends `message` until an answer is final, no retry is safe, or time is up. Every attempt sends the same bytes.
    /// Returns the reply and the number of attempts.
    ///
    /// Errors: see [`Attempts`]; the fate covers all attempts.
    pub(crate) async fn call<M, R, F>(
        &self,
        operation: Operation,
        message: M,
        send: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<(R, u32), Error>
    where
        M: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.call_patiently(Duration::ZERO, operation, message, send).await
    }

    /// The same for what may take as long as `patience` where everything is well, whatever the configuration says of other
    /// operations.
    pub(crate) async fn call_patiently<M, R, F>(
        &self,
        patience: Duration,
        operation: Operation,
        message: M,
        send: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<(R, u32), Error>
    where
        M: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let attempt = |gateway: usize, limit: Duration| {
            let mut request = Request::new(message.clone());
            request.set_timeout(limit);
            let call = send(self.gateways.channel(gateway), request);
            async move { Ok(call.await?.into_inner()) }
        };
        self.attempt(patience, operation, attempt).await
    }

    /// The same for an operation on keys, which shares a stream with others, unless the gateway or the configuration want
    /// it otherwise.
    pub(crate) async fn operate(
        &self,
        operation: Operation,
        request: operation::Request,
    ) -> Result<(operation_reply::Reply, u32), Error> {
        let gathered = gathered_bytes(&request).filter(|_| self.config.pipelining);
        let (gateways, request) = (&self.gateways, &request);
        let attempt = |gateway: usize, limit: Duration| async move {
            if let Some(bytes) = gathered
                && let Some(pipeline) = gateways.pipeline(gateway)
            {
                if let Some(answer) = pipeline::operate(pipeline, request.clone(), bytes, limit).await {
                    return answer;
                }
                gateways.no_pipeline(gateway);
            }
            pipeline::call(gateways.channel(gateway), request.clone(), limit).await
        };
        self.attempt(Duration::ZERO, operation, attempt).await
    }

    async fn attempt<R, F>(
        &self,
        patience: Duration,
        operation: Operation,
        attempt: impl Fn(usize, Duration) -> F,
    ) -> Result<(R, u32), Error>
    where
        F: Future<Output = Result<R, Status>>,
    {
        let deadline = Instant::now() + self.config.request_deadline.max(patience);
        let mut attempts = Attempts::new(operation);
        let mut pauses = self.config.retry.pauses();
        let mut gateway = self.gateways.pick(None);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(attempts.give_up());
            }
            let limit = left.min(self.config.retry.attempt_timeout.max(patience));
            let error = match timeout(limit, attempt(gateway, limit)).await {
                Ok(Ok(reply)) => return Ok((reply, attempts.succeed())),
                Ok(Err(status)) => self.failed(operation, gateway, &status),
                Err(_) => self.silent(operation, gateway, limit),
            };
            tracing::debug!(gateway = self.gateways.address(gateway), %error, "attempt failed");
            let may_retry = attempts.fail(error);
            let (true, Some(pause)) = (may_retry, pauses.next()) else {
                return Err(attempts.give_up());
            };
            if pause >= deadline.saturating_duration_since(Instant::now()) {
                return Err(attempts.give_up());
            }
            sleep(pause).await;
            gateway = self.gateways.pick(Some(gateway));
        }
    }

    /// What an attempt's failure means.
    fn failed(&self, operation: Operation, gateway: usize, status: &Status) -> Cause {
        let mut cause = from_status(status, effect(operation));
        if !is_answer(status) {
            if is_broken(status) {
                self.gateways.mark_down(gateway);
            }
            cause.message = format!("gateway {}: {}", self.gateways.address(gateway), cause.message);
        }
        cause
    }

    /// What it means that an attempt was not answered in time.
    fn silent(&self, operation: Operation, gateway: usize, limit: Duration) -> Cause {
        self.gateways.mark_down(gateway);
        let message = format!("gateway {} did not answer within {limit:?}", self.gateways.address(gateway));
        match effect(operation) {
            Effect::Read => Cause::new(Reason::NoQuorum, message),
            Effect::Write => Cause::new(Reason::OutcomeUnknown, message),
        }
    }
}

/// Whether a status that is no node's answer says that the way to the gateway is broken: the transport on this side
/// gives a source, what sits between says `UNAVAILABLE`. Others are about this one request.
fn is_broken(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || status.code() == Code::Unavailable
}

fn effect(operation: Operation) -> Effect {
    match operation {
        Operation::Read => Effect::Read,
        Operation::Write(_) | Operation::Once => Effect::Write,
    }
}
