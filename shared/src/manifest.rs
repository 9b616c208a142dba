//! The manifest: who owns a key store, who holds its shares, and what may run it.
//!
//! Guarantees: a key store's first manifest was signed by every administrator that it names, obeys every rule below, and its id is
//! the SHA-256 of its bytes, so that a host that exchanges a custodian or an administrator makes another key store; a successor was
//! signed by as many of its predecessor's administrators as changes of custody need, and the id stays. Refuses: one missing
//! signature, a threshold that cannot be reached or is zero, duplicate keys, a KMS share that alone would be enough.

mod window;

use core::num::{NonZeroU8, NonZeroU32};
use std::collections::BTreeSet;

use ring::rand::SecureRandom;

pub use self::window::ReleaseWindow;
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
    /// Accepted images: the current one, the next, and old ones until their sunset.
    #[n(2)]
    pub images: Vec<AcceptedImage>,
    /// Length of a lease, in milliseconds.
    #[n(3)]
    pub lease_ms: u64,
    /// Administrators who must approve a boot before it gets its first share; absent for none.
    #[n(4)]
    pub approvals: Option<NonZeroU8>,
    /// When a boot may get a share; absent for always. Renewals are not bound to it.
    #[n(5)]
    pub window: Option<ReleaseWindow>,
    /// How many boots may hold leases at once; absent for as many as a custodian keeps.
    #[n(6)]
    pub leases_max: Option<NonZeroU32>,
}

impl ReleasePolicy {
    /// A policy of epoch 1 that accepts these images at any time, with nobody's approval.
    #[must_use]
    pub fn first(trust_root: [u8; 32], images: Vec<Measurements>, lease_ms: u64) -> Self {
        let images = images.into_iter().map(AcceptedImage::from).collect();
        Self { epoch: 1, trust_root, images, lease_ms, approvals: None, window: None, leases_max: None }
    }

    /// The measurements that are accepted at `now_ms`: those whose sunset has not come.
    #[must_use]
    pub fn accepted(&self, now_ms: u64) -> Vec<Measurements> {
        let lives = |image: &&AcceptedImage| image.sunset_ms.is_none_or(|sunset_ms| now_ms < sunset_ms);
        self.images.iter().filter(lives).map(|image| image.measurements.clone()).collect()
    }
}

/// An image that a release policy accepts.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct AcceptedImage {
    /// What it measures.
    #[n(0)]
    pub measurements: Measurements,
    /// For people: "2026.11".
    #[n(1)]
    pub name: Option<String>,
    /// From this moment, milliseconds since 1970, it gets no release and no renewal, and what it asks next ends its lease.
    #[n(2)]
    pub sunset_ms: Option<u64>,
}

impl From<Measurements> for AcceptedImage {
    fn from(measurements: Measurements) -> Self {
        Self { measurements, name: None, sunset_ms: None }
    }
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
    /// What it succeeds; absent for a key store's first manifest.
    #[n(11)]
    pub succession: Option<Succession>,
    /// One more share, which AWS KMS decrypts for an attested enclave; it counts towards the shares needed and holds no lease.
    #[n(12)]
    pub kms_share: Option<KmsShare>,
}

/// What a successor manifest succeeds. It is signed under its predecessor's custody threshold; the key store's id stays that of
/// the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Succession {
    /// The key store.
    #[n(0)]
    pub key_store_id: KeyStoreId,
    /// 2 for the first successor; grows by one.
    #[n(1)]
    pub sequence: u32,
    /// SHA-256 of the predecessor.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub predecessor: [u8; 32],
    /// The block overlay in force: overlays up to this epoch were signed under predecessors, newer ones must be signed under this
    /// manifest. 0 for none.
    #[n(3)]
    pub overlay_epoch: u64,
}

/// The share that AWS KMS decrypts.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct KmsShare {
    /// ARN of the KMS key.
    #[n(0)]
    pub key_arn: String,
    /// Its region, in whose name requests are signed.
    #[n(1)]
    pub region: String,
    /// `host:port` of the endpoint.
    #[n(2)]
    pub address: String,
    /// DER certificates to which its HTTPS certificate chains.
    #[n(3)]
    pub tls_roots: Vec<DerCertificate>,
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
    check_quorum(manifest, custodians)?;
    for custodian in &manifest.custodians {
        rule(is_address(&custodian.address), "a custodian's address must be host:port")?;
        check_roots(&custodian.tls_roots)?;
    }
    check_policy(&manifest.release_policy)?;
    rule(manifest.release_policy.epoch == 1, "the first release policy has epoch 1")?;
    rule(
        manifest.succession.is_none_or(|succession| succession.sequence >= 2),
        "the first successor of a manifest has sequence 2",
    )
}

