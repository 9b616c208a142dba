//! The audit connection, which the enclave opens to the parent: entries of audit logs, to be kept on the parent's disk.
//!
//! Guarantees: what one side wrote is what the other reads; [`Entries`] hold whole entries within [`AUDIT_ENTRY_MAX`] each, in
//! the very form that the parent's files have.
//! Assumes: nothing. The entries are encrypted, and the tree over them is signed: a parent that loses, alters or invents
//! some is found out by whoever verifies the log.
//! Refuses: frames of another kind, lengths that do not add up, checkpoints that are no text of printable lines.
//!
//! A connection belongs to one boot of the enclave, and a log to one key store and boot.
//!
//! ```text
//! enclave                                        parent
//!   hello {boot_id}                           →               (once, first)
//!   open {key_store_id, from}                 →               (each log: the first index that the enclave still has)
//!                                             ←    durable {key_store_id, next_index}
//!   append {key_store_id, first_index, …}     →               (from there on, without a gap)
//!                                             ←    durable {…}    (whenever more is on disk; soon, where it is awaited)
//!   head {key_store_id, checkpoint}           →               (as they are signed)
//! ```
//!
//! On the wire a frame is its length (4 bytes, big endian), its kind (1 byte) and its fields, numbers big endian:
//!
//! ```text
//! 1 hello    boot id 16
//! 2 open     key store id 32 ‖ index 8
//! 3 append   key store id 32 ‖ index 8 ‖ (length 4 ‖ entry)…
//! 4 head     key store id 32 ‖ text
//! 5 durable  key store id 32 ‖ index 8
//! 6 append, awaited: as 3
//! ```

use crate::frame::{Frame, FrameError, LimitError};
use crate::limits::{AUDIT_CHECKPOINT_MAX, AUDIT_ENTRY_HEADER_LEN, AUDIT_ENTRY_MAX, AUDIT_FRAME_MAX};
use crate::text::{BootId, KeyStoreId};

const HELLO: u8 = 1;
const OPEN: u8 = 2;
const APPEND: u8 = 3;
const HEAD: u8 = 4;
const DURABLE: u8 = 5;
const AWAITED: u8 = 6;

/// Bytes of an append before its entries: kind, key store id, index.
const APPEND_HEADER_LEN: usize = 1 + 32 + 8;
/// Bytes of all entries of one append, each with its length.
pub const ENTRIES_MAX: usize = AUDIT_FRAME_MAX - APPEND_HEADER_LEN;

/// What the enclave sends to the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToParent {
    /// The first frame, once: whose logs come.
    Hello {
        /// This run of the enclave.
        boot_id: BootId,
    },
    /// A log will come. The parent answers with [`ToEnclave::Durable`].
    Open {
        /// Whose.
        key_store_id: KeyStoreId,
        /// The first entry that the enclave still has. What is before it was durable once; if it is no longer, it is lost.
        from: u64,
    },
    /// Entries of a log that is open.
    Append {
        /// Whose.
        key_store_id: KeyStoreId,
        /// The index of the first one.
        first_index: u64,
        /// Whether somebody waits until they are on disk: a request, the end of a boot, or others that have no room until then.
        is_awaited: bool,
        /// At least one.
        entries: Entries,
    },
    /// A signed checkpoint of a log that is open.
    Head {
        /// Whose.
        key_store_id: KeyStoreId,
        /// The signed note.
        checkpoint: CheckpointText,
    },
}

/// What the parent sends to the enclave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToEnclave {
    /// All entries below an index are on disk.
    Durable {
        /// Whose.
        key_store_id: KeyStoreId,
        /// The index of the entry that is wanted next.
        next_index: u64,
    },
}

/// Entries of a log, one after another, each behind its length: what a frame carries, and what the parent's files hold.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Entries {
    count: u32,
    bytes: Vec<u8>,
}

