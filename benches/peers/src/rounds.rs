//! The rounds: every load on one system and right afterwards on the other, in alternating order.

use crate::args::Args;
use crate::cluster::Cluster;
use crate::disk::{SyncTimes, sync_times};
use crate::measures::{At, Measure};
use crate::meridian::TABLE;
use crate::procfs::{OWN, usage};
use crate::sample::{Observed, Sample, Taken};
use crate::session::{Connection, Sessions, spread};
use crate::system::Contender;
use anyhow::{Context as _, bail};
use meridian_bench::{BenchOptions, ClusterFacts, Pace, RegionSessions, Report, Workload, run_sessions};
use meridian_clock::Mono;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long both systems are loaded once before the first round.
const PRELUDE: Duration = Duration::from_secs(1);

/// Everything that was taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    /// Every run, in the order in which it was made.
    pub(crate) taken: Vec<Taken>,
    /// The disk by itself, at the start of each round.
    pub(crate) disk: Vec<SyncTimes>,
}

/// Loads the keys, then makes the rounds. When `stop` is cancelled, what was taken so far is returned. `say` is told
/// what goes on.
pub(crate) async fn make(
    args: &Args,
    clusters: &mut [Cluster],
    dir: &Path,
    stop: &CancellationToken,
    say: impl Fn(String),
) -> anyhow::Result<Results> {
    let mut results = Results::default();
    for cluster in clusters.iter_mut() {
        say(format!("{}: writing {} keys", cluster.system().name(), args.keys));
        let options = BenchOptions { load: true, warm_up: Duration::ZERO, duration: PRELUDE, ..options(args) };
        let contender = Contender::ALL.into_iter().find(|c| c.system() == cluster.system());
        let connections = cluster.connections(contender.context("a system without a contender")?);
        let sessions = Sessions::new(spread(connections), args.value_size);
        drive(&BenchOptions { workload: Workload::A, ..options }, &sessions, stop).await?;
        cluster.check()?;
    }
    let contenders = contenders(clusters);
    for round in 1..=args.rounds {
        let at = dir.to_owned();
        results.disk.push(tokio::task::spawn_blocking(move || sync_times(&at)).await??);
        for measure in measures(args) {
            for (contender, place) in order(round, &contenders) {
                if stop.is_cancelled() {
                    return Ok(results);
                }
                let Some(sample) = take(args, measure, clusters, contender, place, round, stop).await? else {
                    return Ok(results);
                };
                say(line(args, round, measure, contender, &sample));
                results.taken.push(Taken { round, measure, contender, sample });
            }
        }
    }
    Ok(results)
}

/// The measures that are asked for, in their own order.
pub(crate) fn measures(args: &Args) -> Vec<Measure> {
    Measure::ALL.into_iter().filter(|m| args.measures.is_empty() || args.measures.contains(m)).collect()
}

/// Everybody whose cluster runs, with its place.
fn contenders(clusters: &[Cluster]) -> Vec<(Contender, usize)> {
    let place = |c: Contender| clusters.iter().position(|cluster| cluster.system() == c.system());
    Contender::ALL.into_iter().filter_map(|c| Some((c, place(c)?))).collect()
}

/// Who comes first changes with each round: what a run leaves to the next one, such as dirty pages, hits all alike.
fn order<T: Copy>(round: u32, contenders: &[T]) -> Vec<T> {
    let mut order = contenders.to_vec();
    if !order.is_empty() {
        let first = (round as usize - 1) % order.len();
        order.rotate_left(first);
    }
    order
}

