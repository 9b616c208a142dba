//! How a target takes its bytes apart: selectors first, then raw bytes, so that a seed can be written by hand.

/// Bytes that are not yet taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// One byte; 0 at the end.
    pub(super) fn byte(&mut self) -> u8 {
        self.split(1).first().copied().unwrap_or_default()
    }

    /// Two bytes, big endian.
    pub(super) fn number(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }

    /// Two bytes of length, then so many bytes, or what there is.
    pub(super) fn field(&mut self) -> &'a [u8] {
        let length = self.number();
        self.split(length)
    }

    /// Whether nothing is left.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }

    fn split(&mut self, at: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(at.min(self.0.len()));
        self.0 = tail;
        head
    }
}

/// A field as [`Input::field`] takes it.
pub(super) fn field(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes(), bytes].concat()
}
