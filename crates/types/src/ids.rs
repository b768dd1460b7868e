//! Identities. A number or a name with a meaning is a type of its own.

use std::fmt;

macro_rules! numeric_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl From<u64> for $name {
            fn from(id: u64) -> Self {
                Self(id)
            }
        }
    };
}

numeric_id!(
    /// One running server. Never reused for a server with another data directory.
    NodeId,
    "n"
);
numeric_id!(
    /// One shard, which is one Raft group. Shard 0 is the catalog.
    ShardId,
    "s"
);
numeric_id!(
    /// One table. Table 0 holds the catalog's own records.
    TableId,
    "t"
);

impl ShardId {
    /// The catalog's shard, replicated to every node.
    pub const CATALOG: Self = Self(0);
}

impl TableId {
    /// The system table that holds the catalog's records, in [`ShardId::CATALOG`].
    pub const CATALOG: Self = Self(0);
}

macro_rules! named_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name)
            }
        }
    };
}

named_id!(
    /// A region: failure domains near enough to each other for a fast quorum.
    RegionId
);
named_id!(
    /// One failure domain inside a region.
    ZoneId
);
