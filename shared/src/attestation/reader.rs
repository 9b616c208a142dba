//! CBOR items in the one form that the NSM writes.
//!
//! Guarantees: every integer and length is in its shortest form, every length is definite, text is UTF-8, and nothing
//! is allocated or copied. Refuses: everything else, with the rule that it breaks. Nesting is not handled here at all:
//! the callers read one fixed shape, so depth is bounded by their code.

use minicbor::{Decoder, decode};

use super::document::ParseError;

/// Major types (RFC 8949, section 3.1).
const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
/// Additional information of an indefinite length (RFC 8949, section 3.2).
const INDEFINITE: u8 = 31;
/// The head of `null` (RFC 8949, section 3.3).
const NULL: u8 = 0xf6;

/// Reads items one after the other; `wrong` in each method is the rule to name when the item is of another type.
pub(super) struct Reader<'b> {
    decoder: Decoder<'b>,
}

impl<'b> Reader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { decoder: Decoder::new(bytes) }
    }

    pub(super) fn array(&mut self, wrong: ParseError) -> Result<u64, ParseError> {
        self.read(ARRAY, wrong, |decoder| decoder.array().map(|count| count.map(|count| (count, count, 0))))
    }

    pub(super) fn map(&mut self, wrong: ParseError) -> Result<u64, ParseError> {
        self.read(MAP, wrong, |decoder| decoder.map().map(|count| count.map(|count| (count, count, 0))))
    }

    pub(super) fn unsigned(&mut self, wrong: ParseError) -> Result<u64, ParseError> {
        self.read(UNSIGNED, wrong, |decoder| decoder.u64().map(|value| Some((value, value, 0))))
    }

    pub(super) fn bytes(&mut self, wrong: ParseError) -> Result<&'b [u8], ParseError> {
        self.read(BYTES, wrong, |decoder| decoder.bytes().map(|bytes| Some((bytes, length(bytes), bytes.len()))))
    }

    pub(super) fn text(&mut self, wrong: ParseError) -> Result<&'b str, ParseError> {
        self.read(TEXT, wrong, |decoder| decoder.str().map(|text| Some((text, length(text.as_bytes()), text.len()))))
    }

    /// The tag before the next item, if there is one.
    pub(super) fn tag(&mut self) -> Result<Option<u64>, ParseError> {
        if self.first_byte()? >> 5 != TAG {
            return Ok(None);
        }
        self.read(TAG, ParseError::Envelope, |decoder| {
            decoder.tag().map(|tag| Some((Some(tag.as_u64()), tag.as_u64(), 0)))
        })
    }

    /// Bytes, or `null` for none.
    pub(super) fn optional_bytes(&mut self, wrong: ParseError) -> Result<Option<&'b [u8]>, ParseError> {
        if self.first_byte()? == NULL {
            self.decoder.null().map_err(|_| ParseError::Cbor)?;
            return Ok(None);
        }
        self.bytes(wrong).map(Some)
    }

    /// Nothing may follow the last item.
    pub(super) fn finish(&self) -> Result<(), ParseError> {
        if self.decoder.position() == self.decoder.input().len() { Ok(()) } else { Err(ParseError::TrailingBytes) }
    }

    fn first_byte(&self) -> Result<u8, ParseError> {
        let byte = self.decoder.input().get(self.decoder.position());
        byte.copied().ok_or(ParseError::Cbor)
    }

    /// Reads one head and what belongs to it. `item` gives the value, the argument of its head and the bytes of its
    /// content, or `None` for an indefinite length.
    fn read<T>(
        &mut self,
        major: u8,
        wrong: ParseError,
        item: impl FnOnce(&mut Decoder<'b>) -> Result<Option<(T, u64, usize)>, decode::Error>,
    ) -> Result<T, ParseError> {
        let first = self.first_byte()?;
        if first >> 5 != major {
            return Err(wrong);
        }
        if first & INDEFINITE == INDEFINITE {
            return Err(ParseError::IndefiniteLength);
        }
        let start = self.decoder.position();
        let (value, argument, content) =
            item(&mut self.decoder).map_err(|_| ParseError::Cbor)?.ok_or(ParseError::IndefiniteLength)?;
        if self.decoder.position() - start != shortest_head(argument) + content {
            return Err(ParseError::LongForm);
        }
        Ok(value)
    }
}

