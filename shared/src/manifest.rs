//! The manifest: who owns a key store, who holds its shares, and what may run it.
//!
//! Guarantees: a [`VerifiedManifest`] was signed by every administrator that it names, obeys every rule below, and its id is
//! the SHA-256 of its bytes, so that a host that exchanges a custodian or an administrator makes another key store. Refuses:
//! one missing signature, a threshold that cannot be reached or is zero, duplicate keys.

use std::collections::BTreeSet;

use ring::rand::SecureRandom;

use crate::attestation::Measurements;
use crate::cbor::{self, DecodeError, message};
use crate::hpke;
use crate::ids::{AdministratorId, CustodianId, KeyStoreId};
use crate::labels;
use crate::limits;
use crate::signature::{Envelope, SignatureError, SigningKey, VerifyingKey};
use crate::xks::{HostName, PathPrefix};

/// One who orders changes.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Administrator {
    /// For people: "alice".
    #[n(0)]
    pub name: String,
    /// Verifies the administrator's signatures.
    #[n(1)]
    pub signing_key: VerifyingKey,
    /// Results are encrypted to it.
    #[n(2)]
    pub encryption_key: hpke::PublicKey,
}

impl Administrator {
    /// How the administrator is named in signatures.
    #[must_use]
    pub fn id(&self) -> AdministratorId {
        AdministratorId(self.signing_key.fingerprint())
    }
}

/// One who holds a share.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Custodian {
    /// For people: "vault-1".
    #[n(0)]
    pub name: String,
    /// Verifies the custodian's releases and register entries.
    #[n(1)]
    pub signing_key: VerifyingKey,
    /// Shares are encrypted to it.
    #[n(2)]
    pub encryption_key: hpke::PublicKey,
    /// `host:port` of its HTTPS service: the name under which the parent's egress list knows it.
    #[n(3)]
    pub address: String,
    /// DER certificates to which its HTTPS certificate chains.
    #[n(4)]
    pub tls_roots: Vec<DerCertificate>,
}

impl Custodian {
    /// How the custodian is named.
    #[must_use]
    pub fn id(&self) -> CustodianId {
        CustodianId(self.signing_key.fingerprint())
    }
}

/// A certificate in DER.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct DerCertificate(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

/// Signatures that each kind of order needs, counted over distinct administrators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Thresholds {
    /// External keys, their versions, and the quota on their use.
    #[n(0)]
    pub keys: u8,
    /// SigV4 credentials.
    #[n(1)]
    pub credentials: u8,
    /// Host name, certificate, and which client certificates are accepted.
    #[n(2)]
    pub identity: u8,
    /// Blocking.
    #[n(3)]
    pub block: u8,
    /// Lifting a block.
    #[n(4)]
    pub unblock: u8,
    /// Administrators, thresholds, custodians, release policy.
    #[n(5)]
    pub custody: u8,
}

impl Thresholds {
    /// One signature for everything.
    pub const ONE: Self = Self { keys: 1, credentials: 1, identity: 1, block: 1, unblock: 1, custody: 1 };

    const fn all(self) -> [u8; 6] {
        [self.keys, self.credentials, self.identity, self.block, self.unblock, self.custody]
    }
}

/// To whom a custodian releases its share.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ReleasePolicy {
    /// Grows by one with each change.
    #[n(0)]
    pub epoch: u64,
    /// SHA-256 of the DER root under which evidence must verify. Another root than AWS's also needs the custodian's own
    /// configuration to name it.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub trust_root: [u8; 32],
    /// Accepted images.
    #[n(2)]
    pub measurements: Vec<Measurements>,
    /// Length of a lease, in milliseconds.
    #[n(3)]
    pub lease_ms: u64,
}

/// A manifest. Made by [`Manifest`]'s fields, proven by [`VerifiedManifest::verify`].
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Manifest {
    /// [`labels::MANIFEST`].
    #[n(0)]
    pub label: String,
    /// Random, so that two key stores with the same settings differ.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
    /// For people.
    #[n(2)]
    pub name: String,
    /// Who orders changes.
    #[n(3)]
    pub administrators: Vec<Administrator>,
    /// How many of them each kind of order needs.
    #[n(4)]
    pub thresholds: Thresholds,
    /// Who holds the shares; the first is the home custodian, which orders changes. n is their number.
    #[n(5)]
    pub custodians: Vec<Custodian>,
    /// m: shares needed.
    #[n(6)]
    pub shares_needed: u8,
    /// f: hostile custodians that cannot roll the key store back.
    #[n(7)]
    pub hostile_tolerated: u8,
    /// The name that KMS calls.
    #[n(8)]
    pub host_name: HostName,
    /// The path before `/kms/xks/v1`.
    #[n(9)]
    pub path_prefix: PathPrefix,
    /// Epoch 1 of the release policy.
    #[n(10)]
    pub release_policy: ReleasePolicy,
}

message!(Manifest, limits::MANIFEST_MAX, "manifest", check);

