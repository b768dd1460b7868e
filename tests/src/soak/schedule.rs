//! What goes wrong, and when: a pure function of the seed.

use crate::soak::keys::TABLES;
use meridian_types::{NodeId, RegionId};
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `SIGKILL`, then a restart.
    Kill,
    /// Two nodes at once.
    KillPair,
    /// All nodes at once.
    KillAll,
    /// `SIGSTOP`, then `SIGCONT`.
    Pause,
    /// `SIGTERM`, then a restart.
    Restart,
    /// Two regions cut off from each other.
    Partition,
    /// What one region sends to another is lost.
    OneWay,
    /// A region cut off from all others.
    Isolate,
    /// A much longer round trip between two regions.
    Slow,
    /// Another clock error, inside the declared bound.
    Clock,
    /// A clock that jumps beyond its bound, and back later.
    ClockJump,
    /// A clock that runs away from true time, too slowly to be noticed as a jump.
    ClockDrift,
    /// A shard's leadership moved by request.
    Transfer,
}

/// Names, and how often each kind comes in a round.
const KINDS: [(Kind, &str, usize); 13] = [
    (Kind::Kill, "kill", 5),
    (Kind::KillPair, "kill-pair", 1),
    (Kind::KillAll, "kill-all", 1),
    (Kind::Pause, "pause", 1),
    (Kind::Restart, "restart", 1),
    (Kind::Partition, "partition", 1),
    (Kind::OneWay, "one-way", 1),
    (Kind::Isolate, "isolate", 2),
    (Kind::Slow, "slow", 1),
    (Kind::Clock, "clock", 1),
    (Kind::ClockJump, "clock-jump", 1),
    (Kind::ClockDrift, "clock-drift", 1),
    (Kind::Transfer, "transfer", 1),
];

/// A text that names no kind of fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no fault; there are {list}", list = Kind::names().join(", "))]
pub struct UnknownKind(String);

impl Kind {
    /// All kinds.
    pub fn all() -> Vec<Self> {
        KINDS.iter().map(|(kind, ..)| *kind).collect()
    }

    /// Those that leave every guarantee in force.
    pub fn within_bounds() -> Vec<Self> {
        Self::all().into_iter().filter(|kind| !kind.breaks_clocks()).collect()
    }

    /// The names of all kinds.
    pub fn names() -> Vec<&'static str> {
        KINDS.iter().map(|(_, name, _)| *name).collect()
    }

    /// Whether a clock leaves its declared bound, which some guarantees rest on.
    pub fn breaks_clocks(self) -> bool {
        matches!(self, Self::ClockJump | Self::ClockDrift)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(KINDS.iter().find(|(kind, ..)| kind == self).map_or("", |(_, name, _)| name))
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let named = KINDS.iter().find(|(_, name, _)| *name == text);
        named.map(|(kind, ..)| *kind).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// [`Kind::Kill`].
    Kill(NodeId),
    /// [`Kind::KillPair`].
    KillPair(NodeId, NodeId),
    /// [`Kind::KillAll`].
    KillAll,
    /// [`Kind::Pause`].
    Pause(NodeId),
    /// [`Kind::Restart`].
    Restart(NodeId),
    /// [`Kind::Partition`].
    Partition(RegionId, RegionId),
    /// [`Kind::OneWay`]: from, to.
    OneWay(RegionId, RegionId),
    /// [`Kind::Isolate`].
    Isolate(RegionId),
    /// [`Kind::Slow`]: with this round trip.
    Slow(RegionId, RegionId, Duration),
    /// [`Kind::Clock`]: from now on off by so many microseconds.
    Clock(NodeId, i64),
    /// [`Kind::ClockJump`]: meanwhile off by so many microseconds.
    ClockJump(NodeId, i64),
    /// [`Kind::ClockDrift`]: meanwhile gains so many microseconds a second.
    ClockDrift(NodeId, i64),
    /// [`Kind::Transfer`]: of a table's shard, counted from 0, to one of its voters, counted likewise.
    Transfer(&'static str, usize, usize),
}

impl Fault {
    /// What kind it is of.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Kill(_) => Kind::Kill,
            Self::KillPair(..) => Kind::KillPair,
            Self::KillAll => Kind::KillAll,
            Self::Pause(_) => Kind::Pause,
            Self::Restart(_) => Kind::Restart,
            Self::Partition(..) => Kind::Partition,
            Self::OneWay(..) => Kind::OneWay,
            Self::Isolate(_) => Kind::Isolate,
            Self::Slow(..) => Kind::Slow,
            Self::Clock(..) => Kind::Clock,
            Self::ClockJump(..) => Kind::ClockJump,
            Self::ClockDrift(..) => Kind::ClockDrift,
            Self::Transfer(..) => Kind::Transfer,
        }
    }

    /// How many of so many nodes it kills.
    pub fn kills(&self, nodes: u64) -> u64 {
        match self {
            Self::Kill(_) => 1,
            Self::KillPair(..) => 2,
            Self::KillAll => nodes,
            _ => 0,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<11} ", self.kind())?;
        match self {
            Self::Kill(node) | Self::Pause(node) | Self::Restart(node) => write!(f, "node {}", node.0),
            Self::KillPair(a, b) => write!(f, "nodes {} and {}", a.0, b.0),
            Self::KillAll => f.write_str("all nodes"),
            Self::Partition(a, b) => write!(f, "{a} | {b}"),
            Self::OneWay(from, to) => write!(f, "{from} -> {to}"),
            Self::Isolate(region) => write!(f, "{region}"),
            Self::Slow(a, b, rtt) => write!(f, "{a} | {b}, round trip {rtt:?}"),
            Self::Clock(node, us) | Self::ClockJump(node, us) => write!(f, "node {}, off by {us} us", node.0),
            Self::ClockDrift(node, ppm) => write!(f, "node {}, by {ppm} us/s", node.0),
            Self::Transfer(table, shard, voter) => write!(f, "shard {shard} of {table} to voter {voter}"),
        }
    }
}

