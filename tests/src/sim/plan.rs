//! What a seed decides: the cluster, its distances, clocks and disks, the load, and which faults come when.

use meridian_storage::DiskLevel;
use meridian_types::NodeId;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// The regions that a cluster may have.
pub(crate) const REGIONS: [&str; 5] = ["us", "eu", "ap", "sa", "af"];

/// One thing that is done to the cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// The process is killed, or its machine loses its power.
    Down { node: NodeId, power: bool },
    /// It is started again.
    Up { node: NodeId },
    /// The machine stands still.
    Suspend { node: NodeId },
    /// It goes on; its timers know how much time has passed, or not.
    Resume { node: NodeId, catch_up: bool },
    /// Nothing passes between the leader of a shard (by its rank) and so many voters that it has no quorum, or one voter
    /// less: then it has just enough. Learners and clients still reach it.
    CutLeader { shard: usize, spare: bool },
    /// The voter that was spared is cut off too, and started again at once.
    RestartSpared,
    /// The voter that was spared is cut off too, and its Raft rebuilt at once.
    RebuildSpared,
    /// The leader of a shard (by its rank) has its group agree on timers of so many percent of those that it runs with.
    ChangeTimers { shard: usize, percent: u64 },
    /// All members of a shard (by its rank) but its leader take over at once what was agreed on.
    RebuildOthers { shard: usize },
    /// Everything passes again.
    HealAll,
    /// Nothing passes from one node to another.
    Cut { from: NodeId, to: NodeId },
    /// It passes again.
    Heal { from: NodeId, to: NodeId },
    /// The clients of the node's region cannot reach it, or can again.
    CutClients { node: NodeId, cut: bool },
    /// The way between two nodes takes longer by a factor of `times`.
    Slow { a: NodeId, b: NodeId, times: u32 },
    /// Packets of a thousand that are lost, and requests that are doubled, everywhere.
    Weather { lost: u32, doubled: u32 },
    /// The clock moves.
    Jump { node: NodeId, by_ns: i64, within_bound: bool },
    /// The clock runs at another rate.
    Drift { node: NodeId, ppm: i32 },
    /// The leader of a shard (by its rank among the shards) is asked to hand over to a voter (by its rank).
    Transfer { shard: usize, to: usize },
    /// The leader of a shard changes its voters: one voter becomes a learner, a learner or the former voter a voter.
    Reconfigure { shard: usize, pick: usize },
    /// Syncs of the node's disk do not end, or do again.
    Stall { node: NodeId, stalled: bool },
    /// The node's next sync fails.
    FailSync { node: NodeId },
    /// The node's disk is as full as this from now on.
    Fill { node: NodeId, level: DiskLevel },
    /// The node's state is flushed and its log cut short, so that whoever lags needs a snapshot.
    Compact { node: NodeId },
}

/// A node's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockPlan {
    pub(crate) bound: Duration,
    pub(crate) offset_ns: i64,
    /// How much the monotonic clock is off its rate.
    pub(crate) rate_ppm: i64,
}

/// One table.
#[derive(Clone, Debug)]
pub(crate) struct TablePlan {
    pub(crate) name: &'static str,
    pub(crate) placement: String,
    pub(crate) split: bool,
}

impl TablePlan {
    /// Whether linearizable reads of it are answered at the clocks of those who are asked.
    pub(crate) fn is_read_ahead(&self) -> bool {
        self.placement.starts_with("global-reads")
    }
}

/// Everything that a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// The region of each node, node 1 first.
    pub(crate) nodes: Vec<&'static str>,
    /// Voters of shard 0.
    pub(crate) catalog_voters: Vec<NodeId>,
    /// One-way delays between the first, second, ... regions, by pair.
    pub(crate) delays: Vec<((usize, usize), Duration)>,
    pub(crate) jitter: Duration,
    pub(crate) clocks: Vec<ClockPlan>,
    pub(crate) sync_max: Duration,
    pub(crate) publish_interval: Duration,
    pub(crate) tables: Vec<TablePlan>,
    /// How long the tables keep old versions; `None`: longer than the simulation.
    pub(crate) gc_ttl: Option<Duration>,
    pub(crate) keys: u64,
    /// Client processes in each region.
    pub(crate) processes: u64,
    /// How long a client waits for an attempt, and a gateway for all of its own.
    pub(crate) patience: [Duration; 2],
    /// How long after the epoch the simulation starts: log time enters a new minute at any point of it.
    pub(crate) start: Duration,
    /// Mean pause between two operations of a process.
    pub(crate) think: Duration,
    /// When faults come, from the start of the load, in order of time.
    pub(crate) faults: Vec<(Duration, Action)>,
    /// How long faults come.
    pub(crate) stormy: Duration,
    /// Which kinds of faults, for reports.
    pub(crate) kinds: Vec<&'static str>,
    /// Whether a clock leaves its bound.
    pub(crate) clocks_break: bool,
}

