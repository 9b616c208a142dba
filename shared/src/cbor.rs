//! The strict codec of every message of ours.
//!
//! Guarantees: [`decode`] accepts exactly the bytes that [`encode`] writes for the value that it returns. So there are no
//! unknown fields, no second encoding of a number, no indefinite lengths, no trailing bytes: all of these differ from the
//! re-encoding and are refused. Memory is bounded by the length of the input, which is bounded first, and by the number of
//! its items, which is counted first: an item of one byte may take 24 in memory. Recursion is bounded by the types. Refuses:
//! anything else.

use minicbor::encode::Write;
use minicbor::{Decode, Encode};

use crate::secrets::WipedBytes;

/// A message with an upper bound on its length and rules that its fields alone do not express.
pub trait Message: for<'b> Decode<'b, ()> + Encode<()> {
    /// The greatest accepted length in bytes.
    const MAX: usize;
    /// What the message is called in an error.
    const NAME: &'static str;

    /// Rules beyond the types: counts, ranges, labels.
    ///
    /// # Errors
    /// The first rule that is broken, in words.
    fn check(&self) -> Result<(), &'static str>;
}

/// Why bytes are not the message that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the message may be.
    #[error("{name}: {length} bytes, at most {max} are accepted")]
    TooLong {
        /// What was being decoded.
        name: &'static str,
        /// Bytes received.
        length: usize,
        /// Bytes accepted.
        max: usize,
    },
    /// Not the fields that the message has.
    #[error("{name}: not a well-formed message")]
    Malformed {
        /// What was being decoded.
        name: &'static str,
    },
    /// The fields are there, but written in another way than ours.
    #[error("{name}: not in the one encoding that is accepted")]
    NotCanonical {
        /// What was being decoded.
        name: &'static str,
    },
    /// A rule beyond the types is broken.
    #[error("{name}: {rule}")]
    Rule {
        /// What was being decoded.
        name: &'static str,
        /// The broken rule.
        rule: &'static str,
    },
}

/// Decodes one message, strictly.
///
/// # Errors
/// [`DecodeError`] names the message and what is wrong with the bytes.
pub fn decode<T: Message>(bytes: &[u8]) -> Result<T, DecodeError> {
    let name = T::NAME;
    if bytes.len() > T::MAX {
        return Err(DecodeError::TooLong { name, length: bytes.len(), max: T::MAX });
    }
    if !is_within_budget(bytes) {
        return Err(DecodeError::Malformed { name });
    }
    let mut decoder = minicbor::Decoder::new(bytes);
    let value: T = decoder.decode().map_err(|_| DecodeError::Malformed { name })?;
    if encode(&value).as_slice() != bytes {
        return Err(DecodeError::NotCanonical { name });
    }
    value.check().map_err(|rule| DecodeError::Rule { name, rule })?;
    Ok(value)
}

/// Items of any message, beside one for each 8 bytes: the largest that we write, a key store of 4,096 keys with short names and
/// as many executed commands, has about 57,000.
const ITEMS_FREE: usize = 64 * 1024;

/// Whether `bytes` begin with one item of definite length whose parts are not too many. Takes no memory.
pub(crate) fn is_within_budget(bytes: &[u8]) -> bool {
    count(bytes, ITEMS_FREE.saturating_add(bytes.len() / 8)).unwrap_or(false)
}

/// Walks over one item and all its parts. `None`: not well-formed, or of indefinite length.
fn count(bytes: &[u8], budget: usize) -> Option<bool> {
    use minicbor::data::Type;

    let budget = u64::try_from(budget).ok()?;
    let mut decoder = minicbor::Decoder::new(bytes);
    // Parts announced so far, and parts seen.
    let (mut announced, mut seen) = (1_u64, 0_u64);
    while seen < announced {
        seen = seen.checked_add(1)?;
        let parts = match decoder.datatype().ok()? {
            Type::Array => decoder.array().ok()??,
            Type::Map => decoder.map().ok()??.checked_mul(2)?,
            Type::Tag => decoder.tag().map(|_| 1).ok()?,
            Type::ArrayIndef | Type::MapIndef | Type::BytesIndef | Type::StringIndef | Type::Break => return None,
            _ => decoder.skip().map(|()| 0).ok()?,
        };
        announced = announced.checked_add(parts)?;
        if announced > budget {
            return Some(false);
        }
    }
    Some(true)
}