/// A fault and its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// When it begins, counted from when the load begins. It waits for earlier faults of the same node or network.
    pub at: Duration,
    /// What happens.
    pub fault: Fault,
    /// How long it lasts.
    pub lasts: Duration,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3} s  {}", self.at.as_secs_f64(), self.fault)?;
        if self.lasts.is_zero() { Ok(()) } else { write!(f, ", for {:.3} s", self.lasts.as_secs_f64()) }
    }
}

/// What a schedule is made for.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How long faults go on.
    pub span: Duration,
    /// Mean time between two of them.
    pub every: Duration,
    /// The kinds; one that is named twice comes twice as often.
    pub kinds: Vec<Kind>,
    /// The cluster's nodes.
    pub nodes: Vec<NodeId>,
    /// Its regions; two at least.
    pub regions: Vec<RegionId>,
    /// What the clocks declare.
    pub clock_bound: Duration,
}

/// Everything that goes wrong in one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// What it follows from, with its shape.
    pub seed: u64,
    /// How far the nodes' clocks are off from the beginning, in microseconds: as far apart as the bound allows.
    pub clocks: Vec<(NodeId, i64)>,
    /// In order of time.
    pub faults: Vec<Planned>,
}

impl Schedule {
    /// Every kind comes once, or as often as its weight says, before any comes again.
    pub fn new(seed: u64, shape: &Shape) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let most = if shape.kinds.contains(&Kind::Clock) { offset_max_us(shape.clock_bound) } else { 0 };
        let off = |(i, node): (usize, &NodeId)| (*node, if i.is_multiple_of(2) { most } else { -most });
        let mut nodes = shape.nodes.clone();
        nodes.shuffle(&mut rng);
        let clocks = nodes.iter().enumerate().map(off).collect();
        let (mut faults, mut round, mut at) = (Vec::new(), Vec::new(), Duration::ZERO);
        loop {
            at += shape.every.mul_f64(rng.random_range(0.5..1.5));
            if at >= shape.span || shape.kinds.is_empty() {
                return Self { seed, clocks, faults };
            }
            if round.is_empty() {
                let times = |kind: &Kind| KINDS.iter().find(|(k, ..)| k == kind).map_or(1, |(.., times)| *times);
                round = shape.kinds.iter().flat_map(|kind| std::iter::repeat_n(*kind, times(kind))).collect();
                round.shuffle(&mut rng);
            }
            let Some((fault, lasts)) = round.pop().and_then(|kind| draw(kind, shape, &mut rng)) else { continue };
            faults.push(Planned { at, fault, lasts });
        }
    }

    /// How long faults have to go on until so many nodes were killed. The schedule of a longer span begins with that of
    /// a shorter one.
    pub fn span_for_kills(seed: u64, shape: &Shape, kills: u64) -> Option<Duration> {
        if !shape.kinds.iter().any(|kind| matches!(kind, Kind::Kill | Kind::KillPair | Kind::KillAll)) {
            return None;
        }
        let mut span = shape.every;
        loop {
            let schedule = Self::new(seed, &Shape { span, ..shape.clone() });
            let nodes = shape.nodes.len() as u64;
            if schedule.faults.iter().map(|planned| planned.fault.kills(nodes)).sum::<u64>() >= kills {
                return Some(span);
            }
            span += shape.every;
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        for (node, us) in self.clocks.iter().filter(|(_, us)| *us != 0) {
            writeln!(f, "from the beginning: node {}'s clock is off by {us} us", node.0)?;
        }
        self.faults.iter().try_for_each(|planned| writeln!(f, "{planned}"))
    }
}

/// The largest clock error that is inside its bound, in microseconds: a tenth less, because the machine's own clock may
/// be slewed meanwhile.
fn offset_max_us(bound: Duration) -> i64 {
    i64::try_from(bound.as_micros() * 9 / 10).unwrap_or(i64::MAX)
}

