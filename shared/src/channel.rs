//! The sealed channel of a lease: everything that enclave and custodian say to each other after a release.
//!
//! Guarantees: a message opens only under the lease's own key for its direction and only for the counter at which it was
//! made; counters grow, so that nothing is replayed, and an answer names the request that it answers. Nonces are random, so
//! that no counter, kept or lost, can make one repeat; a lease's life and rate keep their number far below 2³².
//! Assumes: the caller refuses an answer that comes later than [`limits::ANSWER_AGE_MAX_MS`] after its request.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::SecureRandom;
use zeroize::Zeroizing;

use crate::alarm::{AlarmKind, Tally};
use crate::block::BlockOverlay;
use crate::cbor::{self, DecodeError, Message, message};
use crate::command::SealedResult;
use crate::external_key::ExternalKeyId;
use crate::hpke;
use crate::ids::{BlobId, CommandId, LeaseId};
use crate::keystore::BudgetWindow;
use crate::labels;
use crate::limits;
use crate::release::{HeldEntry, PROTOCOL, ShareSet};
use crate::secrets::Secret;

/// A message on the channel, in either direction.
#[derive(Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ChannelMessage {
    /// [`PROTOCOL`].
    #[n(0)]
    pub protocol: u32,
    /// The lease whose keys are used.
    #[n(1)]
    pub lease_id: LeaseId,
    /// Grows with each request; an answer repeats that of its request.
    #[n(2)]
    pub counter: u64,
    /// Random.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub nonce: [u8; 12],
    /// Ciphertext and tag.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub ciphertext: Vec<u8>,
}

message!(ChannelMessage, limits::CHANNEL_MESSAGE_MAX, "channel message", |message| {
    if message.protocol == PROTOCOL { Ok(()) } else { Err("speaks another version of the protocol") }
});

impl core::fmt::Debug for ChannelMessage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ChannelMessage({}, counter {}, {} bytes)", self.lease_id, self.counter, self.ciphertext.len())
    }
}

/// What an enclave asks of a custodian.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Ask {
    /// Tell me what is new, and renew the lease if `renew`. Held open until there is news, at most [`limits::WATCH_HOLD_MS`].
    #[n(0)]
    Watch {
        /// What the enclave has seen, so that only news is sent.
        #[n(0)]
        seen: Seen,
        /// Answer at once, with a new lease duration if the stored evidence still satisfies the policy.
        #[n(1)]
        renew: bool,
    },
    /// Send me this sealed key store.
    #[n(1)]
    Fetch {
        /// Its id.
        #[n(0)]
        blob_id: BlobId,
    },
    /// Keep this share: of a ceremony, or of the next generation of the root key. Before the custodian holds a version, another set
    /// replaces it, since a ceremony may break off; afterwards one set of each generation is accepted, and only the next generation.
    #[n(2)]
    Deposit {
        /// The public part.
        #[n(0)]
        set: ShareSet,
        /// The share, encrypted to the custodian's own key ([`crate::release::seal_share`]).
        #[n(1)]
        share: hpke::Sealed,
    },
    /// To the home custodian: make this the newest version if `previous` still is, and store the results in the same step. Where the
    /// version needs more holders than home, the results are shown once it is committed ([`Ask::Commit`]).
    #[n(3)]
    Publish {
        /// One more than the version of `previous`.
        #[n(0)]
        version: u64,
        /// The newest version's blob, as far as the enclave knows; absent for version 1.
        #[n(1)]
        previous: Option<BlobId>,
        /// The sealed key store.
        #[cbor(n(2), with = "minicbor::bytes")]
        blob: Vec<u8>,
        /// Results of the commands that made this version.
        #[n(3)]
        results: Vec<SealedResult>,
        /// The attestation document that vouches for the version ([`crate::provenance`]).
        #[cbor(n(4), with = "minicbor::bytes")]
        evidence: Vec<u8>,
    },
    /// Store results that come without a new version (a list of keys, a refusal).
    #[n(4)]
    Report {
        /// The results.
        #[n(0)]
        results: Vec<SealedResult>,
    },
    /// Keep the copy of a version that the home custodian signed; also to a home that fell behind.
    #[n(5)]
    Copy {
        /// The signed register entry.
        #[cbor(n(0), with = "minicbor::bytes")]
        register: Vec<u8>,
        /// The sealed key store that it names.
        #[cbor(n(1), with = "minicbor::bytes")]
        blob: Vec<u8>,
        /// As in [`Ask::Publish`].
        #[cbor(n(2), with = "minicbor::bytes")]
        evidence: Vec<u8>,
    },
    /// Enough custodians hold this version: show its results, and say from now on that it is committed.
    #[n(6)]
    Commit {
        /// The version.
        #[n(0)]
        version: u64,
        /// Its blob.
        #[n(1)]
        blob_id: BlobId,
    },
    /// Delete all shares of generations below this one. Refused unless the newest version that the custodian holds is committed and
    /// sealed under this generation.
    #[n(7)]
    Retire {
        /// The generation in force.
        #[n(0)]
        generation: u32,
    },
    /// Keep how far the audit log of this lease's boot has come.
    #[n(8)]
    Witness {
        /// The signed note ([`crate::audit::Checkpoint`]).
        #[cbor(n(0), with = "minicbor::bytes")]
        checkpoint: Vec<u8>,
    },
    /// To the home custodian: debit uses of a key's budget, so that they may be had from now on.
    #[n(9)]
    Debit {
        /// The key.
        #[n(0)]
        key: ExternalKeyId,
        /// In which window they may be had.
        #[n(1)]
        window: BudgetWindow,
        /// The uses of all enclaves in it.
        #[n(2)]
        limit: u32,
        /// How many are wanted.
        #[n(3)]
        want: u32,
    },
    /// To the home custodian: who used keys lately, so that it can raise alarms ([`crate::alarm`]).
    #[n(10)]
    Tally(#[n(0)] Tally),
}