/// Encodes a message. The buffer is zeroized when it is dropped and whenever it grows, since some messages hold secrets.
#[must_use]
pub fn encode<T: Encode<()>>(value: &T) -> WipedBytes {
    let mut writer = ZeroizingWriter(WipedBytes::new(Vec::with_capacity(512)));
    match minicbor::encode(value, &mut writer) {
        Ok(()) => writer.0,
        // Neither the writer nor any `Encode` of ours fails. No message decodes from nothing.
        Err(_) => WipedBytes::new(Vec::new()),
    }
}

/// A growing buffer that leaves no copy behind when it moves.
struct ZeroizingWriter(WipedBytes);

impl Write for ZeroizingWriter {
    type Error = core::convert::Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        let needed = self.0.len().saturating_add(bytes.len());
        if needed > self.0.capacity() {
            let mut larger = Vec::with_capacity(needed.saturating_mul(2));
            larger.extend_from_slice(&self.0);
            self.0 = WipedBytes::new(larger);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// `Encode`/`Decode` of a [`crate::secrets::Secret`] as a byte string.
pub mod secret {
    use minicbor::decode::{Decoder, Error as DecodeError};
    use minicbor::encode::{Encoder, Error as EncodeError, Write};

    use crate::secrets::Secret;

    /// Decodes a byte string of exactly `N` bytes into protected memory.
    ///
    /// # Errors
    /// When the item is not a byte string of that length.
    pub fn decode<Ctx, const N: usize>(d: &mut Decoder<'_>, _: &mut Ctx) -> Result<Secret<N>, DecodeError> {
        let bytes = d.bytes()?;
        Secret::fill_with(|own| {
            if bytes.len() != N {
                return Err(DecodeError::message("wrong length"));
            }
            own.copy_from_slice(bytes);
            Ok(())
        })
    }

    /// Encodes the secret as a byte string.
    ///
    /// # Errors
    /// Only what the writer returns.
    pub fn encode<Ctx, W: Write, const N: usize>(
        value: &Secret<N>,
        e: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Result<(), EncodeError<W::Error>> {
        e.bytes(value.expose())?.ok()
    }
}

/// `Encode`/`Decode` of a [`crate::secrets::SecretBytes`] as a byte string.
pub mod secret_bytes {
    use minicbor::decode::{Decoder, Error as DecodeError};
    use minicbor::encode::{Encoder, Error as EncodeError, Write};

    use crate::secrets::SecretBytes;

    /// Decodes a byte string.
    ///
    /// # Errors
    /// When the item is not a byte string.
    pub fn decode<Ctx>(d: &mut Decoder<'_>, _: &mut Ctx) -> Result<SecretBytes, DecodeError> {
        d.bytes().map(|bytes| SecretBytes::new(bytes.to_vec()))
    }

    /// Encodes the secret as a byte string.
    ///
    /// # Errors
    /// Only what the writer returns.
    pub fn encode<Ctx, W: Write>(
        value: &SecretBytes,
        e: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Result<(), EncodeError<W::Error>> {
        e.bytes(value.expose())?.ok()
    }
}

/// Declares [`Message`] for a type: its bound, its name, and a check (none by default).
macro_rules! message {
    ($type:ty, $max:expr, $name:literal) => {
        $crate::cbor::message!($type, $max, $name, |_| Ok(()));
    };
    ($type:ty, $max:expr, $name:literal, $check:expr) => {
        impl $crate::cbor::Message for $type {
            const MAX: usize = $max;
            const NAME: &'static str = $name;

            fn check(&self) -> Result<(), &'static str> {
                let check: fn(&$type) -> Result<(), &'static str> = $check;
                check(self)
            }
        }
    };
}
pub(crate) use message;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(array)]
    struct Sample {
        #[n(0)]
        number: u64,
        #[cbor(n(1), with = "minicbor::bytes")]
        bytes: Vec<u8>,
    }

    message!(Sample, 64, "sample", |sample| if sample.number == 99 { Err("99 is refused") } else { Ok(()) });

    #[test]
    fn only_our_own_encoding_is_accepted() {
        let good = encode(&Sample { number: 5, bytes: vec![1, 2] });
        assert_eq!(good.as_slice(), [0x82, 0x05, 0x42, 1, 2]);
        assert_eq!(decode::<Sample>(&good), Ok(Sample { number: 5, bytes: vec![1, 2] }));
        let not_canonical = DecodeError::NotCanonical { name: "sample" };
        let malformed = DecodeError::Malformed { name: "sample" };
        let table: [(&str, &[u8], DecodeError); 8] = [
            ("trailing byte", &[0x82, 0x05, 0x42, 1, 2, 0], not_canonical.clone()),
            ("longer number", &[0x82, 0x18, 0x05, 0x42, 1, 2], not_canonical.clone()),
            ("unknown field", &[0x83, 0x05, 0x42, 1, 2, 0x00], not_canonical.clone()),
            ("indefinite array", &[0x9f, 0x05, 0x42, 1, 2, 0xff], malformed.clone()),
            ("indefinite bytes", &[0x82, 0x05, 0x5f, 0x41, 1, 0x41, 2, 0xff], malformed.clone()),
            ("truncated", &[0x82, 0x05, 0x42, 1], malformed.clone()),
            ("empty", &[], malformed),
            ("rule", &[0x82, 0x18, 99, 0x40], DecodeError::Rule { name: "sample", rule: "99 is refused" }),
        ];
        for (what, bytes, expected) in table {
            assert_eq!(decode::<Sample>(bytes), Err(expected), "{what}");
        }
        assert_eq!(decode::<Sample>(&[0; 65]), Err(DecodeError::TooLong { name: "sample", length: 65, max: 64 }));
    }

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(array)]
    struct Many {
        #[n(0)]
        items: Vec<minicbor::bytes::ByteVec>,
    }

