//! `holdfast status`: what the custodians know, where they differ, and what their evidence proves.

mod custodian;
mod use_of_keys;
mod warnings;

use core::fmt;

use holdfast_shared::attestation::Measurements;
use holdfast_shared::ids::{BlobId, BootId, CommandId, KeyStoreId, LeaseId};
use holdfast_shared::query::KeyStoreStatus;
use serde::Serialize;

pub use self::custodian::{CustodianLine, View};
pub use self::use_of_keys::{DebitedLine, UseOfKeys};
pub use self::warnings::Warning;
use super::block::{BlockReport, nobody};
use super::manifest::write_measurements;
use crate::evidence::Evidence;
use crate::home::KeyStore;
use crate::moment::{format_duration, format_ms, now_ms};
use crate::output::{EMULATED_WARNING, printable};
use crate::session::{Session, SessionError};

/// The custodian's view of a key store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StatusReport {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// Its name.
    pub name: String,
    /// Whose view the following is: home's, where it answered.
    pub said_by: String,
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
    /// Boots that wait for approval.
    pub waiting_releases: u32,
    /// Sequence of the newest manifest that is known.
    pub manifest_sequence: u32,
    /// Each custodian, in the manifest's order.
    pub custodians: Vec<CustodianLine>,
    /// What the home custodian says of budgets and alarms.
    pub alarms: UseOfKeys,
    /// What somebody must look into.
    pub warnings: Vec<Warning>,
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

/// Asks every custodian and verifies the evidence behind each lease.
///
/// # Errors
/// [`SessionError`]; where there is one custodian, its own words.
pub async fn status(session: &Session) -> Result<StatusReport, SessionError> {
    let known = session.known_overlay();
    let (heard, overlays, alarms) = tokio::join!(session.statuses(), session.overlays(), UseOfKeys::ask(session));
    let answered = || heard.iter().filter_map(|(contact, said)| Some((contact, said.as_ref()?.as_ref().ok()?)));
    let Some((first, _)) = answered().next() else { return Err(nobody(heard)) };
    let store = up_to_date(session, answered().map(|(_, status)| status)).await;
    let blocked = BlockReport::of(&overlays, known.as_ref());
    let custodians: Vec<_> = heard
        .iter()
        .zip(&overlays)
        .map(|((contact, said), (_, overlay))| CustodianLine::new(contact, said.as_ref(), overlay.as_ref(), &store))
        .collect();
    let id = store.manifest.id();
    let seen = session.home().seen(id);
    let mut warnings = warnings::of(&custodians, &blocked, &seen, session.quorum());
    warnings.extend(warnings::alarms(alarms.of_this_hour()));
    if let Some(seen) = warnings::newly_seen(&custodians, &seen, now_ms()) {
        session.home().note_seen(id, &seen)?;
    }
    // Home orders the versions; where it is away, whoever answered.
    let Some(view) = custodians.iter().find_map(|line| line.view.as_ref()) else {
        return Err(SessionError::OtherAnswer);
    };
    Ok(StatusReport {
        key_store_id: id,
        name: store.manifest.manifest().name.clone(),
        said_by: first.name().to_owned(),
        now_ms: view.now_ms,
        holds_share: !view.generations.is_empty(),
        version: view.version.clone(),
        policy_epoch: view.policy_epoch,
        emulated_root: view.emulated_root || !store.trust_root.is_aws(),
        blocked,
        leases: view.leases.clone(),
        pending: view.pending.clone(),
        waiting_releases: custodians
            .iter()
            .filter_map(|line| Some(line.view.as_ref()?.waiting_releases))
            .max()
            .unwrap_or(0),
        manifest_sequence: store.manifest.sequence(),
        custodians,
        alarms,
        warnings,
    })
}

