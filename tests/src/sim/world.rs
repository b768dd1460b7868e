//! The world of a simulation: hosts, network, clocks and disks, moved forward a millisecond at a time.
//!
//! In each step every host that runs gets the same millisecond, one after the other in a fixed order. Nothing passes
//! between hosts faster than that, so the order in which they get it cannot be noticed by them.

mod actions;

use super::call::{SimConnect, deliver};
use super::host::{Due, Host};
use super::invariant::{Stop, What};
use super::machine::SimMachine;
use super::net::{Delivery, HostId, Link, Net};
use super::observer::Observer;
use super::plan::Plan;
use meridian_api::{Context, Deadlines};
use meridian_clock::{Clock, SimulatedSource};
use meridian_server::config::{FormConfig, FormMember, FormRtt, NodeConfig};
use meridian_server::{Booted, Environment, boot};
use meridian_storage::{SimDisk, SimDiskOptions, Store};
use meridian_transport::Connect;
use meridian_types::{MEMORY_MIN, NodeId, RegionId};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The earliest true time at which a simulation starts, in nanoseconds since the Unix epoch.
pub(crate) const EPOCH_NS: u64 = 1_700_000_000_000_000_000;
/// One step.
pub(crate) const STEP_NS: u64 = 1_000_000;
/// Largest clock distance that simulated clusters live with.
const MAX_OFFSET: Duration = Duration::from_millis(500);
/// Clients of the first region; the other regions' follow. All of them run on one host.
const CLIENTS: u64 = 100;
/// How far a clock may go inside its bound, in percent of it.
const BOUND_USED_PERCENT: i64 = 90;

/// What a node's present run has told the world.
#[derive(Default)]
struct Run {
    ctx: Option<Context>,
    /// The store failed for good: a real process would have ended itself.
    fatal: Arc<AtomicBool>,
    failed: Option<String>,
}

struct SimNode {
    config: NodeConfig,
    host: HostId,
    disk: SimDisk,
    source: SimulatedSource,
    bound_ns: i64,
    rate_ppm: i64,
    run: Arc<Mutex<Run>>,
    up: bool,
    suspended: bool,
}

/// See the module's documentation.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) net: Net,
    pub(crate) now: u64,
    /// True time when it began.
    pub(crate) start: u64,
    hosts: BTreeMap<HostId, Host>,
    suspended: BTreeSet<HostId>,
    /// What has arrived at machines that stand still: it stays in their buffers, in order.
    buffers: BTreeMap<HostId, Vec<Delivery>>,
    nodes: BTreeMap<NodeId, SimNode>,
    pub(crate) observer: Rc<Observer>,
    rng: ChaCha8Rng,
    /// A leader, and the voter that leaves it a quorum.
    spared: Option<(NodeId, NodeId)>,
    /// No more trouble: whoever goes down is started again.
    calm: bool,
    /// Faults that were really done, by kind.
    pub(crate) done: BTreeMap<&'static str, u64>,
}

fn address(node: NodeId) -> String {
    format!("node{}:26600", node.0)
}

