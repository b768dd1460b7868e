//! What the demo tells: chapters, sentences and tables for people, and the claims that it has checked.

use crate::output::{self, Format};
use meridian_clock::Mono;
use serde_json::{Value, json};

/// A statement about the database that the demo has checked.
#[derive(Debug)]
struct Claim {
    text: String,
    holds: bool,
}

/// The tale so far.
#[derive(Debug)]
pub(super) struct Story {
    format: Format,
    start: Mono,
    chapters: u32,
    claims: Vec<Claim>,
}

impl Story {
    pub(super) fn new(format: Format) -> Self {
        Self { format, start: Mono::now(), chapters: 0, claims: Vec::new() }
    }

    /// Begins a chapter.
    pub(super) fn chapter(&mut self, title: &str) -> anyhow::Result<()> {
        self.chapters += 1;
        self.say(format!("\n{}. {title}\n", self.chapters))
    }

    /// Tells something. With JSON output, stdout is for the document at the end alone.
    pub(super) fn say(&self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        match self.format {
            Format::Human => output::data(text)?,
            Format::Json => output::note(text),
        }
        Ok(())
    }

    /// Says on stderr what is being waited for.
    pub(super) fn progress(&self, text: impl std::fmt::Display) {
        output::note(format!("[{:5.1} s] {text}", self.start.elapsed().as_secs_f64()));
    }

    /// Records whether a claim holds, and says so.
    pub(super) fn check(&mut self, claim: impl Into<String>, holds: bool) -> anyhow::Result<()> {
        let text = claim.into();
        self.say(format!("  {} {text}", if holds { "ok    " } else { "FAILED" }))?;
        self.claims.push(Claim { text, holds });
        Ok(())
    }

    /// The claims that do not hold.
    pub(super) fn broken(&self) -> Vec<&str> {
        self.claims.iter().filter(|c| !c.holds).map(|c| c.text.as_str()).collect()
    }

    /// How many claims were checked.
    pub(super) fn checked(&self) -> usize {
        self.claims.len()
    }

    /// Seconds since the beginning.
    pub(super) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// The claims for programs.
    pub(super) fn claims_json(&self) -> Value {
        self.claims.iter().map(|c| json!({ "claim": c.text, "holds": c.holds })).collect()
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_claim_among_many_is_found() {
        let mut story = Story::new(Format::Human);
        story.check("water is wet", true).unwrap();
        story.check("fire is cold", false).unwrap();
        assert_eq!((story.checked(), story.broken()), (2, vec!["fire is cold"]));
        assert_eq!(story.claims_json()[1], json!({ "claim": "fire is cold", "holds": false }));
    }
}