/// Disks that fill up: beside the others, so that what a seed decided before there were any stays as it was.
const FULL: &str = "full";

/// Timers that change: likewise.
const TIMERS: &str = "timers";

/// Kinds of faults; a seed takes some of them.
const KINDS: [&str; 14] = [
    "leader",
    "kill",
    "power",
    "pause",
    "partition",
    "one-way",
    "flap",
    "slow",
    "weather",
    "clock",
    "transfer",
    "reconfigure",
    "disk",
    "compact",
];

/// What a run may be limited to.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Only these kinds of faults, instead of a random choice.
    pub kinds: Option<Vec<String>>,
    /// Clocks may leave their bounds.
    pub break_clocks: Option<bool>,
}

impl Wish {
    /// The kinds of faults there are.
    pub fn kinds() -> Vec<&'static str> {
        KINDS.into_iter().chain([FULL, TIMERS]).collect()
    }
}

impl Plan {
    pub(crate) fn new(seed: u64, wish: &Wish) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let regions = if rng.random_ratio(1, 4) { rng.random_range(3..=5) } else { 3 };
        let count = *[3, 3, 3, 3, 3, 4, 5, 5, 6, 7].choose(&mut rng).unwrap_or(&3);
        let count = count.max(regions);
        let nodes: Vec<&'static str> = (0..count).map(|i| REGIONS[i % regions]).collect();
        let voters = if regions >= 5 && rng.random() { 5 } else { 3 };
        let catalog_voters = (1..=voters).map(NodeId).collect();
        let far = *[6, 12, 25].choose(&mut rng).unwrap_or(&12);
        let mut delays = Vec::new();
        for a in 0..regions {
            for b in a..regions {
                let ms = if a == b { 1 } else { rng.random_range(2..=far) };
                delays.push(((a, b), Duration::from_millis(ms)));
            }
        }
        let clocks_break = wish.break_clocks.unwrap_or_else(|| rng.random_ratio(1, 8));
        let clocks = (0..count).map(|_| clock(&mut rng)).collect();
        let stormy = Duration::from_millis(rng.random_range(6_000..16_000));
        let patience = if rng.random_ratio(1, 4) { [4_000, 1_500] } else { [2_000, 10_000] }.map(Duration::from_millis);
        let kinds: Vec<&'static str> = match &wish.kinds {
            Some(only) => KINDS.into_iter().filter(|k| only.iter().any(|o| o == k)).collect(),
            None => {
                let mut kinds = KINDS.to_vec();
                kinds.shuffle(&mut rng);
                kinds.truncate(rng.random_range(1..=5));
                kinds
            }
        };
        let mut plan = Self {
            seed,
            nodes,
            catalog_voters,
            delays,
            jitter: Duration::from_micros(rng.random_range(0..4_000)),
            clocks,
            sync_max: Duration::from_millis(*[0, 2, 5, 20].choose(&mut rng).unwrap_or(&2)),
            publish_interval: Duration::from_millis(*[40, 100, 250].choose(&mut rng).unwrap_or(&100)),
            tables: tables(&mut rng, regions),
            gc_ttl: gc_ttl(seed),
            keys: *[2, 4, 12].choose(&mut rng).unwrap_or(&4),
            processes: rng.random_range(1..=3),
            patience,
            start: Duration::from_millis(rng.random_range(0..60_000)),
            think: Duration::from_millis(*[10, 40, 100, 1_000].choose(&mut rng).unwrap_or(&40)),
            faults: Vec::new(),
            stormy,
            kinds,
            clocks_break,
        };
        plan.faults = faults(&mut rng, &plan);
        plan.tables.extend(global_reads(seed, regions));
        plan.fill_disks(wish);
        plan.change_timers(wish);
        plan
    }

    /// Lets disks fill up, in some seeds. Drawn from a sequence of its own.
    fn fill_disks(&mut self, wish: &Wish) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0x6675_6c6c);
        let wanted = match &wish.kinds {
            Some(only) => only.iter().any(|kind| kind == FULL),
            None => rng.random_ratio(1, 5),
        };
        if !wanted {
            return;
        }
        self.kinds.push(FULL);
        let levels = [DiskLevel::NearlyFull, DiskLevel::Full, DiskLevel::Critical];
        let mut at = Duration::from_millis(rng.random_range(0..2_000));
        while at < self.stormy {
            let level = *levels.choose(&mut rng).unwrap_or(&DiskLevel::Full);
            let end = (at + Duration::from_millis(rng.random_range(500..6_000))).min(self.stormy);
            let one = NodeId(rng.random_range(1..=self.nodes.len() as u64));
            let all = rng.random_ratio(1, 4);
            for node in self.node_ids().filter(|node| all || *node == one) {
                let fill = |level| Action::Fill { node, level };
                self.faults.extend([(at, fill(level)), (end, fill(DiskLevel::Enough))]);
            }
            at += Duration::from_millis(rng.random_range(1_500..6_000));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// Lets timers change, in some seeds, also at once on all members but the leader; and rebuilds a voter that holds a
    /// leader's last promise. Drawn from a sequence of its own.
    fn change_timers(&mut self, wish: &Wish) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0x7469_6d65_7273);
        let wanted = match &wish.kinds {
            Some(only) => only.iter().any(|kind| kind == TIMERS),
            None => rng.random_ratio(1, 4),
        };
        if !wanted {
            return;
        }
        self.kinds.push(TIMERS);
        let ms = Duration::from_millis;
        let mut at = ms(rng.random_range(0..1_500));
        while at < self.stormy {
            let shard = rng.random_range(0..8);
            if rng.random_ratio(1, 3) {
                // The others' promises to the leader have run out by then, the spared one's has not.
                let then = at + ms(rng.random_range(1_200..3_000));
                let heal = then + ms(rng.random_range(800..3_000));
                self.faults.push((at, Action::CutLeader { shard, spare: true }));
                self.faults.extend([(then, Action::RebuildSpared), (heal, Action::HealAll)]);
            } else {
                let percent = *[40, 60, 150, 300].choose(&mut rng).unwrap_or(&40);
                self.faults.push((at, Action::ChangeTimers { shard, percent }));
                if rng.random_ratio(2, 3) {
                    let then = at + ms(rng.random_range(200..400));
                    // About when the others are free of what they promised before, and the leader is as it was.
                    let cut = then + ms(rng.random_range(500..1_600));
                    let heal = cut + ms(rng.random_range(600..3_000));
                    self.faults.push((then, Action::RebuildOthers { shard }));
                    self.faults.extend([(cut, Action::CutLeader { shard, spare: false }), (heal, Action::HealAll)]);
                }
            }
            at += ms(rng.random_range(2_000..6_000));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// Node ids.
    pub(crate) fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.nodes.len() as u64).map(NodeId)
    }

    /// Region names in use.
    pub(crate) fn regions(&self) -> Vec<&'static str> {
        REGIONS.into_iter().filter(|r| self.nodes.contains(r)).collect()
    }

    /// One-way delay between two regions.
    pub(crate) fn delay(&self, a: &str, b: &str) -> Duration {
        let place = |r: &str| REGIONS.iter().position(|x| *x == r).unwrap_or(0);
        let (a, b) = (place(a).min(place(b)), place(a).max(place(b)));
        self.delays.iter().find(|(pair, _)| *pair == (a, b)).map_or(Duration::from_millis(1), |(_, d)| *d)
    }
}