fn check(manifest: &Manifest) -> Result<(), &'static str> {
    let rule = |holds: bool, text: &'static str| if holds { Ok(()) } else { Err(text) };
    let name_fits = |name: &str| !name.is_empty() && name.len() <= limits::NAME_MAX && is_printable(name);
    let administrators = manifest.administrators.len();
    let custodians = manifest.custodians.len();
    rule(manifest.label == labels::MANIFEST, "is not a manifest of this version")?;
    rule(name_fits(&manifest.name), "the name must have 1 to 64 printable ASCII characters")?;
    rule((1..=limits::ADMINISTRATORS_MAX).contains(&administrators), "needs 1 to 16 administrators")?;
    rule((1..=limits::CUSTODIANS_MAX).contains(&custodians), "needs 1 to 16 custodians")?;
    rule(
        manifest.administrators.iter().all(|a| name_fits(&a.name))
            && manifest.custodians.iter().all(|c| name_fits(&c.name)),
        "each administrator and custodian needs a name of 1 to 64 printable ASCII characters",
    )?;
    let distinct: BTreeSet<_> = manifest.administrators.iter().map(Administrator::id).collect();
    rule(distinct.len() == administrators, "two administrators share a signing key")?;
    let distinct: BTreeSet<_> = manifest.custodians.iter().map(Custodian::id).collect();
    rule(distinct.len() == custodians, "two custodians share a signing key")?;
    rule(
        manifest.thresholds.all().iter().all(|&t| t >= 1 && usize::from(t) <= administrators),
        "each threshold must be between 1 and the number of administrators",
    )?;
    let needed = usize::from(manifest.shares_needed);
    rule((1..=custodians).contains(&needed), "the shares needed must be between 1 and the number of custodians")?;
    // A write quorum of n − m + 1 + f must exist among n custodians.
    rule(
        usize::from(manifest.hostile_tolerated) < needed,
        "the hostile custodians tolerated must be fewer than the shares needed",
    )?;
    for custodian in &manifest.custodians {
        rule(is_address(&custodian.address), "a custodian's address must be host:port")?;
        rule(
            (1..=limits::CERTIFICATE_CHAIN_MAX).contains(&custodian.tls_roots.len())
                && custodian.tls_roots.iter().all(|root| root.0.len() <= limits::CERTIFICATE_DER_MAX),
            "each custodian needs 1 to 6 TLS roots of at most 8 KiB",
        )?;
    }
    check_policy(&manifest.release_policy)?;
    rule(manifest.release_policy.epoch == 1, "the first release policy has epoch 1")
}

fn check_policy(policy: &ReleasePolicy) -> Result<(), &'static str> {
    let rule = |holds: bool, text: &'static str| if holds { Ok(()) } else { Err(text) };
    rule(policy.epoch >= 1, "a release policy's epoch starts at 1")?;
    rule(
        (1..=limits::MEASUREMENTS_MAX).contains(&policy.measurements.len()),
        "a release policy needs 1 to 16 accepted measurements",
    )?;
    rule(
        policy.measurements.iter().all(|m| [&m.pcr0, &m.pcr1, &m.pcr2].iter().all(|pcr| pcr.iter().any(|b| *b != 0))),
        "a release policy must not accept debug mode (a PCR 0, 1 or 2 of zeros)",
    )?;
    rule(limits::LEASE_MS.contains(&policy.lease_ms), "a lease lasts from 10 seconds to 31 days")
}

/// Whether `text` has only printable ASCII characters, so that it can be shown on any terminal.
#[must_use]
pub fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// Whether `text` is `host:port` with a host of lower-case letters, digits, dots and dashes.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    !host.is_empty()
        && host.len() <= limits::HOST_NAME_MAX
        && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-')
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Why a manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not a manifest, or one that breaks a rule.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Not signed by exactly its administrators.
    #[error("manifest: {0}")]
    Signature(#[from] SignatureError),
}

/// A manifest whose signatures were checked. Its only constructor is [`VerifiedManifest::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedManifest {
    id: KeyStoreId,
    manifest: Manifest,
    signed: Vec<u8>,
}

impl VerifiedManifest {
    /// Verifies the bytes of a signed manifest: each administrator must have signed.
    ///
    /// # Errors
    /// [`ManifestError`] names the rule that is broken.
    pub fn verify(signed: &[u8]) -> Result<Self, ManifestError> {
        if signed.len() > limits::MANIFEST_MAX {
            return Err(
                DecodeError::TooLong { name: "manifest", length: signed.len(), max: limits::MANIFEST_MAX }.into()
            );
        }
        let envelope: Envelope = cbor::decode(signed)?;
        let manifest: Manifest = cbor::decode(envelope.unverified_payload())?;
        let keys: Vec<_> = manifest.administrators.iter().map(|a| a.signing_key).collect();
        envelope.open(labels::MANIFEST, &keys, keys.len())?;
        let id = KeyStoreId(crate::sha256(&[envelope.unverified_payload()]));
        Ok(Self { id, manifest, signed: signed.to_vec() })
    }

    /// The key store's id: SHA-256 of the manifest.
    #[must_use]
    pub const fn id(&self) -> KeyStoreId {
        self.id
    }

    /// The contents.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The signed bytes, as received.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        &self.signed
    }

    /// The custodian that orders changes.
    #[must_use]
    pub fn home_custodian(&self) -> Option<&Custodian> {
        self.manifest.custodians.first()
    }
}

/// Starts a signed manifest with the first administrator's signature.
///
/// # Errors
/// [`ManifestError`] when the manifest breaks a rule or signing fails.
pub fn sign(manifest: &Manifest, key: &SigningKey, rng: &dyn SecureRandom) -> Result<Envelope, ManifestError> {
    let bytes = cbor::encode(manifest);
    cbor::decode::<Manifest>(&bytes)?;
    Ok(Envelope::seal(labels::MANIFEST, &bytes, key, rng)?)
}
