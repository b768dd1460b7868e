//! A region is cut off from the others while clients in every region write, and comes back.

use super::account::{Attempt, Counts, longest_stall};
use super::stage::Stage;
use super::story::Story;
use super::writer::Writers;
use super::writes::micros;
use crate::output::{number, short, table};
use anyhow::Context as _;
use comfy_table::Cell;
use futures::future::try_join_all;
use meridian_client::Client;
use meridian_clock::Mono;
use meridian_types::RegionId;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Writes go on undisturbed for so long before the cut and after the recovery.
const CALM: Duration = Duration::from_secs(2);
/// How long a writer's request may take, retries included: shorter than the cut, so that some requests end in it.
const WRITER_LIMIT: Duration = Duration::from_secs(3);
/// How long a writer waits for one answer before it asks again under the same request id.
const WRITER_ATTEMPT: Duration = Duration::from_secs(1);
/// How long may pass until writes are acknowledged again, before the demo gives up.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// One region's part in an outage.
pub(super) struct Survivor {
    pub(super) region: RegionId,
    pub(super) attempts: Vec<Attempt>,
    /// Acknowledged between cut and heal.
    during: usize,
    /// The longest time without an acknowledged write, from the cut to the end.
    pub(super) stall: Duration,
}

/// Which region is cut off, for how long at least, under how many writers.
pub(super) struct Plan {
    pub(super) round: u32,
    pub(super) region: RegionId,
    pub(super) length: Duration,
    pub(super) writers: u32,
}

/// What the columns mean.
pub(super) const LEGEND: &str = "\
Stall: the longest time in which no client of the region had a write acknowledged. Not applied: refused, and certain
never to take effect. Settled: the answer was lost; asking again under the same request id told what had become of
the write, without a second effect.";

/// Cuts a region off and heals it. The cut lasts until the other regions have written through it, however long they
/// need to find a new leader; then the demo waits until the region that was cut off writes again.
pub(super) async fn show(stage: &Stage, story: &mut Story, plan: &Plan) -> anyhow::Result<(Vec<Survivor>, Value)> {
    let lost = &plan.region;
    let leader = stage.payments_leader(lost).await?;
    let role = if leader.as_ref() == Some(lost) { "the leader's region" } else { "a follower's region" };
    story.chapter(&format!("{lost}, {role}, is cut off while every region writes"))?;
    let patient = try_join_all(stage.regions().iter().map(|r| stage.client(r)).collect::<Vec<_>>()).await?;
    let writers = start_writers(stage, plan).await?;
    all_write_after(&writers, Mono::now()).await?;
    sleep(CALM).await;

    story.progress(format!("{lost} is cut off"));
    let cut = Mono::now();
    stage.isolate(lost)?;
    sleep(plan.length).await;
    let others = writers.iter().filter(|w| w.region != *lost);
    all_write_after(others, cut).await?;
    sleep(CALM).await;

    story.progress(format!("{lost} is back, after {}", short(cut.elapsed())));
    let healed = Mono::now();
    stage.heal();
    all_write_after(&writers, healed).await?;
    story.progress("every region writes again");
    sleep(CALM).await;
    let end = Mono::now();

    let ends = writers.into_iter().zip(&patient).map(|(w, client)| survivor(w, client, (cut, healed, end)));
    let survivors = try_join_all(ends).await?;
    story.say(summary(&survivors))?;
    let length = healed.since(cut);
    let json = json!({
        "region": lost,
        "cut_ms": micros(length) / 1000,
        "regions": survivors.iter().map(Survivor::json).collect::<Vec<_>>(),
    });
    Ok((survivors, json))
}

async fn start_writers(stage: &Stage, plan: &Plan) -> anyhow::Result<Vec<Writers>> {
    let mut writers = Vec::new();
    for region in stage.regions() {
        let client = stage.client_with(&region, WRITER_LIMIT, WRITER_ATTEMPT).await?;
        writers.push(Writers::start(region, &client, plan.round, plan.writers));
    }
    Ok(writers)
}

/// Waits until every one of them has an acknowledged write that was begun after `instant`.
async fn all_write_after(writers: impl IntoIterator<Item = &Writers>, instant: Mono) -> anyhow::Result<()> {
    let all = try_join_all(writers.into_iter().map(|w| w.acknowledged_after(instant)));
    let waited = timeout(RECOVERY_LIMIT, all).await;
    waited.with_context(|| format!("no write was acknowledged in some region for {}", short(RECOVERY_LIMIT)))??;
    Ok(())
}

async fn survivor(
    writers: Writers,
    client: &Client,
    (cut, healed, end): (Mono, Mono, Mono),
) -> anyhow::Result<Survivor> {
    let region = writers.region.clone();
    let attempts = writers.finish(client).await?;
    let in_cut = attempts.iter().filter(|a| cut < a.completed && a.completed < healed);
    let during = Counts::of(in_cut).acknowledged;
    let stall = longest_stall(&attempts, cut, end);
    Ok(Survivor { region, attempts, during, stall })
}

impl Survivor {
    fn json(&self) -> Value {
        json!({
            "region": self.region,
            "writes": Counts::of(&self.attempts),
            "acknowledged_during_the_cut": self.during,
            "longest_stall_ms": micros(self.stall) / 1000,
        })
    }
}

fn summary(survivors: &[Survivor]) -> String {
    let headings =
        ["from", "acknowledged", "during the cut", "not applied", "unknown, settled", "still unknown", "longest stall"];
    let mut t = table(headings);
    for s in survivors {
        let counts = Counts::of(&s.attempts);
        t.add_row(vec![
            Cell::new(&s.region),
            number(counts.acknowledged),
            number(s.during),
            number(counts.refused),
            number(counts.settled),
            number(counts.unknown),
            number(short(s.stall)),
        ]);
    }
    t.to_string()
}
