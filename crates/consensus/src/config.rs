//! The one place that makes an openraft `Config`, with the rules that our safety arguments rest on built in.

use meridian_probe::{Sabotage, sabotaged};
use meridian_types::RaftTiming;
use openraft::{Config, ConfigError, SnapshotPolicy, StepDownPolicy};
use std::sync::Arc;

/// Entries after which it is looked at what is durable, and the log purged up to there; the data is flushed for it only if
/// that is worth a file (`snapshot.rs`).
pub const SNAPSHOT_EVERY: u64 = 2_000;
/// Entries kept after a purge. A new leader searches this window, so it is short.
pub const LOG_KEPT: u64 = 500;
/// Largest number of entries in one append request; its bytes are bounded by the log store.
pub const APPEND_ENTRIES_MAX: u64 = 512;

/// The only configuration that Meridian runs a group with.
///
/// * No leader restore: with commit before the leader's own fsync, a restarted leader could give one log id
///   to two different entries.
/// * No step-down on its own: leadership moves only where the lease was dropped before (rule R4).
/// * No ticks: when to beat and when to stand for election is decided here ([`crate::heartbeats`], [`crate::campaign`]), and
///   a thousand idle groups do not wake up fifty times a second. What openraft calls the heartbeat interval is only how long
///   it waits for the answer to one.
/// * No election before the replica says so (see [`crate::replica`]): a voter forgets its promise with its
///   process.
pub(crate) fn raft_config(timing: &RaftTiming, cluster: &str) -> Result<Arc<Config>, ConfigError> {
    let config = Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: timing.beat_answer_ms(),
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        enable_tick: false,
        enable_elect: false,
        enable_leader_restore: Some(sabotaged(Sabotage::RestoreLeader)),
        enable_pre_vote: Some(true),
        allow_log_reversion: Some(false),
        removed_leader_step_down: StepDownPolicy::Never,
        quorum_loss_probe_interval: Some(3 * timing.election_max_ms),
        broadcast_submitted_on_append: Some(true),
        max_payload_entries: APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: LOG_KEPT,
        purge_batch_size: 256,
        replication_lag_threshold: SNAPSHOT_EVERY,
        install_snapshot_timeout: 60_000,
        ..Config::default()
    };
    config.validate().map(Arc::new)
}
