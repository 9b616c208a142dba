//! The manifest: who owns a key store, who holds its shares, and what may run it.
//!
//! Guarantees: a key store's first manifest was signed by every administrator that it names, obeys every rule below, and its id is
//! the SHA-256 of its bytes, so that a host that exchanges a custodian or an administrator makes another key store; a successor was
//! signed by as many of its predecessor's administrators as changes of custody need, and the id stays. Refuses: one missing
//! signature, a threshold that cannot be reached or is zero, duplicate keys, a KMS share that alone would be enough.

mod verified;
mod window;

use core::num::{NonZeroU8, NonZeroU32};
use std::collections::BTreeSet;

pub use self::verified::{ManifestChain, ManifestError, ManifestId, VerifiedManifest, claimed_digest, sign};
pub use self::window::ReleaseWindow;
use crate::attestation::Measurements;
use crate::cbor::message;
use crate::hpke;
use crate::ids::{AdministratorId, CustodianId, KeyStoreId};
use crate::labels;
use crate::limits;
use crate::signature::VerifyingKey;
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
