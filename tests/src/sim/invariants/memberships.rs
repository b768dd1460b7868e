//! The memberships in the nodes' logs, and who holds an entry.

use super::logs::{Logs, Slot};
use super::tables::Table;
use crate::sim::invariant::{Disks, Seen, What};
use meridian_probe::Event;
use meridian_types::{LogId, NodeId, ShardId};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The voters, a set for each half.
pub(super) type Voters = Rc<Vec<Vec<NodeId>>>;

/// A membership and the entry that set it.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub(super) id: LogId,
    pub(super) voters: Voters,
}

type ByIndex = BTreeMap<u64, Membership>;

/// All memberships that were ever appended.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    logs: BTreeMap<(NodeId, ShardId), ByIndex>,
    /// Those of entries that some replica has applied: what snapshots bring.
    applied: BTreeMap<ShardId, ByIndex>,
    by_id: Table<(ShardId, LogId), Voters>,
}

impl Memberships {
    /// Takes in what happened.
    pub(super) fn follow(&mut self, seen: &Seen<'_>) {
        let What::Event(event) = seen.what else { return };
        match event {
            Event::Appended { shard, id, voters: Some(voters), .. } => {
                let voters = self.by_id.entry((*shard, *id)).or_insert_with(|| Rc::new(voters.clone())).clone();
                let log = self.logs.entry((seen.node, *shard)).or_default();
                log.insert(id.index, Membership { id: *id, voters });
            }
            Event::Truncated { shard, from: end } | Event::Opened { shard, log_end: end, .. } => {
                if let Some(log) = self.logs.get_mut(&(seen.node, *shard)) {
                    log.split_off(end);
                }
            }
            // What the log had below it was another leader's, or is among what is applied.
            Event::Installed { shard, id: Some(id), .. } => {
                if let Some(log) = self.logs.get_mut(&(seen.node, *shard)) {
                    log.retain(|index, _| *index > id.index);
                }
            }
            Event::Applied { shard, id, stamps: None, .. } => {
                if let Some(voters) = self.by_id.get(&(*shard, *id)) {
                    let membership = Membership { id: *id, voters: voters.clone() };
                    self.applied.entry(*shard).or_default().insert(id.index, membership);
                }
            }
            _ => {}
        }
    }

    /// The membership in force at `index` in this node's log, from there or out of a snapshot.
    pub(super) fn in_force(&self, node: NodeId, shard: ShardId, index: u64) -> Option<&Membership> {
        let upto = |memberships: Option<&'_ ByIndex>| memberships?.range(..=index).next_back().map(|(i, _)| *i);
        let (own, applied) = (self.logs.get(&(node, shard)), self.applied.get(&shard));
        let of = if upto(own) >= upto(applied) { own } else { applied };
        of?.range(..=index).next_back().map(|(_, m)| m)
    }

    /// Those that this node's log has above `index`.
    pub(super) fn above(&self, node: NodeId, shard: ShardId, index: u64) -> impl Iterator<Item = &Membership> {
        let own = self.logs.get(&(node, shard)).into_iter();
        own.flat_map(move |log| log.range(index + 1..)).map(|(_, m)| m)
    }

    /// Whether some replica has applied this membership.
    pub(super) fn is_applied(&self, shard: ShardId, membership: &Membership) -> bool {
        let at = self.applied.get(&shard).and_then(|applied| applied.get(&membership.id.index));
        at.is_some_and(|m| m.id == membership.id)
    }
}

/// What the nodes' logs hold, and what their disks have had of it.
#[derive(Debug, Default)]
pub(super) struct Holders {
    logs: Logs<LogId>,
    /// Up to before where a log was seen to be on its disk, since its entries were appended. A shard that is removed
    /// later has been there all the same.
    durable: Table<(NodeId, ShardId), u64>,
}

impl Holders {
    /// Takes in what happened. If a node said that its log is synced: up to where that vouches for what is there now.
    pub(super) fn follow(&mut self, seen: &Seen<'_>) -> Option<u64> {
        let node = seen.node;
        match seen.what {
            What::Event(Event::Appended { shard, id, .. }) => {
                // Whether it belongs there is log matching's to say.
                let _ = self.logs.log(node, *shard).append(id.index, *id);
                return None;
            }
            What::Event(Event::Truncated { shard, from }) => {
                if let Some(durable) = self.durable.get_mut(&(node, *shard)) {
                    *durable = (*durable).min(*from);
                }
            }
            What::Event(Event::Opened { shard, log_end, .. }) => {
                let durable = seen.disks.synced_end(node, *shard).min(*log_end);
                self.durable.insert((node, *shard), durable);
            }
            _ => {}
        }
        let vouched = self.logs.follow(seen)?;
        if let What::Event(Event::Synced { shard, .. }) = seen.what
            && seen.disks.synced_end(node, *shard) > vouched
        {
            let durable = self.durable.entry((node, *shard)).or_default();
            *durable = (*durable).max(vouched + 1);
        }
        Some(vouched)
    }

    fn on_disk(&self, disks: &dyn Disks, node: NodeId, shard: ShardId, index: u64) -> bool {
        // What was seen there is cheaper to know than what is there.
        self.durable.get(&(node, shard)).is_some_and(|end| *end > index) || disks.synced_end(node, shard) > index
    }

    /// Whether a power loss leaves this index of the log of `node`, or it was given up.
    pub(super) fn is_durable(&self, disks: &dyn Disks, node: NodeId, shard: ShardId, index: u64) -> bool {
        self.on_disk(disks, node, shard, index)
            || self.logs.get(node, shard).is_some_and(|log| log.get(index) == Slot::Gone)
    }

    /// Whether `node` has this entry durably, or had it and has given it up since.
    fn holds(&self, disks: &dyn Disks, node: NodeId, shard: ShardId, id: LogId) -> bool {
        let on_disk = || self.on_disk(disks, node, shard, id.index);
        match self.logs.get(node, shard).map_or(Slot::Missing, |log| log.get(id.index)) {
            Slot::Gone => true,
            Slot::Known(has) => *has == id && on_disk(),
            Slot::Doubtful => on_disk(),
            Slot::Missing => false,
        }
    }

    /// Whether a majority of each half holds the entry.
    pub(super) fn is_chosen(&self, disks: &dyn Disks, shard: ShardId, id: LogId, voters: &Voters) -> bool {
        voters.iter().all(|half| {
            let holders = half.iter().filter(|v| self.holds(disks, **v, shard, id)).count();
            holders > half.len() / 2
        })
    }

    /// Those of `voters` that hold the entry, for a report.
    pub(super) fn among(&self, disks: &dyn Disks, shard: ShardId, id: LogId, voters: &Voters) -> Vec<NodeId> {
        let all = voters.iter().flatten().copied();
        let mut holders: Vec<NodeId> = all.filter(|v| self.holds(disks, *v, shard, id)).collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// Whether it is unknown what some place in the log of `node` holds.
    pub(super) fn is_doubtful(&self, node: NodeId, shard: ShardId) -> bool {
        self.logs.get(node, shard).is_some_and(|log| log.is_doubtful())
    }
}