/// Drawn apart from everything else.
fn gc_ttl(seed: u64) -> Option<Duration> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x0067_635f_7474_6c00);
    *[None, None, Some(1_000), Some(1_300), Some(2_500)].map(|ms| ms.map(Duration::from_millis)).choose(&mut rng)?
}

fn clock(rng: &mut ChaCha8Rng) -> ClockPlan {
    let bound_ms: i64 = *[1, 5, 20, 100, 250].choose(rng).unwrap_or(&5);
    let bound = Duration::from_millis(bound_ms.unsigned_abs());
    // Half of the bound is left for jumps and drift.
    let offset_ns = rng.random_range(-bound_ms * 500_000..=bound_ms * 500_000);
    ClockPlan { bound, offset_ns, rate_ppm: rng.random_range(-100..=100) }
}

fn tables(rng: &mut ChaCha8Rng, regions: usize) -> Vec<TablePlan> {
    let region = |rng: &mut ChaCha8Rng| REGIONS[rng.random_range(0..regions)];
    let mut tables =
        vec![TablePlan { name: "alpha", placement: format!("global:{}", region(rng)), split: rng.random_ratio(1, 3) }];
    if rng.random() {
        tables.push(TablePlan { name: "beta", placement: format!("global:{}", region(rng)), split: false });
    }
    if rng.random_ratio(1, 3) {
        tables.push(TablePlan { name: "gamma", placement: format!("regional:{}", region(rng)), split: false });
    }
    tables
}

