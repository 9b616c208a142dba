//! TTLV, the binary encoding of KMIP messages (KMIP 1.4, section 9.1): tag, type, length, value, padded to eight bytes.
//!
//! Guarantees: what is decoded encodes to the same bytes again; decoding costs no more than a fixed multiple of the message,
//! whatever the lengths in it say; byte strings are secret: zeroized, and shown by no formatter. Refuses: messages over
//! [`MESSAGE_MAX`], more than [`ITEMS_MAX`] items, nesting deeper than [`DEPTH_MAX`], padding that is not zero, trailing bytes.

use holdfast_shared::secrets::SecretBytes;

/// Bytes of a message. A share or a channel's keys are below a kilobyte; a key's attributes are some kilobytes. `PyKMIP` sends
/// at most 1 MiB, which no answer to us needs.
pub(super) const MESSAGE_MAX: usize = 64 * 1024;
/// Levels of structures. The deepest answer that we read has seven: message, item, payload, attribute, value, name, text.
pub(super) const DEPTH_MAX: usize = 12;
/// Items of a message. The attributes of a key take some two hundred.
pub(super) const ITEMS_MAX: usize = 2048;
/// Bytes of tag, type and length.
pub(super) const HEADER_LEN: usize = 8;
/// What values are padded to.
const ALIGNMENT: usize = 8;

/// Why bytes are no TTLV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TtlvError {
    /// It ends too early.
    #[error("an item is longer than the bytes that are there")]
    Short,
    /// It goes on after the end.
    #[error("bytes follow the message")]
    Trailing,
    /// Over a bound.
    #[error("the message is over a bound: {0}")]
    Bound(&'static str),
    /// A tag of neither the specification nor an extension.
    #[error("tag {0:#08x} is in none of the ranges for tags")]
    Tag(u32),
    /// A type that does not exist, or whose value has another length.
    #[error("type {0:#04x} does not exist, or not with this length")]
    Type(u8),
    /// A value that its type cannot have.
    #[error("a value is not one of its type")]
    Value,
    /// Padding that is not zero.
    #[error("padding is not zero")]
    Padding,
}

/// A tag: three bytes, of which the first is 0x42 (the specification's) or 0x54 (extensions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Tag(pub(super) u32);

/// A value of one of the ten types.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Items in order.
    Structure(Vec<Item>),
    /// 32 bits, signed.
    Integer(i32),
    /// 64 bits, signed.
    LongInteger(i64),
    /// Two's complement, a multiple of eight bytes.
    BigInteger(Vec<u8>),
    /// One of a list.
    Enumeration(u32),
    /// Yes or no.
    Boolean(bool),
    /// UTF-8.
    TextString(String),
    /// Bytes, possibly secret.
    ByteString(SecretBytes),
    /// Seconds since 1970.
    DateTime(i64),
    /// Seconds.
    Interval(u32),
}

/// A value under its tag.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// What it is for.
    pub(super) tag: Tag,
    /// What it is.
    pub(super) value: Value,
}

impl Item {
    /// A structure.
    #[must_use]
    pub(super) const fn structure(tag: Tag, items: Vec<Self>) -> Self {
        Self { tag, value: Value::Structure(items) }
    }

    /// A 32-bit number.
    #[must_use]
    pub(super) const fn integer(tag: Tag, value: i32) -> Self {
        Self { tag, value: Value::Integer(value) }
    }

    /// One of a list.
    #[must_use]
    pub(super) const fn enumeration(tag: Tag, value: u32) -> Self {
        Self { tag, value: Value::Enumeration(value) }
    }

    /// A text.
    #[must_use]
    pub(super) fn text(tag: Tag, value: &str) -> Self {
        Self { tag, value: Value::TextString(value.to_owned()) }
    }

    /// Bytes.
    #[must_use]
    pub(super) fn bytes(tag: Tag, value: &[u8]) -> Self {
        Self { tag, value: Value::ByteString(SecretBytes::new(value.to_vec())) }
    }
}

