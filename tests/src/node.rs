//! One node in a process of its own, as `meridian start` runs it, for tests that kill and stop it.

use meridian_server::config::NodeConfig;
use meridian_server::processes::READY_LINE;
use meridian_server::{Listeners, start};
use std::error::Error;
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the node of this configuration until `SIGTERM`. Its log goes to stderr, at the level of `MERIDIAN_LOG`.
pub async fn run(config: &Path) -> Result<(), Box<dyn Error>> {
    let level = std::env::var("MERIDIAN_LOG").unwrap_or_else(|_| "warn,openraft=off".to_owned());
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    let mut stop = signal(SignalKind::terminate())?;
    let config = NodeConfig::load(config)?;
    let listeners = Listeners::bind(&config)?;
    let node = start(config, listeners).await?;
    let ready = async {
        node.ready().await;
        println!("{READY_LINE} {}", node.grpc_address());
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ready => {}
        _ = stop.recv() => {}
    }
    node.stop().await;
    Ok(())
}
