//! Checkpoints: how far a log has come, signed (C2SP tlog-checkpoint, in a C2SP signed note).
//!
//! ```text
//! holdfast.audit/<key store id>/<boot id>
//! <size>
//! <root in base64>
//! time <milliseconds since 1970>
//! closed                                  only in the last checkpoint of a boot that ended in order
//!
//! — holdfast.audit/<key store id>/<boot id> <base64 of key id (4 bytes) ‖ Ed25519 signature (64 bytes)>
//! ```
//! The signature covers the text up to the empty line, its last line feed included. The key id is the beginning of
//! SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key).
//!
//! Guarantees: one checkpoint has one text; what [`Checkpoint::verify`] returns was signed by that key. Refuses: every other text,
//! further signatures and extensions among them.

use core::fmt::Write as _;
use core::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::LogId;
use super::tree::Hash;
use crate::limits;

const ORIGIN: &str = "holdfast.audit";
/// Algorithm of a signed note: Ed25519 over the note's text.
const ED25519_NOTE: u8 = 1;

/// How far a log has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub log: LogId,
    /// Entries.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// When it was signed: attested time, milliseconds since 1970.
    pub time_ms: u64,
    /// Whether the boot ended in order, so that nothing follows.
    pub closed: bool,
}

/// Why a checkpoint was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not the text of a checkpoint.
    #[error("audit checkpoint: not a checkpoint of a log of ours")]
    Malformed,
    /// Not signed by this key.
    #[error("audit checkpoint: is not signed by this boot's audit key")]
    Signature,
}

/// A checkpoint's text, taken apart.
struct Note {
    checkpoint: Checkpoint,
    key_id: [u8; 4],
    signature: [u8; 64],
}

impl Checkpoint {
    /// The signed note.
    #[must_use]
    pub fn sign(&self, key: &Ed25519KeyPair) -> String {
        let body = self.body();
        let mut signature = [0; 64];
        let made = key.sign(body.as_bytes());
        // Ed25519 signatures have 64 bytes (RFC 8032, section 5.1.6); with any other length the note would not verify.
        if let Ok(bytes) = made.as_ref().try_into() {
            signature = bytes;
        }
        self.note(&body, key_id(&self.name(), key.public_key().as_ref()), &signature)
    }

    /// The checkpoint in `text`, signed by `public_key`.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn verify(text: &str, public_key: &[u8; 32]) -> Result<Self, CheckpointError> {
        let Note { checkpoint, key_id: claimed, signature } = Note::parse(text)?;
        if claimed != key_id(&checkpoint.name(), public_key) {
            return Err(CheckpointError::Signature);
        }
        UnparsedPublicKey::new(&ED25519, public_key)
            .verify(checkpoint.body().as_bytes(), &signature)
            .map_err(|_| CheckpointError::Signature)?;
        Ok(checkpoint)
    }

    /// What `text` says, unproven: for whoever knows no key, or has proven it before.
    ///
    /// # Errors
    /// [`CheckpointError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        Note::parse(text).map(|note| note.checkpoint)
    }

    /// The name under which it is signed: the log's.
    fn name(&self) -> String {
        format!("{ORIGIN}/{}/{}", self.log.key_store_id, self.log.boot_id)
    }

    /// What is signed.
    fn body(&self) -> String {
        let mut text =
            format!("{}\n{}\n{}\ntime {}\n", self.name(), self.size, STANDARD.encode(self.root), self.time_ms);
        if self.closed {
            text.push_str("closed\n");
        }
        text
    }

    fn note(&self, body: &str, key_id: [u8; 4], signature: &[u8; 64]) -> String {
        let mut text = body.to_owned();
        let signed = STANDARD.encode([key_id.as_slice(), signature].concat());
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n\u{2014} {} {signed}", self.name());
        text
    }
}

