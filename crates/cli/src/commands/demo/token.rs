//! Read your writes across regions: a token travels with the user, and the read waits for exactly what it has seen.

use super::samples::Samples;
use super::stage::{PAYMENTS, Stage};
use super::story::Story;
use super::writes::micros;
use crate::output::short;
use meridian_client::{Consistency, Session};
use meridian_clock::Mono;
use serde_json::{Value, json};

/// How often a write is followed by reads elsewhere.
const ROUNDS: u32 = 10;

/// Writes in the first region, and at once reads in the farthest: with the writer's token, and without it.
pub(super) async fn show(stage: &Stage, story: &mut Story) -> anyhow::Result<Value> {
    let (here, there) = (stage.first(), stage.farthest());
    story.chapter("A token: read your own writes, wherever you land")?;
    story.progress(format!("{ROUNDS} writes in {here}, each read at once in {there}"));
    let writer = stage.client(&here).await?.session();
    let reader = stage.client(&there).await?.session();
    let (mut with_token, mut without, mut took) = (0, 0, Samples::default());
    for n in 0..ROUNDS {
        let (key, value) = ("traveller", format!("{here} {n}"));
        let written = writer.put(PAYMENTS, key, value.clone()).await?;
        without += u32::from(sees(&reader, key, &value, Consistency::Local).await?);
        let start = Mono::now();
        with_token += u32::from(sees(&reader, key, &value, Consistency::Causal(written.token)).await?);
        took.add(start.elapsed());
    }
    story.say(format!(
        "Right after its acknowledgement in {here}, a write was seen in {there}\n  \
         without the token (LOCAL):  {without} of {ROUNDS} times, whatever the replica had\n  \
         with the token (CAUSAL):    {with_token} of {ROUNDS} times, p50 {}\n",
        short(took.p50())
    ))?;
    story.check("every read with the writer's token saw the write", with_token == ROUNDS)?;
    Ok(json!({
        "written_in": here,
        "read_in": there,
        "rounds": ROUNDS,
        "seen_local": without,
        "seen_causal": with_token,
        "causal_p50_us": micros(took.p50()),
    }))
}

async fn sees(session: &Session, key: &'static str, value: &str, consistency: Consistency) -> anyhow::Result<bool> {
    let reply = session.get(PAYMENTS, key, consistency).await?;
    Ok(reply.value.is_some_and(|row| row.value == value))
}
