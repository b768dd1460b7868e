//! How entries and outcomes look in the events of `meridian-probe`. Called only where somebody records.

use crate::codec;
use crate::raft_types::{Applied, RaftEntry, RaftPayload};
use meridian_probe::{Digest, Event};
use meridian_types::{NodeId, ShardId, Timestamp};
use prost::Message;

/// First and last stamp of an entry; blank and membership entries have none.
fn stamps(entry: &RaftEntry) -> Option<(Timestamp, Timestamp)> {
    match &entry.payload {
        RaftPayload::Normal(command) => Some((command.first_ts(), command.last_ts())),
        RaftPayload::Blank | RaftPayload::Membership(_) => None,
    }
}

/// An entry goes into the log as these bytes.
pub(crate) fn appended(shard: ShardId, entry: &RaftEntry, bytes: &[u8]) -> Event {
    let voters = match &entry.payload {
        RaftPayload::Membership(m) => {
            Some(m.get_joint_config().iter().map(|half| half.iter().copied().map(NodeId).collect()).collect())
        }
        RaftPayload::Blank | RaftPayload::Normal(_) => None,
    };
    let id = codec::log_id_of(&entry.log_id);
    Event::Appended { shard, id, stamps: stamps(entry), digest: Digest::of(bytes), voters }
}

/// Applying an entry came to this.
pub(crate) fn applied(shard: ShardId, entry: &RaftEntry, result: &Applied) -> Event {
    let digest = match result {
        Applied::Outcomes(outcomes) => outcomes.iter().fold(Digest::EMPTY, |d, o| d.and(&o.encode_to_vec())),
        Applied::Nothing | Applied::StaleTimestamp => Digest::EMPTY,
    };
    let (id, stale) = (codec::log_id_of(&entry.log_id), matches!(result, Applied::StaleTimestamp));
    Event::Applied { shard, id, stamps: stamps(entry), stale, digest }
}
