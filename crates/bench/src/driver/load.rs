//! The load phase: every key is written once, unmeasured but recorded.

use crate::error::BenchError;
use crate::request::Session;
use crate::worker::Worker;
use crate::workload::key_name;
use meridian_clock::Mono;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Tries of one key, each of them already retried by the client. A try writes a new value, so that values stay
/// unique even when an earlier try took effect unnoticed.
const LOAD_ATTEMPTS_MAX: u32 = 5;

/// Writes keys `0..keys` with all these workers at once. Returns `false` when it was stopped before the end.
pub(crate) async fn load<S: Session>(
    workers: Vec<Worker<S>>,
    keys: u64,
    loaded: Arc<AtomicU64>,
    stop: &CancellationToken,
) -> Result<bool, BenchError> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for mut worker in workers {
        let (next, loaded, stop) = (next.clone(), loaded.clone(), stop.clone());
        tasks.spawn(async move {
            while !stop.is_cancelled() {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys {
                    break;
                }
                write_one(&mut worker, number).await?;
                loaded.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, BenchError>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(loaded.load(Ordering::Relaxed) >= keys)
}

async fn write_one<S: Session>(worker: &mut Worker<S>, number: u64) -> Result<(), BenchError> {
    let mut tries = 1;
    loop {
        match worker.put(number, Mono::now()).await {
            Ok(_) => return Ok(()),
            Err(_) if tries < LOAD_ATTEMPTS_MAX => tries += 1,
            Err(failure) => return Err(BenchError::Load { key: key_name(number), why: failure.error }),
        }
    }
}
