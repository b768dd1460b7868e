//! Open loop: operations start on a schedule, whatever became of the earlier ones.
//!
//! One dispatcher per region keeps the schedule and hands each operation to an idle client; a new client is made when
//! all are busy, up to the limit. At the limit the dispatcher waits, and what it holds up is counted from when it
//! should have started, so a stall of the cluster is seen in full.

use crate::options::Arrivals;
use crate::request::Session;
use crate::worker::Worker;
use crate::workload::Generator;
use meridian_clock::{Mono, sleep_until};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// The schedule of one region.
#[derive(Debug)]
pub(crate) struct OpenLoop {
    /// Operations per second.
    pub(crate) rate: f64,
    pub(crate) arrivals: Arrivals,
    pub(crate) in_flight_max: usize,
    pub(crate) start: Mono,
    pub(crate) end: Mono,
    /// Draws the gaps.
    pub(crate) rng: ChaCha8Rng,
}

impl OpenLoop {
    fn gap(&mut self) -> Duration {
        let mean = 1.0 / self.rate;
        let gap = match self.arrivals {
            Arrivals::Even => mean,
            // The inverse of the exponential distribution; 1 - u is never zero.
            Arrivals::Poisson => -mean * (1.0 - self.rng.random::<f64>()).ln(),
        };
        Duration::from_secs_f64(gap.min(f64::from(u32::MAX)))
    }
}

/// Drives one region until `end` or until stopped, then waits for what is in flight. `client` makes a new client.
/// Returns how often the in-flight limit was met.
pub(crate) async fn open_loop<S: Session>(
    mut schedule: OpenLoop,
    mut generator: Generator,
    mut client: impl FnMut() -> Worker<S>,
    stop: CancellationToken,
) -> Result<u64, JoinError> {
    let (give_back, mut idle) = mpsc::unbounded_channel::<Worker<S>>();
    let mut in_flight = JoinSet::new();
    let (mut clients, mut limit_met) = (0, 0);
    let mut due = schedule.start;
    while due < schedule.end {
        tokio::select! {
            () = sleep_until(due) => {}
            () = stop.cancelled() => break,
        }
        let mut worker = match idle.try_recv() {
            Ok(worker) => worker,
            Err(_) if clients < schedule.in_flight_max => {
                clients += 1;
                client()
            }
            Err(_) => {
                limit_met += 1;
                tokio::select! {
                    Some(worker) = idle.recv() => worker,
                    Some(Err(error)) = in_flight.join_next() => return Err(error),
                    () = stop.cancelled() => break,
                }
            }
        };
        let (op, give_back) = (generator.draw(), give_back.clone());
        in_flight.spawn(async move {
            worker.run(op, due).await;
            // The dispatcher is gone when the run is over; then nobody needs the client.
            let _ = give_back.send(worker);
        });
        due = due.plus(schedule.gap());
        while let Some(ended) = in_flight.try_join_next() {
            ended?;
        }
    }
    while let Some(ended) = in_flight.join_next().await {
        ended?;
    }
    Ok(limit_met)
}
