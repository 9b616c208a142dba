//! Frames: a length of 4 bytes, big endian, then that many bytes: JSON of a [`Message`], or a form of its own
//! ([`crate::audit`], whose entries are bytes already).
//!
//! Guarantees: memory grows with the bytes that arrived, never with the length that was claimed; the bytes after a frame
//! stay unread, so that raw bytes may follow; what is returned passed its message's own [`Message::check`].
//! Refuses: an empty frame, a longer frame than the message's bound, an end inside a frame, a payload that is not exactly
//! the message.

use std::io;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits::{FRAME_CHUNK, FRAME_HEADER_LEN, REASON_MAX};
use crate::text::PrintableText;

/// What may travel as a frame.
pub trait Frame: Sized {
    /// Bytes that its payload has at most.
    const PAYLOAD_MAX: usize;

    /// Appends the payload.
    ///
    /// # Errors
    /// When it is beyond its bounds.
    fn write_payload(&self, frame: &mut Vec<u8>) -> Result<(), FrameError>;

    /// Reads a payload, which is neither empty nor above [`Frame::PAYLOAD_MAX`].
    ///
    /// # Errors
    /// When it is not exactly such a payload.
    fn read_payload(payload: &[u8]) -> Result<Self, FrameError>;
}

/// What travels as a frame of JSON.
pub trait Message: Serialize + DeserializeOwned {
    /// Bytes of JSON that such a message has at most.
    const FRAME_MAX: usize;

    /// Checks the bounds that the type does not carry itself.
    ///
    /// # Errors
    /// When a field is beyond its bound.
    fn check(&self) -> Result<(), LimitError>;
}

impl<M: Message> Frame for M {
    const PAYLOAD_MAX: usize = M::FRAME_MAX;

    fn write_payload(&self, frame: &mut Vec<u8>) -> Result<(), FrameError> {
        self.check()?;
        Ok(serde_json::to_writer(frame, self)?)
    }

    fn read_payload(payload: &[u8]) -> Result<Self, FrameError> {
        let message: M = serde_json::from_slice(payload)?;
        message.check()?;
        Ok(message)
    }
}

/// A field of a message is beyond its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} is beyond its limit of {max}")]
pub struct LimitError {
    /// The field.
    pub field: &'static str,
    /// Its bound.
    pub max: usize,
}

impl LimitError {
    /// Refuses a `length` above `max`.
    ///
    /// # Errors
    /// When it is above.
    pub(crate) fn unless(field: &'static str, length: usize, max: usize) -> Result<(), Self> {
        if length > max { Err(Self { field, max }) } else { Ok(()) }
    }
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The frame is empty or longer than its message can be.
    #[error("a frame of {length} bytes, where 1 to {max} are allowed")]
    Length {
        /// Bytes claimed or needed.
        length: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The connection ended inside a frame.
    #[error("the connection ended inside a frame")]
    Truncated,
    /// The payload is not that of such a message.
    #[error("not a message that is understood: {0}")]
    Malformed(PrintableText<REASON_MAX>),
    /// A field is beyond its bound.
    #[error("message refused: {0}")]
    Limit(#[from] LimitError),
}

impl From<serde_json::Error> for FrameError {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(PrintableText::new(&error.to_string()))
    }
}

/// Reads frames one after another. Nothing is lost when a call of [`FrameReader::next`] is abandoned (in a `select!`,
/// say): the next call goes on where that one stopped.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames from `reader`.
    pub const fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new() }
    }

    /// The next message, or `None` where the connection ended between frames.
    ///
    /// # Errors
    /// When the connection fails or what it brings is not such a message. The connection is of no use afterwards.
    pub async fn next<F: Frame>(&mut self) -> Result<Option<F>, FrameError> {
        loop {
            let missing = match self.buffer.first_chunk::<FRAME_HEADER_LEN>() {
                None => FRAME_HEADER_LEN - self.buffer.len(),
                Some(header) => {
                    let claimed = u32::from_be_bytes(*header);
                    let length = usize::try_from(claimed).unwrap_or(usize::MAX);
                    if length == 0 || length > F::PAYLOAD_MAX {
                        return Err(FrameError::Length { length, max: F::PAYLOAD_MAX });
                    }
                    length + FRAME_HEADER_LEN - self.buffer.len()
                }
            };
            if missing == 0 {
                break;
            }
            if !self.fill(missing.min(FRAME_CHUNK)).await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
        let frame = core::mem::take(&mut self.buffer);
        F::read_payload(frame.get(FRAME_HEADER_LEN..).unwrap_or_default()).map(Some)
    }

    /// Appends at most `missing` bytes; false at the end. `read_buf` loses nothing when it is abandoned.
    async fn fill(&mut self, missing: usize) -> io::Result<bool> {
        let bound = u64::try_from(missing).unwrap_or(u64::MAX);
        Ok((&mut self.reader).take(bound).read_buf(&mut self.buffer).await? > 0)
    }
}

/// Reads one message, or `None` where the connection ended before it. Not a byte after the frame is read. Where the call
/// may be abandoned and tried again, use a [`FrameReader`].
///
/// # Errors
/// When the connection fails or what it brings is not such a message.
pub async fn read_frame<F: Frame, R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<F>, FrameError> {
    FrameReader::new(reader).next().await
}

/// Writes one message and flushes. When the call is abandoned, the connection is of no use afterwards.
///
/// # Errors
/// When the message is beyond its bounds (nothing is written then) or the connection fails.
pub async fn write_frame<F: Frame, W: AsyncWrite + Unpin>(writer: &mut W, message: &F) -> Result<(), FrameError> {
    let frame = encode(message)?;
    writer.write_all(&frame).await?;
    writer.flush().await?;
    Ok(())
}

