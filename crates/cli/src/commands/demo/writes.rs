//! Writes from every region, next to the least that they can take: the way to the leader and the leader's quorum.

use super::dataset::LANGUAGES;
use super::samples::{Samples, ratio};
use super::stage::{PAYMENTS, Stage};
use super::story::Story;
use crate::output::{number, short, short_ns, table};
use crate::reply;
use comfy_table::Cell;
use futures::future::try_join_all;
use meridian_client::Session;
use meridian_clock::Mono;
use meridian_types::{Receipt, RegionId};
use serde_json::{Value, json};
use std::time::Duration;

/// Writes from each region to each table, one after another.
const WRITES: u32 = 20;

/// How far the parts of a receipt may be from its total.
const RECEIPT_TOLERANCE: f64 = 0.02;

/// What writes from one region to one table took.
struct Figures {
    table: &'static str,
    region: RegionId,
    /// As the client measured them.
    took: Samples,
    /// Each write's receipt.
    receipts: Vec<Receipt>,
}

/// Measures, prints, and checks that every receipt adds up.
pub(super) async fn show(stage: &Stage, story: &mut Story) -> anyhow::Result<Value> {
    story.chapter("Writes from every region, next to their physical floor")?;
    story.progress(format!("{WRITES} writes from every region to two tables"));
    let mut figures = Vec::new();
    for table in [PAYMENTS, LANGUAGES.table] {
        // Regions at the same time, as they would be; the writes of one region one after another.
        figures.extend(try_join_all(stage.regions().into_iter().map(|r| measure(stage, table, r))).await?);
    }
    story.say(summary(&figures))?;
    story.say(
        "The floor is round trips alone: one to the leader, or one to the nearest quorum where that takes longer.",
    )?;

    story.say(format!("\nWhere the time of one write to `{PAYMENTS}` went, from each region:"))?;
    for f in figures.iter().filter(|f| f.table == PAYMENTS) {
        if let Some(receipt) = f.receipts.last() {
            story.say(format!("\nfrom {}\n{}", f.region, reply::receipt_table(receipt)))?;
        }
    }
    let all = figures.iter().flat_map(|f| &f.receipts);
    let complete = figures.iter().all(|f| f.receipts.len() == WRITES as usize);
    story.check("every write has a receipt whose parts add up to its total", complete && all.clone().all(adds_up))?;
    Ok(figures.iter().map(Figures::json).collect())
}

async fn measure(stage: &Stage, table: &'static str, region: RegionId) -> anyhow::Result<Figures> {
    let client = stage.client(&region).await?;
    let session = client.session().with_receipts(true);
    // The first write finds the way to the leader; it is not counted.
    write(&session, table, &region, 0).await?;
    let mut figures = Figures { table, region, took: Samples::default(), receipts: Vec::new() };
    for n in 1..=WRITES {
        let (took, receipt) = write(&session, table, &figures.region, n).await?;
        figures.took.add(took);
        figures.receipts.extend(receipt);
    }
    Ok(figures)
}

/// One write. `qaa` to `qtz` are set aside for private use by ISO 639, so these keys clash with no language.
async fn write(
    session: &Session,
    table: &str,
    region: &RegionId,
    n: u32,
) -> anyhow::Result<(Duration, Option<Receipt>)> {
    let start = Mono::now();
    let reply = session.put(table, format!("qaa-{region}-{n:03}"), format!("write {n} from {region}")).await?;
    Ok((start.elapsed(), reply.receipt))
}

impl Figures {
    fn floor(&self) -> Duration {
        Duration::from_nanos(self.receipts.last().map_or(0, |r| r.floor))
    }

    fn json(&self) -> Value {
        json!({
            "table": self.table,
            "region": self.region,
            "writes": self.receipts.len(),
            "p50_us": micros(self.took.p50()),
            "max_us": micros(self.took.max()),
            "floor_us": micros(self.floor()),
        })
    }
}

fn summary(figures: &[Figures]) -> String {
    let mut t = table(["table", "from", "p50", "max", "physical floor", "p50 / floor"]);
    for f in figures {
        t.add_row(vec![
            Cell::new(f.table),
            Cell::new(&f.region),
            number(short(f.took.p50())),
            number(short(f.took.max())),
            number(short_ns(f.receipts.last().map_or(0, |r| r.floor))),
            number(ratio(f.took.p50(), f.floor())),
        ]);
    }
    t.to_string()
}

/// Whether the parts are the total, within [`RECEIPT_TOLERANCE`].
#[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
fn adds_up(receipt: &Receipt) -> bool {
    receipt.total > 0 && receipt.parts().abs_diff(receipt.total) as f64 <= receipt.total as f64 * RECEIPT_TOLERANCE
}

pub(super) fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_may_miss_the_total_by_two_percent() {
        let receipt = |quorum| Receipt { quorum, total: 1000, ..Receipt::default() };
        for (quorum, holds) in [(1000, true), (980, true), (1020, true), (979, false), (1021, false), (0, false)] {
            assert_eq!(adds_up(&receipt(quorum)), holds, "{quorum}");
        }
        assert!(!adds_up(&Receipt::default()), "a receipt of nothing is none");
    }
}
