//! After the faults: the cluster serves again within a stated time, unknown outcomes are settled, and every replica is
//! asked for the same snapshots.
//!
//! What is read here is part of the history. Scans without a limit are read here and nowhere else, so a checker finds
//! them by that ([`is_closing`]): the linearizable ones are the final state.

use crate::exactly_once::FinalState;
use crate::harness::{History, Process};
use crate::soak::keys::TABLES;
use crate::soak::nodes::{Nodes, PATIENT};
use crate::soak::run::SoakError;
use meridian_bench::history::{Outcome, Record};
use meridian_client::Client;
use meridian_clock::{Mono, sleep};
use meridian_types::{Consistency, NodeId, RegionId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Within this time after everything was healed, every node serves writes and linearizable reads of every table.
pub const SERVE_WITHIN: Duration = Duration::from_secs(30);

/// How long the clients ask for unknown outcomes.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// How long a closing read is repeated.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Pause before something is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// A client of one node alone.
#[derive(Clone, Debug)]
pub struct OfNode {
    /// Which.
    pub node: NodeId,
    /// Its region.
    pub region: RegionId,
    /// Knows no other node.
    pub client: Client,
}

/// A client for each node.
pub async fn of_each(nodes: &Nodes) -> Result<Vec<OfNode>, SoakError> {
    let mut all = Vec::new();
    for node in nodes.ids() {
        let region = nodes.region_of(node).ok_or(SoakError::NoNode(node))?;
        let deadline = Mono::now().plus(SERVE_WITHIN);
        let client = loop {
            match nodes.client(&region, &[node], PATIENT).await {
                Ok(client) => break client,
                Err(e) if Mono::now() >= deadline => return Err(e),
                Err(_) => sleep(PAUSE).await,
            }
        };
        all.push(OfNode { node, region, client });
    }
    Ok(all)
}

/// Waits until every node serves every table; how long that took. `Err`: what is not served.
pub async fn serves(history: &History, nodes: &[OfNode]) -> Result<Duration, String> {
    let start = Mono::now();
    for at in nodes {
        let mut process = history.process(at.region.clone(), &at.client);
        for table in &TABLES {
            loop {
                // One key for all: its readers and writers meet.
                let written = process.put(table.name, CLOSING_KEY).await.map(drop);
                let read = process.get(table.name, CLOSING_KEY, Consistency::Linearizable).await.map(drop);
                let Err(why) = written.and(read) else { break };
                if start.elapsed() >= SERVE_WITHIN {
                    return Err(format!("node {} does not serve table {}: {why}", at.node.0, table.name));
                }
                while process.unsettled() > 0 && start.elapsed() < SERVE_WITHIN {
                    process.settle().await;
                }
                sleep(PAUSE).await;
            }
        }
    }
    Ok(start.elapsed())
}

/// The key of each table that is written once the faults are over.
pub const CLOSING_KEY: &str = "closing";

/// Asks for every unknown outcome until it is known or time is up; how many stay unknown.
pub async fn settle(processes: &mut [Process]) -> usize {
    let deadline = Mono::now().plus(SETTLE_LIMIT);
    for process in processes.iter_mut() {
        while process.unsettled() > 0 && Mono::now() < deadline {
            if !process.settle().await {
                sleep(PAUSE).await;
            }
        }
    }
    processes.iter().map(Process::unsettled).sum()
}

/// What was read at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Snapshots of each table.
    pub timestamps: usize,
    /// By node: how many of its answers came from its own replica.
    pub by_replica: BTreeMap<NodeId, usize>,
}

/// Reads every table at each of these timestamps, and its newest state, from every node. The checkers compare.
pub async fn read_all(history: &History, nodes: &[OfNode], at: &[Timestamp]) -> Result<Compared, SoakError> {
    let newest = history.records().iter().filter_map(|r| r.timestamp).max().map(Timestamp);
    let at: BTreeSet<Timestamp> = at.iter().copied().chain(newest).collect();
    let mut by_replica = BTreeMap::new();
    for of in nodes {
        let mut process = history.process(of.region.clone(), &of.client);
        for table in &TABLES {
            read(&mut process, table.name, Consistency::Linearizable).await?;
            for at in &at {
                let by = read(&mut process, table.name, Consistency::Snapshot(*at)).await?;
                *by_replica.entry(of.node).or_default() += usize::from(by == of.node);
            }
        }
    }
    Ok(Compared { timestamps: at.len(), by_replica })
}

/// A whole table; which node's replica answered.
async fn read(process: &mut Process, table: &str, level: Consistency) -> Result<NodeId, SoakError> {
    let deadline = Mono::now().plus(READ_LIMIT);
    loop {
        match process.scan(table, "", u32::MAX, level.clone()).await {
            Ok(reply) => return Ok(reply.served_by),
            Err(e) if Mono::now() >= deadline => return Err(e.into()),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Whether a record is a read of a whole table, from after the faults.
pub fn is_closing(record: &Record) -> bool {
    record.scan.as_ref().is_some_and(|scan| scan.rows_max == u32::MAX)
}

/// The final states in a history: each linearizable read of a whole table.
pub fn final_states(history: &[Record]) -> Vec<FinalState> {
    let linearizable = |r: &&Record| r.consistency.as_deref() == Some("linearizable") && r.outcome == Outcome::Ok;
    let closing = history.iter().filter(|r| is_closing(r)).filter(linearizable);
    closing
        .map(|r| FinalState { table: r.table.clone(), rows: r.scan.as_ref().map_or(Vec::new(), |s| s.found.clone()) })
        .collect()
}
