//! Objectives, and whether a prediction meets them.

use super::Named;
use crate::output::short;
use anyhow::Context as _;
use meridian_catalog::budget::{Cost, RegionBudget};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// What a file of objectives says.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slos {
    #[serde(default)]
    slo: Vec<Slo>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Write,
    Linearizable,
    Stale,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Slo {
    placement: String,
    operation: Option<Operation>,
    region: Option<String>,
    p50: Option<String>,
    p99: Option<String>,
    staleness: Option<String>,
    survives: Option<String>,
    pause: Option<String>,
}

/// How one figure fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Holds,
    /// The prediction is above the objective; less overhead could do.
    Broken,
    /// The floor itself is above it: no implementation of this placement can meet it.
    Impossible,
}

/// One figure, held against its objective.
#[derive(Debug)]
pub(super) struct Checked {
    what: String,
    limit: Option<Duration>,
    predicted: Option<Duration>,
    verdict: Verdict,
}

impl Slos {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let slos: Self = toml::from_str(text)?;
        anyhow::ensure!(!slos.slo.is_empty(), "no objective: each begins with [[slo]]");
        for slo in &slos.slo {
            slo.validate().with_context(|| format!("the objective for {}", slo.placement))?;
        }
        Ok(slos)
    }

    /// The placements, or tables, that it speaks of.
    pub(super) fn placements(&self) -> impl Iterator<Item = &str> {
        self.slo.iter().map(|s| s.placement.as_str())
    }

    /// Holds every objective against the prediction for what it names; one of them is there for each.
    pub(super) fn check(&self, named: &[Named]) -> Vec<Checked> {
        let find = |s: &Slo| named.iter().find(|n| n.name == s.placement);
        self.slo.iter().filter_map(|s| Some(s.check(find(s)?))).flatten().collect()
    }
}

fn time(text: Option<&String>) -> anyhow::Result<Option<Duration>> {
    text.map(|t| humantime::parse_duration(t).with_context(|| format!("`{t}` is no time"))).transpose()
}

impl Slo {
    fn validate(&self) -> anyhow::Result<()> {
        for text in [&self.p50, &self.p99, &self.staleness, &self.pause] {
            time(text.as_ref())?;
        }
        let latency = self.p50.is_some() || self.p99.is_some();
        anyhow::ensure!(!latency || self.operation.is_some(), "p50 and p99 need an operation");
        anyhow::ensure!(
            latency || self.staleness.is_some() || self.survives.is_some(),
            "nothing is asked: set p50, p99, staleness or survives"
        );
        anyhow::ensure!(self.pause.is_none() || self.survives.is_some(), "a pause needs the region that it survives");
        Ok(())
    }

    fn check(&self, named: &Named) -> Vec<Checked> {
        let wanted = |r: &&RegionBudget| self.region.as_deref().is_none_or(|name| r.region.as_str() == name);
        let mut checked: Vec<Checked> =
            named.budget.regions.iter().filter(wanted).flat_map(|r| self.check_region(r)).collect();
        if let Some(region) = &self.region
            && checked.is_empty()
            && self.survives.is_none()
        {
            checked.push(self.unknown(region));
        }
        checked.extend(self.survives.as_ref().map(|lost| self.check_loss(named, lost)));
        checked
    }

    fn unknown(&self, region: &str) -> Checked {
        let what = format!("{}: there is no region {region}", self.placement);
        Checked { what, limit: None, predicted: None, verdict: Verdict::Impossible }
    }

    fn check_region(&self, r: &RegionBudget) -> Vec<Checked> {
        let limit = |text: &Option<String>| time(text.as_ref()).ok().flatten();
        let (name, cost) = match self.operation {
            Some(Operation::Write) => ("write", r.write),
            Some(Operation::Linearizable) => ("linearizable read", r.linearizable),
            Some(Operation::Stale) => ("stale read", r.stale),
            None => ("", Cost::default()),
        };
        let figures = [
            (format!("{name} p50"), limit(&self.p50), cost.floor, cost.p50),
            (format!("{name} p99"), limit(&self.p99), cost.floor, cost.p99),
            ("staleness".to_owned(), limit(&self.staleness), Duration::ZERO, r.staleness),
        ];
        let check = |(what, limit, floor, predicted): (String, Option<Duration>, Duration, Duration)| {
            let limit = limit?;
            let verdict = match () {
                () if floor > limit => Verdict::Impossible,
                () if predicted > limit => Verdict::Broken,
                () => Verdict::Holds,
            };
            let what = format!("{}: {what} from {}", self.placement, r.region);
            Some(Checked { what, limit: Some(limit), predicted: Some(predicted), verdict })
        };
        figures.into_iter().filter_map(check).collect()
    }