fn length(content: &[u8]) -> u64 {
    u64::try_from(content.len()).unwrap_or(u64::MAX)
}

/// Bytes of the shortest head with this argument (RFC 8949, section 4.2.1).
fn shortest_head(argument: u64) -> usize {
    match argument {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRONG: ParseError = ParseError::Timestamp;

    #[test]
    fn only_the_shortest_form_is_read() {
        for (bytes, expected) in [
            (&[0x17][..], Ok(23)),
            (&[0x18, 0x18], Ok(24)),
            (&[0x18, 0x17], Err(ParseError::LongForm)),
            (&[0x19, 0x01, 0x00], Ok(256)),
            (&[0x19, 0x00, 0xff], Err(ParseError::LongForm)),
            (&[0x1a, 0x00, 0x00, 0xff, 0xff], Err(ParseError::LongForm)),
            (&[0x1a, 0x00, 0x01, 0x00, 0x00], Ok(0x1_0000)),
            (&[0x1b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], Err(ParseError::LongForm)),
            (&[0x1b, 0, 0, 0, 1, 0, 0, 0, 0], Ok(1 << 32)),
            (&[0x1c], Err(ParseError::Cbor)),
            (&[0x1b, 0], Err(ParseError::Cbor)),
            (&[], Err(ParseError::Cbor)),
            (&[0x20], Err(WRONG)),
            (&[0xff], Err(WRONG)),
        ] {
            assert_eq!(Reader::new(bytes).unsigned(WRONG), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn strings_and_containers_need_definite_lengths() {
        assert_eq!(Reader::new(&[0x5f]).bytes(WRONG), Err(ParseError::IndefiniteLength));
        assert_eq!(Reader::new(&[0x7f]).text(WRONG), Err(ParseError::IndefiniteLength));
        assert_eq!(Reader::new(&[0x9f]).array(WRONG), Err(ParseError::IndefiniteLength));
        assert_eq!(Reader::new(&[0xbf]).map(WRONG), Err(ParseError::IndefiniteLength));
    }

    #[test]
    fn strings_are_whole_and_shortest() {
        for (bytes, expected) in [
            (&[0x42, 1, 2][..], Ok(&[1, 2][..])),
            (&[0x40], Ok(&[])),
            (&[0x58, 2, 1, 2], Err(ParseError::LongForm)),
            (&[0x42, 1], Err(ParseError::Cbor)),
            (&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Err(ParseError::Cbor)),
            (&[0x62, b'a', b'b'], Err(WRONG)),
        ] {
            assert_eq!(Reader::new(bytes).bytes(WRONG), expected, "{bytes:02x?}");
        }
        assert_eq!(Reader::new(&[0x62, 0xff, 0xfe]).text(WRONG), Err(ParseError::Cbor));
    }

    #[test]
    fn tag_and_null_are_optional() {
        assert_eq!(Reader::new(&[0xd2]).tag(), Ok(Some(18)));
        assert_eq!(Reader::new(&[0xd8, 18]).tag(), Err(ParseError::LongForm));
        assert_eq!(Reader::new(&[0x84]).tag(), Ok(None));
        assert_eq!(Reader::new(&[0xf6]).optional_bytes(WRONG), Ok(None));
        assert_eq!(Reader::new(&[0x41, 7]).optional_bytes(WRONG), Ok(Some(&[7][..])));
        assert_eq!(Reader::new(&[0xf7]).optional_bytes(WRONG), Err(WRONG));
    }
}
