//! Values: each one is written once, so that a history shows which write a read has seen.
//!
//! Layout: `RUN-PROCESS-COUNTER`, run id and process in hexadecimal, counter in decimal, then padding with `.` up to
//! the value size. The name is what histories record; padding that was changed on the way shows as another name.

use bytes::Bytes;

const PAD: u8 = b'.';

/// Makes the values of one process of one run.
#[derive(Clone, Debug)]
pub struct UniqueValues {
    prefix: String,
    counter: u64,
    bytes: usize,
}

impl UniqueValues {
    /// Values of `bytes` bytes each, longer where the name does not fit.
    pub fn new(run: u64, process: u64, bytes: usize) -> Self {
        Self { prefix: format!("{run:016x}-{process:x}"), counter: 0, bytes }
    }

    /// The next value. No other process and no other run makes the same.
    pub fn make(&mut self) -> Bytes {
        self.counter += 1;
        let mut value = format!("{}-{}", self.prefix, self.counter).into_bytes();
        if value.len() < self.bytes {
            value.resize(self.bytes, PAD);
        }
        value.into()
    }
}

/// The name in a value. Bytes that are not one of our values keep their whole text, marked as damaged, so that they
/// equal no write.
pub fn value_name(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == PAD).unwrap_or(value.len());
    let (name, padding) = value.split_at(end);
    match std::str::from_utf8(name) {
        Ok(name) if padding.iter().all(|b| *b == PAD) => name.to_owned(),
        _ => format!("damaged:{}", String::from_utf8_lossy(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::VALUE_BYTES_MIN;

    #[test]
    fn values_are_unique_padded_and_named() {
        let (mut a, mut b) = (UniqueValues::new(1, 0, 100), UniqueValues::new(1, 1, 100));
        let values = [a.make(), a.make(), b.make()];
        assert!(values.iter().all(|v| v.len() == 100));
        assert_eq!(value_name(&values[0]), "0000000000000001-0-1");
        assert!(values[0] != values[1] && values[1] != values[2]);
    }

    #[test]
    fn the_longest_name_fits_the_smallest_value() {
        let mut values = UniqueValues::new(u64::MAX, u64::from(u32::MAX), 0);
        values.counter = u64::from(u32::MAX) * 1000;
        assert!(values.make().len() <= VALUE_BYTES_MIN);
    }

    #[test]
    fn damage_is_not_mistaken_for_a_write() {
        let mut value = UniqueValues::new(1, 0, 64).make().to_vec();
        value[60] = b'x';
        assert!(value_name(&value).starts_with("damaged:"));
        assert_eq!(value_name(b"plain"), "plain");
    }
}