fn check_quorum(manifest: &Manifest, custodians: usize) -> Result<(), &'static str> {
    let rule = |holds: bool, text: &'static str| if holds { Ok(()) } else { Err(text) };
    let needed = usize::from(manifest.shares_needed);
    let Some(kms) = &manifest.kms_share else {
        rule((1..=custodians).contains(&needed), "the shares needed must be between 1 and the number of custodians")?;
        // A write quorum of n − m + 1 + f must exist among n custodians.
        return rule(
            usize::from(manifest.hostile_tolerated) < needed,
            "the hostile custodians tolerated must be fewer than the shares needed",
        );
    };
    rule(
        (2..=custodians.saturating_add(1)).contains(&needed),
        "with a share at AWS KMS, the shares needed must be at least 2, and at most one more than there are custodians",
    )?;
    rule(
        usize::from(manifest.hostile_tolerated) < needed.saturating_sub(1),
        "the hostile custodians tolerated must be fewer than the custodians' shares needed",
    )?;
    rule(
        (1..=limits::ARN_MAX).contains(&kms.key_arn.len()) && is_printable(&kms.key_arn),
        "the ARN of the KMS key has 1 to 2048 printable ASCII characters",
    )?;
    rule(
        (1..=limits::NAME_MAX).contains(&kms.region.len())
            && kms.region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
        "the region of the KMS key has 1 to 64 lower-case letters, digits and dashes",
    )?;
    rule(is_address(&kms.address), "the address of the KMS endpoint must be host:port")?;
    check_roots(&kms.tls_roots)
}

fn check_roots(roots: &[DerCertificate]) -> Result<(), &'static str> {
    let fits = (1..=limits::CERTIFICATE_CHAIN_MAX).contains(&roots.len())
        && roots.iter().all(|root| root.0.len() <= limits::CERTIFICATE_DER_MAX);
    if fits { Ok(()) } else { Err("each custodian needs 1 to 6 TLS roots of at most 8 KiB") }
}

/// Rules of a release policy of any epoch.
pub(crate) fn check_policy(policy: &ReleasePolicy) -> Result<(), &'static str> {
    let rule = |holds: bool, text: &'static str| if holds { Ok(()) } else { Err(text) };
    rule(policy.epoch >= 1, "a release policy's epoch starts at 1")?;
    rule(
        (1..=limits::MEASUREMENTS_MAX).contains(&policy.images.len()),
        "a release policy needs 1 to 16 accepted measurements",
    )?;
    rule(
        policy.images.iter().map(|image| &image.measurements).all(is_not_debug),
        "a release policy must not accept debug mode (a PCR 0, 1 or 2 of zeros)",
    )?;
    rule(
        policy
            .images
            .iter()
            .filter_map(|image| image.name.as_deref())
            .all(|name| (1..=limits::NAME_MAX).contains(&name.len()) && is_printable(name)),
        "the name of an accepted image has 1 to 64 printable ASCII characters",
    )?;
    rule(
        policy.approvals.is_none_or(|needed| usize::from(needed.get()) <= limits::ADMINISTRATORS_MAX),
        "a release needs at most 16 approvals",
    )?;
    rule(
        policy.window.is_none_or(ReleaseWindow::is_valid),
        "a release window opens on at least one day, at a minute of the day, for 1 to 1440 minutes",
    )?;
    rule(limits::LEASE_MS.contains(&policy.lease_ms), "a lease lasts from 10 seconds to 31 days")
}

