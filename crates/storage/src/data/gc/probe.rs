//! What a simulated disk surely holds of floors: the truth that a test holds against what is collected.

use crate::data::families::Family;
use crate::data::records;
use crate::{SimDisk, StoreName};
use meridian_types::{ShardId, Timestamp};

impl SimDisk {
    /// The GC floor that a power loss would leave a shard with, unless a higher one survives by luck.
    pub fn durable_floor(&self, shard: ShardId) -> Timestamp {
        let mut disk = self.lock();
        let stable = disk.instance(StoreName::Data).stable(Family::Shards.name());
        let position = stable.and_then(|positions| positions.get(&records::position(shard)[..]));
        position.map_or(Timestamp::ZERO, |bytes| records::decode_floor(shard, bytes).unwrap_or_default())
    }
}