/// What an enclave has seen already.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Seen {
    /// Epoch of the block overlay, 0 for none.
    #[n(0)]
    pub overlay_epoch: u64,
    /// Version in the register, 0 for none.
    #[n(1)]
    pub version: u64,
    /// Commands that it has dealt with or cannot deal with.
    #[n(2)]
    pub commands: Vec<CommandId>,
    /// Sequence of the newest manifest, 1 for the first.
    #[n(3)]
    pub manifest_sequence: u32,
    /// The block overlay that is in force in it, absent for none. That is not always the one that this custodian told.
    #[n(4)]
    pub obeys: Option<OverlayId>,
}

/// Names a block overlay: administrators can sign several of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct OverlayId {
    /// Its epoch.
    #[n(0)]
    pub epoch: u64,
    /// SHA-256 of its encoding.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub sha256: [u8; 32],
}

impl OverlayId {
    /// Of an overlay.
    #[must_use]
    pub fn of(overlay: &BlockOverlay) -> Self {
        Self { epoch: overlay.epoch, sha256: crate::sha256(&[&cbor::encode(overlay)]) }
    }
}

/// What a custodian answers.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Reply {
    /// To [`Ask::Watch`].
    #[n(0)]
    News {
        /// The renewed lease's duration, counted from when the request was sent.
        #[n(0)]
        lease_ms: Option<u64>,
        /// The signed block overlay, if newer than what was seen.
        #[cbor(n(1), with = "minicbor::bytes")]
        overlay: Option<Vec<u8>>,
        /// The newest register entry, if newer than what was seen; an uncommitted one is held back for
        /// [`limits::COMMIT_WAIT_MS`], in which the enclave that made it may commit it.
        #[n(2)]
        register: Option<HeldEntry>,
        /// Signed commands that wait for an enclave.
        #[n(3)]
        commands: Vec<minicbor::bytes::ByteVec>,
        /// How many enclaves with a live lease of this key store have asked lately, this one among them.
        #[n(4)]
        enclaves: core::num::NonZeroU32,
        /// The signed successors of the first manifest, oldest first, if there are more than was seen.
        #[n(5)]
        successors: Vec<minicbor::bytes::ByteVec>,
    },
    /// To [`Ask::Fetch`].
    #[n(1)]
    Blob {
        /// The sealed key store.
        #[cbor(n(0), with = "minicbor::bytes")]
        blob: Vec<u8>,
        /// The attestation document that vouches for it.
        #[cbor(n(1), with = "minicbor::bytes")]
        evidence: Vec<u8>,
    },
    /// To [`Ask::Deposit`]: the share is stored durably.
    #[n(2)]
    Deposited,
    /// To [`Ask::Publish`]: the version is stored durably.
    #[n(3)]
    Published {
        /// The signed register entry of the new version.
        #[cbor(n(0), with = "minicbor::bytes")]
        register: Vec<u8>,
    },
    /// To [`Ask::Publish`]: another version came first; to [`Ask::Deposit`]: another share did, or the generation is not the next; to
    /// [`Ask::Copy`] and [`Ask::Commit`]: another version is held. Nothing was stored.
    #[n(4)]
    Conflict {
        /// The newest version's entry, if there is one.
        #[n(0)]
        register: Option<HeldEntry>,
    },
    /// To [`Ask::Report`]: the results are stored durably.
    #[n(5)]
    Reported,
    /// The request is understood and not granted.
    #[n(6)]
    Refused {
        /// Why, for the log.
        #[n(0)]
        reason: String,
        /// Whether the lease ends with this (the policy no longer accepts the enclave).
        #[n(1)]
        lease_ended: bool,
    },
    /// To [`Ask::Copy`]: the version is stored durably, now or since an earlier try.
    #[n(7)]
    Copied,
    /// To [`Ask::Commit`]: durable.
    #[n(8)]
    Committed,
    /// To [`Ask::Retire`]: no older share is left.
    #[n(9)]
    Retired,
    /// To [`Ask::Witness`]: the checkpoint, or a later one of the same log, is stored durably.
    #[n(10)]
    Witnessed,
    /// To [`Ask::Debit`]: that is durable. An answer that does not arrive is uses that nobody has.
    #[n(11)]
    Debited {
        /// How many of those that were wanted; fewer when no more are left.
        #[n(0)]
        granted: u32,
        /// How many are debited in this window, these among them.
        #[n(1)]
        counted: u32,
    },
    /// To [`Ask::Tally`]: it is counted durably.
    #[n(12)]
    Tallied {
        /// The kinds of the alarms that it raised, one for each.
        #[n(0)]
        raised: Vec<AlarmKind>,
    },
}

