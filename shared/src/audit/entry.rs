//! What stands in a log: the leaves of its tree.
//!
//! Guarantees: a log says first whose it is, which key signs its checkpoints and which logs came before it. Refuses: entries that
//! break a bound.

use minicbor::bytes::ByteVec;

use super::settings::Terms;
use super::tree::Hash;
use crate::cbor::message;
use crate::hpke;
use crate::ids::{BootId, KeyStoreId};
use crate::limits;

/// The format of the log, in its opening.
pub const FORMAT: u32 = 1;

/// One leaf: its canonical encoding is the leaf's data.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Entry {
    /// The first entry, and only that.
    #[n(0)]
    Opening(#[n(0)] Opening),
    /// A new key for the records that follow.
    #[n(1)]
    Segment(#[n(0)] Segment),
    /// A [`Record`](super::Record) under the newest segment's key.
    #[n(2)]
    Sealed(#[n(0)] ByteVec),
    /// The boot ended in order: nothing comes after it.
    #[n(3)]
    Closing,
}

/// How a log begins.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Opening {
    /// [`FORMAT`].
    #[n(0)]
    pub format: u32,
    /// The key store.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// The boot.
    #[n(2)]
    pub boot_id: BootId,
    /// Ed25519: verifies the checkpoints. The attestation document of each lease vouches for it.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub audit_public_key: [u8; 32],
    /// When, milliseconds since 1970.
    #[n(4)]
    pub opened_ms: u64,
    /// The newest heads of earlier boots that custodians handed over, sorted by boot.
    #[n(5)]
    pub previous: Vec<PreviousHead>,
}

/// How far another boot's log had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct PreviousHead {
    /// The boot.
    #[n(0)]
    pub boot_id: BootId,
    /// Entries.
    #[n(1)]
    pub size: u64,
    /// Root of the tree over them.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub root: Hash,
}

/// A key, and under which terms it is used.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Segment {
    /// From 0.
    #[n(0)]
    pub number: u32,
    /// The terms of the version in service.
    #[n(1)]
    pub terms: Terms,
    /// The key for each reader.
    #[n(2)]
    pub keys: Vec<SealedKey>,
}

/// A segment's key for one reader.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct SealedKey {
    /// SHA-256 of the reader's public key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub reader: [u8; 32],
    /// 32 bytes, encrypted to it.
    #[n(1)]
    pub sealed: hpke::Sealed,
}

message!(Entry, limits::AUDIT_ENTRY_MAX, "audit entry", |entry| match entry {
    Entry::Opening(opening) if opening.format != FORMAT => Err("is of another format; this side reads format 1"),
    Entry::Opening(opening)
        if opening.previous.len() > limits::AUDIT_HEADS_MAX
            || !opening.previous.is_sorted_by(|a, b| a.boot_id < b.boot_id)
            || opening.previous.iter().any(|head| head.boot_id == opening.boot_id) =>
    {
        Err("names at most 64 earlier boots, sorted, each once")
    }
    Entry::Segment(segment) if !(1..=limits::AUDIT_READERS_MAX).contains(&segment.keys.len()) => {
        Err("a segment has 1 to 24 readers")
    }
    Entry::Segment(segment) => segment.terms.check(),
    Entry::Opening(_) | Entry::Sealed(_) | Entry::Closing => Ok(()),
});
