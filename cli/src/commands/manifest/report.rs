//! A manifest as it is shown.

use core::fmt;

use holdfast_shared::attestation::{AWS_ROOT_SHA256, Measurements};
use holdfast_shared::ids::{AdministratorId, CustodianId, KeyStoreId};
use holdfast_shared::manifest::{Administrator, Custodian, Manifest, Thresholds, VerifiedManifest};
use holdfast_shared::quorum::Quorum;
use serde::Serialize;

use super::explain_numbers;
use crate::moment;

/// A manifest as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ManifestReport {
    /// SHA-256 of the first manifest.
    pub key_store_id: KeyStoreId,
    /// 1 for the first manifest, one more for each successor.
    pub sequence: u32,
    /// For people.
    pub name: String,
    /// Who orders changes.
    pub administrators: Vec<NamedAdministrator>,
    /// Signatures that each kind of order needs.
    pub thresholds: ThresholdsReport,
    /// Who holds the shares.
    pub custodians: Vec<NamedCustodian>,
    /// m.
    pub shares_needed: u8,
    /// f.
    pub hostile_tolerated: u8,
    /// Custodians that must hold a change before it counts.
    pub write_quorum: usize,
    /// What that means.
    pub availability: String,
    /// ARN of the AWS KMS key that keeps one more share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_key_arn: Option<String>,
    /// The name that KMS calls.
    pub host_name: String,
    /// `XksProxyUriPath`.
    pub uri_path: String,
    /// SHA-256 of the root under which evidence must verify.
    pub trust_root_sha256: String,
    /// Whether that is another root than AWS's.
    pub emulated_root: bool,
    /// Accepted images.
    pub measurements: Vec<Measurements>,
    /// Length of a lease, in milliseconds.
    pub lease_ms: u64,
}

/// An administrator in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedAdministrator {
    /// For people.
    pub name: String,
    /// SHA-256 of the signing key.
    pub id: AdministratorId,
}

/// A custodian in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedCustodian {
    /// For people.
    pub name: String,
    /// SHA-256 of the signing key.
    pub id: CustodianId,
    /// `host:port`.
    pub address: String,
}

/// Thresholds in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the fields are those of Thresholds, which documents them")]
pub struct ThresholdsReport {
    pub keys: u8,
    pub credentials: u8,
    pub identity: u8,
    pub block: u8,
    pub unblock: u8,
    pub custody: u8,
}

impl From<&VerifiedManifest> for ManifestReport {
    fn from(verified: &VerifiedManifest) -> Self {
        Self::new(verified.id(), verified.manifest())
    }
}

impl ManifestReport {
    /// Of a manifest that may lack signatures.
    #[must_use]
    pub fn new(key_store_id: KeyStoreId, manifest: &Manifest) -> Self {
        let Thresholds { keys, credentials, identity, block, unblock, custody } = manifest.thresholds;
        let named_administrator = |a: &Administrator| NamedAdministrator { name: a.name.clone(), id: a.id() };
        let named_custodian =
            |c: &Custodian| NamedCustodian { name: c.name.clone(), id: c.id(), address: c.address.clone() };
        Self {
            key_store_id,
            sequence: manifest.succession.map_or(1, |succession| succession.sequence),
            name: manifest.name.clone(),
            administrators: manifest.administrators.iter().map(named_administrator).collect(),
            thresholds: ThresholdsReport { keys, credentials, identity, block, unblock, custody },
            custodians: manifest.custodians.iter().map(named_custodian).collect(),
            shares_needed: manifest.shares_needed,
            hostile_tolerated: manifest.hostile_tolerated,
            write_quorum: Quorum::of(manifest).write(),
            availability: explain_numbers(manifest),
            kms_key_arn: manifest.kms_share.as_ref().map(|share| share.key_arn.clone()),
            host_name: manifest.host_name.to_string(),
            uri_path: manifest.path_prefix.uri_path(),
            trust_root_sha256: hex::encode(manifest.release_policy.trust_root),
            emulated_root: manifest.release_policy.trust_root != AWS_ROOT_SHA256,
            measurements: manifest.release_policy.images.iter().map(|image| image.measurements.clone()).collect(),
            lease_ms: manifest.release_policy.lease_ms,
        }
    }
}

impl fmt::Display for ManifestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key store {}", self.name)?;
        writeln!(f, "id        {}", self.key_store_id)?;
        if self.sequence > 1 {
            writeln!(f, "manifest  {} (successor)", self.sequence)?;
        }
        writeln!(f, "endpoint  https://{}{}", self.host_name, self.uri_path)?;
        for administrator in &self.administrators {
            writeln!(f, "administrator  {} {}", administrator.name, administrator.id)?;
        }
        let n = self.custodians.len();
        for custodian in &self.custodians {
            writeln!(f, "custodian      {} {} at {}", custodian.name, custodian.id, custodian.address)?;
        }
        writeln!(f, "shares needed  {} of {n}, {} hostile tolerated", self.shares_needed, self.hostile_tolerated)?;
        if n > 1 {
            writeln!(f, "               {}", self.availability)?;
        }
        if let Some(arn) = &self.kms_key_arn {
            writeln!(f, "share at KMS   {arn}")?;
        }
        let t = &self.thresholds;
        writeln!(
            f,
            "signatures     keys {}, credentials {}, identity {}, block {}, unblock {}, custody {}",
            t.keys, t.credentials, t.identity, t.block, t.unblock, t.custody
        )?;
        writeln!(f, "lease          {}", moment::format_duration(self.lease_ms))?;
        let kind = if self.emulated_root { "EMULATED" } else { "AWS Nitro Enclaves" };
        write!(f, "trust root     {kind} {}", self.trust_root_sha256)?;
        self.measurements.iter().try_for_each(|set| write_measurements(f, set))
    }
}

/// The registers of a set, each on a line of its own after a line end.
pub(crate) fn write_measurements(f: &mut fmt::Formatter<'_>, set: &Measurements) -> fmt::Result {
    let optional = [(3, set.pcr3), (4, set.pcr4), (8, set.pcr8)];
    let required =
        [(0, set.pcr0), (1, set.pcr1), (2, set.pcr2), (16, set.pcr16)].map(|(index, value)| (index, Some(value)));
    required
        .into_iter()
        .chain(optional)
        .filter_map(|(index, value)| Some((index, value?)))
        .try_for_each(|(index, value)| write!(f, "\n  PCR {index:<2} {}", hex::encode(value)))
}