message!(Ask, limits::CHANNEL_MESSAGE_MAX, "channel request", |ask| match ask {
    Ask::Watch { seen, .. } if seen.commands.len() > limits::PENDING_COMMANDS_MAX => Err("names too many commands"),
    Ask::Publish { version, previous, .. } if *version == 0 || (*version == 1) != previous.is_none() => {
        Err("version 1 alone has no predecessor")
    }
    Ask::Publish { blob, .. } | Ask::Copy { blob, .. } if blob.len() > limits::BLOB_MAX => {
        Err("the sealed key store is too large")
    }
    Ask::Publish { evidence, .. } | Ask::Copy { evidence, .. } if evidence.len() > limits::ATTESTATION_DOCUMENT_MAX => {
        Err("the attestation document is too large")
    }
    Ask::Deposit { set, .. } => set.check(),
    Ask::Witness { checkpoint } if checkpoint.len() > limits::AUDIT_CHECKPOINT_MAX => {
        Err("the audit checkpoint is too long")
    }
    Ask::Debit { limit, want, .. }
        if !limits::BUDGET_USES.contains(limit) || !(1..=limits::BUDGET_SLICE_MAX).contains(want) =>
    {
        Err("a debit is of 1 to 1000 uses, of a budget of 1 to 1000000000")
    }
    Ask::Publish { results, .. } | Ask::Report { results } if results.len() > limits::PENDING_COMMANDS_MAX => {
        Err("carries too many results")
    }
    Ask::Tally(tally) => tally.check(),
    _ => Ok(()),
});

