//! Carries out a schedule.
//!
//! Every fault runs by itself and ends by itself, so they overlap, but a node has one fault at a time, and so has the
//! network: what finds its node taken waits.

use crate::soak::keys::TABLES;
use crate::soak::nodes::{CLOCK_BOUND, Nodes};
use crate::soak::run::SoakError;
use crate::soak::schedule::{Fault, Kind, Planned, Schedule};
use meridian_client::Client;
use meridian_clock::{Mono, sleep, sleep_until};
use meridian_types::{NodeId, RegionId, ShardId};
use meridian_wan::{Place, Topology};
use rustix::process::Signal;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// A fault as it was carried out.
#[derive(Clone, Debug)]
pub struct Done {
    /// What was planned.
    pub planned: Planned,
    /// When it began, counted from when the load began.
    pub began: Duration,
    /// When it was over.
    pub ended: Duration,
    /// Nodes that were killed.
    pub killed: u64,
    /// Why it could not be carried out.
    pub failed: Option<String>,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (began, ended) = (self.began.as_secs_f64(), self.ended.as_secs_f64());
        write!(f, "{began:>9.3} s to {ended:>9.3} s  {}", self.planned.fault)?;
        self.failed.as_ref().map_or(Ok(()), |why| write!(f, ": not done, {why}"))
    }
}

/// What carries faults out.
#[derive(Debug)]
pub struct Injector {
    nodes: Arc<Nodes>,
    topology: Topology,
    /// Of each table of [`TABLES`]: its shards with their voters.
    shards: Vec<Vec<(ShardId, Vec<NodeId>)>>,
    client: Client,
    start: Mono,
    network: tokio::sync::Mutex<()>,
    speed: tokio::sync::Mutex<()>,
    done: Mutex<Vec<Done>>,
}

impl Injector {
    /// For a cluster that has the tables already; `client` asks for transfers, and times count from `start`.
    pub async fn new(nodes: Arc<Nodes>, topology: Topology, client: Client, start: Mono) -> Result<Self, SoakError> {
        let mut shards = Vec::new();
        for table in &TABLES {
            let described = client.describe_table(table.name).await?;
            let voters = |shard: &meridian_proto::v1::Shard| {
                shard.replicas.iter().filter(|r| r.voter).map(|r| NodeId(r.node)).collect()
            };
            shards.push(described.shards.iter().map(|s| (ShardId(s.id), voters(s))).collect());
        }
        let (network, speed, done) = Default::default();
        Ok(Self { nodes, topology, shards, client, start, network, speed, done })
    }

    /// Carries everything out; returns when all of it is over.
    pub async fn run(self: Arc<Self>, schedule: &Schedule) -> Result<(), SoakError> {
        let mut running = JoinSet::new();
        for planned in schedule.faults.clone() {
            sleep_until(self.start.plus(planned.at)).await;
            let this = self.clone();
            running.spawn(async move { this.one(planned).await });
        }
        running.join_all().await;
        Ok(())
    }

    /// What was done so far, in the order in which it was over.
    pub fn done(&self) -> Vec<Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends everything that may be left: links are whole and as fast as they were, all nodes run, clocks are right.
    pub async fn heal(&self) -> Result<(), SoakError> {
        self.nodes.control().heal_all().await?;
        for pair in &self.topology.rtt {
            let [a, b] = pair.between.clone().map(Place::from);
            self.nodes.control().set_delay(a, b, pair.rtt).await?;
        }
        for node in self.nodes.ids() {
            self.nodes.set_clock(node, 0, 0)?;
            let mut locked = self.nodes.lock(node).await?;
            if locked.is_none() {
                self.nodes.start_node(node, &mut locked)?;
            }
            self.nodes.signal(node, &locked, Signal::CONT)?;
        }
        Ok(())
    }

    async fn one(&self, planned: Planned) {
        let mut began = None;
        let result = self.carry_out(&planned, &mut began).await;
        let ended = self.start.elapsed();
        let killed = if result.is_ok() { planned.fault.kills(self.nodes.ids().len() as u64) } else { 0 };
        let done =
            Done { planned, began: began.unwrap_or(ended), ended, killed, failed: result.err().map(|e| e.to_string()) };
        tracing::info!("{done}");
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(done);
    }

