//! Run-time control of a lab over HTTP, on a unix socket that only its owner can use.
//!
//! | request | body | does |
//! | --- | --- | --- |
//! | `GET /status` | | hosts, ways, counters |
//! | `POST /partition` | `{"a":"us-east","b":"eu-west","one_way":false}` | loses everything in both directions, or only from `a` to `b` |
//! | `POST /isolate` | `{"region":"eu-west"}` | loses everything that enters or leaves |
//! | `POST /heal` | `{}` or `{"a":…,"b":…}` | lets everything, or everything between two places, through |
//! | `POST /delay` | `{"a":…,"b":…,"rtt_ms":150}` | changes the RTT between two places |
//! | `POST /stop` | | ends the router, which removes the lab |
//!
//! Bodies and errors are those of the control of links inside a process ([`crate::control`]). Every change answers with
//! the status afterwards.

use super::plan::Host;
use super::router::lock;
use super::switch::Switch;
use super::way::WayStatus;
use crate::control::{Body, Delay, Failure, Heal, Isolate, Partition};
use axum::Router;
use axum::extract::State;
use axum::response::Json;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// The format of [`LabStatus`]. Within a format fields are only added.
pub const SCHEMA: u32 = 1;

/// A lab, as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabStatus {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its name.
    pub name: String,
    /// Its topology's name.
    pub topology: String,
    /// The router's process.
    pub router: u32,
    /// All hosts, in the topology's order.
    pub hosts: Vec<Host>,
    /// All directions between two places.
    pub ways: Vec<WayStatus>,
    /// Frames whose IPv4 destination is no host of the lab.
    pub unroutable: u64,
}

impl LabStatus {
    pub(crate) fn of(switch: &Switch) -> Self {
        let (ways, unroutable) = switch.status();
        let plan = switch.plan();
        Self {
            schema: SCHEMA,
            name: plan.name.clone(),
            topology: plan.topology.name.clone(),
            router: std::process::id(),
            hosts: plan.hosts.clone(),
            ways,
            unroutable,
        }
    }
}

/// What requests work on.
#[derive(Clone, Debug)]
pub(crate) struct Controlled {
    pub switch: Arc<Mutex<Switch>>,
    /// Cancelled by `POST /stop`.
    pub stop: CancellationToken,
}

/// Serves the control until the future is dropped or the listener fails.
pub(crate) async fn serve(controlled: Controlled, listener: UnixListener) -> std::io::Result<()> {
    let router = Router::new()
        .route("/status", get(status))
        .route("/partition", post(partition))
        .route("/isolate", post(isolate))
        .route("/heal", post(heal))
        .route("/delay", post(delay))
        .route("/stop", post(stop))
        .with_state(controlled);
    axum::serve(listener, router).await
}

type Reply = Result<Json<LabStatus>, Failure>;

async fn status(State(lab): State<Controlled>) -> Json<LabStatus> {
    Json(LabStatus::of(&lock(&lab.switch)))
}

async fn partition(State(lab): State<Controlled>, body: Body<Partition>) -> Reply {
    let Json(Partition { a, b, one_way }) = body?;
    if one_way {
        lock(&lab.switch).partition_one_way(&a, &b)?;
    } else {
        lock(&lab.switch).partition(&a, &b)?;
    }
    Ok(status(State(lab)).await)
}

async fn isolate(State(lab): State<Controlled>, body: Body<Isolate>) -> Reply {
    lock(&lab.switch).isolate(&body?.0.region)?;
    Ok(status(State(lab)).await)
}

async fn heal(State(lab): State<Controlled>, body: Body<Heal>) -> Reply {
    match body?.0.pair()? {
        None => lock(&lab.switch).heal_all(),
        Some((a, b)) => lock(&lab.switch).heal(&a, &b)?,
    }
    Ok(status(State(lab)).await)
}

async fn delay(State(lab): State<Controlled>, body: Body<Delay>) -> Reply {
    let Json(delay) = body?;
    lock(&lab.switch).set_delay(&delay.a, &delay.b, delay.rtt()?)?;
    Ok(status(State(lab)).await)
}

async fn stop(State(lab): State<Controlled>) -> Json<LabStatus> {
    lab.stop.cancel();
    status(State(lab)).await
}