impl Note {
    fn parse(text: &str) -> Result<Self, CheckpointError> {
        if text.len() > limits::AUDIT_CHECKPOINT_MAX {
            return Err(CheckpointError::Malformed);
        }
        // Whatever is read leniently here is compared with the one text of what was read.
        Self::read(text)
            .filter(|note| note.checkpoint.note(&note.checkpoint.body(), note.key_id, &note.signature) == text)
            .ok_or(CheckpointError::Malformed)
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (key_store_id, boot_id) = lines.next()?.strip_prefix(ORIGIN)?.strip_prefix('/')?.split_once('/')?;
        let log = LogId { key_store_id: key_store_id.parse().ok()?, boot_id: boot_id.parse().ok()? };
        let size = u64::from_str(lines.next()?).ok()?;
        let root = STANDARD.decode(lines.next()?).ok()?.try_into().ok()?;
        let time_ms = lines.next()?.strip_prefix("time ")?.parse().ok()?;
        let closed = lines.next()? == "closed";
        let mut rest = lines.skip(usize::from(closed));
        let (_, signed) = rest.next()?.rsplit_once(' ')?;
        let signed = STANDARD.decode(signed).ok()?;
        let (key_id, signature) = signed.split_first_chunk::<4>()?;
        let checkpoint = Checkpoint { log, size, root, time_ms, closed };
        Some(Self { checkpoint, key_id: *key_id, signature: signature.try_into().ok()? })
    }
}

fn key_id(name: &str, public_key: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = crate::sha256(&[name.as_bytes(), b"\n", &[ED25519_NOTE], public_key]);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BootId, KeyStoreId};

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn public(key: &Ed25519KeyPair) -> [u8; 32] {
        key.public_key().as_ref().try_into().unwrap()
    }

    fn checkpoint(closed: bool) -> Checkpoint {
        let log = LogId { key_store_id: KeyStoreId([0x11; 32]), boot_id: BootId([0x22; 16]) };
        Checkpoint { log, size: 1000, root: [0x33; 32], time_ms: 1_790_000_000_000, closed }
    }

    /// Made and checked by `tests/vectors/audit/make.py`, which shares no code with us.
    #[test]
    fn notes_are_those_of_the_vectors() {
        let open = include_str!("../../../tests/vectors/audit/checkpoint.txt");
        let closed = include_str!("../../../tests/vectors/audit/checkpoint-closed.txt");
        for (text, is_closed) in [(open, false), (closed, true)] {
            assert_eq!(checkpoint(is_closed).sign(&key(7)), text);
            assert_eq!(Checkpoint::verify(text, &public(&key(7))), Ok(checkpoint(is_closed)));
        }
    }

    #[test]
    fn only_the_key_that_signed_verifies_and_no_byte_may_change() {
        for closed in [false, true] {
            let text = checkpoint(closed).sign(&key(7));
            assert!(text.len() <= limits::AUDIT_CHECKPOINT_MAX);
            assert_eq!(Checkpoint::parse(&text), Ok(checkpoint(closed)));
            assert_eq!(Checkpoint::verify(&text, &public(&key(8))), Err(CheckpointError::Signature));
            for at in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                if let Ok(changed) = String::from_utf8(bytes) {
                    assert!(Checkpoint::verify(&changed, &public(&key(7))).is_err(), "byte {at}");
                }
            }
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let text = checkpoint(false).sign(&key(7));
        for (what, text) in [
            ("nothing", String::new()),
            ("one line feed too many", format!("{text}\n")),
            ("none", text.trim_end().to_owned()),
            ("two signatures", format!("{text}{}", text.lines().last().unwrap())),
            ("a leading zero", text.replace("\n1000\n", "\n01000\n")),
            ("a plus sign", text.replace("\n1000\n", "\n+1000\n")),
            ("carriage returns", text.replace('\n', "\r\n")),
            ("capitals", text.to_uppercase()),
            ("another extension", text.replace("\ntime", "\nhello\ntime")),
            ("another signer", text.replacen("\u{2014} holdfast.audit/11", "\u{2014} holdfast.audit/12", 1)),
            ("too long", format!("{text}{}", "x".repeat(1024))),
        ] {
            assert_eq!(Checkpoint::parse(&text), Err(CheckpointError::Malformed), "{what}");
        }
    }
}
