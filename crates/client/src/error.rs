//! A failed operation: the reason, the fate of all its copies, and the id under which to ask again.

use meridian_types::{Achievable, Error as Cause, Fate, Reason, RequestId};

/// Shorthand for results of operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed, after all its attempts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}{}", after(*.attempts))]
pub struct Error {
    /// The reason, and what became of the operation as a whole.
    pub cause: Cause,
    /// The id that all attempts carried: the same write repeated under it takes effect at most once, and its
    /// answer settles an unknown outcome. Reads and administration have none.
    pub request_id: Option<RequestId>,
    /// How many attempts were made; zero when nothing was sent at all.
    pub attempts: u32,
}

impl Error {
    /// An error found before anything was sent.
    pub(crate) fn unsent(reason: Reason, message: impl Into<String>) -> Self {
        Self { cause: Cause::new(reason, message).with_fate(Fate::NotApplied), request_id: None, attempts: 0 }
    }

    /// What a program acts on.
    pub fn reason(&self) -> Reason {
        self.cause.reason
    }

    /// What a read would get instead, when its latency budget is too small; nothing otherwise.
    pub fn achievable(&self) -> &[Achievable] {
        &self.cause.achievable
    }

    /// Whether the operation is known to have done nothing.
    pub fn fate(&self) -> Fate {
        self.cause.fate
    }
}

fn after(attempts: u32) -> String {
    if attempts > 1 { format!(", after {attempts} attempts") } else { String::new() }
}
