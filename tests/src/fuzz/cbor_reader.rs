//! A second reader of CBOR (RFC 8949), against which the codec is held: one item in deterministic form, no more.

/// One item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Unsigned(u64),
    Negative(u64),
    Bytes(&'a [u8]),
    Text(&'a str),
    Array(Vec<Self>),
    Map(Vec<(Self, Self)>),
    Tag(u64, Box<Self>),
    /// `false`, `true`, `null`, `undefined` and what has no name.
    Simple(u64),
}

/// Deeper than any message of ours.
const DEPTH_MAX: usize = 32;

/// Reads exactly one item. Nothing: not well-formed, a head that is longer than it needs, an indefinite length, a float, or
/// something left over.
pub(super) fn read(bytes: &[u8]) -> Option<Item<'_>> {
    let mut rest = bytes;
    let item = item(&mut rest, 0)?;
    rest.is_empty().then_some(item)
}

impl<'a> Item<'a> {
    pub(super) fn array(&self) -> Option<&[Self]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    pub(super) fn bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

fn item<'a>(rest: &mut &'a [u8], depth: usize) -> Option<Item<'a>> {
    if depth > DEPTH_MAX {
        return None;
    }
    let first = *take(rest, 1)?.first()?;
    let (kind, small) = (first >> 5, first & 0x1f);
    let extra = match small {
        0..24 => 0,
        24..28 => 1 << (small - 24),
        _ => return None,
    };
    let argument = take(rest, extra)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let argument = if extra == 0 { u64::from(small) } else { argument };
    let least = match extra {
        0 => 0,
        1 => 24,
        half => 1 << (4 * half),
    };
    if argument < least || (kind == 7 && extra > 1) {
        return None;
    }
    let length = usize::try_from(argument).ok();
    Some(match kind {
        0 => Item::Unsigned(argument),
        1 => Item::Negative(argument),
        2 => Item::Bytes(take(rest, length?)?),
        3 => Item::Text(std::str::from_utf8(take(rest, length?)?).ok()?),
        4 => Item::Array((0..length?).map(|_| item(rest, depth + 1)).collect::<Option<_>>()?),
        5 => Item::Map(
            (0..length?).map(|_| Some((item(rest, depth + 1)?, item(rest, depth + 1)?))).collect::<Option<_>>()?,
        ),
        6 => Item::Tag(argument, Box::new(item(rest, depth + 1)?)),
        _ => Item::Simple(argument),
    })
}
