//! Keys and values on the command line and in output.
//!
//! Text is itself. What is not text is `base64:` and its base64 form, and text that happens to begin like that is
//! written in the same way, so what is printed can always be passed back. With `--hex` everything is hexadecimal.

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, engine::DecodePaddingMode};
use bytes::Bytes;
use std::fmt::Write as _;

const BASE64: &str = "base64:";
/// Writes padding, reads with or without it.
const CODEC: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Text, or `base64:...`.
    #[default]
    Text,
    /// Hexadecimal digits.
    Hex,
}

/// Text that stands for no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadText {
    /// After `base64:` comes something else.
    #[error("`{0}` is not base64")]
    Base64(String),
    /// Not an even number of hexadecimal digits.
    #[error("`{0}` is not hexadecimal: write two digits per byte")]
    Hex(String),
    /// `KEY=VALUE` was expected.
    #[error("`{0}` is not KEY=VALUE")]
    Pair(String),
}

impl Encoding {
    /// The encoding that the flag `--hex` asks for.
    pub(crate) fn from_flag(hex: bool) -> Self {
        if hex { Self::Hex } else { Self::Text }
    }

    /// The bytes that `text` stands for.
    pub(crate) fn decode(self, text: &str) -> Result<Bytes, BadText> {
        match (self, text.strip_prefix(BASE64)) {
            (Self::Hex, _) => unhex(text).map(Bytes::from).ok_or_else(|| BadText::Hex(text.to_owned())),
            (Self::Text, Some(rest)) => {
                CODEC.decode(rest).map(Bytes::from).map_err(|_| BadText::Base64(rest.to_owned()))
            }
            (Self::Text, None) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        }
    }

    /// Text that stands for `bytes`.
    pub(crate) fn encode(self, bytes: &[u8]) -> String {
        match (self, std::str::from_utf8(bytes)) {
            (Self::Hex, _) => hex(bytes),
            (Self::Text, Ok(text)) if !text.starts_with(BASE64) => text.to_owned(),
            (Self::Text, _) => format!("{BASE64}{}", CODEC.encode(bytes)),
        }
    }

    /// `KEY=VALUE`, split at the first equals sign. A key that contains one is written as `base64:` without padding.
    pub(crate) fn pair(self, text: &str) -> Result<(Bytes, Bytes), BadText> {
        let (key, value) = text.split_once('=').ok_or_else(|| BadText::Pair(text.to_owned()))?;
        Ok((self.decode(key)?, self.decode(value)?))
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The bytes of hexadecimal digits; `None` when they are not.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

/// The same text without characters that a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_passed_back() {
        for bytes in [&b"lisbon"[..], b"", b"\xff\x00", b"base64:x", "S\u{e3}o".as_bytes(), b"a\nb"] {
            for encoding in [Encoding::Text, Encoding::Hex] {
                assert_eq!(encoding.decode(&encoding.encode(bytes)).unwrap(), bytes, "{encoding:?}");
            }
        }
        assert_eq!(Encoding::Text.encode(b"\xff"), "base64:/w==");
        assert_eq!(Encoding::Hex.encode(b"\xff\x01"), "ff01");
    }

    #[test]
    fn malformed_text_is_refused() {
        assert!(matches!(Encoding::Text.decode("base64:%"), Err(BadText::Base64(_))));
        for text in ["f", "fg", "\u{e9}"] {
            assert!(matches!(Encoding::Hex.decode(text), Err(BadText::Hex(_))), "{text}");
        }
    }

    #[test]
    fn pairs_split_at_the_first_sign() {
        let (key, value) = Encoding::Text.pair("k=a=b").unwrap();
        assert_eq!((&key[..], &value[..]), (&b"k"[..], &b"a=b"[..]));
        let (key, value) = Encoding::Text.pair("base64:az0=v").unwrap();
        assert_eq!((&key[..], &value[..]), (&b"k="[..], &b"v"[..]));
        assert!(matches!(Encoding::Text.pair("k"), Err(BadText::Pair(_))));
    }

    #[test]
    fn terminals_get_no_orders() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
