//! Where each shard's replica stands.

use super::StoppedNode;
use super::log::{SmallRecord, small};
use crate::StorageError;
use crate::raft::RawRecord;
use bytes::Bytes;
use meridian_proto::internal::v1::{InstallMark, LogId, ShardState, Vote};
use meridian_types::ShardId;
use prost::Message as _;
use std::collections::BTreeMap;

/// What a node has of one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardInfo {
    /// The shard.
    pub shard: ShardId,
    /// Position of its data, and what belongs to it; `None`: it has none.
    pub state: Option<ShardState>,
    /// The last saved vote.
    pub vote: Option<Vote>,
    /// The last purged entry.
    pub purged: Option<LogId>,
    /// The last entry known to be committed.
    pub committed: Option<LogId>,
    /// Indexes of the first and the last entry in the log.
    pub log: Option<(u64, u64)>,
    /// Names of its marks.
    pub marks: Vec<String>,
    /// The snapshot that was being installed.
    pub install: Option<InstallMark>,
    /// What of it could not be read.
    pub unreadable: Vec<String>,
}

impl StoppedNode {
    /// Every shard that has anything in either store, in order.
    pub fn shards(&self) -> Result<Vec<ShardInfo>, StorageError> {
        let mut shards: BTreeMap<ShardId, ShardInfo> = BTreeMap::new();
        for (shard, state) in self.data.all_positions()? {
            shards.entry(shard).or_insert(ShardInfo { shard, ..ShardInfo::default() }).state = Some(state);
        }
        for shard in self.raft.shards()? {
            let info = shards.entry(shard).or_insert(ShardInfo { shard, ..ShardInfo::default() });
            self.raft.records_of(shard, |record, value| {
                info.note(record, value.map_err(|error| error.to_string()));
                Ok::<_, StorageError>(())
            })?;
        }
        Ok(shards.into_values().collect())
    }
}

impl ShardInfo {
    fn note(&mut self, record: RawRecord, payload: Result<Bytes, String>) {
        if let RawRecord::Entry(index) = record {
            // Damaged entries have their place in the log all the same.
            self.log = Some((self.log.map_or(index, |(first, _)| first), index));
            if let Err(why) = payload {
                self.unreadable.push(why);
            }
            return;
        }
        match payload.and_then(|payload| small(record, payload)) {
            Ok(SmallRecord::Vote(vote)) => self.vote = Some(vote),
            Ok(SmallRecord::Purged(id)) => self.purged = Some(id),
            Ok(SmallRecord::Committed(id)) => self.committed = Some(id),
            Ok(SmallRecord::Mark { name, value }) => {
                if name == crate::install::MARK {
                    match InstallMark::decode(value) {
                        Ok(mark) => self.install = Some(mark),
                        Err(error) => self.unreadable.push(format!("the mark of an installation: {error}")),
                    }
                }
                self.marks.push(name);
            }
            Err(why) => self.unreadable.push(why),
        }
    }
}
