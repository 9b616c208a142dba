//! What custodians say of the logs, in one file, so that verification needs no network.
//!
//! Guarantees: heads are used only where a boot's attestation document, verified under the manifest's trust root against the
//! measurements that were accepted when it was made, vouches for the audit key that signed them; a boot runs if more custodians say so
//! than may lie. Assumes: the file is the administrator's own, as `holdfast audit heads --out` wrote it: that nothing was left out of it rests on the custodians that were asked.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_shared::audit::{Checkpoint, LogId};
use holdfast_shared::ids::{BootId, CustodianId, KeyStoreId};
use holdfast_shared::query::AuditHead;
use serde::{Deserialize, Serialize};

use super::findings::{Finding, Kind};
use crate::evidence;
use crate::home::KeyStore;

/// Bytes of a file of heads: some thousand boots at several custodians, each with an attestation document.
pub const HEADS_FILE_MAX: usize = 512 * 1024 * 1024;

/// What custodians say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadsFile {
    /// The key store.
    pub key_store_id: Option<KeyStoreId>,
    /// When they were asked, milliseconds since 1970.
    pub taken_ms: u64,
    /// One for each that answered.
    pub custodians: Vec<CustodianHeads>,
}

/// What one custodian says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustodianHeads {
    /// Its name in the manifest.
    pub name: String,
    /// Its id.
    pub custodian_id: CustodianId,
    /// Boots that hold a lease, so that their logs need not end.
    pub running: Vec<BootId>,
    /// Its heads.
    pub heads: Vec<HeadLine>,
}

/// One head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadLine {
    /// The boot.
    pub boot_id: BootId,
    /// The signed note.
    pub checkpoint: String,
    /// The key that signed it, in hexadecimal.
    pub audit_public_key: String,
    /// The attestation document that vouches for the key, in hexadecimal.
    pub evidence: String,
    /// When the custodian received it, milliseconds since 1970.
    pub received_ms: u64,
    /// A checkpoint that contradicts an earlier one.
    pub contradiction: Option<String>,
}

impl From<AuditHead> for HeadLine {
    fn from(head: AuditHead) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            boot_id: head.boot_id,
            checkpoint: text(head.checkpoint),
            audit_public_key: hex::encode(head.audit_public_key),
            evidence: hex::encode(head.evidence),
            received_ms: head.received_ms,
            contradiction: head.contradiction.map(text),
        }
    }
}

/// What is proven of a boot.
#[derive(Clone, Debug, Default)]
pub struct Witnessed {
    /// The audit key that an attestation document vouches for.
    pub audit_public_key: Option<[u8; 32]>,
    /// Checkpoints that it signed.
    pub checkpoints: Vec<Checkpoint>,
}

/// What is proven of all boots.
#[derive(Clone, Debug, Default)]
pub struct Heads {
    /// How many custodians answered.
    pub custodians: usize,
    /// By boot.
    pub boots: BTreeMap<BootId, Witnessed>,
    /// Boots that hold a lease, by so many custodians that one of them is honest.
    pub running: BTreeSet<BootId>,
}

/// Finds the audit key for which a boot's document vouches.
pub type Voucher<'a> = dyn Fn(&[u8], BootId, CustodianId) -> Option<[u8; 32]> + Sync + 'a;

/// By the manifest's trust root and the release policies that are known.
pub fn voucher(store: &KeyStore) -> impl Fn(&[u8], BootId, CustodianId) -> Option<[u8; 32]> + Sync {
    |document, boot_id, custodian_id| evidence::of_audit_key(document, boot_id, store, custodian_id).ok()
}

impl Heads {
    /// Proves what a file says. What does not hold becomes a finding. `believed` custodians are one more than may lie.
    #[must_use]
    pub fn prove(
        file: &HeadsFile,
        key_store_id: KeyStoreId,
        believed: usize,
        vouch: &Voucher<'_>,
    ) -> (Self, Vec<Finding>) {
        let (mut heads, mut findings) = (Self { custodians: file.custodians.len(), ..Self::default() }, Vec::new());
        let mut leased = BTreeMap::<BootId, BTreeSet<CustodianId>>::new();
        for custodian in &file.custodians {
            for boot_id in &custodian.running {
                leased.entry(*boot_id).or_default().insert(custodian.custodian_id);
            }
            for line in &custodian.heads {
                let witnessed = heads.boots.entry(line.boot_id).or_default();
                let key = key_of(line, custodian.custodian_id, vouch);
                let finding = match key {
                    None => {
                        Some(format!("{}: its attestation document does not vouch for its audit key", custodian.name))
                    }
                    Some(key) => {
                        witnessed.audit_public_key = Some(key);
                        let log = LogId { key_store_id, boot_id: line.boot_id };
                        let texts = [Some(&line.checkpoint), line.contradiction.as_ref()];
                        let verified = texts
                            .into_iter()
                            .flatten()
                            .map(|text| Checkpoint::verify(text, &key).ok().filter(|checkpoint| checkpoint.log == log));
                        match verified.collect::<Option<Vec<_>>>() {
                            Some(checkpoints) => {
                                witnessed.checkpoints.extend(checkpoints);
                                None
                            }
                            None => Some(format!("{}: its head is not signed by the boot's audit key", custodian.name)),
                        }
                    }
                };
                findings.extend(finding.map(|what| Finding::new(Kind::UnprovenKey, line.boot_id, what)));
            }
        }
        let is_running = |(_, by): &(BootId, BTreeSet<CustodianId>)| by.len() >= believed;
        heads.running = leased.into_iter().filter(is_running).map(|(boot_id, _)| boot_id).collect();
        (heads, findings)
    }
}

/// The document that vouches for `key` as a boot's audit key, of the first custodian that has one.
pub(super) fn evidence_of(file: &HeadsFile, boot_id: BootId, key: &[u8; 32], vouch: &Voucher<'_>) -> Option<Vec<u8>> {
    let lines = file.custodians.iter().flat_map(|custodian| {
        let of_boot = custodian.heads.iter().filter(|line| line.boot_id == boot_id);
        of_boot.map(|line| (line, custodian.custodian_id))
    });
    lines.into_iter().find_map(|(line, custodian_id)| {
        let document = hex::decode(&line.evidence).ok()?;
        (vouch(&document, boot_id, custodian_id)? == *key).then_some(document)
    })
}

fn key_of(line: &HeadLine, custodian_id: CustodianId, vouch: &Voucher<'_>) -> Option<[u8; 32]> {
    let key: [u8; 32] = hex::decode(&line.audit_public_key).ok()?.try_into().ok()?;
    vouch(&hex::decode(&line.evidence).ok()?, line.boot_id, custodian_id).filter(|vouched| *vouched == key)
}
