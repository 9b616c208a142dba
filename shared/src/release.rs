//! The release protocol: an attested enclave obtains a share of a root key under a lease.
//!
//! ```text
//! enclave                                   custodian
//!   ChallengeRequest ───────────────────────▶
//!   ◀─────────────────────────── ChallengeAnswer{nonce}
//!   fresh HPKE key pair; NSM document over nonce, public key, ReleaseUserData
//!   ReleaseRequest{document} ───────────────▶ verify, appraise, spend the nonce, grant a lease
//!   ◀──────────── Envelope(signed by the custodian){ReleaseAnswer{epoch, HPKE(ReleaseContent)}}
//! ```
//!
//! Guarantees: an opened release was made by the named custodian for this key store, this custodian's policy epoch, this
//! nonce and this `user_data`, and only the enclave with the attested key could open it. The lease's channel keys come out of
//! the same HPKE context and never travel.

use ring::rand::SecureRandom;

use crate::cbor::{self, DecodeError, message};
use crate::hpke::{self, Exporter, HpkeError};
use crate::ids::{BootId, CustodianId, KeyStoreId, LeaseId};
use crate::labels;
use crate::limits;
use crate::secrets::{Secret, with_swept_stack};
use crate::signature::{Envelope, SignatureError, SigningKey, VerifyingKey};

/// Version of the protocol, first in every request.
pub const PROTOCOL: u32 = 1;

/// Asks for a nonce.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ChallengeRequest {
    /// [`PROTOCOL`].
    #[n(0)]
    pub protocol: u32,
    /// The key store whose share is wanted.
    #[n(1)]
    pub key_store_id: KeyStoreId,
}

message!(ChallengeRequest, 128, "challenge request", |request| check_protocol(request.protocol));

/// A nonce that the custodian recognises for [`limits::CHALLENGE_LIFE_MS`].
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ChallengeAnswer {
    /// Goes into the attestation document.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub nonce: [u8; 32],
}

message!(ChallengeAnswer, 64, "challenge answer");

/// What a document made for a release says in `user_data`: for whom and for what it was made.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ReleaseUserData {
    /// [`labels::ATTEST_RELEASE`]: a document made for another purpose has another label.
    #[n(0)]
    pub label: String,
    /// The key store.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// The one custodian that may act on the document.
    #[n(2)]
    pub custodian_id: CustodianId,
    /// This boot of the enclave.
    #[n(3)]
    pub boot_id: BootId,
    /// Ed25519: verifies this boot's audit checkpoints.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub audit_public_key: [u8; 32],
}

message!(ReleaseUserData, 512, "release user_data", |user_data| {
    if user_data.label == labels::ATTEST_RELEASE { Ok(()) } else { Err("was made for another purpose") }
});

/// Asks for the share.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ReleaseRequest {
    /// [`PROTOCOL`].
    #[n(0)]
    pub protocol: u32,
    /// The key store whose share is wanted.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// The NSM's attestation document.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub document: Vec<u8>,
}

message!(ReleaseRequest, limits::ATTESTATION_DOCUMENT_MAX + 128, "release request", |request| check_protocol(
    request.protocol
));

fn check_protocol(protocol: u32) -> Result<(), &'static str> {
    if protocol == PROTOCOL {
        Ok(())
    } else {
        Err("speaks another version of the protocol; this side speaks version 1")
    }
}

/// A share of a root key.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Share {
    /// The custodian's place in the manifest, from 1.
    #[n(0)]
    pub index: u8,
    /// The share. With one share needed it is the root key itself.
    #[cbor(n(1), with = "crate::cbor::secret")]
    pub value: Secret<32>,
}

message!(Share, 64, "share", |share| if share.index == 0 { Err("indices start at 1") } else { Ok(()) });

impl Share {
    /// The commitment published for this share, by which a wrong one names its custodian.
    #[must_use]
    pub fn commitment(&self) -> [u8; 32] {
        with_swept_stack(|| {
            crate::sha256(&[labels::SHARE_COMMITMENT.as_bytes(), &[0, self.index], self.value.expose()])
        })
    }
}

/// The public part of a sharing of a root key.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ShareSet {
    /// 1 for the ceremony's root key; grows by one with each new root key.
    #[n(0)]
    pub generation: u32,
    /// m.
    #[n(1)]
    pub shares_needed: u8,
    /// [`Share::commitment`] of each share, in the order of the manifest's custodians; AWS KMS's share is the last.
    #[n(2)]
    pub commitments: Vec<Commitment>,
    /// The share that AWS KMS decrypts, as it encrypted it; every custodian hands it out.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub kms_ciphertext: Option<Vec<u8>>,
}

