//! The systems that are compared, and the ways in which they are.

use serde::Serialize;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum System {
    /// etcd, the yardstick.
    Etcd,
    /// Meridian.
    Meridian,
}

impl System {
    /// As it is printed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Meridian => "meridian",
        }
    }
}

/// A system and a way to talk to it: what gets a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// etcd with a gRPC call for each operation.
    Etcd,
    /// Meridian with its client as it comes: operations are gathered on a stream for each gateway.
    Meridian,
    /// Meridian with a gRPC call for each operation, as etcd's client makes them.
    MeridianUnary,
}

impl Contender {
    /// All, in the order of the first round.
    pub(crate) const ALL: [Self; 3] = [Self::Etcd, Self::Meridian, Self::MeridianUnary];

    /// As it is printed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Meridian => "meridian",
            Self::MeridianUnary => "meridian, unary",
        }
    }

    /// Whose it is.
    pub(crate) fn system(self) -> System {
        match self {
            Self::Etcd => System::Etcd,
            Self::Meridian | Self::MeridianUnary => System::Meridian,
        }
    }

    /// Whether the goals are stated for it.
    pub(crate) fn has_goals(self) -> bool {
        self == Self::Meridian
    }
}
