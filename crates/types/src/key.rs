//! Keys and ranges of keys.

use bytes::Bytes;

/// A half-open range of keys `[start, end)`; without an `end` it has no upper bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// First key in the range. Empty: from the first key there is.
    pub start: Bytes,
    /// First key after the range; `None`: to the last key there is.
    pub end: Option<Bytes>,
}

/// The range's end is not after its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the range's end is not after its start")]
pub struct BadRange;

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// A checked range.
    pub fn new(start: Bytes, end: Option<Bytes>) -> Result<Self, BadRange> {
        match &end {
            Some(end) if *end <= start => Err(BadRange),
            _ => Ok(Self { start, end }),
        }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: Bytes) -> Self {
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Self { start: prefix, end: Some(end.into()) };
            }
        }
        Self { start: prefix, end: None }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_ref() && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    /// Whether a key can lie in both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        let before = |a: &Self, b: &Self| a.end.as_ref().is_some_and(|end| *end <= b.start);
        !before(self, other) && !before(other, self)
    }

    /// The part that lies in both ranges.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        if !self.overlaps(other) {
            return None;
        }
        let start = self.start.clone().max(other.start.clone());
        let end = match (&self.end, &other.end) {
            (Some(a), Some(b)) => Some(a.min(b).clone()),
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        Self::new(start, end).ok()
    }
}

/// What a request may touch: single keys and ranges. Conservative: it may name more than is touched, never less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySpan {
    /// Single keys.
    pub keys: Vec<Bytes>,
    /// Ranges.
    pub ranges: Vec<KeyRange>,
    /// Everything in the shard, whatever the lists say.
    pub all: bool,
}

impl KeySpan {
    /// One key.
    pub fn key(key: Bytes) -> Self {
        Self { keys: vec![key], ..Self::default() }
    }

    /// One range.
    pub fn range(range: KeyRange) -> Self {
        Self { ranges: vec![range], ..Self::default() }
    }

    /// Everything in the shard.
    pub fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Adds what `other` touches.
    pub fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.ranges.extend(other.ranges);
        self.all |= other.all;
    }

    /// Whether a key can be touched by both.
    pub fn touches(&self, other: &Self) -> bool {
        self.all
            || other.all
            || self.keys.iter().any(|k| other.has_key(k))
            || other.keys.iter().any(|k| self.ranges.iter().any(|r| r.contains(k)))
            || self.ranges.iter().any(|a| other.ranges.iter().any(|b| a.overlaps(b)))
    }

    fn has_key(&self, key: &Bytes) -> bool {
        self.keys.contains(key) || self.ranges.iter().any(|r| r.contains(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static str, end: Option<&'static str>) -> KeyRange {
        KeyRange::new(start.into(), end.map(Into::into)).unwrap()
    }

    #[test]
    fn a_range_ends_before_its_end() {
        let r = range("b", Some("d"));
        assert!(r.contains(b"b") && r.contains(b"cz") && !r.contains(b"d") && !r.contains(b"a"));
        assert_eq!(KeyRange::new("b".into(), Some("b".into())), Err(BadRange));
    }

    #[test]
    fn prefixes_end_at_the_next_prefix() {
        assert_eq!(KeyRange::prefix("ab".into()), range("ab", Some("ac")));
        assert_eq!(KeyRange::prefix(Bytes::from_static(b"\xff\xff")).end, None);
        assert_eq!(KeyRange::prefix(Bytes::from_static(b"a\xff")).end.unwrap(), "b");
    }

    #[test]
    fn ranges_that_only_meet_do_not_overlap() {
        assert!(!range("a", Some("b")).overlaps(&range("b", None)));
        assert!(range("a", Some("c")).overlaps(&range("b", None)));
        assert_eq!(range("a", Some("c")).intersect(&range("b", None)), Some(range("b", Some("c"))));
    }

    #[test]
    fn spans_touch_by_key_by_range_and_by_everything() {
        let key = KeySpan::key("k".into());
        assert!(key.touches(&KeySpan::key("k".into())) && !key.touches(&KeySpan::key("l".into())));
        assert!(key.touches(&KeySpan::range(range("j", Some("l")))));
        assert!(KeySpan::range(range("j", Some("l"))).touches(&key));
        assert!(KeySpan::everything().touches(&KeySpan::default()));
    }
}
