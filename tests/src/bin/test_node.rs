//! One node in a process of its own, for tests that kill it: `test-node start --config FILE`, as `meridian start`
//! would run it. A program of this package, so that Cargo builds it for these tests.

use meridian_server::config::NodeConfig;
use meridian_server::processes::READY_LINE;
use meridian_server::{Listeners, start};
use std::error::Error;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(3).map(PathBuf::from).ok_or("usage: test-node start --config FILE")?;
    let level = std::env::var("MERIDIAN_LOG").unwrap_or_else(|_| "warn".to_owned());
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    let mut stop = signal(SignalKind::terminate())?;
    let config = NodeConfig::load(&path)?;
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