message!(ShareSet, 2048, "share set", |set| {
    if set.generation == 0 || set.shares_needed == 0 {
        Err("generations and shares needed start at 1")
    } else if set.commitments.len() > limits::CUSTODIANS_MAX + 1 {
        Err("commits to too many shares")
    } else if set.kms_ciphertext.as_ref().is_some_and(|ciphertext| ciphertext.len() > limits::KMS_SHARE_MAX) {
        Err("the share at AWS KMS is too long")
    } else {
        Ok(())
    }
});

/// A commitment to a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Commitment(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

/// What a custodian releases. The whole of it is encrypted.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ReleaseContent {
    /// Names the lease on the sealed channel.
    #[n(0)]
    pub lease_id: LeaseId,
    /// Counted from the moment at which the enclave sent the request.
    #[n(1)]
    pub lease_ms: u64,
    /// This custodian's shares and the sets they belong to, oldest generation first; none before the ceremony, and while the key
    /// store is blocked. While a ceremony or a change of the root key is under way, those of all sets of which one will be named.
    #[n(2)]
    pub shares: Vec<HeldShare>,
    /// The signed block overlay in force ([`crate::block`]).
    #[cbor(n(3), with = "minicbor::bytes")]
    pub overlay: Option<Vec<u8>>,
    /// The newest register entry that this custodian holds.
    #[n(4)]
    pub register: Option<HeldEntry>,
    /// How far the audit logs of earlier boots came, as this custodian witnessed them; each boot once.
    #[n(5)]
    pub audit_heads: Vec<EarlierHead>,
    /// The signed successors of the key store's first manifest that are in force, oldest first.
    #[n(6)]
    pub successors: Vec<minicbor::bytes::ByteVec>,
}

message!(ReleaseContent, limits::RELEASE_MAX, "release", |content| {
    if !limits::LEASE_MS.contains(&content.lease_ms) {
        Err("a lease lasts from 10 seconds to 31 days")
    } else if content.shares.len() > limits::RELEASED_SHARES_MAX
        || !content.shares.is_sorted_by_key(|held| held.set.generation)
        || content
            .shares
            .iter()
            .enumerate()
            .any(|(at, held)| content.shares.iter().skip(at + 1).any(|other| other.set == held.set))
    {
        Err("carries at most five shares, each of another set, the older generation first")
    } else if content.audit_heads.len() > limits::AUDIT_HEADS_MAX
        || content.audit_heads.iter().any(|head| head.checkpoint.len() > limits::AUDIT_CHECKPOINT_MAX)
    {
        Err("carries at most 64 audit heads of at most 1 KiB")
    } else if content.successors.len() >= limits::MANIFEST_CHAIN_MAX {
        Err("carries too many manifests")
    } else {
        content.shares.iter().try_for_each(|held| held.set.check())
    }
});

/// The newest checkpoint of an earlier boot's audit log.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct EarlierHead {
    /// The signed note ([`crate::audit::Checkpoint`]).
    #[cbor(n(0), with = "minicbor::bytes")]
    pub checkpoint: Vec<u8>,
    /// The Ed25519 key that signed it, as the boot's attestation document named it to this custodian. What one custodian says of it
    /// proves nothing: f + 1 must say the same.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub audit_public_key: [u8; 32],
}

/// A register entry as a custodian holds it.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct HeldEntry {
    /// Signed by the home custodian ([`crate::register`]).
    #[cbor(n(0), with = "minicbor::bytes")]
    pub signed: Vec<u8>,
    /// Whether an enclave told this custodian that enough hold it ([`crate::quorum`]).
    #[n(1)]
    pub is_committed: bool,
}

/// A share together with the set it belongs to.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct HeldShare {
    /// The share.
    #[n(0)]
    pub share: Share,
    /// Its set.
    #[n(1)]
    pub set: ShareSet,
}

/// The answer to a [`ReleaseRequest`], the payload of an envelope signed by the custodian.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ReleaseAnswer {
    /// The epoch of the policy under which the document was appraised; bound into the encryption.
    #[n(0)]
    pub policy_epoch: u64,
    /// [`ReleaseContent`], encrypted to the document's `public_key`.
    #[n(1)]
    pub sealed: hpke::Sealed,
}

message!(ReleaseAnswer, limits::RELEASE_MAX, "release answer");

/// To what a release is bound.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseBinding<'a> {
    /// The custodian that releases.
    pub custodian_id: CustodianId,
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// The challenge that was answered.
    pub nonce: &'a [u8; 32],
    /// The `user_data` of the document, byte for byte.
    pub user_data: &'a [u8],
}

