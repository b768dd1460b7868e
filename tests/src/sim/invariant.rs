//! What an invariant sees of a simulation, and how it says that it is broken.

use meridian_probe::Event;
use meridian_storage::DiskLevel;
use meridian_types::{NodeId, ShardId, Timestamp};
use std::fmt;

/// How a node's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The process was killed; what it had written survives in the operating system's memory.
    Killed,
    /// The machine lost its power: what was not synced may be gone.
    PowerLost,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// A node started; its events begin.
    Started,
    /// A node's run ended; nothing more comes from it until it starts again.
    Stopped(Stop),
    /// The node's disk is as full as this from now on; said again when the node, or its disk, goes on after it stood still.
    Disk(DiskLevel),
    /// Something inside a node.
    Event(&'a Event),
}

/// What is true of the nodes' disks, whatever the nodes believe.
pub trait Disks {
    /// Index after the last entry of a shard's log that a power loss at this moment would leave on this node.
    fn synced_end(&self, node: NodeId, shard: ShardId) -> u64;

    /// The GC floor of a shard that a power loss at this moment would leave on this node.
    fn durable_floor(&self, node: NodeId, shard: ShardId) -> Timestamp;
}

/// One thing that happened, in the one order in which everything in a simulation happens.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// Its number, from 1; events carry such numbers as marks.
    pub number: u64,
    /// True time, in nanoseconds since the Unix epoch.
    pub true_ns: u64,
    /// Where.
    pub node: NodeId,
    /// What.
    pub what: What<'a>,
    /// The disks at this moment.
    pub disks: &'a dyn Disks,
    /// Whether every clock has kept its bound so far in this run.
    pub clocks_good: bool,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The invariant's name.
    pub invariant: &'static str,
    /// What contradicts it, with the numbers.
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// Something that must hold throughout a simulation.
pub trait Invariant {
    /// A short name, as reports have it.
    fn name(&self) -> &'static str;

    /// Takes in what happened; `Err` says what is broken.
    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String>;

    /// Called once, when the simulation has ended.
    fn end(&mut self) -> Result<(), String> {
        Ok(())
    }
}
