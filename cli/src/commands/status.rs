//! `holdfast status`: what the custodian knows, and what its evidence proves.

use core::fmt;

use holdfast_shared::attestation::Measurements;
use holdfast_shared::ids::{BlobId, BootId, CommandId, KeyStoreId, LeaseId};
use serde::Serialize;

use super::block::BlockReport;
use super::manifest::write_measurements;
use crate::evidence::{self, Evidence};
use crate::moment::{format_duration, format_ms, now_ms};
use crate::output::EMULATED_WARNING;
use crate::session::{Session, SessionError};

/// The custodian's view of a key store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StatusReport {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// Its name.
    pub name: String,
    /// The custodian's time, in milliseconds since 1970.
    pub now_ms: u64,
    /// Whether the ceremony has given the custodian a share.
    pub holds_share: bool,
    /// The newest version.
    pub version: Option<VersionLine>,
    /// Of the release policy.
    pub policy_epoch: u64,
    /// Whether an emulator's root is trusted.
    pub emulated_root: bool,
    /// What is blocked.
    pub blocked: BlockReport,
    /// Leases that have not ended.
    pub leases: Vec<LeaseLine>,
    /// Commands that wait.
    pub pending: Vec<CommandId>,
}

/// A version of a key store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VersionLine {
    /// From 1.
    pub version: u64,
    /// Its blob.
    pub blob_id: BlobId,
    /// In milliseconds since 1970.
    pub recorded_ms: u64,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseLine {
    /// The lease.
    pub lease_id: LeaseId,
    /// The boot that holds it.
    pub boot_id: BootId,
    /// As the custodian recorded it.
    pub module_id: String,
    /// As the custodian recorded them.
    pub measurements: Measurements,
    /// In milliseconds since 1970.
    pub granted_ms: u64,
    /// In milliseconds since 1970.
    pub expires_ms: u64,
    /// In milliseconds since 1970.
    pub seen_ms: u64,
    /// What this tool found when it verified the evidence itself.
    pub evidence: Option<Evidence>,
    /// Why the evidence does not hold, if it does not.
    pub evidence_error: Option<String>,
}

/// Asks the custodian and verifies the evidence behind each lease.
///
/// # Errors
/// [`SessionError`].
pub async fn status(session: &Session) -> Result<StatusReport, SessionError> {
    let status = session.status().await?;
    let overlay = session.overlay().await?;
    let store = session.store();
    let leases = status.leases.iter().map(|lease| {
        let checked = evidence::of_lease(lease, store, session.custodian().id(), now_ms());
        LeaseLine {
            lease_id: lease.lease_id,
            boot_id: lease.boot_id,
            module_id: lease.module_id.clone(),
            measurements: lease.measurements.clone(),
            granted_ms: lease.granted_ms,
            expires_ms: lease.expires_ms,
            seen_ms: lease.seen_ms,
            evidence_error: checked.as_ref().err().map(ToString::to_string),
            evidence: checked.ok().map(|(evidence, _)| evidence),
        }
    });
    Ok(StatusReport {
        key_store_id: store.manifest.id(),
        name: store.manifest.manifest().name.clone(),
        now_ms: status.now_ms,
        holds_share: status.holds_share,
        version: status.version.map(|version| VersionLine {
            version: version.version,
            blob_id: version.blob_id,
            recorded_ms: version.recorded_ms,
        }),
        policy_epoch: status.policy_epoch,
        emulated_root: status.emulated_root || !store.trust_root.is_aws(),
        blocked: overlay.as_ref().into(),
        leases: leases.collect(),
        pending: status.pending,
    })
}

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.emulated_root {
            writeln!(f, "{EMULATED_WARNING}")?;
        }
        writeln!(f, "key store     {} {}", self.name, self.key_store_id)?;
        match &self.version {
            Some(version) => {
                let recorded = format_ms(version.recorded_ms);
                writeln!(f, "version       {} of {recorded}, blob {}", version.version, version.blob_id)?;
            }
            None if self.holds_share => writeln!(f, "version       none yet: the ceremony is not finished")?,
            None => writeln!(
                f,
                "version       none: the ceremony has not taken place; start an enclave with this manifest"
            )?,
        }
        writeln!(f, "{}", self.blocked)?;
        writeln!(f, "policy epoch  {}", self.policy_epoch)?;
        writeln!(f, "pending       {} commands", self.pending.len())?;
        for command_id in &self.pending {
            writeln!(f, "  {command_id}")?;
        }
        write!(f, "leases        {}", self.leases.len())?;
        self.leases.iter().try_for_each(|lease| self.write_lease(f, lease))
    }
}

impl StatusReport {
    fn write_lease(&self, f: &mut fmt::Formatter<'_>, lease: &LeaseLine) -> fmt::Result {
        let age = format_duration(self.now_ms.saturating_sub(lease.granted_ms));
        let left = format_duration(lease.expires_ms.saturating_sub(self.now_ms));
        let seen = format_duration(self.now_ms.saturating_sub(lease.seen_ms));
        write!(f, "\n  {} of {}", lease.lease_id, lease.module_id)?;
        write!(f, "\n  granted {age} ago, ends in {left}, seen {seen} ago")?;
        match (&lease.evidence, &lease.evidence_error) {
            (Some(evidence), _) => write!(f, "\n  {}", evidence.summary())?,
            (None, Some(error)) => write!(f, "\n  EVIDENCE REFUSED: {error}")?,
            (None, None) => {}
        }
        write_measurements(f, &lease.measurements)
    }
}
