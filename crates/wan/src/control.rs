//! Run-time control of an emulated network over HTTP, on loopback only.
//!
//! | request | body | does |
//! | --- | --- | --- |
//! | `GET /links` | | lists all links: addresses, connections, bytes, delays, what is blocked |
//! | `POST /partition` | `{"a":"us-east","b":"eu-west","one_way":false}` | blocks both directions, or only `a` to `b` |
//! | `POST /isolate` | `{"region":"eu-west"}` | blocks everything that enters or leaves |
//! | `POST /heal` | `{}` or `{"a":…,"b":…}` | lets everything, or everything between two places, through |
//! | `POST /delay` | `{"a":…,"b":…,"rtt_ms":150}` | changes the RTT between two places |
//!
//! A place is `REGION` or `REGION/ZONE`. Errors are 4xx with `{"error":"what to do"}`.

use crate::{LinkStatus, Place, Wan, WanError};
use axum::Router;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::net::TcpListener;

/// The longest RTT that can be set.
const RTT_MS_MAX: f64 = 60_000.0;

/// `POST /partition`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Partition {
    pub a: Place,
    pub b: Place,
    #[serde(default)]
    pub one_way: bool,
}

/// `POST /isolate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Isolate {
    pub region: Place,
}

/// `POST /heal`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Heal {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a: Option<Place>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b: Option<Place>,
}

impl Heal {
    /// The two places; `None`: everything.
    pub(crate) fn pair(self) -> Result<Option<(Place, Place)>, Failure> {
        match self {
            Self { a: None, b: None } => Ok(None),
            Self { a: Some(a), b: Some(b) } => Ok(Some((a, b))),
            Self { .. } => Err(Failure::Bad("give both `a` and `b`, or neither to heal everything")),
        }
    }
}

/// `POST /delay`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delay {
    pub a: Place,
    pub b: Place,
    pub rtt_ms: f64,
}

impl Delay {
    /// The round trip that is asked for.
    pub(crate) fn rtt(&self) -> Result<Duration, Failure> {
        if !(0.0..=RTT_MS_MAX).contains(&self.rtt_ms) {
            return Err(Failure::Bad("`rtt_ms` must be from 0 to 60000"));
        }
        Ok(Duration::from_secs_f64(self.rtt_ms / 1e3))
    }
}

/// The body of `GET /links`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Links {
    pub links: Vec<LinkStatus>,
}

/// The body of a refusal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub error: String,
}

impl Refusal {
    /// What the body of a refusal says.
    pub(crate) fn text(body: &[u8]) -> String {
        serde_json::from_slice::<Self>(body)
            .map_or_else(|_| String::from_utf8_lossy(body).into_owned(), |refusal| refusal.error)
    }
}

/// The control's routes.
pub fn router(wan: Wan) -> Router {
    Router::new()
        .route("/links", get(links))
        .route("/partition", post(partition))
        .route("/isolate", post(isolate))
        .route("/heal", post(heal))
        .route("/delay", post(delay))
        .with_state(wan)
}

/// Serves the control until the future is dropped or the listener fails. Refuses a listener that is not on loopback:
/// whoever reaches it can break the network.
pub async fn serve(wan: Wan, listener: TcpListener) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        return Err(std::io::Error::other(format!("link control must listen on loopback, not on {address}")));
    }
    axum::serve(listener, router(wan)).await
}

/// Why a request is refused.
pub(crate) enum Failure {
    Body(JsonRejection),
    Wan(WanError),
    Bad(&'static str),
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self::Body(rejection)
    }
}

impl From<WanError> for Failure {
    fn from(error: WanError) -> Self {
        Self::Wan(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::Body(rejection) => (rejection.status(), rejection.body_text()),
            Self::Wan(error @ WanError::UnknownPlace(..)) => (StatusCode::NOT_FOUND, error.to_string()),
            Self::Wan(error @ (WanError::SamePlace(..) | WanError::Listen { .. })) => {
                (StatusCode::BAD_REQUEST, error.to_string())
            }
            Self::Bad(why) => (StatusCode::BAD_REQUEST, why.to_owned()),
        };
        (status, Json(Refusal { error })).into_response()
    }
}

type Reply = Result<Json<Links>, Failure>;
pub(crate) type Body<T> = Result<Json<T>, JsonRejection>;

/// Every change answers with the links as they are afterwards.
async fn links(State(wan): State<Wan>) -> Json<Links> {
    Json(Links { links: wan.links() })
}

async fn partition(State(wan): State<Wan>, body: Body<Partition>) -> Reply {
    let Json(Partition { a, b, one_way }) = body?;
    if one_way {
        wan.partition_one_way(&a, &b)?
    } else {
        wan.partition(&a, &b)?
    }
    Ok(links(State(wan)).await)
}

async fn isolate(State(wan): State<Wan>, body: Body<Isolate>) -> Reply {
    wan.isolate(&body?.0.region)?;
    Ok(links(State(wan)).await)
}

async fn heal(State(wan): State<Wan>, body: Body<Heal>) -> Reply {
    match body?.0.pair()? {
        None => wan.heal_all(),
        Some((a, b)) => wan.heal(&a, &b)?,
    }
    Ok(links(State(wan)).await)
}

async fn delay(State(wan): State<Wan>, body: Body<Delay>) -> Reply {
    let Json(delay) = body?;
    wan.set_delay(&delay.a, &delay.b, delay.rtt()?)?;
    Ok(links(State(wan)).await)
}
