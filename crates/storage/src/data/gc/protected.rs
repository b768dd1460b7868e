//! Protected timestamps: what somebody still has to read, so that no floor may rise above it.

use super::registry::Registry;
use meridian_types::{ShardId, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The versions at a timestamp are, or may be, collected already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("versions of {shard} below {floor} are collected")]
pub struct Collected {
    /// The shard.
    pub shard: ShardId,
    /// The lowest timestamp at which it can be read.
    pub floor: Timestamp,
}

/// Protects a timestamp while it exists; see [`DataStore::protect`](crate::DataStore::protect).
#[must_use = "it protects nothing once it is dropped"]
pub struct Protection {
    registry: Arc<Registry>,
    shard: Option<ShardId>,
    at: Timestamp,
}

impl Protection {
    pub(super) fn new(registry: Arc<Registry>, shard: Option<ShardId>, at: Timestamp) -> Self {
        Self { registry, shard, at }
    }

    /// What it protects.
    pub fn at(&self) -> Timestamp {
        self.at
    }
}

impl Drop for Protection {
    fn drop(&mut self) {
        self.registry.unprotect(self.shard, self.at);
    }
}

/// How often each timestamp is protected, of one shard or (`None`) of all.
#[derive(Debug, Default)]
pub(super) struct ProtectedTimestamps {
    counts: BTreeMap<(Option<ShardId>, Timestamp), usize>,
}

impl ProtectedTimestamps {
    pub(super) fn add(&mut self, shard: Option<ShardId>, at: Timestamp) {
        *self.counts.entry((shard, at)).or_default() += 1;
    }

    pub(super) fn remove(&mut self, shard: Option<ShardId>, at: Timestamp) {
        if let Some(count) = self.counts.get_mut(&(shard, at)) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&(shard, at));
            }
        }
    }

    /// The lowest timestamp of the shard that is protected.
    pub(super) fn lowest(&self, shard: ShardId) -> Option<Timestamp> {
        let of = |scope: Option<ShardId>| {
            let mut of_scope = self.counts.range((scope, Timestamp::ZERO)..=(scope, Timestamp::MAX));
            of_scope.next().map(|((_, at), _)| *at)
        };
        match (of(None), of(Some(shard))) {
            (Some(all), Some(own)) => Some(all.min(own)),
            (all, own) => all.or(own),
        }
    }
}