/// A fault of this kind and how long it lasts. `None`: the cluster is too small for it.
fn draw(kind: Kind, shape: &Shape, rng: &mut ChaCha8Rng) -> Option<(Fault, Duration)> {
    let node = *shape.nodes.choose(rng)?;
    let ms = |range: std::ops::Range<u64>, rng: &mut ChaCha8Rng| Duration::from_millis(rng.random_range(range));
    let either = |range: std::ops::Range<i64>, rng: &mut ChaCha8Rng| {
        let size = rng.random_range(range);
        if rng.random() { size } else { -size }
    };
    let two = |rng: &mut ChaCha8Rng| {
        let mut two = shape.regions.sample(rng, 2);
        Some((two.next()?.clone(), two.next()?.clone()))
    };
    Some(match kind {
        Kind::Kill => (Fault::Kill(node), ms(50..2_500, rng)),
        Kind::KillPair => {
            let mut two = shape.nodes.sample(rng, 2);
            (Fault::KillPair(*two.next()?, *two.next()?), ms(50..2_500, rng))
        }
        Kind::KillAll => (Fault::KillAll, ms(0..1_000, rng)),
        // Up to well beyond every lease and election timeout.
        Kind::Pause => (Fault::Pause(node), ms(200..4_000, rng)),
        Kind::Restart => (Fault::Restart(node), ms(0..500, rng)),
        Kind::Partition => {
            let (a, b) = two(rng)?;
            (Fault::Partition(a, b), ms(1_000..7_000, rng))
        }
        Kind::OneWay => {
            let (from, to) = two(rng)?;
            (Fault::OneWay(from, to), ms(1_000..7_000, rng))
        }
        // A leader that is cut off shows its mistakes once another is elected, which takes two seconds or so.
        Kind::Isolate => (Fault::Isolate(shape.regions.choose(rng)?.clone()), ms(1_000..7_000, rng)),
        Kind::Slow => {
            let (a, b) = two(rng)?;
            (Fault::Slow(a, b, ms(50..400, rng)), ms(1_000..6_000, rng))
        }
        Kind::Clock => {
            let most = offset_max_us(shape.clock_bound);
            // Mostly as far as it may: mistakes about time show when clocks are far apart.
            let offset_us = [-most, most, rng.random_range(-most..=most)];
            (Fault::Clock(node, *offset_us.choose(rng)?), Duration::ZERO)
        }
        Kind::ClockJump => (Fault::ClockJump(node, either(20_000..2_000_000, rng)), ms(500..5_000, rng)),
        Kind::ClockDrift => (Fault::ClockDrift(node, either(20_000..300_000, rng)), ms(1_000..6_000, rng)),
        Kind::Transfer => {
            let table = TABLES.choose(rng)?;
            let shard = rng.random_range(0..=table.split_keys.len());
            (Fault::Transfer(table.name, shard, rng.random_range(0..3)), Duration::ZERO)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(kinds: Vec<Kind>) -> Shape {
        Shape {
            span: Duration::from_secs(200),
            every: Duration::from_secs(1),
            kinds,
            nodes: (1..=3).map(NodeId).collect(),
            regions: ["a", "b", "c"].map(RegionId::from).to_vec(),
            clock_bound: Duration::from_millis(5),
        }
    }

    #[test]
    fn the_seed_decides() {
        let shape = shape(Kind::all());
        assert_eq!(Schedule::new(3, &shape), Schedule::new(3, &shape));
        assert_ne!(Schedule::new(3, &shape), Schedule::new(4, &shape));
    }

    #[test]
    fn every_kind_comes_in_every_round() {
        let round: usize = KINDS.iter().map(|(.., times)| times).sum();
        let schedule = Schedule::new(1, &shape(Kind::all()));
        for faults in schedule.faults.chunks_exact(round) {
            for (kind, name, times) in KINDS {
                assert_eq!(faults.iter().filter(|p| p.fault.kind() == kind).count(), times, "{name}");
            }
        }
        assert!(schedule.faults.len() >= 150, "{}", schedule.faults.len());
        assert!(schedule.faults.is_sorted_by_key(|p| p.at));
    }

    #[test]
    fn only_what_was_asked_for_comes_and_clocks_stay_inside_their_bound() {
        let schedule = Schedule::new(1, &shape(vec![Kind::Clock]));
        assert!(!schedule.faults.is_empty());
        for planned in &schedule.faults {
            assert!(matches!(planned.fault, Fault::Clock(_, us) if us.abs() <= 4_500), "{planned}");
        }
        assert!(Schedule::new(1, &shape(Vec::new())).faults.is_empty());
    }

    #[test]
    fn a_schedule_goes_on_until_enough_nodes_were_killed() {
        let kills = |schedule: &Schedule| schedule.faults.iter().map(|p| p.fault.kills(3)).sum::<u64>();
        let shape = shape(vec![Kind::Kill, Kind::KillAll, Kind::Pause]);
        for least in [1, 10, 200] {
            let span = Schedule::span_for_kills(7, &shape, least).unwrap();
            let found = kills(&Schedule::new(7, &Shape { span, ..shape.clone() }));
            assert!((least..least + 6).contains(&found), "{found} of {least}");
        }
        assert_eq!(Schedule::span_for_kills(7, &Shape { kinds: vec![Kind::Pause], ..shape }, 1), None);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for kind in Kind::all() {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("earthquake".parse::<Kind>().unwrap_err().to_string().contains("kill-pair"));
    }
}
