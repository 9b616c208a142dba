//! JSON and base64 as requests carry them.
//!
//! Guarantees: text is borrowed from the body unless it has escapes; objects are objects (serde would also take arrays for
//! them); base64 is the standard alphabet with canonical padding and no stray bits (RFC 4648, sections 3.5 and 4).

use crate::secrets::WipedBytes;
use core::fmt;
use core::marker::PhantomData;
use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// A JSON string, borrowed where possible. (`Option<Cow<str>>` would always copy.)
#[derive(Clone, Debug)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

/// `T`, read from a JSON object and nothing else.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// Parses a whole body: one object and nothing but white space after it. All of it is UTF-8 (RFC 8259, section 8.1), in members
/// that are skipped too, of which the parser would not look.
pub(super) fn parse_object<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Option<T> {
    let text = core::str::from_utf8(body).ok()?;
    serde_json::from_str::<Object<T>>(text).ok().map(|object| object.0)
}

/// What base64 decoding can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base64Error {
    /// Decodes to more than the given maximum.
    TooLong,
    /// Is not canonical base64.
    Malformed,
}

/// Decodes `text` to at most `max` bytes. The buffer is wiped on drop, for any of these fields may be plaintext.
pub(super) fn decode_base64(text: &str, max: usize) -> Result<WipedBytes, Base64Error> {
    if text.len() > max.div_ceil(3).saturating_mul(4) {
        return Err(Base64Error::TooLong);
    }
    let mut bytes = WipedBytes::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let len = STANDARD.decode_slice(text, &mut bytes).map_err(|_| Base64Error::Malformed)?;
    if len > max {
        return Err(Base64Error::TooLong);
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Appends base64 to a JSON text that is being built.
pub(super) fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + base64_len(bytes.len()), 0);
    if let Some(room) = out.get_mut(start..) {
        // The room is exactly `base64_len`, so this cannot fail.
        let written = STANDARD.encode_slice(bytes, room);
        debug_assert!(written.is_ok());
    }
}

/// Characters that `len` bytes take in base64.
pub(super) const fn base64_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn base64_is_strict() {
        type Case = (&'static str, usize, Result<&'static [u8], Base64Error>);
        let cases: &[Case] = &[
            ("", 0, Ok(b"")),
            ("SGVsbG8gV29ybGQh", 12, Ok(b"Hello World!")),
            ("SGVsbG8gV29ybGQh", 11, Err(Base64Error::TooLong)),
            ("AAA=", 2, Ok(&[0, 0])),
            ("AAA=", 1, Err(Base64Error::TooLong)),
            ("AAAAAAAA", 3, Err(Base64Error::TooLong)),
            ("+/+/", 3, Ok(&[0xFB, 0xFF, 0xBF])),
            ("-_-_", 3, Err(Base64Error::Malformed)),
            ("AAA", 9, Err(Base64Error::Malformed)),
            ("AA=", 9, Err(Base64Error::Malformed)),
            ("AA", 9, Err(Base64Error::Malformed)),
            ("AAB=", 9, Err(Base64Error::Malformed)),
            ("AA==AAAA", 9, Err(Base64Error::Malformed)),
            ("AAAA====", 9, Err(Base64Error::Malformed)),
            ("AAAA\n", 9, Err(Base64Error::Malformed)),
            (" AAAA", 9, Err(Base64Error::Malformed)),
            ("AA A", 9, Err(Base64Error::Malformed)),
        ];
        for (text, max, expected) in cases {
            let actual = decode_base64(text, *max);
            assert_eq!(actual.as_ref().map(|bytes| bytes.as_slice()).map_err(|error| *error), *expected, "{text:?}");
        }
    }

    #[test]
    fn text_is_borrowed_unless_escaped() {
        let plain: Text<'_> = serde_json::from_str("\"a/b\"").unwrap();
        assert!(matches!(plain.0, Cow::Borrowed("a/b")));
        let escaped: Text<'_> = serde_json::from_str(r#""a\/b""#).unwrap();
        assert!(matches!(escaped.0, Cow::Owned(ref text) if text == "a/b"));
        assert!(serde_json::from_str::<Text<'_>>("1").is_err());
    }

    proptest! {
        #[test]
        fn base64_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut text = b"x".to_vec();
            push_base64(&mut text, &bytes);
            let text = String::from_utf8(text).unwrap();
            prop_assert_eq!(text.len(), 1 + base64_len(bytes.len()));
            prop_assert_eq!(&*decode_base64(&text[1..], bytes.len()).unwrap(), &bytes);
        }
    }
}