/// The key store with the manifests and policies that custodians know, where they know more.
async fn up_to_date<'a>(session: &Session, mut statuses: impl Iterator<Item = &'a KeyStoreStatus>) -> KeyStore {
    let own = session.store();
    let is_newer = |status: &KeyStoreStatus| {
        status.policy_epoch > own.policy().epoch || status.manifest_sequence > own.manifest.sequence()
    };
    if !statuses.any(is_newer) {
        return own.clone();
    }
    session.refreshed().await.unwrap_or_else(|_| own.clone())
}

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.emulated_root {
            writeln!(f, "{EMULATED_WARNING}")?;
        }
        writeln!(f, "key store     {} {}", self.name, self.key_store_id)?;
        if self.manifest_sequence > 1 {
            writeln!(f, "manifest      {}", self.manifest_sequence)?;
        }
        if self.custodians.len() > 1 {
            writeln!(f, "as {} says:", printable(&self.said_by))?;
        }
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
        if self.waiting_releases > 0 {
            writeln!(f, "waiting       {} boots for approval; see: holdfast release list", self.waiting_releases)?;
        }
        write!(f, "leases        {}", self.leases.len())?;
        self.leases.iter().try_for_each(|lease| self.write_lease(f, lease))?;
        if self.custodians.len() > 1 {
            custodian::write_table(f, &self.custodians)?;
        }
        write!(f, "{}", self.alarms)?;
        self.warnings.iter().try_for_each(|warning| write!(f, "\nWARNING  {}", printable(&warning.text)))
    }
}

impl StatusReport {
    fn write_lease(&self, f: &mut fmt::Formatter<'_>, lease: &LeaseLine) -> fmt::Result {
        let age = format_duration(self.now_ms.saturating_sub(lease.granted_ms));
        let left = format_duration(lease.expires_ms.saturating_sub(self.now_ms));
        let seen = format_duration(self.now_ms.saturating_sub(lease.seen_ms));
        write!(f, "\n  {}", lease.lease_id)?;
        write!(f, "\n  granted {age} ago, ends in {left}, seen {seen} ago")?;
        // What the custodian recorded stands only where nothing better is known, and as its word.
        match (&lease.evidence, &lease.evidence_error) {
            (Some(evidence), _) => {
                write!(f, "\n  {}", evidence.summary())?;
                write_measurements(f, &evidence.measurements)
            }
            (None, error) => {
                let error = error.as_deref().map(printable).unwrap_or_default();
                write!(f, "\n  EVIDENCE REFUSED: {error}")?;
                write!(f, "\n  the custodian says that it was {}, with", printable(&lease.module_id))?;
                write_measurements(f, &lease.measurements)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(byte: u8) -> Measurements {
        let pcr = [byte; 48];
        Measurements { pcr0: pcr, pcr1: pcr, pcr2: pcr, pcr16: pcr, pcr3: None, pcr4: None, pcr8: None }
    }

    fn report(evidence: Option<Evidence>) -> StatusReport {
        let lease = LeaseLine {
            lease_id: LeaseId([1; 16]),
            boot_id: BootId([2; 16]),
            module_id: "claimed\u{1b}[2J".to_owned(),
            measurements: set(0xcc),
            granted_ms: 0,
            expires_ms: 1000,
            seen_ms: 0,
            evidence_error: evidence.is_none().then(|| "broken".to_owned()),
            evidence,
        };
        StatusReport {
            key_store_id: KeyStoreId([3; 32]),
            name: "payments".to_owned(),
            now_ms: 500,
            holds_share: true,
            version: None,
            policy_epoch: 1,
            emulated_root: false,
            blocked: BlockReport { epoch: 0, store: false, keys: Vec::new(), withheld_epoch: None },
            leases: vec![lease],
            pending: Vec::new(),
            said_by: "vault".to_owned(),
            waiting_releases: 0,
            manifest_sequence: 1,
            custodians: Vec::new(),
            alarms: UseOfKeys::default(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn what_the_custodian_claims_never_stands_under_what_was_attested() {
        let evidence = Evidence {
            module_id: "attested".to_owned(),
            timestamp_ms: 1,
            measurements: set(0xaa),
            trust_root_sha256: String::new(),
            emulated: false,
        };
        let shown = report(Some(evidence)).to_string();
        assert!(shown.contains(&"aa".repeat(48)) && shown.contains("attested by attested"), "{shown}");
        assert!(!shown.contains(&"cc".repeat(48)) && !shown.contains("claimed"), "{shown}");
        let shown = report(None).to_string();
        assert!(shown.contains("EVIDENCE REFUSED") && shown.contains("the custodian says"), "{shown}");
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }
}