impl ReleaseBinding<'_> {
    fn info(&self, policy_epoch: u64) -> Vec<u8> {
        hpke::bind(
            labels::RELEASE,
            &[
                &PROTOCOL.to_be_bytes(),
                self.custodian_id.as_bytes(),
                self.key_store_id.as_bytes(),
                &policy_epoch.to_be_bytes(),
                self.nonce,
            ],
        )
    }

    fn aad(&self) -> [u8; 48] {
        crate::sha384(&[self.user_data])
    }
}

/// The two AEAD keys of a lease.
#[derive(Debug, PartialEq, Eq)]
pub struct ChannelKeys {
    /// Enclave to custodian.
    pub ask: Secret<32>,
    /// Custodian to enclave.
    pub reply: Secret<32>,
}

impl ChannelKeys {
    fn export(context: &impl Exporter) -> Result<Self, HpkeError> {
        Ok(Self { ask: context.export(labels::CHANNEL_ASK)?, reply: context.export(labels::CHANNEL_REPLY)? })
    }
}

/// Why a release was refused by the enclave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Not a release.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Not signed by the custodian in the manifest.
    #[error("release: {0}")]
    Signature(#[from] SignatureError),
    /// Made for another document, custodian, key store, epoch or nonce.
    #[error("release: {0}")]
    Hpke(#[from] HpkeError),
}

/// Custodian: encrypts and signs a release to the attested key `recipient`.
///
/// # Errors
/// [`ReleaseError`] when the key is no point of the curve or there is no randomness.
pub fn seal(
    content: &ReleaseContent,
    policy_epoch: u64,
    binding: &ReleaseBinding<'_>,
    recipient: &hpke::PublicKey,
    key: &SigningKey,
    rng: &dyn SecureRandom,
) -> Result<(Vec<u8>, ChannelKeys), ReleaseError> {
    let plaintext = cbor::encode(content);
    let (sealed, sent) = hpke::seal(recipient, &binding.info(policy_epoch), &binding.aad(), &plaintext)?;
    let answer = cbor::encode(&ReleaseAnswer { policy_epoch, sealed });
    let envelope = Envelope::seal(labels::RELEASE, &answer, key, rng)?;
    Ok((cbor::encode(&envelope).to_vec(), ChannelKeys::export(&sent)?))
}

/// Enclave: verifies and opens a release. Returns it with the policy epoch and the keys of the sealed channel.
///
/// # Errors
/// [`ReleaseError`].
pub fn open(
    signed: &[u8],
    binding: &ReleaseBinding<'_>,
    custodian: &VerifyingKey,
    key: &hpke::PrivateKey,
) -> Result<(ReleaseContent, u64, ChannelKeys), ReleaseError> {
    if signed.len() > limits::RELEASE_MAX {
        return Err(DecodeError::TooLong { name: "release", length: signed.len(), max: limits::RELEASE_MAX }.into());
    }
    let envelope: Envelope = cbor::decode(signed)?;
    let (payload, _) = envelope.open(labels::RELEASE, &[*custodian], 1)?;
    let answer: ReleaseAnswer = cbor::decode(payload)?;
    let (plaintext, opened) = hpke::open(key, &binding.info(answer.policy_epoch), &binding.aad(), &answer.sealed)?;
    let content = cbor::decode(&plaintext)?;
    Ok((content, answer.policy_epoch, ChannelKeys::export(&opened)?))
}

/// Encrypts a share to its custodian during a ceremony.
///
/// # Errors
/// [`HpkeError`] when the custodian's key is no point of the curve.
pub fn seal_share(
    share: &Share,
    key_store_id: KeyStoreId,
    custodian_id: CustodianId,
    recipient: &hpke::PublicKey,
) -> Result<hpke::Sealed, HpkeError> {
    let info = share_info(key_store_id, custodian_id);
    Ok(hpke::seal(recipient, &info, &[], &cbor::encode(share))?.0)
}

/// Custodian: opens the share that a ceremony made for it.
///
/// # Errors
/// [`ReleaseError`].
pub fn open_share(
    sealed: &hpke::Sealed,
    key_store_id: KeyStoreId,
    custodian_id: CustodianId,
    key: &hpke::PrivateKey,
) -> Result<Share, ReleaseError> {
    let (plaintext, _) = hpke::open(key, &share_info(key_store_id, custodian_id), &[], sealed)?;
    Ok(cbor::decode(&plaintext)?)
}

fn share_info(key_store_id: KeyStoreId, custodian_id: CustodianId) -> Vec<u8> {
    hpke::bind(labels::HPKE_SHARE, &[key_store_id.as_bytes(), custodian_id.as_bytes()])
}
