//! All gRPC services of a node on one router.

use crate::admission::admit;
use crate::cluster::ClusterService;
use crate::context::Context;
use crate::kv::KvService;
use crate::peer::PeerService;
use crate::tables::TablesService;
use axum::middleware::from_fn_with_state;
use meridian_consensus::service::RaftService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// The services for clients and for other nodes, with reflection and the standard health service; and the handle
/// that sets what the health service says. It says "not serving" until it is told otherwise.
pub async fn routes(ctx: &Context) -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", ServingStatus::NotServing).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(meridian_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let mut routes = Routes::builder();
    routes
        .add_service(health)
        .add_service(reflection)
        .add_service(KvService::server(ctx))
        .add_service(TablesService::server(ctx))
        .add_service(ClusterService::server(ctx))
        .add_service(PeerService::server(ctx))
        .add_service(PeerService::inspect_server(ctx))
        .add_service(RaftService::new(ctx.replicas.clone()));
    let account = ctx.memory.in_flight.clone();
    let admitted = routes.routes().into_axum_router().layer(from_fn_with_state(account, admit));
    Ok((admitted.into(), reporter))
}
