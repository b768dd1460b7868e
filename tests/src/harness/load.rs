//! Load from all regions: processes that do random operations until they are told to stop.

use crate::harness::{History, Process, until};
use meridian_client::Client;
use meridian_types::{Consistency, RegionId};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// The consistency of a load's reads.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    /// The default.
    Linearizable,
    /// With the process's own token.
    Causal,
    /// At most so old.
    Bounded(Duration),
    /// Whatever there is.
    Local,
}

/// What a load does: weights of operations, on which keys.
#[derive(Clone, Debug)]
pub struct Mix {
    /// The tables; each operation chooses one.
    pub tables: Vec<&'static str>,
    /// How many keys of each table are used.
    pub keys: u64,
    /// Processes in each region.
    pub processes: u64,
    /// Weight of puts.
    pub puts: u32,
    /// Weight of deletes.
    pub deletes: u32,
    /// Weight of read, then compare and swap.
    pub swaps: u32,
    /// Weight of gets; the level of each is chosen from `levels`.
    pub gets: u32,
    /// Weight of scans over all keys, at the same levels.
    pub scans: u32,
    /// The levels.
    pub levels: Vec<Level>,
}

impl Mix {
    /// Writes only, to these tables.
    pub fn writes(tables: &[&'static str]) -> Self {
        let levels = vec![Level::Linearizable];
        let tables = tables.to_vec();
        Self { tables, keys: 8, processes: 2, puts: 9, deletes: 1, swaps: 0, gets: 0, scans: 0, levels }
    }

    fn key(&self, rng: &mut ChaCha8Rng) -> String {
        format!("k{:03}", rng.random_range(0..self.keys))
    }

    fn level(&self, rng: &mut ChaCha8Rng, process: &Process) -> Consistency {
        match self.levels[rng.random_range(0..self.levels.len())] {
            Level::Linearizable => Consistency::Linearizable,
            Level::Causal => process.session().causal(),
            Level::Bounded(bound) => Consistency::BoundedStaleness(bound),
            Level::Local => Consistency::Local,
        }
    }

    /// One operation; whether it succeeded.
    async fn step(&self, process: &mut Process, rng: &mut ChaCha8Rng) -> bool {
        let table = self.tables[rng.random_range(0..self.tables.len())];
        let key = self.key(rng);
        let mut left = rng.random_range(0..self.puts + self.deletes + self.swaps + self.gets + self.scans);
        let mut is = |weight: u32| {
            let hit = left < weight;
            left = left.saturating_sub(weight);
            hit
        };
        if is(self.puts) {
            process.put(table, &key).await.is_ok()
        } else if is(self.deletes) {
            process.delete(table, &key).await.is_ok()
        } else if is(self.swaps) {
            match process.get(table, &key, Consistency::Linearizable).await {
                Ok(seen) => process.swap(table, &key, seen.value.as_ref()).await.is_ok(),
                Err(_) => false,
            }
        } else if is(self.gets) {
            let level = self.level(rng, process);
            process.get(table, &key, level).await.is_ok()
        } else {
            let level = self.level(rng, process);
            let rows = u32::try_from(self.keys).unwrap_or(u32::MAX);
            process.scan(table, "", rows, level).await.is_ok()
        }
    }
}

/// A load that runs.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// Successful operations, by process, in the order of the regions.
    done: Vec<(RegionId, Arc<AtomicU64>)>,
    tasks: JoinSet<Process>,
}

impl Load {
    /// Starts `mix.processes` processes for each client; each draws from a random sequence of its own.
    pub fn start(history: &History, clients: &[(RegionId, Client)], mix: &Mix, seed: u64) -> Self {
        let mix = Arc::new(mix.clone());
        let (stop, mut done, mut tasks) = (Arc::new(AtomicBool::new(false)), Vec::new(), JoinSet::new());
        for (region, client) in clients {
            for _ in 0..mix.processes {
                let mut process = history.process(region.clone(), client);
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(done.len() as u64);
                let count = Arc::new(AtomicU64::new(0));
                done.push((region.clone(), count.clone()));
                let (mix, stop) = (mix.clone(), stop.clone());
                tasks.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let succeeded = mix.step(&mut process, &mut rng).await;
                        count.fetch_add(u64::from(succeeded), Ordering::Relaxed);
                    }
                    process
                });
            }
        }
        Self { stop, done, tasks }
    }

    /// Waits until every process has had `more` operations succeed from now on.
    pub async fn progress(&self, more: u64) {
        self.progress_in(more, |_| true).await;
    }

    /// The same for the processes of some regions.
    pub async fn progress_in(&self, more: u64, regions: impl Fn(&RegionId) -> bool) {
        let now = |count: &Arc<AtomicU64>| count.load(Ordering::Relaxed);
        let goals: Vec<_> = self.done.iter().filter(|(r, _)| regions(r)).map(|(_, c)| (c, now(c) + more)).collect();
        let what = format!("{more} more operations of each process have succeeded");
        until(&what, || async { goals.iter().all(|(count, goal)| now(count) >= *goal) }).await;
    }

    /// Lets every process end its operation.
    ///
    /// # Panics
    /// When a process has panicked.
    pub async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
    }
}
