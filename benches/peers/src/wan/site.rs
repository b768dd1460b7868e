//! One region's place in the lab: tasks and processes that are in its host's network.

use anyhow::{Context as _, bail};
use meridian_wan::lab::{Host, enter};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use tokio::runtime::{Builder, Runtime};

/// Threads of each region's clients: as many as the cores of a small machine, so that one region can use it up.
const THREADS: usize = 2;

/// A host and a runtime whose threads are all in its network: what its tasks connect or start is there as well.
#[derive(Debug)]
pub(crate) struct Site {
    /// The host.
    pub(crate) host: Host,
    runtime: Option<Runtime>,
    /// Why a thread could not enter the host's network; its tasks may then have been anywhere.
    astray: Arc<OnceLock<String>>,
}

impl Site {
    /// Starts the runtime.
    pub(crate) fn new(host: Host) -> anyhow::Result<Self> {
        let astray = Arc::<OnceLock<String>>::default();
        let (of_thread, told) = (host.clone(), astray.clone());
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name(host.name.clone())
            .enable_all()
            .on_thread_start(move || {
                if let Err(error) = enter(&of_thread) {
                    // The first reason is enough.
                    let _ = told.set(error.to_string());
                }
            })
            .build();
        let runtime = runtime.with_context(|| format!("cannot start threads for host {}", host.name))?;
        Ok(Self { host, runtime: Some(runtime), astray })
    }

    /// Runs a task there.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<T> {
        let runtime = self.runtime.as_ref().context("the region's threads have ended")?;
        let ended = runtime.spawn(task).await;
        if let Some(why) = self.astray.get() {
            bail!("a thread was not in the network of host {}: {why}", self.host.name);
        }
        ended.with_context(|| format!("a task of region {} failed", self.host.region))?
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Waiting for its threads is not allowed inside another runtime; they have nothing left to do.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