    /// Sets `began` when it has what it waits for.
    async fn carry_out(&self, planned: &Planned, began: &mut Option<Duration>) -> Result<(), SoakError> {
        let (kind, lasts) = (planned.fault.kind(), planned.lasts);
        match &planned.fault {
            Fault::Kill(node) => self.down(&[*node], kind, lasts, began).await,
            Fault::KillPair(a, b) => self.down(&[*a.min(b), *a.max(b)], kind, lasts, began).await,
            Fault::KillAll => self.down(&self.nodes.ids(), kind, lasts, began).await,
            Fault::Restart(node) => self.down(&[*node], kind, lasts, began).await,
            Fault::Pause(node) => self.pause(*node, lasts, began).await,
            Fault::Partition(..) | Fault::OneWay(..) | Fault::Isolate(_) => {
                let _held = self.network.lock().await;
                *began = Some(self.start.elapsed());
                self.cut(&planned.fault).await?;
                sleep(lasts).await;
                self.nodes.control().heal_all().await?;
                Ok(())
            }
            Fault::Slow(a, b, rtt) => {
                let _held = self.speed.lock().await;
                *began = Some(self.start.elapsed());
                self.slow((a, b), *rtt, lasts).await
            }
            Fault::Clock(node, offset_us) => self.nodes.set_clock(*node, *offset_us, 0),
            Fault::ClockJump(node, offset_us) => self.wrong_clock(*node, (*offset_us, 0), lasts, began).await,
            Fault::ClockDrift(node, drift_ppm) => self.wrong_clock(*node, (0, *drift_ppm), lasts, began).await,
            Fault::Transfer(table, shard, voter) => self.transfer(table, *shard, *voter).await,
        }
    }

    /// Takes nodes down and starts them again. They are locked in the order given, which has to be ascending.
    async fn down(
        &self,
        nodes: &[NodeId],
        kind: Kind,
        lasts: Duration,
        began: &mut Option<Duration>,
    ) -> Result<(), SoakError> {
        let mut locked = Vec::new();
        for node in nodes {
            locked.push((*node, self.nodes.lock(*node).await?));
        }
        *began = Some(self.start.elapsed());
        for (node, process) in &mut locked {
            match kind {
                Kind::Restart => self.nodes.stop_node(process).await,
                _ => self.nodes.kill(*node, process).await?,
            }
        }
        sleep(lasts).await;
        for (node, process) in &mut locked {
            self.nodes.start_node(*node, process)?;
        }
        Ok(())
    }

    async fn pause(&self, node: NodeId, lasts: Duration, began: &mut Option<Duration>) -> Result<(), SoakError> {
        let locked = self.nodes.lock(node).await?;
        *began = Some(self.start.elapsed());
        self.nodes.signal(node, &locked, Signal::STOP)?;
        sleep(lasts).await;
        self.nodes.signal(node, &locked, Signal::CONT)
    }

    async fn cut(&self, fault: &Fault) -> Result<(), SoakError> {
        let control = self.nodes.control();
        let place = |region: &RegionId| Place::from(region.clone());
        match fault {
            Fault::Partition(a, b) => control.partition(place(a), place(b)).await?,
            Fault::OneWay(from, to) => control.partition_one_way(place(from), place(to)).await?,
            Fault::Isolate(region) => control.isolate(place(region)).await?,
            _ => Vec::new(),
        };
        Ok(())
    }

    async fn slow(&self, (a, b): (&RegionId, &RegionId), rtt: Duration, lasts: Duration) -> Result<(), SoakError> {
        let control = self.nodes.control();
        let (from, to) = (Place::from(a.clone()), Place::from(b.clone()));
        control.set_delay(from.clone(), to.clone(), rtt).await?;
        sleep(lasts).await;
        control.set_delay(from, to, self.topology.rtt(a, b)).await?;
        Ok(())
    }

    /// Sets a clock wrong, and then somewhere inside its bound again.
    async fn wrong_clock(
        &self,
        node: NodeId,
        (offset_us, drift_ppm): (i64, i64),
        lasts: Duration,
        began: &mut Option<Duration>,
    ) -> Result<(), SoakError> {
        *began = Some(self.start.elapsed());
        self.nodes.set_clock(node, offset_us, drift_ppm)?;
        sleep(lasts).await;
        let inside = i64::try_from(CLOCK_BOUND.as_micros()).unwrap_or(0) / 2;
        self.nodes.set_clock(node, if offset_us < 0 { inside } else { -inside }, 0)
    }

    async fn transfer(&self, table: &str, shard: usize, voter: usize) -> Result<(), SoakError> {
        let shards = TABLES.iter().position(|t| t.name == table).and_then(|i| self.shards.get(i));
        let Some((shard, voters)) = shards.and_then(|shards| shards.get(shard)) else { return Ok(()) };
        let Some(to) = voters.get(voter % voters.len().max(1)) else { return Ok(()) };
        Ok(self.client.transfer_leader(*shard, *to).await?)
    }
}
