//! Where a table's data lives.

use crate::RegionId;
use std::fmt;

/// A table's placement preset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Voters in three or more regions, learners in all others.
    Global {
        /// Regions that should lead, best first; empty: the region with the smallest quorum RTT.
        leader: Vec<RegionId>,
        /// Region losses to survive: `2 * survive + 1` voter regions. At least 1.
        survive: u32,
    },
    /// As [`Placement::Global`], with a lead time: the leader closes timestamps ahead of its clock, so that every region
    /// serves linearizable reads from its own replica without a message, and writes wait out what was closed.
    GlobalReads {
        /// As in [`Placement::Global`].
        leader: Vec<RegionId>,
        /// As in [`Placement::Global`].
        survive: u32,
    },
    /// Voters in the home region, learners elsewhere.
    Regional {
        /// The home region.
        home: RegionId,
    },
}

/// A placement that no topology can satisfy, or text that names none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad placement: {0}")]
pub struct BadPlacement(pub String);

impl Placement {
    /// Whether the table's leader closes timestamps ahead of its clock.
    pub fn has_lead_time(&self) -> bool {
        match self {
            Self::GlobalReads { .. } => true,
            Self::Global { .. } | Self::Regional { .. } => false,
        }
    }

    /// Reads `global`, `global:REGION[,REGION...]`, `global-reads`, `global-reads:REGION[,REGION...]` or `regional:HOME`.
    pub fn parse(text: &str) -> Result<Self, BadPlacement> {
        let bad = |why: String| Err(BadPlacement(why));
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let regions = || rest.split(',').map(str::trim).filter(|r| !r.is_empty()).map(RegionId::from).collect();
        match (kind, rest) {
            ("global", _) => Ok(Self::Global { leader: regions(), survive: 1 }),
            ("global-reads", _) => Ok(Self::GlobalReads { leader: regions(), survive: 1 }),
            ("regional", "") => bad("`regional` needs its home region: `regional:REGION`".into()),
            ("regional", home) => Ok(Self::Regional { home: home.into() }),
            _ => bad(format!(
                "`{text}` is none of `global`, `global:REGION,...`, `global-reads`, `global-reads:REGION,...`, \
                 `regional:REGION`"
            )),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (preset, leader) = match self {
            Self::Global { leader, .. } => ("global", leader),
            Self::GlobalReads { leader, .. } => ("global-reads", leader),
            Self::Regional { home } => return write!(f, "regional:{home}"),
        };
        if leader.is_empty() {
            return f.write_str(preset);
        }
        let names: Vec<_> = leader.iter().map(RegionId::as_str).collect();
        write!(f, "{preset}:{}", names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let leads = ["global-reads", "global-reads:us-east", "global-reads:us-east,eu-west"].map(|text| (text, true));
        let others =
            ["global", "global:us-east", "global:us-east,eu-west", "regional:eu-west"].map(|text| (text, false));
        for (text, has_lead_time) in leads.into_iter().chain(others) {
            let placement = Placement::parse(text).unwrap();
            assert_eq!((placement.to_string(), placement.has_lead_time()), (text.to_owned(), has_lead_time));
        }
        assert!(Placement::parse("regional").is_err());
        assert!(Placement::parse("everywhere").is_err());
    }
}
