//! The round trips of the presets, for tables in tests.

use crate::RttMatrix;
use std::time::Duration;

fn matrix(pairs: &[(&str, &str, u64)]) -> RttMatrix {
    let micros = |(a, b, us): &(&str, &str, u64)| ((*a).into(), (*b).into(), Duration::from_micros(*us));
    pairs.iter().map(micros).collect()
}

pub(crate) fn three() -> RttMatrix {
    matrix(&[
        ("us-east", "eu-west", 70_000),
        ("us-east", "ap-northeast", 140_000),
        ("eu-west", "ap-northeast", 210_000),
    ])
}

pub(crate) fn five() -> RttMatrix {
    matrix(&[
        ("us-east-1", "us-west-2", 63_000),
        ("us-east-1", "eu-west-1", 68_000),
        ("us-east-1", "ap-northeast-1", 145_000),
        ("us-east-1", "ap-southeast-2", 200_000),
        ("us-west-2", "eu-west-1", 125_000),
        ("us-west-2", "ap-northeast-1", 97_000),
        ("us-west-2", "ap-southeast-2", 140_000),
        ("eu-west-1", "ap-northeast-1", 200_000),
        ("eu-west-1", "ap-southeast-2", 255_000),
        ("ap-northeast-1", "ap-southeast-2", 105_000),
    ])
}

pub(crate) fn lan() -> RttMatrix {
    matrix(&[("local", "local", 250)])
}