fn is_not_debug(measurements: &Measurements) -> bool {
    let pcrs = [&measurements.pcr0, &measurements.pcr1, &measurements.pcr2];
    pcrs.iter().all(|pcr| pcr.iter().any(|byte| *byte != 0))
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
    /// Not signed by those who must sign it.
    #[error("manifest: {0}")]
    Signature(#[from] SignatureError),
    /// A successor where a first manifest is expected, or the other way round.
    #[error("manifest: {0}")]
    Place(&'static str),
    /// A successor that changes what must stay.
    #[error("manifest: a successor must keep {0}")]
    MustStay(&'static str),
}

/// Which manifest of a key store is meant: two successors of one manifest may have been signed, and only one of them is put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ManifestId {
    /// 1 for the first manifest, one more for each successor.
    #[n(0)]
    pub sequence: u32,
    /// SHA-256 of its bytes, without signatures.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub digest: [u8; 32],
}

impl ManifestId {
    /// The first manifest, of which the key store has its id.
    #[must_use]
    pub const fn first(key_store_id: KeyStoreId) -> Self {
        Self { sequence: 1, digest: key_store_id.0 }
    }
}

/// A key store's manifest, and those before it, whose signatures were checked: the first by all administrators that it names, each
/// successor by as many administrators of its predecessor as changes of custody need. Its only constructors are
/// [`VerifiedManifest::verify`] and [`VerifiedManifest::succeed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedManifest {
    id: KeyStoreId,
    manifest: Manifest,
    /// First to newest.
    chain: Vec<Received>,
    /// Whose signatures counted on block overlays, up to which epoch: one entry for each predecessor.
    past: Vec<PastAdministrators>,
}

/// A manifest of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Received {
    digest: [u8; 32],
    signed: Vec<u8>,
}

impl Received {
    fn new(envelope: &Envelope, signed: &[u8]) -> Self {
        Self { digest: crate::sha256(&[envelope.unverified_payload()]), signed: signed.to_vec() }
    }
}

/// Administrators of a manifest that was succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PastAdministrators {
    until_overlay_epoch: u64,
    administrators: Vec<Administrator>,
    thresholds: Thresholds,
}

impl VerifiedManifest {
    /// Verifies the bytes of a key store's first, signed manifest: each administrator must have signed.
    ///
    /// # Errors
    /// [`ManifestError`] names the rule that is broken.
    pub fn verify(signed: &[u8]) -> Result<Self, ManifestError> {
        let envelope = envelope(signed)?;
        let manifest: Manifest = cbor::decode(envelope.unverified_payload())?;
        if manifest.succession.is_some() {
            return Err(ManifestError::Place("is a successor; give the first manifest of the key store"));
        }
        let keys: Vec<_> = manifest.administrators.iter().map(|a| a.signing_key).collect();
        envelope.open(labels::MANIFEST, &keys, keys.len())?;
        let first = Received::new(&envelope, signed);
        Ok(Self { id: KeyStoreId(first.digest), manifest, chain: vec![first], past: Vec::new() })
    }

