//! The workloads: the core workloads A to F of YCSB, two of a single kind of operation, and one for checked histories.
//!
//! Source: Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010, section 4, and the files
//! `workloads/workloada` to `workloadf` of the YCSB distribution. Values are one blob instead of ten fields; a
//! read-modify-write is a get, then a transaction that requires the version that was read.

use super::Distribution;
use crate::error::BadOption;
use std::fmt;
use std::str::FromStr;

/// Which operations, in which shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Update heavy: 50 % reads, 50 % updates.
    A,
    /// Read mostly: 95 % reads, 5 % updates.
    B,
    /// Reads only.
    C,
    /// Read latest: 95 % reads of what was inserted lately, 5 % inserts.
    D,
    /// Short ranges: 95 % scans, 5 % inserts.
    E,
    /// Read-modify-write: 50 % reads, 50 % read-modify-writes.
    F,
    /// Updates only.
    Write,
    /// Reads only, keys uniform.
    Read,
    /// Everything that a register can do, for histories that are checked: 40 % reads, 30 % updates, 10 % deletes,
    /// 20 % read-modify-writes.
    Register,
}

/// Shares of a workload in percent; they add up to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    pub(crate) read: u32,
    pub(crate) update: u32,
    pub(crate) insert: u32,
    pub(crate) scan: u32,
    pub(crate) delete: u32,
    pub(crate) read_modify_write: u32,
}

const NOTHING: Mix = Mix { read: 0, update: 0, insert: 0, scan: 0, delete: 0, read_modify_write: 0 };

impl Workload {
    /// Every workload.
    pub const ALL: [Self; 9] =
        [Self::A, Self::B, Self::C, Self::D, Self::E, Self::F, Self::Write, Self::Read, Self::Register];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "ycsb-a",
            Self::B => "ycsb-b",
            Self::C => "ycsb-c",
            Self::D => "ycsb-d",
            Self::E => "ycsb-e",
            Self::F => "ycsb-f",
            Self::Write => "write",
            Self::Read => "read",
            Self::Register => "register",
        }
    }

    pub(crate) fn mix(self) -> Mix {
        match self {
            Self::A => Mix { read: 50, update: 50, ..NOTHING },
            Self::B => Mix { read: 95, update: 5, ..NOTHING },
            Self::C | Self::Read => Mix { read: 100, ..NOTHING },
            Self::D => Mix { read: 95, insert: 5, ..NOTHING },
            Self::E => Mix { scan: 95, insert: 5, ..NOTHING },
            Self::F => Mix { read: 50, read_modify_write: 50, ..NOTHING },
            Self::Write => Mix { update: 100, ..NOTHING },
            Self::Register => Mix { read: 40, update: 30, delete: 10, read_modify_write: 20, ..NOTHING },
        }
    }

    /// The key distribution, unless another one is asked for.
    pub fn distribution(self) -> Distribution {
        match self {
            Self::A | Self::B | Self::C | Self::E | Self::F => Distribution::Zipfian,
            Self::D => Distribution::Latest,
            Self::Write | Self::Read | Self::Register => Distribution::Uniform,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = BadOption;

    /// Reads a name, for the YCSB workloads also the bare letter.
    fn from_str(text: &str) -> Result<Self, BadOption> {
        let text = text.to_ascii_lowercase();
        let named = |w: &Self| w.name() == text || w.name().strip_prefix("ycsb-") == Some(&text);
        Self::ALL.into_iter().find(named).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|w| w.name()).collect();
            BadOption::new("workload", format!("`{text}` is none of {}", names.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_names_are_read() {
        for workload in Workload::ALL {
            let m = workload.mix();
            assert_eq!(m.read + m.update + m.insert + m.scan + m.delete + m.read_modify_write, 100, "{workload}");
            assert_eq!(workload.name().parse(), Ok(workload));
        }
        assert_eq!("F".parse(), Ok(Workload::F));
        assert!("g".parse::<Workload>().is_err());
    }
}