    message!(Many, 1 << 20, "many");

    #[test]
    fn many_small_items_cost_no_memory() {
        let many = |count: usize| encode(&Many { items: vec![minicbor::bytes::ByteVec::from(Vec::new()); count] });
        assert!(decode::<Many>(&many(60_000)).is_ok());
        assert_eq!(decode::<Many>(&many(200_000)), Err(DecodeError::Malformed { name: "many" }));
        // What is skipped as unknown is counted, too, and a claimed length is not believed.
        let deep = [vec![0x82, 0x80], vec![0x81; 200_000]].concat();
        assert_eq!(decode::<Many>(&deep), Err(DecodeError::Malformed { name: "many" }));
        let claimed = [0x81, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(decode::<Many>(&claimed), Err(DecodeError::Malformed { name: "many" }));
    }

    proptest::proptest! {
        #[test]
        fn what_is_encoded_is_decoded_and_nothing_panics(number in 0_u64..99, bytes: Vec<u8>, noise: Vec<u8>) {
            let bytes = bytes.into_iter().take(40).collect();
            let sample = Sample { number, bytes };
            proptest::prop_assert_eq!(decode::<Sample>(&encode(&sample)), Ok(sample));
            if let Ok(value) = decode::<Sample>(&noise) {
                let again = encode(&value);
                proptest::prop_assert_eq!(again.as_slice(), noise.as_slice());
            }
        }
    }
}
