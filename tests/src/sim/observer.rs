//! Watches a simulation: hands every event to the invariants, and keeps a readable trace if one is wanted.

use super::invariant::{Breach, Disks, Invariant, Seen, What};
use super::tell::tell;
use meridian_probe::{Digest, Event};
use meridian_storage::SimDisk;
use meridian_types::{NodeId, ShardId, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;

/// Breaches after which no more are noted: one cause has many consequences.
const BREACHES_MAX: usize = 8;

/// The nodes' disks, as far as logs and floors go.
#[derive(Default)]
pub(crate) struct NodeDisks(pub(crate) BTreeMap<NodeId, SimDisk>);

impl Disks for NodeDisks {
    fn synced_end(&self, node: NodeId, shard: ShardId) -> u64 {
        self.0.get(&node).and_then(|disk| disk.synced_last_index(shard)).map_or(0, |last| last + 1)
    }

    fn durable_floor(&self, node: NodeId, shard: ShardId) -> Timestamp {
        self.0.get(&node).map_or(Timestamp::ZERO, |disk| disk.durable_floor(shard))
    }
}

/// See the module's documentation.
pub(crate) struct Observer {
    invariants: RefCell<Vec<Box<dyn Invariant>>>,
    pub(crate) disks: RefCell<NodeDisks>,
    /// Whose turn it is.
    node: Cell<NodeId>,
    pub(crate) true_ns: Cell<u64>,
    /// True time when the simulation began.
    pub(crate) start: Cell<u64>,
    pub(crate) clocks_good: Cell<bool>,
    number: Cell<u64>,
    breaches: RefCell<Vec<Breach>>,
    trace: Option<RefCell<String>>,
    /// Over every event in its order: two runs of a seed have the same.
    digest: Cell<Digest>,
}

impl Observer {
    pub(crate) fn new(invariants: Vec<Box<dyn Invariant>>, trace: bool) -> Rc<Self> {
        Rc::new(Self {
            invariants: RefCell::new(invariants),
            disks: RefCell::default(),
            node: Cell::new(NodeId(0)),
            true_ns: Cell::new(0),
            start: Cell::new(0),
            clocks_good: Cell::new(true),
            number: Cell::new(0),
            breaches: RefCell::default(),
            trace: trace.then(RefCell::default),
            digest: Cell::new(Digest::EMPTY),
        })
    }

    /// Listens to the events of this thread.
    pub(crate) fn listen(self: &Rc<Self>) {
        let this = self.clone();
        meridian_probe::record(Some(Rc::new(move |number, event: &Event| {
            this.number.set(number);
            if let Some(now) = meridian_probe::machine::true_ns() {
                this.true_ns.set(now);
            }
            this.see(What::Event(event));
        })));
    }

    pub(crate) fn set_node(&self, node: NodeId) {
        self.node.set(node);
    }

    /// Takes in something about a node that is no event of it.
    pub(crate) fn see_node(&self, node: NodeId, now: u64, what: What<'_>) {
        let before = self.node.replace(node);
        self.true_ns.set(now);
        self.see(what);
        self.node.set(before);
    }

    fn see(&self, what: What<'_>) {
        let disks = self.disks.borrow();
        let seen = Seen {
            number: self.number.get(),
            true_ns: self.true_ns.get(),
            node: self.node.get(),
            what,
            disks: &*disks,
            clocks_good: self.clocks_good.get(),
        };
        if self.trace.is_some() {
            self.say(|line| {
                let _ = write!(line, "#{} {} {}", seen.number, seen.node, tell(&seen.what, self.start.get()));
            });
        }
        let mut breaches = self.breaches.borrow_mut();
        for invariant in self.invariants.borrow_mut().iter_mut() {
            if let Err(what) = invariant.see(&seen)
                && breaches.len() < BREACHES_MAX
            {
                self.say(|line| {
                    let _ = write!(line, "BREACH of {}: {what}", invariant.name());
                });
                breaches.push(Breach { invariant: invariant.name(), what });
            }
        }
    }

    pub(crate) fn is_tracing(&self) -> bool {
        self.trace.is_some()
    }

    /// Adds a line to the trace, with the time in front.
    pub(crate) fn say(&self, text: impl FnOnce(&mut String)) {
        let Some(trace) = &self.trace else { return };
        let mut line = format!("{:>12.6} ", self.since_start() as f64 / 1e9);
        text(&mut line);
        self.digest.set(self.digest.get().and(line.as_bytes()));
        let mut trace = trace.borrow_mut();
        trace.push_str(&line);
        trace.push('\n');
    }

    fn since_start(&self) -> u64 {
        self.true_ns.get().saturating_sub(self.start.get())
    }

    /// Ends the simulation: what the invariants have found.
    pub(crate) fn end(&self) -> Vec<Breach> {
        meridian_probe::record(None);
        let mut breaches = std::mem::take(&mut *self.breaches.borrow_mut());
        for invariant in self.invariants.borrow_mut().iter_mut() {
            if let Err(what) = invariant.end() {
                breaches.push(Breach { invariant: invariant.name(), what });
            }
        }
        breaches
    }

    /// Whether something is broken already.
    pub(crate) fn is_broken(&self) -> bool {
        !self.breaches.borrow().is_empty()
    }

    /// The trace so far, if one is kept.
    pub(crate) fn trace(&self) -> String {
        self.trace.as_ref().map(|t| t.borrow().clone()).unwrap_or_default()
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest.get()
    }

    pub(crate) fn events(&self) -> u64 {
        self.number.get()
    }
}
