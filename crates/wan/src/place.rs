//! Places of a topology: what links connect.

use meridian_types::{RegionId, ZoneId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// One zone of one region: where a node is, and where a link begins or ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The region.
    pub region: RegionId,
    /// The zone in it.
    pub zone: ZoneId,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.zone)
    }
}

/// A region, or one zone of it: `eu-west` or `local/b`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The region.
    pub region: RegionId,
    /// The zone; `None`: all of the region.
    pub zone: Option<ZoneId>,
}

/// The text is neither `REGION` nor `REGION/ZONE`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no place: write REGION or REGION/ZONE")]
pub struct BadPlace(pub String);

impl Place {
    /// Whether the endpoint is here.
    pub fn holds(&self, endpoint: &Endpoint) -> bool {
        self.region == endpoint.region && self.zone.as_ref().is_none_or(|zone| *zone == endpoint.zone)
    }
}

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let (region, zone) = match text.split_once('/') {
            None => (text, None),
            Some((region, zone)) => (region, Some(zone)),
        };
        if region.is_empty() || zone.is_some_and(|z| z.is_empty() || z.contains('/')) {
            return Err(BadPlace(text.to_owned()));
        }
        Ok(Self { region: region.into(), zone: zone.map(ZoneId::from) })
    }
}

impl From<RegionId> for Place {
    fn from(region: RegionId) -> Self {
        Self { region, zone: None }
    }
}

impl From<Endpoint> for Place {
    fn from(endpoint: Endpoint) -> Self {
        Self { region: endpoint.region, zone: Some(endpoint.zone) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            None => self.region.fmt(f),
            Some(zone) => write!(f, "{}/{zone}", self.region),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_nonsense_is_refused() {
        for text in ["eu-west", "local/b"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for text in ["", "/", "a/", "/b", "a/b/c"] {
            assert_eq!(text.parse::<Place>(), Err(BadPlace(text.to_owned())));
        }
    }

    #[test]
    fn a_region_holds_all_its_zones_and_a_zone_only_itself() {
        let b = Endpoint { region: "local".into(), zone: "b".into() };
        let holds = |text: &str| text.parse::<Place>().unwrap().holds(&b);
        assert!(holds("local") && holds("local/b") && !holds("local/a") && !holds("other"));
    }
}
