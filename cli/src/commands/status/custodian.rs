//! What one custodian says of a key store.

use core::fmt;

use holdfast_shared::block::BlockOverlay;
use holdfast_shared::ids::CommandId;
use holdfast_shared::query::KeyStoreStatus;
use serde::Serialize;

use super::{LeaseLine, VersionLine};
use crate::evidence;
use crate::home::KeyStore;
use crate::moment::now_ms;
use crate::output::printable;
use crate::session::{Contact, SessionError};

/// A custodian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CustodianLine {
    /// Its name.
    pub custodian: String,
    /// What it said.
    #[serde(flatten)]
    pub view: Option<View>,
    /// Why it said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A custodian's view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    /// The custodian's time, in milliseconds since 1970.
    pub now_ms: u64,
    /// The newest version.
    pub version: Option<VersionLine>,
    /// Whether it was told that enough custodians hold that.
    pub committed: bool,
    /// Generations of the root key of which it holds a share.
    pub generations: Vec<u32>,
    /// Of the release policy in force.
    pub policy_epoch: u64,
    /// Sequence of the manifest in force.
    pub manifest_sequence: u32,
    /// Of the block overlay, 0 for none.
    pub overlay_epoch: u64,
    /// SHA-256 of the overlay's contents, where it showed one.
    pub overlay_sha256: Option<String>,
    /// Why its overlay is refused, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay_error: Option<String>,
    /// Whether an emulator's root is trusted.
    pub emulated_root: bool,
    /// Leases that have not ended.
    pub leases: Vec<LeaseLine>,
    /// Commands that wait.
    pub pending: Vec<CommandId>,
    /// Boots that wait for approval.
    pub waiting_releases: u32,
}

impl CustodianLine {
    pub(super) fn new(
        contact: &Contact,
        status: Option<&Result<KeyStoreStatus, SessionError>>,
        overlay: Option<&Result<Option<BlockOverlay>, SessionError>>,
        store: &KeyStore,
    ) -> Self {
        let custodian = contact.name().to_owned();
        match status {
            Some(Ok(status)) => {
                let view = View::new(contact, status, overlay, store);
                Self { custodian, view: Some(view), error: None }
            }
            Some(Err(error)) => Self { custodian, view: None, error: Some(error.to_string()) },
            None => Self { custodian, view: None, error: Some("no answer in time".to_owned()) },
        }
    }
}

impl View {
    fn new(
        contact: &Contact,
        status: &KeyStoreStatus,
        overlay: Option<&Result<Option<BlockOverlay>, SessionError>>,
        store: &KeyStore,
    ) -> Self {
        let overlay_of =
            |overlay: &BlockOverlay| hex::encode(holdfast_shared::sha256(&[&holdfast_shared::cbor::encode(overlay)]));
        let leases = status.leases.iter().map(|lease| {
            let checked = evidence::of_lease(lease, store, contact.custodian().id(), now_ms());
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
        Self {
            now_ms: status.now_ms,
            version: status.version.map(|version| VersionLine {
                version: version.version,
                blob_id: version.blob_id,
                recorded_ms: version.recorded_ms,
            }),
            committed: status.is_committed,
            generations: status.generations.clone(),
            policy_epoch: status.policy_epoch,
            manifest_sequence: status.manifest_sequence,
            overlay_epoch: status.overlay_epoch,
            overlay_sha256: overlay.and_then(|said| said.as_ref().ok()?.as_ref()).map(overlay_of),
            overlay_error: overlay.and_then(|said| said.as_ref().err()).map(ToString::to_string),
            emulated_root: status.emulated_root,
            leases: leases.collect(),
            pending: status.pending.clone(),
            waiting_releases: status.waiting_releases,
        }
    }
}

/// One line for each custodian.
pub(super) fn write_table(f: &mut fmt::Formatter<'_>, custodians: &[CustodianLine]) -> fmt::Result {
    let mut rows = vec![
        ["custodian", "version", "committed", "shares", "policy", "overlay", "manifest", "leases", "waiting"]
            .map(str::to_owned),
    ];
    for line in custodians {
        rows.push(match &line.view {
            None => {
                let mut row = [const { String::new() }; 9];
                let [name, version, ..] = &mut row;
                *name = printable(&line.custodian);
                "unreachable".clone_into(version);
                row
            }
            Some(view) => row(line, view),
        });
    }
    let mut widths = [0_usize; 9];
    for row in &rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.len()));
    }
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        write!(f, "\n{}", cells.join("  ").trim_end())?;
    }
    custodians.iter().try_for_each(|line| match &line.error {
        Some(error) => write!(f, "\n{}: {}", printable(&line.custodian), printable(error)),
        None => Ok(()),
    })
}

fn row(line: &CustodianLine, view: &View) -> [String; 9] {
    let generations: Vec<_> = view.generations.iter().map(ToString::to_string).collect();
    [
        printable(&line.custodian),
        view.version.as_ref().map_or("none".to_owned(), |version| version.version.to_string()),
        if view.committed { "yes" } else { "no" }.to_owned(),
        if generations.is_empty() { "none".to_owned() } else { generations.join(",") },
        view.policy_epoch.to_string(),
        view.overlay_epoch.to_string(),
        view.manifest_sequence.to_string(),
        view.leases.len().to_string(),
        format!("{}+{}", view.pending.len(), view.waiting_releases),
    ]
}
