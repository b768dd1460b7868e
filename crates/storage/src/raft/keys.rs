//! Keys of the raft store: `shard u64 BE | kind u8 | rest`.
//!
//! | kind | rest | value |
//! | --- | --- | --- |
//! | 1 vote | - | the last saved vote |
//! | 2 purged | - | log id of the last purged entry |
//! | 3 committed | - | log id of the last entry known to be committed |
//! | 4 mark | its name, UTF-8 | a small synced record |
//! | 5 entry | index u64 BE | one log entry |
//!
//! Kinds are never reused. Everything of one shard is one contiguous range, and its entries are one inside it.

use meridian_types::ShardId;

pub(super) const VOTE: u8 = 1;
pub(super) const PURGED: u8 = 2;
pub(super) const COMMITTED: u8 = 3;
pub(super) const MARK: u8 = 4;
pub(super) const ENTRY: u8 = 5;

/// Bytes of shard and kind.
const HEAD: usize = 9;
/// Bytes of an entry's key.
const ENTRY_LEN: usize = HEAD + 8;

/// Key of the one record of this kind.
pub(super) fn single(shard: ShardId, kind: u8) -> [u8; HEAD] {
    let mut key = [0; HEAD];
    key[..8].copy_from_slice(&shard.0.to_be_bytes());
    key[8] = kind;
    key
}

/// Key of a mark.
pub(crate) fn mark(shard: ShardId, name: &str) -> Vec<u8> {
    let mut key = single(shard, MARK).to_vec();
    key.extend_from_slice(name.as_bytes());
    key
}

/// Key of a log entry.
pub(crate) fn entry(shard: ShardId, index: u64) -> [u8; ENTRY_LEN] {
    let mut key = [0; ENTRY_LEN];
    key[..HEAD].copy_from_slice(&single(shard, ENTRY));
    key[HEAD..].copy_from_slice(&index.to_be_bytes());
    key
}

/// First key after the entry at `index`: the next entry's, or the end of all entries.
pub(super) fn after_entry(shard: ShardId, index: u64) -> Vec<u8> {
    match index.checked_add(1) {
        Some(next) => entry(shard, next).to_vec(),
        None => entries_end(shard).to_vec(),
    }
}

/// First key after all entries of the shard.
pub(super) fn entries_end(shard: ShardId) -> [u8; HEAD] {
    single(shard, ENTRY + 1)
}

/// First key that a shard can have.
pub(super) fn shard_start(shard: ShardId) -> [u8; HEAD] {
    single(shard, 0)
}

/// First key after everything of the shard.
pub(super) fn shard_end(shard: ShardId) -> [u8; HEAD] {
    single(shard, u8::MAX)
}

/// The shard that a key belongs to.
pub(super) fn shard_of(key: &[u8]) -> Option<ShardId> {
    Some(ShardId(u64::from_be_bytes(*key.first_chunk()?)))
}

/// The kind of a record, and what follows it in the key.
pub(super) fn kind_of(key: &[u8]) -> Option<(u8, &[u8])> {
    let (kind, rest) = key.get(HEAD - 1..)?.split_first()?;
    Some((*kind, rest))
}

/// The index in an entry's key.
pub(super) fn index_of(key: &[u8]) -> Option<u64> {
    let key: &[u8; ENTRY_LEN] = key.try_into().ok()?;
    Some(u64::from_be_bytes(*key.last_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_shard_are_contiguous_and_entries_sort_by_index() {
        let (a, b) = (ShardId(7), ShardId(8));
        let ordered: Vec<Vec<u8>> = vec![
            shard_start(a).to_vec(),
            single(a, VOTE).to_vec(),
            single(a, PURGED).to_vec(),
            single(a, COMMITTED).to_vec(),
            mark(a, ""),
            mark(a, "install"),
            entry(a, 0).to_vec(),
            entry(a, 255).to_vec(),
            entry(a, 256).to_vec(),
            entry(a, u64::MAX).to_vec(),
            after_entry(a, u64::MAX),
            shard_end(a).to_vec(),
            shard_start(b).to_vec(),
        ];
        assert!(ordered.is_sorted_by(|x, y| x < y), "{ordered:?}");
        assert_eq!(after_entry(a, 3), entry(a, 4));
        assert_eq!((shard_of(&entry(a, 5)), index_of(&entry(a, 5))), (Some(a), Some(5)));
        assert_eq!((index_of(&mark(a, "x")), shard_of(b"short")), (None, None));
    }
}