impl World {
    /// Machines and network, all switched off but the clients'.
    pub(crate) fn new(plan: Plan, observer: Rc<Observer>) -> Self {
        let start = EPOCH_NS + plan.start.as_nanos() as u64;
        let net = Net::new(plan.seed ^ 0x6e65_7477_6f72_6b00, start);
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ 0x0077_6f72_6c64);
        let voters = plan.catalog_voters.iter().map(|node| FormMember {
            node: *node,
            region: plan.nodes[node.0 as usize - 1].into(),
            address: address(*node),
        });
        let form = FormConfig {
            cluster_id: format!("simulated-{}", plan.seed),
            first: NodeId(1),
            max_clock_offset: MAX_OFFSET,
            voters: voters.collect(),
            rtts: rtts(&plan),
        };
        let mut world = Self {
            net,
            now: start,
            start,
            hosts: BTreeMap::new(),
            suspended: BTreeSet::new(),
            buffers: BTreeMap::new(),
            nodes: BTreeMap::new(),
            observer,
            rng: ChaCha8Rng::seed_from_u64(rng.random()),
            spared: None,
            calm: false,
            done: BTreeMap::new(),
            plan,
        };
        world.observer.start.set(start);
        for (node, region) in world.plan.node_ids().zip(world.plan.nodes.clone()) {
            world.add_node(node, region, &form, &mut rng);
        }
        world.add_clients(rng.random());
        world.net.lock().tracing = world.observer.is_tracing().then(Vec::new);
        world.join_hosts();
        world
    }

    fn add_node(&mut self, node: NodeId, region: &str, form: &FormConfig, rng: &mut ChaCha8Rng) {
        let clock = self.plan.clocks[node.0 as usize - 1];
        let options = SimDiskOptions {
            sync_min: Duration::ZERO,
            sync_max: self.plan.sync_max,
            flush_after_min: 5,
            flush_after_max: 200,
            // A few hundred bytes: what a cut of the network breaks in the middle of.
            snapshot_file_bytes: 512,
        };
        let disk = SimDisk::new(rng.random(), options);
        self.observer.disks.borrow_mut().0.insert(node, disk.clone());
        let config = NodeConfig {
            node,
            region: region.into(),
            form: Some(form.clone()),
            advertise: Some(address(node)),
            // Of the simulated machine, not of the one that simulates it.
            memory_bytes: Some(MEMORY_MIN),
            ..NodeConfig::default()
        };
        let source = SimulatedSource::new(clock.bound);
        source.set_offset_ns(clock.offset_ns);
        let host = HostId(node.0);
        self.net.lock().add_host(host, Some(address(node)));
        self.net.lock().host_down(host, false);
        let bound_ns = clock.bound.as_nanos() as i64;
        let rate_ppm = clock.rate_ppm;
        let sim = SimNode {
            config,
            host,
            disk,
            source,
            bound_ns,
            rate_ppm,
            run: Arc::default(),
            up: false,
            suspended: false,
        };
        self.nodes.insert(node, sim);
    }

    fn add_clients(&mut self, seed: u64) {
        let clients = Host::new(SimMachine::new(self.now, 0, seed), self.now);
        self.hosts.insert(HostId(CLIENTS), clients);
        for (i, _) in self.plan.regions().iter().enumerate() {
            self.net.lock().add_host(HostId(CLIENTS + i as u64), None);
        }
    }

    /// Links between all hosts.
    fn join_hosts(&mut self) {
        let nodes = self.plan.node_ids().zip(self.plan.nodes.iter().copied()).map(|(n, r)| (HostId(n.0), r));
        let clients = self.plan.regions().into_iter().enumerate().map(|(i, r)| (HostId(CLIENTS + i as u64), r));
        let all: Vec<_> = nodes.chain(clients).collect();
        for (a, from) in &all {
            for (b, to) in &all {
                let link = Link {
                    delay: if a == b { Duration::from_millis(1) } else { self.plan.delay(from, to) },
                    jitter: self.plan.jitter,
                    lost_permille: 0,
                    doubled_permille: 0,
                    cut: false,
                };
                self.net.lock().set_link(*a, *b, link);
            }
        }
    }

    /// The host of all clients, and the connections of those of a region.
    pub(crate) fn clients(&self) -> &Host {
        self.hosts.get(&HostId(CLIENTS)).expect("there from the start")
    }

    /// How clients of each region connect.
    pub(crate) fn client_connects(&self) -> Vec<(RegionId, Arc<dyn Connect>)> {
        let connect = |i: usize| SimConnect { net: self.net.clone(), from: HostId(CLIENTS + i as u64) };
        let regions = self.plan.regions().into_iter().enumerate();
        regions.map(|(i, r)| (r.into(), Arc::new(connect(i)) as Arc<dyn Connect>)).collect()
    }

    /// Addresses and regions of all nodes.
    pub(crate) fn gateways(&self) -> Vec<(String, RegionId)> {
        self.nodes.iter().map(|(id, n)| (address(*id), n.config.region.clone())).collect()
    }

    /// Starts a node that is down.
    pub(crate) fn start_node(&mut self, node: NodeId) {
        let seed = self.rng.random();
        let Some(sim) = self.nodes.get_mut(&node).filter(|n| !n.up) else { return };
        sim.up = true;
        sim.run = Arc::default();
        let run = sim.run.clone();
        let fatal = run.lock().unwrap_or_else(PoisonError::into_inner).fatal.clone();
        let host = Host::new(SimMachine::new(self.now, sim.rate_ppm, seed), self.now);
        self.net.lock().host_up(sim.host);
        let connect = Arc::new(SimConnect { net: self.net.clone(), from: sim.host });
        let (disk, source, config) = (sim.disk.clone(), sim.source.clone(), sim.config.clone());
        let (net, id, publish_interval) = (self.net.clone(), sim.host, self.plan.publish_interval);
        let patience = self.plan.patience[1];
        self.observer.see_node(node, self.now, What::Started);
        self.observer.set_node(node);
        host.spawn(async move {
            let told = run.clone();
            let booting = async move {
                let store = Store::open_simulated(&disk, Arc::new(move |_| fatal.store(true, Ordering::Relaxed)));
                let store = store.map_err(|e| e.to_string())?;
                store.resume_installs().and_then(|_| store.remove_leftovers()).map_err(|e| e.to_string())?;
                let environment = Environment {
                    clock: Clock::with_limit(Arc::new(source), MAX_OFFSET),
                    store,
                    connect,
                    grpc_address: address(config.node),
                    http_address: address(config.node),
                    publish_interval,
                    deadlines: Deadlines { request: patience, ..Deadlines::default() },
                };
                let Booted { ctx, routes, tasks, stop, health } =
                    boot(config, environment).await.map_err(|e| format!("{e}: {:?}", std::error::Error::source(&e)))?;
                net.lock().serve(id, routes);
                run.lock().unwrap_or_else(PoisonError::into_inner).ctx = Some(ctx);
                // Everything stays as it is until the host goes down.
                std::future::pending::<()>().await;
                drop((tasks, stop, health));
                Ok::<_, String>(())
            };
            if let Err(why) = booting.await {
                told.lock().unwrap_or_else(PoisonError::into_inner).failed = Some(why);
            }
        });
        self.hosts.insert(HostId(node.0), host);
    }

    /// Starts all nodes.
    pub(crate) fn start_all(&mut self) {
        for node in self.plan.node_ids() {
            self.start_node(node);
        }
    }

    fn down(&mut self, node: NodeId, power: bool, fatal: bool) {
        let Some(sim) = self.nodes.get_mut(&node).filter(|n| n.up) else { return };
        (sim.up, sim.suspended) = (false, false);
        sim.run.lock().unwrap_or_else(PoisonError::into_inner).ctx = None;
        let host = sim.host;
        self.suspended.remove(&host);
        self.observer.set_node(node);
        // The disk first: what the tasks do while they are dropped does not reach it.
        if power || fatal {
            sim.disk.crash()
        } else {
            sim.disk.kill()
        }
        self.hosts.remove(&host);
        self.net.lock().host_down(host, !power);
        let stop = if power || fatal { Stop::PowerLost } else { Stop::Killed };
        self.observer.see_node(node, self.now, What::Stopped(stop));
    }

    /// Moves everything forward by one step.
    pub(crate) fn step(&mut self) {
        let until = self.now + STEP_NS;
        let due = {
            let mut net = self.net.lock();
            net.now = self.now;
            net.due(until)
        };
        let mut by_host: BTreeMap<HostId, Vec<Due>> = BTreeMap::new();
        for (at, delivery) in due {
            let machine = HostId(delivery.to.0.min(CLIENTS));
            if self.suspended.contains(&machine) {
                self.buffers.entry(machine).or_default().push(delivery);
                continue;
            }
            for earlier in self.buffers.remove(&machine).unwrap_or_default() {
                by_host.entry(machine).or_default().push(self.at_host(self.now, earlier));
            }
            by_host.entry(machine).or_default().push(self.at_host(at, delivery));
        }
        let woken: Vec<HostId> = self.buffers.keys().filter(|id| !self.suspended.contains(id)).copied().collect();
        for id in woken {
            for earlier in self.buffers.remove(&id).unwrap_or_default() {
                by_host.entry(id).or_default().push(self.at_host(self.now, earlier));
            }
        }
        for (id, host) in &mut self.hosts {
            if self.suspended.contains(id) {
                continue;
            }
            self.observer.set_node(NodeId(if id.0 < CLIENTS { id.0 } else { 0 }));
            host.run_until(until, by_host.remove(id).unwrap_or_default());
            let lines = self.net.lock().tracing.as_mut().map(std::mem::take).unwrap_or_default();
            for text in lines {
                self.observer.say(|line| line.push_str(&text));
            }
        }
        self.now = until;
        self.observer.true_ns.set(until);
        if self.now.is_multiple_of(1_000 * STEP_NS) {
            self.net.lock().give_up();
        }
        self.look_for_fatal();
    }

    /// A delivery, as its host is to take it in.
    fn at_host(&self, at: u64, delivery: Delivery) -> Due {
        let net = self.net.clone();
        let take_in = move || {
            let current = net.lock().is_current(&delivery);
            if current {
                deliver(&net, delivery);
            }
        };
        (at, Box::new(take_in))
    }

    fn look_for_fatal(&mut self) {
        let fatal =
            |n: &&SimNode| n.up && n.run.lock().unwrap_or_else(PoisonError::into_inner).fatal.load(Ordering::Relaxed);
        let ended: Vec<NodeId> = self.nodes.values().filter(fatal).map(|n| n.config.node).collect();
        for node in ended {
            self.observer.say(|line| line.push_str(&format!("{node} ended itself: its disk failed")));
            self.down(node, false, true);
            if self.calm {
                self.start_node(node);
            }
        }
    }

    /// Nodes that could not start, and why.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = |n: &SimNode| n.run.lock().unwrap_or_else(PoisonError::into_inner).failed.clone();
        self.nodes
            .values()
            .filter_map(|n| failed(n).map(|why| format!("{} did not start: {why}", n.config.node)))
            .collect()
    }

    /// The contexts of the nodes that run.
    pub(crate) fn contexts(&self) -> Vec<Context> {
        let ctx = |n: &SimNode| n.run.lock().unwrap_or_else(PoisonError::into_inner).ctx.clone();
        self.nodes.values().filter(|n| n.up && !n.suspended).filter_map(ctx).collect()
    }

    /// Runs `f` as code of a node's host.
    pub(crate) fn on_node<T>(&self, node: NodeId, f: impl FnOnce() -> T) -> Option<T> {
        self.observer.set_node(node);
        self.hosts.get(&HostId(node.0)).map(|host| host.with(f))
    }
}

fn rtts(plan: &Plan) -> Vec<FormRtt> {
    let regions = plan.regions();
    let pairs = regions.iter().enumerate().flat_map(|(i, a)| regions[i..].iter().map(move |b| (*a, *b)));
    let rtt = |(a, b): (&str, &str)| FormRtt { a: a.into(), b: b.into(), rtt: plan.delay(a, b) * 2 };
    pairs.map(rtt).collect()
}