message!(Reply, limits::CHANNEL_MESSAGE_MAX, "channel answer", |reply| match reply {
    Reply::News { commands, .. } if commands.len() > limits::PENDING_COMMANDS_MAX => Err("carries too many commands"),
    Reply::News { successors, .. } if successors.len() >= limits::MANIFEST_CHAIN_MAX => {
        Err("carries too many manifests")
    }
    Reply::Blob { evidence, .. } if evidence.len() > limits::ATTESTATION_DOCUMENT_MAX => {
        Err("the attestation document is too large")
    }
    Reply::News { lease_ms: Some(lease_ms), .. } if !limits::LEASE_MS.contains(lease_ms) => {
        Err("a lease lasts from 10 seconds to 31 days")
    }
    Reply::Debited { granted, counted } if *granted > limits::BUDGET_SLICE_MAX || granted > counted => {
        Err("more uses are granted than were debited, or than can be wanted")
    }
    Reply::Tallied { raised } if raised.len() > limits::TALLY_ALARMS_MAX => Err("raises too many alarms"),
    _ => Ok(()),
});

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Not a message, or not one of this kind inside.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Another lease, another direction, another counter, or changed bytes.
    #[error("channel message: does not open under this lease")]
    OpenFailed,
    /// A counter that was used before.
    #[error("channel message: counter {offered} is not above {last}")]
    Replayed {
        /// The highest counter seen.
        last: u64,
        /// The counter of the message.
        offered: u64,
    },
    /// No randomness.
    #[error("channel message: no randomness")]
    SealFailed,
}

/// Which way a message goes: a message never opens in the other direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Enclave to custodian.
    Ask,
    /// Custodian to enclave.
    Reply,
}

impl Direction {
    const fn label(self) -> &'static str {
        match self {
            Self::Ask => labels::CHANNEL_ASK,
            Self::Reply => labels::CHANNEL_REPLY,
        }
    }
}

/// Encrypts `message` for `lease_id` at `counter`.
///
/// # Errors
/// [`ChannelError::SealFailed`].
pub fn seal<T: Message>(
    message: &T,
    direction: Direction,
    key: &Secret<32>,
    lease_id: LeaseId,
    counter: u64,
    rng: &dyn SecureRandom,
) -> Result<Vec<u8>, ChannelError> {
    let mut nonce = [0; 12];
    rng.fill(&mut nonce).map_err(|_| ChannelError::SealFailed)?;
    let mut ciphertext = cbor::encode(message);
    let key = aead_key(key).ok_or(ChannelError::SealFailed)?;
    let aad = aad(direction, lease_id, counter);
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut ciphertext)
        .map_err(|_| ChannelError::SealFailed)?;
    let mut sealed = Vec::with_capacity(ciphertext.len() + tag.as_ref().len());
    sealed.extend_from_slice(&ciphertext);
    sealed.extend_from_slice(tag.as_ref());
    let message = ChannelMessage { protocol: PROTOCOL, lease_id, counter, nonce, ciphertext: sealed };
    Ok(cbor::encode(&message).to_vec())
}

/// Decrypts a message that [`seal`] made for the same direction, lease and counter.
///
/// # Errors
/// [`ChannelError`].
pub fn open<T: Message>(message: &ChannelMessage, direction: Direction, key: &Secret<32>) -> Result<T, ChannelError> {
    let key = aead_key(key).ok_or(ChannelError::OpenFailed)?;
    let aad = aad(direction, message.lease_id, message.counter);
    let mut buffer = Zeroizing::new(message.ciphertext.clone());
    let plaintext = key
        .open_in_place(Nonce::assume_unique_for_key(message.nonce), Aad::from(aad), &mut buffer)
        .map_err(|_| ChannelError::OpenFailed)?;
    Ok(cbor::decode(plaintext)?)
}

fn aead_key(key: &Secret<32>) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key.expose()).ok().map(LessSafeKey::new)
}

fn aad(direction: Direction, lease_id: LeaseId, counter: u64) -> Vec<u8> {
    hpke::bind(direction.label(), &[lease_id.as_bytes(), &counter.to_be_bytes()])
}
