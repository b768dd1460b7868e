//! The audit at the end: everything that was ever acknowledged, read back in every region.

use super::account::{Attempt, Audit, Counts};
use super::order::inversion;
use super::stage::{PAYMENTS, Stage};
use super::story::Story;
use super::writer::PREFIX;
use crate::output::count;
use meridian_client::{Consistency, Reply, Row, ScanOptions};
use meridian_types::RegionId;
use serde_json::{Value, json};

/// What the audit found, all regions together.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Acknowledged or settled writes that some region does not have.
    pub(super) lost: usize,
    /// How many writes were looked for.
    pub(super) counts: Counts,
}

/// Reads all that the writers wrote, in every region, and compares it with what they were told.
pub(super) async fn show(stage: &Stage, story: &mut Story, attempts: &[Attempt]) -> anyhow::Result<(Found, Value)> {
    story.chapter("The audit: what was acknowledged, and what is there")?;
    story.progress("reading everything back in every region");
    let counts = Counts::of(attempts);
    let mut found = Found { lost: 0, counts };
    let mut newest = None;
    for region in stage.regions() {
        let reply = read_all(stage, &region, Consistency::Linearizable).await?;
        let audit = Audit::of(attempts, &reply.value);
        found.lost = found.lost.max(audit.lost.len());
        for (what, keys) in [("lost", &audit.lost), ("altered", &audit.altered), ("refused, but there", &audit.revived)]
        {
            if let Some(first) = keys.first() {
                story.say(format!("  {region}: {} {what}, {first} among them", count(keys.len() as u64, "write")))?;
            }
        }
        let committed = counts.acknowledged + counts.settled;
        let claim =
            format!("{region} has all {committed} acknowledged writes as they were acknowledged, and no refused one");
        story.check(claim, audit.is_clean())?;
        newest = newest.max(Some(reply.timestamp));
    }
    story.check("every unknown outcome was settled under its request id", counts.unknown == 0)?;

    let at = newest.unwrap_or_default();
    let mut snapshots = Vec::new();
    for region in stage.regions() {
        snapshots.push(read_all(stage, &region, Consistency::Snapshot(at)).await?.value);
    }
    let same = snapshots.windows(2).all(|pair| pair[0] == pair[1]);
    story.check(format!("every region gives the same answer at timestamp {at}"), same)?;

    let inverted = inversion(attempts);
    if let Some(pair) = &inverted {
        story.say(format!("  {} was acknowledged before {} began, and is stamped later", pair.earlier, pair.later))?;
    }
    story.check("commit timestamps of all regions agree with real time", inverted.is_none())?;
    let json = json!({ "writes": counts, "lost": found.lost, "snapshot_rows": snapshots.first().map(Vec::len) });
    Ok((found, json))
}

async fn read_all(stage: &Stage, region: &RegionId, consistency: Consistency) -> anyhow::Result<Reply<Vec<Row>>> {
    let session = stage.client(region).await?.session();
    let options = ScanOptions { consistency, ..ScanOptions::prefix(PREFIX) };
    Ok(session.scan(PAYMENTS, options).collect().await?)
}