/// Why an entry was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// There is no entry without a byte, nor one above the bound.
    #[error("an entry of {length} bytes, where 1 to {AUDIT_ENTRY_MAX} are allowed")]
    Length {
        /// Bytes that it has.
        length: usize,
    },
    /// There is no room: it begins the next ones.
    #[error("the entries fill a frame")]
    Full,
}

impl Entries {
    /// None yet.
    pub const fn new() -> Self {
        Self { count: 0, bytes: Vec::new() }
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// When it is empty or too long, or a frame cannot hold it besides the others; then nothing was added.
    pub fn push(&mut self, entry: &[u8]) -> Result<(), PushError> {
        let refusal = PushError::Length { length: entry.len() };
        if entry.is_empty() || entry.len() > AUDIT_ENTRY_MAX {
            return Err(refusal);
        }
        if self.bytes.len() + AUDIT_ENTRY_HEADER_LEN + entry.len() > ENTRIES_MAX {
            return Err(PushError::Full);
        }
        let length = u32::try_from(entry.len()).map_err(|_| refusal)?;
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(entry);
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Takes bytes that are exactly entries, at least one.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (count, rest) = whole_entries(bytes);
        if count == 0 || rest != bytes.len() {
            return None;
        }
        Some(Self { count: u32::try_from(count).ok()?, bytes: bytes.to_owned() })
    }

    /// How many.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them, each behind its length.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One after another.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        core::iter::from_fn(move || {
            let (entry, after) = split_entry(rest)?;
            rest = after;
            Some(entry)
        })
    }
}

impl core::fmt::Debug for Entries {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "Entries({} of {} bytes)", self.count, self.bytes.len())
    }
}

/// The first entry of bytes that begin with its length, and what comes after it; `None` where no whole and possible entry is.
pub fn split_entry(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<AUDIT_ENTRY_HEADER_LEN>()?;
    let length = usize::try_from(u32::from_be_bytes(*header)).ok()?;
    if length == 0 || length > AUDIT_ENTRY_MAX {
        return None;
    }
    rest.split_at_checked(length)
}

/// How many whole entries `bytes` begin with, and how many bytes these take.
pub fn whole_entries(bytes: &[u8]) -> (u64, usize) {
    let (mut count, mut rest) = (0, bytes);
    while let Some((_, after)) = split_entry(rest) {
        (count, rest) = (count + 1, after);
    }
    (count, bytes.len() - rest.len())
}

/// The text of a signed checkpoint: lines that end with a line feed, of printable ASCII and the dash (U+2014) with which
/// signatures of a note begin. Whether it is signed is for others to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointText(String);

