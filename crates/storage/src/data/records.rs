//! Keys of a shard's own records: its position (`shard u64 BE`, family `shards`) and its request ledger
//! (`shard u64 BE | request id`, family `ledger`). A request id begins with its time, so the ledger is in order of
//! age and forgetting is one range deletion.

use super::key::Span;
use crate::StorageError;
use meridian_proto::internal::v1::{ShardFloor, ShardState};
use meridian_types::{RequestId, ShardId, Timestamp};
use prost::Message as _;

const LEDGER_LEN: usize = 8 + RequestId::LEN;

/// Key of a shard's position.
pub(super) fn position(shard: ShardId) -> [u8; 8] {
    shard.0.to_be_bytes()
}

/// The shard whose position lies under this key.
pub(super) fn shard_of(key: &[u8]) -> Result<ShardId, StorageError> {
    let key = key.try_into().map_err(|_| StorageError::corrupt("a shard's position under a key of another kind"))?;
    Ok(ShardId(u64::from_be_bytes(key)))
}

/// Key of one record of the request ledger.
pub(crate) fn ledger(shard: ShardId, id: &RequestId) -> [u8; LEDGER_LEN] {
    let mut key = [0; LEDGER_LEN];
    key[..8].copy_from_slice(&position(shard));
    key[8..].copy_from_slice(&id.to_bytes());
    key
}

/// The shard's whole request ledger.
pub(crate) fn ledger_span(shard: ShardId) -> Span {
    Span { start: position(shard).to_vec(), end: shard.0.checked_add(1).map(|next| next.to_be_bytes().to_vec()) }
}

/// The records of requests issued before `time`.
pub(super) fn ledger_before(shard: ShardId, time: Timestamp) -> Span {
    let first_kept = RequestId { time, client: 0, sequence: 0 };
    Span { start: position(shard).to_vec(), end: Some(ledger(shard, &first_kept).to_vec()) }
}

/// The shard and the request that a ledger record is of.
pub(crate) fn decode_ledger_key(key: &[u8]) -> Result<(ShardId, RequestId), StorageError> {
    let bad = || StorageError::corrupt(format!("a ledger record under a key of {} bytes", key.len()));
    let key: &[u8; LEDGER_LEN] = key.try_into().map_err(|_| bad())?;
    let number = |n: usize| u64::from_be_bytes(std::array::from_fn(|byte| key[8 * n + byte]));
    let id = RequestId { time: Timestamp(number(1)), client: number(2), sequence: number(3) };
    Ok((ShardId(number(0)), id))
}

/// Reads an encoded position.
pub(super) fn decode_position(shard: ShardId, bytes: &[u8]) -> Result<ShardState, StorageError> {
    ShardState::decode(bytes).map_err(|e| StorageError::corrupt(format!("position of {shard}: {e}")))
}

/// Reads the GC floor of an encoded position, and nothing else of it.
pub(super) fn decode_floor(shard: ShardId, bytes: &[u8]) -> Result<Timestamp, StorageError> {
    let floor = ShardFloor::decode(bytes).map_err(|e| StorageError::corrupt(format!("position of {shard}: {e}")))?;
    Ok(Timestamp(floor.gc_floor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgetting_covers_older_requests_of_this_shard_only() {
        let id = |time| RequestId { time: Timestamp(time), client: 7, sequence: 9 };
        let span = ledger_before(ShardId(3), Timestamp(100));
        let inside = |shard, time| {
            let key = ledger(ShardId(shard), &id(time)).to_vec();
            key >= span.start && span.end.as_ref().is_some_and(|end| key < *end)
        };
        assert!(inside(3, 0) && inside(3, 99));
        assert!(!inside(3, 100) && !inside(3, u64::MAX) && !inside(2, 5) && !inside(4, 5));
    }
}
