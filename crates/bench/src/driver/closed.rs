//! Closed loop: each client starts its next operation when the last one has ended.

use crate::request::Session;
use crate::worker::Worker;
use crate::workload::Generator;
use meridian_clock::Mono;
use tokio_util::sync::CancellationToken;

/// Drives one client until `end` or until stopped. The operation in progress then is still completed.
pub(crate) async fn closed_loop<S: Session>(
    mut worker: Worker<S>,
    mut generator: Generator,
    end: Mono,
    stop: CancellationToken,
) {
    loop {
        let now = Mono::now();
        if now >= end || stop.is_cancelled() {
            return;
        }
        worker.run(generator.draw(), now).await;
    }
}