/// A table whose leader closes ahead of its clock, in half of the seeds. Drawn apart from everything else.
fn global_reads(seed: u64, regions: usize) -> Option<TablePlan> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x006c_6561_6421);
    let leader = REGIONS[rng.random_range(0..regions)];
    let split = rng.random_ratio(1, 3);
    rng.random::<bool>().then(|| TablePlan { name: "delta", placement: format!("global-reads:{leader}"), split })
}

/// A sequence of faults, each undone before the storm ends.
fn faults(rng: &mut ChaCha8Rng, plan: &Plan) -> Vec<(Duration, Action)> {
    let mut actions: Vec<(Duration, Action)> = Vec::new();
    if plan.kinds.is_empty() {
        return actions;
    }
    let mut at = Duration::from_millis(rng.random_range(0..800));
    let pace = *[300, 900, 2_500].choose(rng).unwrap_or(&900);
    while at < plan.stormy {
        let kind = plan.kinds.choose(rng).copied().unwrap_or("kill");
        let longest = if rng.random_ratio(1, 3) { 9_000 } else { 2_500 };
        let lasts = Duration::from_millis(rng.random_range(50..longest));
        let end = (at + lasts).min(plan.stormy);
        fault(rng, plan, kind, at, end, &mut actions);
        at += Duration::from_millis(rng.random_range(pace / 4..pace));
    }
    actions.sort_by_key(|(at, _)| *at);
    actions
}

