//! Small texts with a proven form: hexadecimal identifiers and printable, bounded text.
//!
//! Guarantees: a [`Hex`] holds exactly its bytes, and has one spelling (lower case); a [`PrintableText`] holds printable
//! ASCII within its bound, so that printing it can neither forge a log line nor drive a terminal.

use core::fmt::{self, Display};
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Bytes that are written as lower-case hexadecimal text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<const BYTES: usize>([u8; BYTES]);

/// Names one run of the enclave; drawn at boot.
pub type BootId = Hex<16>;
/// Names a key store: SHA-256 of its first manifest.
pub type KeyStoreId = Hex<32>;

/// A text is not the hexadecimal form of an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be {characters} characters of 0-9 and a-f")]
pub struct HexError {
    /// Characters that the identifier has.
    pub characters: usize,
}

impl<const BYTES: usize> Hex<BYTES> {
    /// The bytes themselves.
    pub const fn as_bytes(&self) -> &[u8; BYTES] {
        &self.0
    }
}

impl<const BYTES: usize> From<[u8; BYTES]> for Hex<BYTES> {
    fn from(bytes: [u8; BYTES]) -> Self {
        Self(bytes)
    }
}

impl<const BYTES: usize> FromStr for Hex<BYTES> {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        let refusal = HexError { characters: BYTES * 2 };
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(refusal);
        }
        let mut bytes = [0; BYTES];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| refusal)?;
        Ok(Self(bytes))
    }
}

impl<const BYTES: usize> Display for Hex<BYTES> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl<const BYTES: usize> fmt::Debug for Hex<BYTES> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, formatter)
    }
}

impl<const BYTES: usize> Serialize for Hex<BYTES> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const BYTES: usize> Deserialize<'de> for Hex<BYTES> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Printable ASCII of at most `MAX` characters. Anything else is escaped, and what does not fit is cut, at both ends of
/// the link: a bad log line is no reason to lose the connection.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PrintableText<const MAX: usize>(String);

impl<const MAX: usize> PrintableText<MAX> {
    /// Escapes and cuts `text` until it has this type's form. A text that has it already stays as it is.
    pub fn new(text: &str) -> Self {
        let mut printable = String::with_capacity(text.len().min(MAX));
        for character in text.chars() {
            let before = printable.len();
            if character == ' ' || character.is_ascii_graphic() {
                printable.push(character);
            } else {
                printable.extend(character.escape_default());
            }
            if printable.len() > MAX {
                printable.truncate(before);
                break;
            }
        }
        Self(printable)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> From<&str> for PrintableText<MAX> {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl<const MAX: usize> Display for PrintableText<MAX> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<const MAX: usize> fmt::Debug for PrintableText<MAX> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

impl<const MAX: usize> Serialize for PrintableText<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for PrintableText<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(&String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hexadecimal_text_has_one_spelling() {
        let accepted = "00ff102030405060708090a0b0c0d0e0";
        assert_eq!(accepted.parse::<BootId>().unwrap().to_string(), accepted);
        for refused in [
            "",
            "00",
            "00FF102030405060708090a0b0c0d0e0",
            "00ff102030405060708090a0b0c0d0e",
            "00ff102030405060708090a0b0c0d0e0ff",
            "0xff102030405060708090a0b0c0d0e0",
        ] {
            assert_eq!(refused.parse::<BootId>(), Err(HexError { characters: 32 }), "{refused}");
        }
    }

    #[test]
    fn control_characters_are_escaped_and_long_text_is_cut() {
        for (text, expected) in [
            ("plain text", "plain text"),
            ("a\nb", "a\\nb"),
            ("\u{1b}[31m", "\\u{1b}[31m"),
            ("caf\u{e9}", "caf\\u{e9}"),
            ("0123456789abcdefXYZ", "0123456789abcdef"),
            ("0123456789abcd\u{1b}", "0123456789abcd"),
        ] {
            assert_eq!(PrintableText::<16>::new(text).as_str(), expected);
        }
    }

    proptest! {
        #[test]
        fn printable_text_is_bounded_printable_and_stable(text in any::<String>()) {
            let once = PrintableText::<64>::new(&text);
            prop_assert!(once.as_str().len() <= 64);
            prop_assert!(once.as_str().bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            prop_assert_eq!(&PrintableText::<64>::new(once.as_str()), &once);
        }

        #[test]
        fn hexadecimal_text_round_trips(bytes in any::<[u8; 32]>()) {
            let id = KeyStoreId::from(bytes);
            prop_assert_eq!(id.to_string().parse::<KeyStoreId>(), Ok(id));
        }
    }
}