fn encode<F: Frame>(message: &F) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; FRAME_HEADER_LEN];
    message.write_payload(&mut frame)?;
    let length = frame.len() - FRAME_HEADER_LEN;
    let refusal = FrameError::Length { length, max: F::PAYLOAD_MAX };
    match (u32::try_from(length), frame.first_chunk_mut::<FRAME_HEADER_LEN>()) {
        (Ok(claimed), Some(header)) if length <= F::PAYLOAD_MAX => *header = claimed.to_be_bytes(),
        _ => return Err(refusal),
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{ToEnclave, ToParent};
    use crate::egress::{EgressAnswer, EgressRequest};
    use proptest::prelude::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn each_fault_has_its_error() {
        let read = |bytes: Vec<u8>| run(async move { read_frame::<ToEnclave, _>(&mut bytes.as_slice()).await });
        assert!(matches!(read(vec![]), Ok(None)));
        assert!(matches!(read(vec![0]), Err(FrameError::Truncated)));
        assert!(matches!(read(vec![0, 0, 0, 2, b'{']), Err(FrameError::Truncated)));
        assert!(matches!(read(vec![0, 0, 0, 0]), Err(FrameError::Length { length: 0, .. })));
        assert!(matches!(read(vec![0xff; 4]), Err(FrameError::Length { length: 0xffff_ffff, .. })));
        assert!(matches!(read(frame(b"\"drain\"")), Ok(Some(ToEnclave::Drain))));
        for malformed in [
            "{}",
            "null",
            "\"Drain\"",
            "\"drain\" x",
            "{\"drain\":{}}",
            "{\"configuration\":{\"static_configuration\":\"\",\"extra\":1}}",
            "{\"configuration\":{\"static_configuration\":\"\",\"static_configuration\":\"\"}}",
            "{\"configuration\":{}}",
            "{\"key_stores\":{\"manifests\":[\"not base64\"]}}",
            "{\"key_stores\":{\"manifests\":[\"AA\"]}}",
            "{\"unknown\":{}}",
            "\"\\u0000",
        ] {
            let result = read(frame(malformed.as_bytes()));
            assert!(matches!(result, Err(FrameError::Malformed(_))), "{malformed}: {result:?}");
        }
        assert!(matches!(read(frame(b"\xff\xfe")), Err(FrameError::Malformed(_))));
        assert!(matches!(read(frame("[".repeat(100_000).as_bytes())), Err(FrameError::Malformed(_))));
    }

    #[test]
    fn a_frame_above_its_bound_is_not_written() {
        let message = ToEnclave::Configuration { static_configuration: "x".repeat(300_000) };
        let mut written = Vec::new();
        let result = run(write_frame(&mut written, &message));
        assert!(matches!(result, Err(FrameError::Limit(_))));
        assert!(written.is_empty());
    }

    #[test]
    fn bytes_after_a_frame_stay_unread() {
        let mut bytes = frame(b"\"connected\"");
        bytes.extend_from_slice(b"raw");
        let mut rest = bytes.as_slice();
        let answer: EgressAnswer = run(read_frame(&mut rest)).unwrap().unwrap();
        assert_eq!((answer, rest), (EgressAnswer::Connected, b"raw".as_slice()));
    }

    #[test]
    fn an_abandoned_read_goes_on_where_it_stopped() {
        run(async {
            let (mut sender, receiver) = tokio::io::duplex(4);
            let mut reader = FrameReader::new(receiver);
            for byte in frame(b"\"drain\"").into_iter().take(9) {
                sender.write_all(&[byte]).await.unwrap();
                tokio::select! {
                    biased;
                    message = reader.next::<ToEnclave>() => panic!("too early: {message:?}"),
                    () = tokio::task::yield_now() => {}
                }
            }
            sender.write_all(b"n\"").await.unwrap();
            assert_eq!(reader.next::<ToEnclave>().await.unwrap(), Some(ToEnclave::Drain));
        });
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = run(read_frame::<ToParent, _>(&mut bytes.as_slice()));
            let _ = run(read_frame::<ToEnclave, _>(&mut bytes.as_slice()));
            let _ = run(read_frame::<EgressRequest, _>(&mut bytes.as_slice()));
            let _ = run(read_frame::<EgressAnswer, _>(&mut frame(&bytes).as_slice()));
            let _ = run(read_frame::<ToParent, _>(&mut frame(&bytes).as_slice()));
        }

        #[test]
        fn hostile_json_never_panics(text in "[\\[\\]{}\":,a-z0-9\\\\u_ ]{0,120}") {
            let _ = run(read_frame::<ToParent, _>(&mut frame(text.as_bytes()).as_slice()));
            let _ = run(read_frame::<ToEnclave, _>(&mut frame(text.as_bytes()).as_slice()));
            let _ = run(read_frame::<EgressRequest, _>(&mut frame(text.as_bytes()).as_slice()));
        }

        #[test]
        fn a_configuration_arrives_byte_for_byte(text in any::<String>()) {
            let sent = ToEnclave::Configuration { static_configuration: text };
            let mut bytes = Vec::new();
            run(write_frame(&mut bytes, &sent)).unwrap();
            prop_assert_eq!(run(read_frame::<ToEnclave, _>(&mut bytes.as_slice())).unwrap(), Some(sent));
        }
    }
}
