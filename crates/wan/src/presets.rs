//! The topologies that ship with Meridian. RTTs are typical of public clouds between the regions so named.

use crate::{Place, RegionSpec, RttSpec, Shard0Spec, Topology};
use meridian_clock::SourceKind;
use meridian_types::RegionId;
use std::time::Duration;

pub(crate) const NAMES: [&str; 3] = ["three", "five", "lan"];

/// Bound of the presets' clocks: their nodes share one machine's clock.
const CLOCK_BOUND: Duration = Duration::from_millis(1);

/// Regions, and RTTs in milliseconds.
type Matrix = (&'static [&'static str], &'static [(&'static str, &'static str, u64)]);

const THREE: Matrix = (
    &["us-east", "eu-west", "ap-northeast"],
    &[("us-east", "eu-west", 70), ("us-east", "ap-northeast", 140), ("eu-west", "ap-northeast", 210)],
);

const FIVE: Matrix = (
    &["us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1", "ap-southeast-2"],
    &[
        ("us-east-1", "us-west-2", 63),
        ("us-east-1", "eu-west-1", 68),
        ("us-east-1", "ap-northeast-1", 145),
        ("us-east-1", "ap-southeast-2", 200),
        ("us-west-2", "eu-west-1", 125),
        ("us-west-2", "ap-northeast-1", 97),
        ("us-west-2", "ap-southeast-2", 140),
        ("eu-west-1", "ap-northeast-1", 200),
        ("eu-west-1", "ap-southeast-2", 255),
        ("ap-northeast-1", "ap-southeast-2", 105),
    ],
);

pub(crate) fn preset(name: &str) -> Option<Topology> {
    match name {
        "three" => Some(wide(name, THREE)),
        "five" => Some(wide(name, FIVE)),
        "lan" => Some(lan()),
        _ => None,
    }
}

/// One node and one voter in every region; the first region leads.
fn wide(name: &str, (regions, rtts): Matrix) -> Topology {
    let between = |&(a, b, ms): &(&str, &str, u64)| RttSpec {
        between: [a.into(), b.into()],
        rtt: Duration::from_millis(ms),
        bandwidth_bytes_per_s: None,
    };
    let spec = |&name: &&str| RegionSpec { name: name.into(), zones: vec!["a".into()], nodes: 1 };
    Topology {
        name: name.into(),
        clock_bound: CLOCK_BOUND,
        clock_source: SourceKind::Fixed,
        intra_rtt: Duration::ZERO,
        jitter: Duration::ZERO,
        bandwidth_bytes_per_s: None,
        shard0: Shard0Spec {
            leader: regions[0].into(),
            voters: regions.iter().map(|&r| Place::from(RegionId::from(r))).collect(),
        },
        regions: regions.iter().map(spec).collect(),
        rtt: rtts.iter().map(between).collect(),
    }
}

/// Three zones of one region, a node and a voter in each.
fn lan() -> Topology {
    let (region, zones) = (RegionId::from("local"), ["a", "b", "c"]);
    let voter = |zone: &str| Place { region: region.clone(), zone: Some(zone.into()) };
    Topology {
        name: "lan".into(),
        clock_bound: CLOCK_BOUND,
        clock_source: SourceKind::Fixed,
        intra_rtt: Duration::from_micros(250),
        jitter: Duration::ZERO,
        bandwidth_bytes_per_s: None,
        shard0: Shard0Spec { leader: region.clone(), voters: zones.map(voter).to_vec() },
        regions: vec![RegionSpec { name: region.clone(), zones: zones.map(Into::into).to_vec(), nodes: 3 }],
        rtt: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid() {
        for name in NAMES {
            assert_eq!(preset(name).unwrap().validate(), [], "{name}");
        }
        assert_eq!(preset("four"), None);
    }

    #[test]
    fn presets_have_the_documented_distances() {
        for (name, a, b, us) in [
            ("three", "us-east", "eu-west", 70_000),
            ("three", "ap-northeast", "us-east", 140_000),
            ("three", "ap-northeast", "eu-west", 210_000),
            ("three", "eu-west", "eu-west", 0),
            ("five", "us-west-2", "us-east-1", 63_000),
            ("five", "ap-southeast-2", "ap-northeast-1", 105_000),
            ("five", "eu-west-1", "ap-southeast-2", 255_000),
            ("lan", "local", "local", 250),
        ] {
            let rtt = preset(name).unwrap().rtt(&a.into(), &b.into());
            assert_eq!(rtt, Duration::from_micros(us), "{name}: {a} to {b}");
        }
    }
}
