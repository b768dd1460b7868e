//! The limits that a client meets. Every one of them has a name and an error that says so.

use crate::{Error, Reason};

/// Sizes in bytes and counts that bound one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key, in bytes.
    pub key_bytes_max: usize,
    /// Longest value, in bytes.
    pub value_bytes_max: usize,
    /// Largest request, keys and values together, in bytes.
    pub request_bytes_max: usize,
    /// Most rows that one page of a scan returns.
    pub page_rows_max: usize,
    /// Most bytes of keys and values that one page of a scan returns.
    pub page_bytes_max: usize,
    /// Most operations (preconditions, reads, writes) in one transaction.
    pub ops_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 4 << 10,
            value_bytes_max: 1 << 20,
            request_bytes_max: 4 << 20,
            page_rows_max: 10_000,
            page_bytes_max: 2 << 20,
            ops_max: 4096,
        }
    }
}

impl Limits {
    /// Checks one key.
    pub fn check_key(&self, key: &[u8]) -> Result<(), Error> {
        if key.is_empty() {
            return Err(Error::new(Reason::BadRequest, "the key is empty; give it at least one byte"));
        }
        over(key.len(), self.key_bytes_max, Reason::KeyTooLarge, "the key", "shorten it, or hash its tail")
    }

    /// Checks one value.
    pub fn check_value(&self, value: &[u8]) -> Result<(), Error> {
        over(value.len(), self.value_bytes_max, Reason::ValueTooLarge, "the value", "split it over several keys")
    }

    /// Checks the size of a whole request.
    pub fn check_request(&self, bytes: usize) -> Result<(), Error> {
        over(bytes, self.request_bytes_max, Reason::RequestTooLarge, "the request", "send it in several requests")
    }
}

fn over(bytes: usize, max: usize, reason: Reason, what: &str, advice: &str) -> Result<(), Error> {
    if bytes <= max {
        return Ok(());
    }
    Err(Error::new(reason, format!("{what} has {bytes} bytes, the limit is {max}; {advice}")))
}
