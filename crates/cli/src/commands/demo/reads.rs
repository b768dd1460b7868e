//! Reads at each consistency level from every region: what freshness costs where.

use super::dataset::COUNTRIES;
use super::samples::Samples;
use super::stage::Stage;
use super::story::Story;
use super::writes::micros;
use crate::output::{number, short, table};
use comfy_table::Cell;
use futures::future::try_join_all;
use meridian_client::{CausalityToken, Consistency, Timestamp};
use meridian_clock::Mono;
use meridian_types::RegionId;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Reads at each level from each region, one after another.
const READS: u32 = 20;
/// The bound of the bounded reads.
const BOUND: Duration = Duration::from_millis(500);
/// What is read.
const KEY: &str = "PT";

/// What reads at one level from one region were like.
struct Figures {
    level: &'static str,
    region: RegionId,
    took: Samples,
    /// The regions whose replicas answered.
    served_in: BTreeSet<String>,
    /// What the replies said of their age.
    staleness: Samples,
    /// Reads that did not find the record.
    missed: u32,
}

/// Measures, prints, and checks what each level promises. `token` has seen the import.
pub(super) async fn show(stage: &Stage, story: &mut Story, token: CausalityToken) -> anyhow::Result<Value> {
    story.chapter("Reads: as fresh as asked for, and no dearer")?;
    let levels = levels(token);
    story.progress(format!("{READS} reads at each of {} levels from every region", levels.len()));
    let mut figures = Vec::new();
    for level in &levels {
        let regions = stage.regions().into_iter();
        figures.extend(try_join_all(regions.map(|region| measure(stage, level, region))).await?);
    }
    story.say(summary(&figures))?;
    story
        .say("A linearizable read asks the leader; all others are served by the nearest replica that knows enough.")?;
    story.say("Staleness is what the reply vouches for: the state that it shows is at most this old.\n")?;

    let sees_import = |f: &&Figures| f.level != Consistency::Local.name() && f.level != "bounded";
    let missed: u32 = figures.iter().filter(sees_import).map(|f| f.missed).sum();
    story.check("linearizable, snapshot and causal reads all saw the imported record", missed == 0)?;
    let bounded = figures.iter().filter(|f| f.level == "bounded").map(|f| f.staleness.max()).max().unwrap_or_default();
    story.check(format!("no bounded read was older than {}", short(BOUND)), bounded <= BOUND)?;
    Ok(figures.iter().map(Figures::json).collect())
}

fn levels(token: CausalityToken) -> [Consistency; 5] {
    let CausalityToken(import) = token;
    [
        Consistency::Linearizable,
        Consistency::Snapshot(import),
        Consistency::BoundedStaleness(BOUND),
        Consistency::Causal(token),
        Consistency::Local,
    ]
}

async fn measure(stage: &Stage, level: &Consistency, region: RegionId) -> anyhow::Result<Figures> {
    let session = stage.client(&region).await?.session();
    let mut figures = Figures {
        level: level.name(),
        region,
        took: Samples::default(),
        served_in: BTreeSet::new(),
        staleness: Samples::default(),
        missed: 0,
    };
    for _ in 0..READS {
        let start = Mono::now();
        let reply = session.get(COUNTRIES.table, KEY, level.clone()).await?;
        figures.took.add(start.elapsed());
        figures.staleness.add(reply.staleness);
        figures.served_in.insert(reply.region.to_string());
        let found = reply.value.is_some_and(|row| row.version > Timestamp::ZERO && !row.value.is_empty());
        figures.missed += u32::from(!found);
    }
    Ok(figures)
}

impl Figures {
    fn json(&self) -> Value {
        json!({
            "level": self.level,
            "region": self.region,
            "p50_us": micros(self.took.p50()),
            "max_us": micros(self.took.max()),
            "served_in": self.served_in,
            "staleness_p50_us": micros(self.staleness.p50()),
            "staleness_max_us": micros(self.staleness.max()),
            "missed": self.missed,
        })
    }
}

fn summary(figures: &[Figures]) -> String {
    let mut t = table(["level", "from", "p50", "max", "served in", "staleness p50", "staleness max"]);
    for f in figures {
        let served_in: Vec<_> = f.served_in.iter().map(String::as_str).collect();
        t.add_row(vec![
            Cell::new(f.level),
            Cell::new(&f.region),
            number(short(f.took.p50())),
            number(short(f.took.max())),
            Cell::new(served_in.join(", ")),
            number(short(f.staleness.p50())),
            number(short(f.staleness.max())),
        ]);
    }
    t.to_string()
}
