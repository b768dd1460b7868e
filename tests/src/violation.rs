//! What a checker says when a guarantee is broken: the rule and the operations that show it.

use meridian_bench::history::Record;
use std::fmt;

/// Most operations that a violation prints.
const RECORDS_SHOWN_MAX: usize = 12;

/// A broken guarantee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong, in a sentence.
    pub message: String,
    /// The operations that show it.
    pub records: Vec<Record>,
}

impl Violation {
    pub(crate) fn new(message: impl Into<String>, records: &[&Record]) -> Self {
        Self { message: message.into(), records: records.iter().map(|r| (*r).clone()).collect() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for record in self.records.iter().take(RECORDS_SHOWN_MAX) {
            write!(f, "\n  {record:?}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}