    fn check_loss(&self, named: &Named, lost: &str) -> Checked {
        let limit = time(self.pause.as_ref()).ok().flatten();
        let what = format!("{}: writes go on without {lost}", self.placement);
        // A region without a voter can be lost at any time.
        let loss = named.budget.losses.iter().find(|l| l.region.as_str() == lost);
        let pause = loss.map_or(Some(Duration::ZERO), |l| l.pause);
        let verdict = match (pause, limit) {
            (None, _) => Verdict::Impossible,
            (Some(pause), Some(limit)) if pause > limit => Verdict::Broken,
            (Some(_), _) => Verdict::Holds,
        };
        Checked { what, limit, predicted: pause, verdict }
    }
}

impl Checked {
    /// Whether the objective is met.
    pub(super) fn holds(&self) -> bool {
        self.verdict == Verdict::Holds
    }

    /// For people.
    pub(super) fn line(&self) -> String {
        let figure = |d: Option<Duration>| d.map_or_else(|| "-".to_owned(), short);
        let (predicted, limit) = (figure(self.predicted), figure(self.limit));
        match self.verdict {
            Verdict::Holds => format!("ok      {}: {predicted}, at most {limit}", self.what),
            Verdict::Broken => format!("BROKEN  {}: {predicted}, at most {limit}", self.what),
            Verdict::Impossible => {
                format!(
                    "BROKEN  {}: {predicted}, at most {limit}; this placement cannot do that, by physics",
                    self.what
                )
            }
        }
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let micros = |d: Option<Duration>| d.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
        json!({
            "what": self.what,
            "limit_us": micros(self.limit),
            "predicted_us": micros(self.predicted),
            "holds": self.holds(),
            "possible": self.verdict != Verdict::Impossible,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::Source;
    use super::*;
    use meridian_catalog::budget::Overheads;
    use meridian_types::Placement;

    fn named(placement: &str) -> Named {
        let parsed = Placement::parse(placement).unwrap();
        let budget = Source::of_topology("three").unwrap().price(&parsed, None, &Overheads::default()).unwrap();
        Named { name: placement.into(), placement: parsed, budget }
    }

    fn verdicts(text: &str, placement: &str) -> Vec<Verdict> {
        Slos::parse(text).unwrap().check(&[named(placement)]).iter().map(|c| c.verdict).collect()
    }

    #[test]
    fn objectives_are_met_missed_or_against_physics() {
        let slo = |line: &str| format!("[[slo]]\nplacement = 'global:us-east'\n{line}");
        let of = |line: &str| verdicts(&slo(line), "global:us-east");
        use Verdict::{Broken, Holds, Impossible};
        assert_eq!(of("operation = 'write'\nregion = 'eu-west'\np50 = '80ms'"), [Holds]);
        assert_eq!(of("operation = 'write'\nregion = 'eu-west'\np50 = '70ms'"), [Broken]);
        assert_eq!(of("operation = 'write'\nregion = 'ap-northeast'\np50 = '80ms'"), [Impossible]);
        assert_eq!(of("operation = 'write'\np50 = '80ms'"), [Impossible, Holds, Holds], "every region");
        assert_eq!(of("staleness = '300ms'\nregion = 'eu-west'"), [Holds]);
        assert_eq!(of("survives = 'us-east'\npause = '3s'"), [Holds]);
        assert_eq!(of("survives = 'us-east'\npause = '1s'"), [Broken]);
        assert_eq!(of("operation = 'write'\nregion = 'mars'\np50 = '1s'"), [Impossible]);
        let regional = "[[slo]]\nplacement = 'regional:eu-west'\nsurvives = 'eu-west'";
        assert_eq!(verdicts(regional, "regional:eu-west"), [Impossible]);
    }

    #[test]
    fn a_file_that_asks_nothing_is_refused() {
        for text in [
            "",
            "[[slo]]\nplacement = 'global'",
            "[[slo]]\nplacement = 'global'\np50 = '3ms'",
            "[[slo]]\nplacement = 'global'\noperation = 'write'\np50 = 'soon'",
            "[[slo]]\nplacement = 'global'\noperation = 'delete'\np50 = '3ms'",
            "[[slo]]\nplacement = 'global'\nstaleness = '3ms'\ncolour = 'red'",
            "[[slo]]\nplacement = 'global'\nstaleness = '3s'\npause = '3s'",
        ] {
            assert!(Slos::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_line_says_what_is_broken() {
        let text = "[[slo]]\nplacement = 'global:us-east'\noperation = 'write'\nregion = 'ap-northeast'\np50 = '80ms'";
        let line = Slos::parse(text).unwrap().check(&[named("global:us-east")])[0].line();
        assert!(line.starts_with("BROKEN") && line.contains("ap-northeast") && line.contains("physics"), "{line}");
    }
}
