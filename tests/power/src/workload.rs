//! What a life does with the store, and what it tells of that.

use bytes::Bytes;
use meridian_types::{ShardId, TableId};
use rand::{Rng as _, RngExt as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Keys of each shard's table.
pub const KEYS: u8 = 24;

/// The table whose only range is the shard's.
pub fn table(shard: ShardId) -> TableId {
    TableId(shard.0)
}

/// A key of a table.
pub fn key(n: u8) -> [u8; 4] {
    [b'k', b'e', b'y', n]
}

/// A log entry, which puts or deletes one key. Its whole content follows from these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The term in which it was proposed.
    pub term: u64,
    /// What it writes.
    pub key: u8,
    /// Makes it different from every other.
    pub nonce: u64,
    /// Bytes of its value; none: it deletes the key.
    pub length: u32,
}

impl Entry {
    /// Some entry: mostly small, sometimes longer than a block of the log, sometimes a deletion.
    pub fn draw(term: u64, rng: &mut ChaCha8Rng) -> Self {
        let length = match rng.random_range(0..60) {
            0 => rng.random_range(20_000..40_000),
            1..8 => rng.random_range(1_000..5_000),
            8..14 => 0,
            _ => rng.random_range(1..300),
        };
        Self { term, key: rng.random_range(0..KEYS), nonce: rng.next_u64(), length }
    }

    /// Its bytes in the log.
    pub fn encode(&self) -> Bytes {
        let mut bytes = self.term.to_be_bytes().to_vec();
        bytes.push(self.key);
        bytes.extend(self.nonce.to_be_bytes());
        bytes.extend(self.length.to_be_bytes());
        self.fill(&mut bytes);
        bytes.into()
    }

    /// The entry that these bytes are, if they are whole and right.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (term, rest) = bytes.split_first_chunk()?;
        let (key, rest) = rest.split_first()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (length, _) = rest.split_first_chunk()?;
        let (term, nonce) = (u64::from_be_bytes(*term), u64::from_be_bytes(*nonce));
        let entry = Self { term, key: *key, nonce, length: u32::from_be_bytes(*length) };
        (entry.encode() == bytes).then_some(entry)
    }

    /// What its key holds after it: the entry itself, or nothing if it deletes.
    pub fn put(&self) -> Option<Self> {
        (self.length > 0).then_some(*self)
    }

    fn fill(&self, bytes: &mut Vec<u8>) {
        // Not compressible, so that files have about the size of what is in them.
        let mut state = self.nonce | 1;
        bytes.extend((0..self.length).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        }));
    }
}

/// What is asked of a shard's log. Indexes begin with 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogOp {
    /// Entries from this index on, which follows the log's end.
    Append(u64, Vec<Entry>),
    /// The entries from this index on are removed.
    Truncate(u64),
    /// The entries up to this index are removed.
    Purge(u64),
    /// A vote.
    Vote(u64),
    /// This index is known to be committed.
    Committed(u64),
}

/// What is asked of a shard's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataOp {
    /// Entries are applied, with their indexes.
    Apply(Vec<(u64, Entry)>),
    /// A snapshot is installed that has these entries beside what was applied before.
    Install(Vec<(u64, Entry)>),
}

impl DataOp {
    /// The entries that it brings.
    pub fn entries(&self) -> &[(u64, Entry)] {
        match self {
            Self::Apply(entries) | Self::Install(entries) => entries,
        }
    }
}

/// What a life tells, in the order in which it happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// The store is open and interrupted installations are finished: what was found counts as durable. So many threads
    /// will write to logs.
    Opened(u64),
    /// An operation on a shard's log is about to be asked for.
    Log(u64, LogOp),
    /// A shard's first so many operations on its log in this life were acknowledged.
    LogAcked(u64, u64),
    /// An operation on a shard's data is about to be asked for.
    Data(u64, DataOp),
    /// A shard's first so many operations on its data in this life are durable, as a flush or an installation said.
    DataAcked(u64, u64),
    /// A shard's data is durable up to this index, as the store says, which flushes by itself too.
    Durable(u64, u64),
}

impl Note {
    /// Its bytes in the journal.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The note that these bytes are.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn an_entry_is_read_back_and_a_changed_one_is_not() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..200 {
            let entry = Entry::draw(3, &mut rng);
            let bytes = entry.encode();
            assert_eq!(Entry::decode(&bytes), Some(entry));
            let mut changed = bytes.to_vec();
            let last = changed.len() - 1;
            changed[last] ^= 1;
            assert_ne!(Entry::decode(&changed), Some(entry));
            assert_eq!(Entry::decode(&bytes[..last]), None);
        }
    }
}
