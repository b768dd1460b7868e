//! The order of events, and the verdict.

use super::account::Attempt;
use super::dataset::{COUNTRIES, LANGUAGES};
use super::outage::{self, Plan, Survivor};
use super::stage::{PAYMENTS, Stage};
use super::story::Story;
use super::verify::{self, Found};
use super::{reads, token, writes};
use crate::context::Context;
use crate::output::{self, Format, number, short, table};
use crate::signal::Stop;
use comfy_table::Cell;
use meridian_client::CausalityToken;
use meridian_server::config::parse_size;
use serde_json::{Map, Value};
use std::time::Duration;

/// Start three regions, use them, cut one off after another while writes go on, and check that nothing was lost.
///
/// Everything runs in this process, on loopback sockets with emulated distance, and leaves nothing behind. The exit
/// code is 0 if every claim that is checked holds, whatever the measured times.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meridian demo --cut 10s --writers 8")]
pub(crate) struct Args {
    /// How long each region is cut off, at least.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    cut: Duration,
    /// Writers in each region while a region is cut off.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: u32,
    /// Memory budget of each node, e.g. 512MiB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let mut asked_to_stop = Stop::listen()?;
    let mut story = Story::new(context.format());
    story.progress("starting three regions");
    let stage = Stage::start(args.memory).await?;
    let told = tokio::select! {
        told = tell(&stage, &mut story, &args) => told,
        () = asked_to_stop.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    story.progress("stopping");
    stage.stop().await;
    let mut document = told?;
    let broken = story.broken();
    if story.format() == Format::Json {
        document.insert("claims".into(), story.claims_json());
        document.insert("seconds".into(), story.seconds().into());
        output::json(&Value::Object(document))?;
    }
    if broken.is_empty() {
        return story.say(format!("\nAll {} claims hold. {:.0} s.", story.checked(), story.seconds()));
    }
    anyhow::bail!("{} of {} claims do not hold: {}", broken.len(), story.checked(), broken.join("; "))
}

/// All chapters; returns the document for programs.
async fn tell(stage: &Stage, story: &mut Story, args: &Args) -> anyhow::Result<Map<String, Value>> {
    let mut document = Map::new();
    introduce(stage, story)?;
    let token = import(stage, story).await?;
    document.insert("writes".into(), writes::show(stage, story).await?);
    document.insert("reads".into(), reads::show(stage, story, token).await?);
    document.insert("token".into(), token::show(stage, story).await?);

    let mut outages = Vec::new();
    let mut survivors = Vec::new();
    for (round, region) in (1..).zip([stage.home(), stage.first()]) {
        let plan = Plan { round, region, length: args.cut, writers: args.writers };
        let (seen, json) = outage::show(stage, story, &plan).await?;
        survivors.extend(seen);
        outages.push(json);
    }
    document.insert("outages".into(), outages.into());
    story.say(format!("\n{}", outage::LEGEND))?;

    let attempts: Vec<Attempt> = survivors.iter().flat_map(|s| s.attempts.iter().cloned()).collect();
    let (found, json) = verify::show(stage, story, &attempts).await?;
    document.insert("audit".into(), json);
    conclude(stage, story, &survivors, &found)?;
    Ok(document)
}

fn introduce(stage: &Stage, story: &mut Story) -> anyhow::Result<()> {
    story.chapter("Three regions")?;
    story.say("Real servers on loopback sockets; every link between regions is as slow as its distance.")?;
    let regions = stage.regions();
    let mut t = table(std::iter::once("round trip").chain(regions.iter().map(|r| r.as_str())));
    for from in &regions {
        let rtts = regions.iter().map(|to| match stage.topology().rtt(from, to) {
            rtt if from == to || rtt.is_zero() => number("-"),
            rtt => number(short(rtt)),
        });
        t.add_row(std::iter::once(Cell::new(from)).chain(rtts));
    }
    story.say(t)
}

/// Creates the tables and fills them; returns a token that has seen it all.
async fn import(stage: &Stage, story: &mut Story) -> anyhow::Result<CausalityToken> {
    story.chapter("Tables, each with a placement, and real data in them")?;
    for (name, placement) in stage.create_tables().await? {
        story.say(format!("  meridian table create {name} --placement {placement}"))?;
    }
    let session = stage.client(&stage.first()).await?.session();
    for dataset in [&COUNTRIES, &LANGUAGES] {
        story.progress(format!("importing {}", dataset.what));
        let imported = dataset.import(&session).await?;
        story.say(format!("  meridian import {} --table {} --key {}", dataset.file, dataset.table, dataset.key))?;
        story.say(format!("      {imported} {}", dataset.what))?;
    }
    story.say(format!(
        "\n`{}` and `{PAYMENTS}` have a voter in every region and are led from {}. `{}` lives in {},\n\
         with readable copies elsewhere.",
        COUNTRIES.table,
        stage.first(),
        LANGUAGES.table,
        stage.home()
    ))?;
    Ok(session.token())
}

fn conclude(stage: &Stage, story: &mut Story, survivors: &[Survivor], found: &Found) -> anyhow::Result<()> {
    story.chapter("Summary")?;
    let mut t = table(["region", "longest stall"]);
    for region in stage.regions() {
        let stalls = survivors.iter().filter(|s| s.region == region).map(|s| s.stall);
        t.add_row(vec![Cell::new(&region), number(short(stalls.max().unwrap_or_default()))]);
    }
    story.say(t)?;
    let counts = found.counts;
    story.say(format!("writes acknowledged   {}", counts.acknowledged))?;
    story.say(format!("acknowledged and lost {}", found.lost))?;
    story.say(format!("refused, not applied  {}", counts.refused))?;
    story.say(format!("unknown, settled      {}", counts.settled))?;
    story.say(format!("still unknown         {}", counts.unknown))
}