    /// Verifies the first manifest and its successors, oldest first.
    ///
    /// # Errors
    /// [`ManifestError`] names the rule that is broken.
    pub fn verify_chain<'b>(chain: impl IntoIterator<Item = &'b [u8]>) -> Result<Self, ManifestError> {
        let mut chain = chain.into_iter();
        let first = chain.next().ok_or(ManifestError::Place("is missing"))?;
        chain.try_fold(Self::verify(first)?, |manifest, successor| manifest.succeed(successor))
    }

    /// Verifies a successor: signed by enough of this manifest's administrators, and changing nothing that must stay.
    ///
    /// # Errors
    /// [`ManifestError`] names the rule that is broken.
    pub fn succeed(&self, signed: &[u8]) -> Result<Self, ManifestError> {
        let envelope = envelope(signed)?;
        let next: Manifest = cbor::decode(envelope.unverified_payload())?;
        let Some(succession) = next.succession else {
            return Err(ManifestError::Place("is a first manifest, not a successor"));
        };
        if succession.key_store_id != self.id {
            return Err(ManifestError::Place("is of another key store"));
        }
        if succession.predecessor != self.digest() || Some(succession.sequence) != self.sequence().checked_add(1) {
            return Err(ManifestError::Place("does not succeed the manifest in force; make it anew"));
        }
        if self.chain.len() >= limits::MANIFEST_CHAIN_MAX {
            return Err(ManifestError::Place("has too many predecessors; make another key store"));
        }
        let keys: Vec<_> = self.manifest.administrators.iter().map(|a| a.signing_key).collect();
        envelope.open(labels::MANIFEST, &keys, usize::from(self.manifest.thresholds.custody))?;
        self.check_stays(&next)?;
        let mut past = self.past.clone();
        past.push(PastAdministrators {
            until_overlay_epoch: succession.overlay_epoch,
            administrators: self.manifest.administrators.clone(),
            thresholds: self.manifest.thresholds,
        });
        let chain = self.chain.iter().cloned().chain([Received::new(&envelope, signed)]).collect();
        Ok(Self { id: self.id, manifest: next, chain, past })
    }

    /// What the newest manifest directly succeeds; none for the first. Verified anew, which costs all its signatures.
    #[must_use]
    pub fn predecessor(&self) -> Option<Self> {
        let (_, before) = self.chain.split_last().filter(|(_, before)| !before.is_empty())?;
        Self::verify_chain(before.iter().map(|received| received.signed.as_slice())).ok()
    }

    fn check_stays(&self, next: &Manifest) -> Result<(), ManifestError> {
        let stays = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(ManifestError::MustStay(what)) };
        let own = &self.manifest;
        let home = |manifest: &Manifest| manifest.custodians.first().map(|c| (c.signing_key, c.encryption_key));
        stays(home(own) == home(next), "the home custodian and its keys")?;
        stays(
            own.release_policy == next.release_policy,
            "the first release policy, which changes by updates of its own",
        )?;
        // Whoever could lower it would make overlays of removed administrators count again.
        let floor = own.succession.map_or(0, |succession| succession.overlay_epoch);
        stays(
            next.succession.is_some_and(|s| s.overlay_epoch >= floor),
            "the epoch of the block overlay, or raise it",
        )?;
        let keys = |c: &Custodian| (c.id(), c.encryption_key);
        let changed = next.custodians.iter().any(|custodian| {
            own.custodians.iter().any(|old| old.id() == custodian.id() && keys(old) != keys(custodian))
        });
        stays(!changed, "the encryption key of a custodian that stays")
    }

    /// The key store's id: SHA-256 of the first manifest.
    #[must_use]
    pub const fn id(&self) -> KeyStoreId {
        self.id
    }

    /// SHA-256 of the newest manifest.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.chain.last().map_or(self.id.0, |newest| newest.digest)
    }

    /// Which manifest the newest one is.
    #[must_use]
    pub fn manifest_id(&self) -> ManifestId {
        ManifestId { sequence: self.sequence(), digest: self.digest() }
    }

    /// Which manifests these are, oldest first.
    pub fn lineage(&self) -> impl Iterator<Item = ManifestId> {
        (1..).zip(&self.chain).map(|(sequence, received)| ManifestId { sequence, digest: received.digest })
    }

    /// 1 for the first manifest, one more for each successor.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.manifest.succession.map_or(1, |succession| succession.sequence)
    }

    /// The newest manifest's contents.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The signed bytes of the first manifest, as received.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        self.chain.first().map_or(&[], |first| &first.signed)
    }

    /// The signed bytes of the successors, oldest first, as received.
    pub fn successors(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().skip(1).map(|received| received.signed.as_slice())
    }

    /// The custodian that orders changes.
    #[must_use]
    pub fn home_custodian(&self) -> Option<&Custodian> {
        self.manifest.custodians.first()
    }

    /// Whose signatures count on a block overlay of this epoch, and how many.
    #[must_use]
    pub fn overlay_signers(&self, epoch: u64) -> (&[Administrator], Thresholds) {
        let past = self.past.iter().find(|past| epoch <= past.until_overlay_epoch);
        past.map_or((&self.manifest.administrators, self.manifest.thresholds), |past| {
            (&past.administrators, past.thresholds)
        })
    }
}

/// All manifests of a key store, the first and its successors, oldest first, for a custodian that knows none of them.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ManifestChain {
    /// The signed manifests.
    #[n(0)]
    pub signed: Vec<minicbor::bytes::ByteVec>,
}

message!(ManifestChain, limits::MANIFEST_CHAIN_MAX * (limits::MANIFEST_MAX + 8) + 16, "chain of manifests", |chain| {
    if (1..=limits::MANIFEST_CHAIN_MAX).contains(&chain.signed.len()) { Ok(()) } else { Err("has 1 to 12 manifests") }
});

/// SHA-256 of the manifest in a signed envelope, whoever signed it.
///
/// # Errors
/// When it is no signed envelope of a manifest's length.
pub fn claimed_digest(signed: &[u8]) -> Result<[u8; 32], DecodeError> {
    Ok(crate::sha256(&[envelope(signed)?.unverified_payload()]))
}

fn envelope(signed: &[u8]) -> Result<Envelope, DecodeError> {
    let (length, max) = (signed.len(), limits::MANIFEST_MAX);
    if length > max {
        return Err(DecodeError::TooLong { name: "manifest", length, max });
    }
    cbor::decode(signed)
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