/// One run. `None` if it was stopped.
async fn take(
    args: &Args,
    measure: Measure,
    clusters: &mut [Cluster],
    contender: Contender,
    place: usize,
    round: u32,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Sample>> {
    let cluster = &clusters[place];
    let name = cluster.system().name();
    let leader = cluster.leader().await?;
    let sessions = Sessions::new(connections(cluster.connections(contender), measure.at(), leader)?, args.value_size);
    let options = BenchOptions {
        workload: measure.workload(),
        pace: Pace::Closed { clients: usize::try_from(measure.clients(args))? },
        seed: args.seed.wrapping_add(u64::from(round)),
        ..options(args)
    };
    let (before, start) = (observe(clusters, place).await?, Mono::now());
    let report = drive(&options, &sessions, stop).await?;
    let (elapsed, after) = (start.elapsed(), observe(clusters, place).await?);
    for cluster in clusters.iter_mut() {
        cluster.check()?;
    }
    if report.interrupted {
        return Ok(None);
    }
    let done = sessions.done();
    let wrong = done.wrong.load(Ordering::Relaxed);
    if wrong > 0 {
        bail!("{name}: {wrong} answers were wrong: a get did not find the key's value; nothing here can be compared");
    }
    Ok(Some(Sample::of(&report, done.operations.load(Ordering::Relaxed), &before, &after, elapsed)))
}

/// The connections that a load's sessions use.
fn connections(members: &[Vec<Connection>], at: At, leader: Option<usize>) -> anyhow::Result<Vec<Connection>> {
    let place = match at {
        At::All => return Ok(spread(members)),
        At::Leader => leader,
        At::Follower => leader.map(|leader| (leader + 1) % members.len()),
    };
    let place = place.context("no member says that it leads, so there is none to measure at")?;
    Ok(spread(&members[place..=place]))
}

async fn observe(clusters: &[Cluster], place: usize) -> anyhow::Result<Observed> {
    let other = clusters.iter().enumerate().find(|(i, _)| *i != place).map(|(_, cluster)| cluster);
    Ok(Observed {
        leader: clusters[place].leader().await?,
        other: other.map(|cluster| cluster.nodes().usage()).transpose()?,
        nodes: clusters[place].nodes().read().await?,
        own: usage(OWN)?,
    })
}

async fn drive(options: &BenchOptions, sessions: &Sessions, stop: &CancellationToken) -> anyhow::Result<Report> {
    let (sessions, stop) = (sessions.clone(), stop.clone());
    // One group of clients: its percentiles are over all members.
    let clients = vec![RegionSessions { region: "local".into(), session: move || sessions.open() }];
    let stopped = async move { stop.cancelled().await };
    Ok(run_sessions(options, &ClusterFacts::default(), clients, stopped).await?)
}

fn options(args: &Args) -> BenchOptions {
    BenchOptions {
        duration: args.duration,
        warm_up: args.warm_up,
        keys: args.keys,
        value_bytes: args.value_size,
        seed: args.seed,
        load: false,
        table: TABLE.to_owned(),
        progress: false,
        ..BenchOptions::default()
    }
}

/// One run as it is told while others are still to come.
fn line(args: &Args, round: u32, measure: Measure, contender: Contender, sample: &Sample) -> String {
    let millis = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{:.2}", us / 1e3));
    format!(
        "round {round}/{}  {:<32} {:<15} {:>8.0}/s  p50 {:>7} ms  p99 {:>7} ms{}",
        args.rounds,
        measure.title(args),
        contender.name(),
        sample.throughput_per_s,
        millis(sample.p50_us),
        millis(sample.p99_us),
        if sample.errors > 0 { format!("  {} errors", sample.errors) } else { String::new() },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::KvClient;
    use clap::Parser as _;

    #[test]
    fn each_system_is_first_in_every_other_round() {
        assert_eq!(
            (1..=3).map(|round| order(round, &['a', 'b'])).collect::<Vec<_>>(),
            [['a', 'b'], ['b', 'a'], ['a', 'b']]
        );
        assert_eq!(order(3, &['a', 'b', 'c']), ['c', 'a', 'b']);
        assert_eq!(order(2, &['a']), ['a']);
    }

    #[test]
    fn measures_keep_their_order() {
        let args = Args::parse_from(["meridian-peers", "--measures", "get-few,put-many"]);
        assert_eq!(measures(&args), [Measure::PutMany, Measure::GetFew]);
        assert_eq!(measures(&Args::parse_from(["meridian-peers"])), Measure::ALL);
    }

    #[tokio::test]
    async fn one_client_is_at_the_leader_or_not_and_never_anywhere() {
        let to = || {
            let endpoint = tonic::transport::Endpoint::from_static("http://127.0.0.1:1");
            Connection::Etcd(KvClient::new(endpoint.connect_lazy()))
        };
        // As many connections as the member's place says, to tell them apart.
        let members = [vec![to()], vec![to(), to()], vec![to(), to(), to()]];
        let count = |at, leader| connections(&members, at, leader).map(|c| c.len()).ok();
        assert_eq!(count(At::Leader, Some(1)), Some(2));
        assert_eq!(count(At::Follower, Some(1)), Some(3));
        assert_eq!(count(At::Follower, Some(2)), Some(1));
        assert_eq!(count(At::Leader, None), None);
        assert_eq!(count(At::All, None), Some(6));
    }
}
