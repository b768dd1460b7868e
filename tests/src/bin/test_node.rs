//! One node in a process of its own, for tests that kill it: `test-node CONFIG.toml` until SIGTERM or worse.

use meridian_server::config::NodeConfig;
use meridian_server::{Listeners, start};
use std::error::Error;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: test-node CONFIG.toml")?;
    let level = std::env::var("MERIDIAN_LOG").unwrap_or_else(|_| "warn".to_owned());
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    let mut stop = signal(SignalKind::terminate())?;
    let config = NodeConfig::load(&path)?;
    let listeners = Listeners::bind(&config)?;
    let node = start(config, listeners).await?;
    stop.recv().await;
    node.stop().await;
    Ok(())
}
