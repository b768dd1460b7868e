//! The storage by itself: what group commit makes of the disk's fsync, what an entry costs when it is applied, what
//! reading versions costs next to RocksDB alone, and what snapshots cost.
//!
//! What waits for the disk is measured by the wall's clock, on the disk under the temporary folder (point `TMPDIR` at the
//! one that matters); what does not, by the time of the processor that the calling thread uses: that is what one core
//! can do, whatever else the machine does. Figures that are no durations (write amplification, memory, recovery of a
//! large log) come from the bench `volumes`.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot write has nothing to report")]

mod apply;
mod processor;
mod raft_log;
mod reads;
mod snapshots;

use criterion::{Criterion, criterion_group, criterion_main};
use meridian_types::TableId;
use processor::ProcessorTime;
use std::time::Duration;

const TABLE: TableId = TableId(1);

/// Bytes of an entry's payload and of a value.
const PAYLOAD_BYTES: usize = 256;

const SEED: u64 = 42;

fn config() -> Criterion {
    Criterion::default().sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3))
}

fn processor() -> Criterion<ProcessorTime> {
    config().with_measurement(ProcessorTime)
}

criterion_group! {
    name = on_disk;
    config = config();
    targets = raft_log::append, snapshots::snapshots
}
criterion_group! {
    name = on_processor;
    config = processor();
    targets = raft_log::append_call, apply::apply, reads::points, reads::hot_key, reads::scans
}
criterion_main!(on_disk, on_processor);
