//! The rounds over distance: every load on one system and right afterwards on the other, in alternating order.

use super::clusters::WanCluster;
use super::loads::Load;
use super::site::Site;
use crate::args::Args;
use crate::meridian::TABLE;
use crate::session::Sessions;
use crate::system::System;
use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use meridian_bench::{BenchOptions, ClusterFacts, RegionSessions, Report, Workload, run_sessions};
use meridian_types::RegionId;
use serde::Serialize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long each system is loaded once before the first round.
const PRELUDE: Duration = Duration::from_secs(2);
/// Clients that write the keys: each waits for a round trip.
const LOAD_CLIENTS: usize = 512;

/// What one load has shown in one region.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct WanSample {
    /// Which round, counted from 1.
    pub(crate) round: u32,
    /// Which load.
    pub(crate) load: Load,
    /// On what.
    pub(crate) system: System,
    /// From where.
    pub(crate) region: RegionId,
    /// Operations that succeeded in the measured time.
    pub(crate) operations: u64,
    /// Those that failed.
    pub(crate) errors: u64,
    /// Successes per second.
    pub(crate) throughput_per_s: f64,
    /// `None`: nothing succeeded.
    pub(crate) p50_us: Option<f64>,
    /// `None`: nothing succeeded.
    pub(crate) p99_us: Option<f64>,
}

/// Everything that was taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct WanResults {
    /// Every region of every run, in the order in which they were made.
    pub(crate) taken: Vec<WanSample>,
    /// Runs during which the leader was not in its home region, before or after.
    pub(crate) led_from_elsewhere: u32,
}

/// Who takes part.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    /// The options.
    pub(crate) args: &'a Args,
    /// The regions.
    pub(crate) sites: &'a [Site],
    /// The place of the region that leads.
    pub(crate) home: usize,
    /// Ends it early.
    pub(crate) stop: &'a CancellationToken,
}

impl Stage<'_> {
    /// Writes the keys, then makes the rounds. When it is stopped, what was taken so far is returned.
    pub(crate) async fn make(&self, clusters: &mut [WanCluster], say: impl Fn(String)) -> anyhow::Result<WanResults> {
        let mut results = WanResults::default();
        for cluster in clusters.iter_mut() {
            say(format!("{}: writing {} keys", cluster.system.name(), self.args.keys));
            let options = self.options(Workload::A);
            let options = BenchOptions { load: true, load_clients: LOAD_CLIENTS, duration: PRELUDE, ..options };
            self.drive(cluster, self.home, options).await?;
            cluster.check()?;
        }
        for round in 1..=self.args.rounds {
            for load in Load::ALL {
                for place in order(round, clusters.len()) {
                    if self.stop.is_cancelled() {
                        return Ok(results);
                    }
                    let Some(cluster) = clusters.get_mut(place) else { continue };
                    self.take(round, load, cluster, &mut results, &say).await?;
                }
            }
        }
        Ok(results)
    }

    /// One load on one system, in all its regions at once. Takes nothing if it was stopped.
    async fn take(
        &self,
        round: u32,
        load: Load,
        cluster: &mut WanCluster,
        results: &mut WanResults,
        say: impl Fn(String),
    ) -> anyhow::Result<()> {
        let before = cluster.leader().await?;
        let options = BenchOptions {
            pace: load.pace(self.args)?,
            seed: self.args.seed.wrapping_add(u64::from(round)),
            ..self.options(load.workload())
        };
        let loaded = &*cluster;
        let sites = (0..self.sites.len()).filter(|site| !load.is_at_home() || *site == self.home);
        let runs = sites.map(|site| {
            // Regions choose other keys than one another.
            let seed = options.seed.wrapping_add(site as u64 * 1_000_003);
            let options = BenchOptions { seed, ..options.clone() };
            async move { self.drive(loaded, site, options).await.map(|report| (site, report)) }
        });
        let reports = try_join_all(runs).await?;
        if reports.iter().any(|(_, report)| report.interrupted) {
            return Ok(());
        }
        if [before, cluster.leader().await?] != [Some(self.home); 2] {
            results.led_from_elsewhere += 1;
        }
        for (site, report) in reports {
            let region = self.sites.get(site).context("a report from nowhere")?.host.region.clone();
            let sample = sample(round, load, cluster.system, region, &report);
            say(line(self.args, &sample));
            results.taken.push(sample);
        }
        cluster.check()
    }

    /// Clients of one region.
    async fn drive(&self, cluster: &WanCluster, site: usize, options: BenchOptions) -> anyhow::Result<Report> {
        let (at, connections) = self.sites.get(site).zip(cluster.connections.get(site)).context("no such region")?;
        let sessions = Sessions::new(connections.clone(), self.args.value_size);
        let (stop, region, open) = (self.stop.clone(), at.host.region.clone(), sessions.clone());
        let report = at.run(async move {
            let clients = vec![RegionSessions { region, session: move || open.open() }];
            let stopped = async move { stop.cancelled().await };
            Ok(run_sessions(&options, &ClusterFacts::default(), clients, stopped).await?)
        });
        let report = report.await?;
        let wrong = sessions.done().wrong.load(Ordering::Relaxed);
        if wrong > 0 {
            bail!("{}: {wrong} answers were wrong: nothing here can be compared", cluster.system.name());
        }
        Ok(report)
    }

    fn options(&self, workload: Workload) -> BenchOptions {
        BenchOptions {
            workload,
            duration: self.args.duration,
            warm_up: self.args.warm_up,
            keys: self.args.keys,
            value_bytes: self.args.value_size,
            seed: self.args.seed,
            load: false,
            table: TABLE.to_owned(),
            progress: false,
            ..BenchOptions::default()
        }
    }
}

/// Who comes first changes with each round.
fn order(round: u32, clusters: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..clusters).collect();
    if round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

fn sample(round: u32, load: Load, system: System, region: RegionId, report: &Report) -> WanSample {
    let row = report.results.first();
    let latency = row.and_then(|row| row.latency_us.as_ref());
    WanSample {
        round,
        load,
        system,
        region,
        operations: row.map_or(0, |row| row.count),
        errors: report.errors.values().sum(),
        throughput_per_s: row.map_or(0.0, |row| row.throughput_per_s),
        p50_us: latency.map(|l| l.p50),
        p99_us: latency.map(|l| l.p99),
    }
}

/// One region of a run as it is told while others are still to come.
fn line(args: &Args, sample: &WanSample) -> String {
    let millis = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{:.2}", us / 1e3));
    format!(
        "round {}/{}  {:<28} {:<13} {:<9} {:>8.1}/s  p50 {:>8} ms  p99 {:>8} ms{}",
        sample.round,
        args.rounds,
        sample.load.title(args),
        sample.region.as_str(),
        sample.system.name(),
        sample.throughput_per_s,
        millis(sample.p50_us),
        millis(sample.p99_us),
        if sample.errors > 0 { format!("  {} errors", sample.errors) } else { String::new() },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_is_first_in_every_other_round() {
        assert_eq!([order(1, 2), order(2, 2), order(3, 2)], [[0, 1], [1, 0], [0, 1]]);
        assert_eq!(order(2, 1), [0]);
    }
}