fn fault(
    rng: &mut ChaCha8Rng,
    plan: &Plan,
    kind: &str,
    at: Duration,
    end: Duration,
    actions: &mut Vec<(Duration, Action)>,
) {
    let count = plan.nodes.len() as u64;
    let node = NodeId(rng.random_range(1..=count));
    let mut other = NodeId(rng.random_range(1..=count));
    if other == node {
        other = NodeId(node.0 % count + 1);
    }
    let mut span = |start: Action, stop: Action| actions.extend([(at, start), (end, stop)]);
    match kind {
        "kill" => span(Action::Down { node, power: false }, Action::Up { node }),
        "power" => {
            span(Action::Down { node, power: true }, Action::Up { node });
            if rng.random_ratio(1, 3) {
                actions.extend([(at, Action::Down { node: other, power: true }), (end, Action::Up { node: other })]);
            }
        }
        "pause" => span(Action::Suspend { node }, Action::Resume { node, catch_up: rng.random() }),
        "partition" => partition(rng, plan, at, end, actions),
        "leader" => {
            // Long enough for a successor more often than not.
            let end = (at + Duration::from_millis(rng.random_range(500..7_000))).min(plan.stormy);
            let spare = rng.random();
            actions.extend([(at, Action::CutLeader { shard: rng.random_range(0..8), spare }), (end, Action::HealAll)]);
            if spare {
                // The others' promises to the leader have run out by then, the spared one's has not.
                let then = at + Duration::from_millis(rng.random_range(1_200..3_000));
                actions.extend([(then, Action::RestartSpared), (then + Duration::from_secs(2), Action::HealAll)]);
            }
        }
        "one-way" => span(Action::Cut { from: node, to: other }, Action::Heal { from: node, to: other }),
        "flap" => flap(rng, node, other, at, end, actions),
        "slow" => {
            let times = rng.random_range(2..20);
            span(Action::Slow { a: node, b: other, times }, Action::Slow { a: node, b: other, times: 1 });
        }
        "weather" => {
            let (lost, doubled) = (rng.random_range(0..30), rng.random_range(0..200));
            span(Action::Weather { lost, doubled }, Action::Weather { lost: 0, doubled: 0 });
        }
        "clock" => clock_fault(rng, plan, node, at, actions),
        "transfer" => {
            actions.push((at, Action::Transfer { shard: rng.random_range(0..8), to: rng.random_range(0..8) }))
        }
        "reconfigure" => {
            actions.push((at, Action::Reconfigure { shard: rng.random_range(0..8), pick: rng.random_range(0..8) }));
        }
        "disk" if rng.random_ratio(1, 3) => {
            actions.extend([(at, Action::FailSync { node }), (end, Action::Up { node })]);
        }
        "disk" => span(Action::Stall { node, stalled: true }, Action::Stall { node, stalled: false }),
        _ => actions.push((at, Action::Compact { node })),
    }
}

/// Some nodes on one side, the others on the other; or a bridge: one node reaches both sides.
fn partition(rng: &mut ChaCha8Rng, plan: &Plan, at: Duration, end: Duration, actions: &mut Vec<(Duration, Action)>) {
    let mut nodes: Vec<NodeId> = plan.node_ids().collect();
    nodes.shuffle(rng);
    let bridge = (nodes.len() > 3 && rng.random_ratio(1, 3)).then(|| nodes.remove(0));
    let split = rng.random_range(1..nodes.len());
    let (left, right) = nodes.split_at(split);
    for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
        for (from, to) in [(a, b), (b, a)] {
            actions.extend([(at, Action::Cut { from, to }), (end, Action::Heal { from, to })]);
        }
    }
    if bridge.is_none() && rng.random_ratio(1, 3) {
        for node in left {
            let cut = |cut| Action::CutClients { node: *node, cut };
            actions.extend([(at, cut(true)), (end, cut(false))]);
        }
    }
}

fn flap(
    rng: &mut ChaCha8Rng,
    a: NodeId,
    b: NodeId,
    at: Duration,
    end: Duration,
    actions: &mut Vec<(Duration, Action)>,
) {
    let mut t = at;
    while t < end {
        let up = (t + Duration::from_millis(rng.random_range(20..400))).min(end);
        for (from, to) in [(a, b), (b, a)] {
            actions.extend([(t, Action::Cut { from, to }), (up, Action::Heal { from, to })]);
        }
        t = up + Duration::from_millis(rng.random_range(20..400));
    }
}

/// A jump of a quarter of the bound at most, so that offset and two jumps stay inside; or one far beyond.
fn clock_fault(rng: &mut ChaCha8Rng, plan: &Plan, node: NodeId, at: Duration, actions: &mut Vec<(Duration, Action)>) {
    let bound = plan.clocks.get(node.0 as usize - 1).map_or(1, |c| c.bound.as_nanos() as i64);
    if plan.clocks_break && rng.random_ratio(1, 3) {
        let by = bound * rng.random_range(2..6) + rng.random_range(0..2_000_000_000);
        let by_ns = if rng.random() { by } else { -by };
        actions.push((at, Action::Jump { node, by_ns, within_bound: false }));
        let back = at + Duration::from_millis(rng.random_range(500..6_000));
        actions.push((back, Action::Jump { node, by_ns: -by_ns, within_bound: false }));
    } else if rng.random() {
        let by_ns = rng.random_range(-bound / 4..=bound / 4);
        actions.push((at, Action::Jump { node, by_ns, within_bound: true }));
    } else {
        actions.push((at, Action::Drift { node, ppm: rng.random_range(-200..=200) }));
    }
}