impl CheckpointText {
    /// Takes such a text.
    ///
    /// # Errors
    /// When it is empty, too long, or has other characters.
    pub fn new(text: &str) -> Result<Self, FrameError> {
        LimitError::unless("checkpoint", text.len(), AUDIT_CHECKPOINT_MAX)?;
        let printable = |character: char| matches!(character, ' '..='~' | '\n' | '\u{2014}');
        if !text.ends_with('\n') || !text.chars().all(printable) {
            return Err(malformed("a checkpoint is not lines of printable text"));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether it says that nothing comes after it (`holdfast_shared::audit::checkpoint`).
    pub fn is_last(&self) -> bool {
        self.0.lines().any(|line| line == "closed")
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Frame for ToParent {
    const PAYLOAD_MAX: usize = AUDIT_FRAME_MAX;

    fn write_payload(&self, frame: &mut Vec<u8>) -> Result<(), FrameError> {
        match self {
            Self::Hello { boot_id } => {
                frame.push(HELLO);
                frame.extend_from_slice(boot_id.as_bytes());
            }
            Self::Open { key_store_id, from } => write_place(frame, OPEN, *key_store_id, *from),
            Self::Append { key_store_id, first_index, is_awaited, entries } => {
                check_append(*first_index, entries)?;
                frame.reserve(AUDIT_ENTRY_HEADER_LEN + APPEND_HEADER_LEN + entries.as_bytes().len());
                write_place(frame, if *is_awaited { AWAITED } else { APPEND }, *key_store_id, *first_index);
                frame.extend_from_slice(entries.as_bytes());
            }
            Self::Head { key_store_id, checkpoint } => {
                frame.push(HEAD);
                frame.extend_from_slice(key_store_id.as_bytes());
                frame.extend_from_slice(checkpoint.as_str().as_bytes());
            }
        }
        Ok(())
    }

    fn read_payload(payload: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::of(payload)?;
        Ok(match fields.kind {
            HELLO => Self::Hello { boot_id: fields.take::<16>()?.into() }.when(fields.ended())?,
            OPEN => {
                let (key_store_id, from) = fields.place()?;
                Self::Open { key_store_id, from }.when(fields.ended())?
            }
            kind @ (APPEND | AWAITED) => {
                let (key_store_id, first_index) = fields.place()?;
                let entries = Entries::parse(fields.rest).ok_or_else(|| malformed("the entries are not whole"))?;
                check_append(first_index, &entries)?;
                Self::Append { key_store_id, first_index, is_awaited: kind == AWAITED, entries }
            }
            HEAD => {
                let key_store_id = fields.take::<32>()?.into();
                let text = core::str::from_utf8(fields.rest).map_err(|_| malformed("a checkpoint is not text"))?;
                Self::Head { key_store_id, checkpoint: CheckpointText::new(text)? }
            }
            _ => return Err(malformed("no kind of frame that an enclave sends")),
        })
    }
}

impl ToParent {
    fn when(self, whole: Result<(), FrameError>) -> Result<Self, FrameError> {
        whole.map(|()| self)
    }
}

impl Frame for ToEnclave {
    const PAYLOAD_MAX: usize = 1 + 32 + 8;

    fn write_payload(&self, frame: &mut Vec<u8>) -> Result<(), FrameError> {
        let Self::Durable { key_store_id, next_index } = self;
        write_place(frame, DURABLE, *key_store_id, *next_index);
        Ok(())
    }

    fn read_payload(payload: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::of(payload)?;
        if fields.kind != DURABLE {
            return Err(malformed("no kind of frame that a parent sends"));
        }
        let (key_store_id, next_index) = fields.place()?;
        fields.ended()?;
        Ok(Self::Durable { key_store_id, next_index })
    }
}

fn malformed(reason: &str) -> FrameError {
    FrameError::Malformed(reason.into())
}

/// No append is without an entry, and no entry's index, nor the next one, is beyond what an index can be.
fn check_append(first_index: u64, entries: &Entries) -> Result<(), FrameError> {
    if entries.is_empty() {
        return Err(malformed("an append without an entry"));
    }
    first_index.checked_add(entries.count().into()).map(drop).ok_or_else(|| malformed("an index beyond all"))
}

fn write_place(frame: &mut Vec<u8>, kind: u8, key_store_id: KeyStoreId, index: u64) {
    frame.push(kind);
    frame.extend_from_slice(key_store_id.as_bytes());
    frame.extend_from_slice(&index.to_be_bytes());
}

/// What of a payload is not read yet.
struct Fields<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(payload: &'a [u8]) -> Result<Self, FrameError> {
        let (kind, rest) = payload.split_first().ok_or_else(|| malformed("an empty frame"))?;
        Ok(Self { kind: *kind, rest })
    }

    fn take<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], FrameError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or_else(|| malformed("a frame is too short"))?;
        self.rest = rest;
        Ok(*field)
    }

    fn place(&mut self) -> Result<(KeyStoreId, u64), FrameError> {
        Ok((self.take::<32>()?.into(), u64::from_be_bytes(self.take()?)))
    }

    fn ended(&self) -> Result<(), FrameError> {
        if self.rest.is_empty() { Ok(()) } else { Err(malformed("a frame is too long")) }
    }
}

#[cfg(test)]
mod tests;
