//! What is done to a simulated cluster: one function for each kind of [`Action`], and how all trouble ends.

use super::{BOUND_USED_PERCENT, CLIENTS, SimNode, World};
use crate::sim::invariant::What;
use crate::sim::net::{HostId, Link};
use crate::sim::plan::Action;
use meridian_consensus::Replica;
use meridian_storage::DiskLevel;
use meridian_types::{NodeId, RaftTiming, ShardId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

impl World {
    /// Does one thing to the cluster.
    pub(crate) fn act(&mut self, action: &Action) {
        self.observer.say(|line| line.push_str(&format!("FAULT {action:?}")));
        let kind = match action {
            Action::Down { node, power } => {
                self.down(*node, *power, false);
                if *power { "power loss" } else { "kill" }
            }
            Action::Up { node } => {
                self.start_node(*node);
                return;
            }
            Action::Suspend { node } => {
                let Some(sim) = self.nodes.get_mut(node).filter(|n| n.up) else { return };
                sim.suspended = true;
                self.suspended.insert(sim.host);
                "suspension"
            }
            Action::Resume { node, catch_up } => {
                self.resume(*node, *catch_up);
                return;
            }
            Action::CutLeader { shard, spare } => {
                self.cut_leader(*shard, *spare);
                "leader cut off"
            }
            Action::RestartSpared => {
                self.restart_spared();
                "spared voter restarted"
            }
            Action::RebuildSpared => {
                self.rebuild_spared();
                "spared voter rebuilt"
            }
            Action::ChangeTimers { shard, percent } => self.change_timers(*shard, *percent),
            Action::RebuildOthers { shard } => {
                self.rebuild_others(*shard);
                "timers taken over at once"
            }
            Action::HealAll => {
                let directions = self.net.lock().directions();
                directions.into_iter().for_each(|(from, to)| self.link(from, to, |link| link.cut = false));
                return;
            }
            Action::Cut { from, to } => {
                self.link(HostId(from.0), HostId(to.0), |link| link.cut = true);
                "cut"
            }
            Action::Heal { from, to } => {
                self.link(HostId(from.0), HostId(to.0), |link| link.cut = false);
                return;
            }
            Action::CutClients { node, cut } => {
                for i in 0..self.plan.regions().len() as u64 {
                    self.link(HostId(CLIENTS + i), HostId(node.0), |link| link.cut = *cut);
                    self.link(HostId(node.0), HostId(CLIENTS + i), |link| link.cut = *cut);
                }
                "cut from clients"
            }
            Action::Slow { a, b, times } => {
                let region = |n: &NodeId| self.plan.nodes[n.0 as usize - 1];
                let delay = self.plan.delay(region(a), region(b)) * *times;
                self.link(HostId(a.0), HostId(b.0), |link| link.delay = delay);
                self.link(HostId(b.0), HostId(a.0), |link| link.delay = delay);
                "slow link"
            }
            Action::Weather { lost, doubled } => {
                let mut net = self.net.lock();
                for (from, to) in net.directions() {
                    net.change_link(from, to, |link| (link.lost_permille, link.doubled_permille) = (*lost, *doubled));
                }
                "bad weather"
            }
            Action::Jump { node, by_ns, within_bound } => self.jump(*node, *by_ns, *within_bound),
            Action::Drift { node, ppm } => {
                if let Some(sim) = self.nodes.get(node) {
                    self.on_clock(|| sim.source.set_drift_ppm(f64::from(*ppm) / 10.0));
                }
                "clock drift"
            }
            Action::Transfer { shard, to } => self.transfer(*shard, *to),
            Action::Reconfigure { shard, pick } => self.reconfigure(*shard, *pick),
            Action::Stall { node, stalled } => {
                if let Some(sim) = self.nodes.get(node) {
                    self.stall(sim, *stalled);
                }
                if !stalled {
                    return;
                }
                "stalled disk"
            }
            Action::FailSync { node } => {
                if let Some(sim) = self.nodes.get(node).filter(|n| n.up) {
                    sim.disk.fail_next_sync();
                }
                "failed sync"
            }
            Action::Fill { node, level } => {
                if let Some(sim) = self.nodes.get(node) {
                    sim.disk.space().set_level(*level);
                    self.say_disk(*node);
                }
                if *level == DiskLevel::Enough {
                    return;
                }
                "full disk"
            }
            Action::Compact { node } => self.compact(*node),
        };
        *self.done.entry(kind).or_default() += 1;
    }

    /// Tells the invariants how full a node's disk is, and that what was held up may go on from now.
    fn say_disk(&self, node: NodeId) {
        if let Some(sim) = self.nodes.get(&node) {
            self.observer.see_node(node, self.now, What::Disk(sim.disk.space().level()));
        }
    }

    fn stall(&self, sim: &SimNode, stalled: bool) {
        if self.on_node(sim.config.node, || sim.disk.stall_syncs(stalled)).is_none() {
            sim.disk.stall_syncs(stalled);
        }
        self.say_disk(sim.config.node);
    }

    fn link(&self, from: HostId, to: HostId, change: impl FnOnce(&mut Link)) {
        let mut net = self.net.lock();
        net.now = self.now;
        net.change_link(from, to, change);
    }

    fn resume(&mut self, node: NodeId, catch_up: bool) {
        let Some(sim) = self.nodes.get_mut(&node).filter(|n| n.up && n.suspended) else { return };
        sim.suspended = false;
        self.suspended.remove(&sim.host);
        self.observer.set_node(node);
        if let Some(host) = self.hosts.get_mut(&sim.host) {
            host.resume(self.now, catch_up);
        }
        self.say_disk(node);
    }

    /// Runs what asks for the time on the clients' host, which has the true one.
    fn on_clock<T>(&self, f: impl FnOnce() -> T) -> T {
        self.clients().with(f)
    }

    fn jump(&mut self, node: NodeId, by_ns: i64, within_bound: bool) -> &'static str {
        let Some(sim) = self.nodes.get(&node) else { return "clock jump" };
        let offset = self.on_clock(|| sim.source.offset_ns());
        let most = sim.bound_ns * BOUND_USED_PERCENT / 100;
        let new = offset + by_ns;
        if within_bound {
            if offset.abs() <= sim.bound_ns {
                self.on_clock(|| sim.source.set_offset_ns(new.clamp(-most, most)));
            }
            return "clock jump within its bound";
        }
        // The way back ends inside the bound again.
        let new = if new.abs() <= sim.bound_ns * 2 { new.clamp(-most, most) } else { new };
        self.on_clock(|| sim.source.set_offset_ns(new));
        if new.abs() > sim.bound_ns {
            self.observer.clocks_good.set(false);
        }
        "clock jump beyond its bound"
    }

    /// Shards that are open anywhere, in order.
    fn shards(&self) -> Vec<ShardId> {
        let all: BTreeSet<ShardId> =
            self.contexts().iter().flat_map(|ctx| ctx.replicas.all()).map(|replica| replica.shard()).collect();
        all.into_iter().collect()
    }

    /// The replica that leads a shard, by the shard's rank, if one is known.
    fn leader_of(&self, rank: usize) -> Option<Arc<Replica>> {
        let shards = self.shards();
        let shard = *shards.get(rank % shards.len().max(1))?;
        self.contexts().into_iter().filter_map(|ctx| ctx.replicas.get(shard)).find(|replica| replica.is_leader())
    }

    /// Cuts a leader off from so many other voters that it has no quorum, or from one less.
    fn cut_leader(&mut self, rank: usize, spare: bool) {
        let Some(leader) = self.leader_of(rank) else { return };
        let (node, voters) = (leader.node(), leader.voters());
        drop(leader);
        let others = voters.iter().copied().filter(|v| *v != node).rev();
        let mut lost: Vec<NodeId> = others.take(voters.len().div_ceil(2)).collect();
        if spare {
            self.spared = lost.pop().map(|spared| (node, spared));
        }
        lost.into_iter().for_each(|other| self.cut_apart(node, other));
    }

    fn restart_spared(&mut self) {
        let Some((leader, spared)) = self.spared.take() else { return };
        self.cut_apart(leader, spared);
        self.down(spared, false, false);
        self.start_node(spared);
    }

    fn rebuild_spared(&mut self) {
        let Some((leader, spared)) = self.spared.take() else { return };
        self.cut_apart(leader, spared);
        let contexts = self.contexts();
        for replica in contexts.iter().filter(|ctx| ctx.me == spared).flat_map(|ctx| ctx.replicas.all()) {
            self.rebuild(replica);
        }
    }

    fn change_timers(&self, rank: usize, percent: u64) -> &'static str {
        if let Some(leader) = self.leader_of(rank) {
            let RaftTiming { heartbeat_ms, election_min_ms, election_max_ms } = leader.timing();
            let of = |ms: u64, least: u64| (ms * percent / 100).max(least);
            let to = RaftTiming {
                heartbeat_ms: of(heartbeat_ms, 40),
                election_min_ms: of(election_min_ms, 120),
                election_max_ms: of(election_max_ms, 240),
            };
            self.on_node(leader.node(), move || drop(leader.change_timing(to)));
        }
        "change of timers"
    }

    fn rebuild_others(&self, rank: usize) {
        let Some(shard) = self.leader_of(rank).map(|leader| leader.shard()) else { return };
        let others = self.contexts().into_iter().filter_map(|ctx| ctx.replicas.get(shard));
        others.filter(|replica| !replica.is_leader()).for_each(|replica| self.rebuild(replica));
    }

    fn rebuild(&self, replica: Arc<Replica>) {
        self.on_node(replica.node(), move || {
            tokio::spawn(async move {
                if let Err(e) = replica.rebuild().await {
                    tracing::debug!("not rebuilt: {e}");
                }
            });
        });
    }

    fn cut_apart(&self, a: NodeId, b: NodeId) {
        self.link(HostId(a.0), HostId(b.0), |link| link.cut = true);
        self.link(HostId(b.0), HostId(a.0), |link| link.cut = true);
    }

    fn transfer(&self, rank: usize, to: usize) -> &'static str {
        if let Some(leader) = self.leader_of(rank) {
            let others: Vec<NodeId> = leader.voters().into_iter().filter(|v| *v != leader.node()).collect();
            if let Some(to) = others.get(to % others.len().max(1)).copied() {
                self.on_node(leader.node(), move || {
                    tokio::spawn(async move { leader.transfer_leader(to).await });
                });
            }
        }
        "transfer"
    }

    fn reconfigure(&self, rank: usize, pick: usize) -> &'static str {
        if let Some(leader) = self.leader_of(rank) {
            let voters = leader.voters();
            let learners: Vec<NodeId> = leader.members().into_keys().filter(|n| !voters.contains(n)).collect();
            let leaving: Vec<NodeId> = voters.iter().copied().filter(|v| *v != leader.node()).collect();
            let leave = leaving.get(pick % leaving.len().max(1)).copied();
            let join = learners.get(pick % learners.len().max(1)).copied();
            // As many voters as before, or one more or less where there is nobody to swap with.
            let mut new = voters.clone();
            match (leave, join) {
                (Some(leave), Some(join)) => {
                    new.remove(&leave);
                    new.insert(join);
                }
                (Some(leave), None) if voters.len() > 2 => {
                    new.remove(&leave);
                }
                (None, Some(join)) => {
                    new.insert(join);
                }
                _ => return "reconfiguration",
            }
            self.on_node(leader.node(), move || {
                tokio::spawn(async move { leader.change_voters(new).await });
            });
        }
        "reconfiguration"
    }

    fn compact(&self, node: NodeId) -> &'static str {
        let ctx = self.contexts().into_iter().find(|ctx| ctx.me == node);
        if let Some(ctx) = ctx {
            self.on_node(node, move || {
                tokio::spawn(async move {
                    for replica in ctx.replicas.all() {
                        if let Err(e) = replica.compact().await {
                            tracing::debug!("not compacted: {e}");
                        }
                    }
                });
            });
        }
        "compaction"
    }

    /// Ends all trouble: every node runs, every link works, every clock is right.
    pub(crate) fn calm(&mut self) {
        self.calm = true;
        let nodes: Vec<NodeId> = self.plan.node_ids().collect();
        for node in &nodes {
            self.resume(*node, true);
            if let Some(sim) = self.nodes.get(node) {
                sim.disk.space().set_level(DiskLevel::Enough);
                self.stall(sim, false);
                let most = sim.bound_ns * BOUND_USED_PERCENT / 100;
                self.on_clock(|| sim.source.set_offset_ns(sim.source.offset_ns().clamp(-most, most)));
                self.on_clock(|| sim.source.set_drift_ppm(0.0));
            }
        }
        let directions = self.net.lock().directions();
        for (from, to) in directions {
            let delay = self.usual_delay(from, to);
            self.link(from, to, |link| {
                (link.cut, link.delay, link.lost_permille, link.doubled_permille) = (false, delay, 0, 0);
            });
        }
        for node in nodes {
            self.start_node(node);
        }
    }

    fn usual_delay(&self, from: HostId, to: HostId) -> Duration {
        let regions = self.plan.regions();
        let region = |h: HostId| match h.0.checked_sub(CLIENTS) {
            Some(i) => regions[i as usize],
            None => self.plan.nodes[h.0 as usize - 1],
        };
        if from == to { Duration::from_millis(1) } else { self.plan.delay(region(from), region(to)) }
    }
}
