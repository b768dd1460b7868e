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
    /// Reads `global`, `global:REGION[,REGION...]` or `regional:HOME`.
    pub fn parse(text: &str) -> Result<Self, BadPlacement> {
        let bad = |why: String| Err(BadPlacement(why));
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match (kind, rest) {
            ("global", rest) => {
                let leader = rest.split(',').map(str::trim).filter(|r| !r.is_empty()).map(RegionId::from).collect();
                Ok(Self::Global { leader, survive: 1 })
            }
            ("regional", "") => bad("`regional` needs its home region: `regional:REGION`".into()),
            ("regional", home) => Ok(Self::Regional { home: home.into() }),
            _ => bad(format!("`{text}` is none of `global`, `global:REGION,...`, `regional:REGION`")),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global { leader, .. } if leader.is_empty() => f.write_str("global"),
            Self::Global { leader, .. } => {
                let names: Vec<_> = leader.iter().map(RegionId::as_str).collect();
                write!(f, "global:{}", names.join(","))
            }
            Self::Regional { home } => write!(f, "regional:{home}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["global", "global:us-east", "global:us-east,eu-west", "regional:eu-west"] {
            assert_eq!(Placement::parse(text).unwrap().to_string(), text);
        }
        assert!(Placement::parse("regional").is_err());
        assert!(Placement::parse("everywhere").is_err());
    }
}