impl Value {
    const fn type_code(&self) -> u8 {
        match self {
            Self::Structure(_) => 1,
            Self::Integer(_) => 2,
            Self::LongInteger(_) => 3,
            Self::BigInteger(_) => 4,
            Self::Enumeration(_) => 5,
            Self::Boolean(_) => 6,
            Self::TextString(_) => 7,
            Self::ByteString(_) => 8,
            Self::DateTime(_) => 9,
            Self::Interval(_) => 10,
        }
    }

    /// Bytes of the value without padding.
    fn len(&self) -> usize {
        match self {
            Self::Structure(items) => items.iter().map(encoded_len).fold(0, usize::saturating_add),
            Self::Integer(_) | Self::Enumeration(_) | Self::Interval(_) => 4,
            Self::LongInteger(_) | Self::Boolean(_) | Self::DateTime(_) => 8,
            Self::BigInteger(bytes) => bytes.len(),
            Self::TextString(text) => text.len(),
            Self::ByteString(bytes) => bytes.expose().len(),
        }
    }
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT).saturating_sub(length)
}

fn encoded_len(item: &Item) -> usize {
    let value = item.value.len();
    value.saturating_add(HEADER_LEN).saturating_add(padding(value))
}

/// Encodes an item, in memory that is reserved whole, so that no copy is left behind by growing.
///
/// # Errors
/// [`TtlvError::Bound`] over [`MESSAGE_MAX`].
pub(super) fn encode(item: &Item) -> Result<SecretBytes, TtlvError> {
    let length = encoded_len(item);
    if length > MESSAGE_MAX {
        return Err(TtlvError::Bound("length"));
    }
    let mut out = Vec::with_capacity(length);
    write(item, &mut out)?;
    Ok(SecretBytes::new(out))
}

fn write(item: &Item, out: &mut Vec<u8>) -> Result<(), TtlvError> {
    let length = item.value.len();
    let [_, tag @ ..] = item.tag.0.to_be_bytes();
    out.extend(tag);
    out.push(item.value.type_code());
    out.extend(u32::try_from(length).map_err(|_| TtlvError::Bound("length"))?.to_be_bytes());
    match &item.value {
        Value::Structure(items) => items.iter().try_for_each(|item| write(item, out))?,
        Value::Integer(value) => out.extend(value.to_be_bytes()),
        Value::LongInteger(value) | Value::DateTime(value) => out.extend(value.to_be_bytes()),
        Value::BigInteger(bytes) => out.extend(bytes),
        Value::Enumeration(value) | Value::Interval(value) => out.extend(value.to_be_bytes()),
        Value::Boolean(value) => out.extend(u64::from(*value).to_be_bytes()),
        Value::TextString(text) => out.extend(text.bytes()),
        Value::ByteString(bytes) => out.extend(bytes.expose()),
    }
    out.extend(std::iter::repeat_n(0, padding(length)));
    Ok(())
}

/// Bytes that follow a message's header, as the header says: what is to be read from a connection.
///
/// # Errors
/// [`TtlvError`] when the header is not that of a structure with this tag, or announces more than [`MESSAGE_MAX`].
pub(super) fn body_len(header: [u8; HEADER_LEN], tag: Tag) -> Result<usize, TtlvError> {
    let [a, b, c, kind, length @ ..] = header;
    let found = Tag(u32::from_be_bytes([0, a, b, c]));
    if found != tag {
        return Err(TtlvError::Tag(found.0));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| TtlvError::Bound("length"))?;
    if kind != 1 || !length.is_multiple_of(ALIGNMENT) {
        return Err(TtlvError::Type(kind));
    }
    if length.saturating_add(HEADER_LEN) > MESSAGE_MAX {
        return Err(TtlvError::Bound("length"));
    }
    Ok(length)
}

/// Decodes a message: one item and nothing else.
///
/// # Errors
/// [`TtlvError`].
pub(super) fn decode(bytes: &[u8]) -> Result<Item, TtlvError> {
    if bytes.len() > MESSAGE_MAX {
        return Err(TtlvError::Bound("length"));
    }
    let mut reader = Reader { rest: bytes, items: 0 };
    let item = reader.item(0)?;
    if reader.rest.is_empty() { Ok(item) } else { Err(TtlvError::Trailing) }
}

struct Reader<'a> {
    rest: &'a [u8],
    items: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], TtlvError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(TtlvError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn item(&mut self, depth: usize) -> Result<Item, TtlvError> {
        self.items = self.items.saturating_add(1);
        if self.items > ITEMS_MAX {
            return Err(TtlvError::Bound("items"));
        }
        let (&[range, b, c, kind, l0, l1, l2, l3], rest) =
            self.rest.split_first_chunk::<HEADER_LEN>().ok_or(TtlvError::Short)?;
        self.rest = rest;
        let tag = Tag(u32::from_be_bytes([0, range, b, c]));
        if !matches!(range, 0x42 | 0x54) {
            return Err(TtlvError::Tag(tag.0));
        }
        let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).map_err(|_| TtlvError::Short)?;
        let value = self.take(length)?;
        if self.take(padding(length))?.iter().any(|byte| *byte != 0) {
            return Err(TtlvError::Padding);
        }
        Ok(Item { tag, value: self.value(kind, value, depth)? })
    }

    fn value(&mut self, kind: u8, bytes: &'a [u8], depth: usize) -> Result<Value, TtlvError> {
        let wrong = |_| TtlvError::Type(kind);
        let four = || <[u8; 4]>::try_from(bytes).map_err(wrong);
        let eight = || <[u8; 8]>::try_from(bytes).map_err(wrong);
        Ok(match kind {
            1 => Value::Structure(self.structure(bytes, depth.saturating_add(1))?),
            2 => Value::Integer(i32::from_be_bytes(four()?)),
            3 => Value::LongInteger(i64::from_be_bytes(eight()?)),
            4 if bytes.len().is_multiple_of(ALIGNMENT) => Value::BigInteger(bytes.to_vec()),
            5 => Value::Enumeration(u32::from_be_bytes(four()?)),
            6 => match u64::from_be_bytes(eight()?) {
                0 => Value::Boolean(false),
                1 => Value::Boolean(true),
                _ => return Err(TtlvError::Value),
            },
            7 => Value::TextString(str::from_utf8(bytes).map_err(|_| TtlvError::Value)?.to_owned()),
            8 => Value::ByteString(SecretBytes::new(bytes.to_vec())),
            9 => Value::DateTime(i64::from_be_bytes(eight()?)),
            10 => Value::Interval(u32::from_be_bytes(four()?)),
            _ => return Err(TtlvError::Type(kind)),
        })
    }

    fn structure(&mut self, bytes: &'a [u8], depth: usize) -> Result<Vec<Item>, TtlvError> {
        if depth >= DEPTH_MAX {
            return Err(TtlvError::Bound("depth"));
        }
        // A structure's length is a multiple of eight because its items' are; anything else ends in `Short`.
        let mut inner = Reader { rest: bytes, items: self.items };
        let mut items = Vec::new();
        while !inner.rest.is_empty() {
            items.push(inner.item(depth)?);
        }
        self.items = inner.items;
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TAG: Tag = Tag(0x42_0020);

    fn from_hex(text: &str) -> Vec<u8> {
        hex::decode(text.replace([' ', '|'], "")).unwrap()
    }

    /// The examples of the specification (KMIP 1.4, section 9.1.2).
    #[test]
    fn the_examples_of_the_specification() {
        let big = 1_234_567_890_000_000_000_000_000_000_i128.to_be_bytes().to_vec();
        let structure = vec![
            Item { tag: Tag(0x42_0004), value: Value::Enumeration(254) },
            Item { tag: Tag(0x42_0005), value: Value::Integer(255) },
        ];
        let table = [
            ("420020 | 02 | 00000004 | 0000000800000000", Value::Integer(8)),
            ("420020 | 03 | 00000008 | 01B69B4BA5749200", Value::LongInteger(123_456_789_000_000_000)),
            ("420020 | 04 | 00000010 | 0000000003FD35EB6BC2DF4618080000", Value::BigInteger(big)),
            ("420020 | 05 | 00000004 | 000000FF00000000", Value::Enumeration(255)),
            ("420020 | 06 | 00000008 | 0000000000000001", Value::Boolean(true)),
            ("420020 | 07 | 0000000B | 48656C6C6F20576F726C640000000000", Value::TextString("Hello World".to_owned())),
            ("420020 | 08 | 00000003 | 0102030000000000", Value::ByteString(SecretBytes::new(vec![1, 2, 3]))),
            ("420020 | 09 | 00000008 | 0000000047DA67F8", Value::DateTime(0x47DA_67F8)),
            ("420020 | 0A | 00000004 | 000D2F0000000000", Value::Interval(864_000)),
            (
                "420020 | 01 | 00000020 | 420004 | 05 | 00000004 | 000000FE00000000 | 420005 | 02 | 00000004 | \
                 000000FF00000000",
                Value::Structure(structure),
            ),
        ];
        for (text, value) in table {
            let (bytes, item) = (from_hex(text), Item { tag: TAG, value });
            assert_eq!(encode(&item).unwrap().expose(), bytes, "{item:?}");
            assert_eq!(decode(&bytes), Ok(item), "{text}");
            for end in 0..bytes.len() {
                assert_eq!(decode(&bytes[..end]), Err(TtlvError::Short), "{text} cut at {end}");
            }
            assert_eq!(decode(&[bytes.as_slice(), &[0; 8]].concat()), Err(TtlvError::Trailing), "{text}");
        }
    }

    #[test]
    fn what_is_no_ttlv_is_refused() {
        let table = [
            ("410020 02 00000004 0000000800000000", TtlvError::Tag(0x41_0020)),
            ("420020 00 00000004 0000000800000000", TtlvError::Type(0)),
            ("420020 0B 00000008 0000000800000000", TtlvError::Type(0x0B)),
            ("420020 02 00000004 0000000800000001", TtlvError::Padding),
            ("420020 02 00000003 0000000000000000", TtlvError::Type(2)),
            ("420020 02 00000008 0000000000000000", TtlvError::Type(2)),
            ("420020 03 00000004 0000000000000000", TtlvError::Type(3)),
            ("420020 04 00000004 0000000000000000", TtlvError::Type(4)),
            ("420020 05 00000000", TtlvError::Type(5)),
            ("420020 06 00000008 0000000000000002", TtlvError::Value),
            ("420020 07 00000001 FF00000000000000", TtlvError::Value),
            ("420020 08 00000003 0102030000000001", TtlvError::Padding),
            ("420020 08 FFFFFFFF 0102030000000000", TtlvError::Short),
            ("420020 01 00000008 420020 08 00000008", TtlvError::Short),
            ("420020 01 00000004 42002000 00000000", TtlvError::Short),
            ("420020 01 FFFFFFF8", TtlvError::Short),
        ];
        for (text, error) in table {
            assert_eq!(decode(&from_hex(text)), Err(error), "{text}");
        }
    }

    #[test]
    fn an_item_of_a_structure_stays_inside_it() {
        // The inner item claims eight bytes that belong to whoever follows the structure.
        let bytes = from_hex("420020 01 00000018 420021 01 00000008 420022 08 00000008 4142434445464748");
        assert_eq!(decode(&bytes), Err(TtlvError::Short));
    }

    #[test]
    fn bounds_hold() {
        let nested = |depth: usize| (0..depth).fold(Item::integer(TAG, 1), |item, _| Item::structure(TAG, vec![item]));
        let encoded = |item: &Item| encode(item).unwrap();
        assert!(decode(encoded(&nested(DEPTH_MAX - 1)).expose()).is_ok());
        assert_eq!(decode(encoded(&nested(DEPTH_MAX)).expose()), Err(TtlvError::Bound("depth")));
        let wide = |count: usize| Item::structure(TAG, (0..count).map(|_| Item::integer(TAG, 1)).collect());
        assert!(decode(encoded(&wide(ITEMS_MAX - 1)).expose()).is_ok());
        assert_eq!(decode(encoded(&wide(ITEMS_MAX)).expose()), Err(TtlvError::Bound("items")));
        // The count goes through the levels of nesting.
        let half = Item::structure(TAG, vec![wide(ITEMS_MAX / 2), wide(ITEMS_MAX / 2)]);
        assert_eq!(decode(encoded(&half).expose()), Err(TtlvError::Bound("items")));
        let long = Item::bytes(TAG, &vec![0; MESSAGE_MAX - HEADER_LEN]);
        assert!(decode(encoded(&long).expose()).is_ok());
        let longer = Item::bytes(TAG, &vec![0; MESSAGE_MAX]);
        assert_eq!(encode(&longer).err(), Some(TtlvError::Bound("length")));
        assert_eq!(decode(&vec![0x42; MESSAGE_MAX + 1]).err(), Some(TtlvError::Bound("length")));
    }

    #[test]
    fn a_header_says_how_much_to_read() {
        let header = |text: &str| <[u8; HEADER_LEN]>::try_from(from_hex(text)).unwrap();
        assert_eq!(body_len(header("420020 01 00000010"), TAG), Ok(16));
        let table = [
            ("420021 01 00000010", TtlvError::Tag(0x42_0021)),
            ("420020 02 00000010", TtlvError::Type(2)),
            ("420020 01 00000011", TtlvError::Type(1)),
            ("420020 01 00010000", TtlvError::Bound("length")),
            ("420020 01 FFFFFFF8", TtlvError::Bound("length")),
            // The beginning of an answer by HTTP, and of an alert of TLS.
            ("48545450 2F312E31", TtlvError::Tag(0x48_5454)),
            ("15030300 02022800", TtlvError::Tag(0x15_0303)),
        ];
        for (text, error) in table {
            assert_eq!(body_len(header(text), TAG), Err(error), "{text}");
        }
    }

    #[test]
    fn byte_strings_are_not_shown() {
        let item = Item::structure(TAG, vec![Item::bytes(TAG, b"a secret")]);
        let shown = format!("{item:?}");
        assert!(!shown.contains("secret\"") && !shown.contains("97"), "{shown}");
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(Value::Integer),
            any::<i64>().prop_map(Value::LongInteger),
            prop::collection::vec(any::<[u8; 8]>(), 0..4).prop_map(|words| Value::BigInteger(words.concat())),
            any::<u32>().prop_map(Value::Enumeration),
            any::<bool>().prop_map(Value::Boolean),
            ".{0,12}".prop_map(Value::TextString),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Value::ByteString(SecretBytes::new(bytes))),
            any::<i64>().prop_map(Value::DateTime),
            any::<u32>().prop_map(Value::Interval),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            prop::collection::vec(inner.prop_map(|value| Item { tag: TAG, value }), 0..6).prop_map(Value::Structure)
        })
    }

    proptest! {
        #[test]
        fn items_survive_the_round_trip(value in values()) {
            let item = Item { tag: Tag(0x54_0001), value };
            let bytes = encode(&item).unwrap();
            prop_assert_eq!(decode(bytes.expose()).unwrap(), item);
        }

        #[test]
        fn what_is_decoded_encodes_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64), value in values(), at in any::<usize>(), bit in 0..8_u32) {
            if let Ok(item) = decode(&bytes) {
                let encoded = encode(&item).unwrap();
                prop_assert_eq!(encoded.expose(), bytes.as_slice());
            }
            let mut changed = encode(&Item { tag: TAG, value }).unwrap().expose().to_vec();
            let at = at % changed.len();
            changed[at] ^= 1 << bit;
            if let Ok(item) = decode(&changed) {
                let encoded = encode(&item).unwrap();
                prop_assert_eq!(encoded.expose(), changed.as_slice());
            }
        }
    }
}
