//! `holdfast provenance`: everything from the ceremony on, in one file that anybody can verify.
//!
//! Guarantees: the verifier needs the file, the root of the attestation evidence, and nothing else; it trusts no custodian and no
//! folder. Each break of the chain is named. Refuses: to call a file whole whose first version or newest shares are missing.

use core::fmt;
use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_shared::attestation::{AWS_ROOT_SHA256, TrustRoot};
use holdfast_shared::cbor;
use holdfast_shared::ids::{CustodianId, KeyStoreId};
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::provenance::share_set_sha256;
use holdfast_shared::query::{CustodyRecord, HistoryEntry, ShareRecord};
use holdfast_shared::release::{HeldEntry, ShareSet};
use minicbor::bytes::ByteVec;
use serde::{Deserialize, Serialize};

use super::block::nobody;
use super::history::{self, VersionReport};
use crate::evidence::{self, Evidence};
use crate::home::{KeyStore, KnownPolicy, chain};
use crate::moment::{format_ms, now_ms};
use crate::output::printable;
use crate::session::{Session, SessionError};

/// Bytes of a file: some ten thousand versions.
pub const PROVENANCE_MAX: usize = 256 * 1024 * 1024;
const FORMAT: &str = "holdfast provenance v1";

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenanceFile {
    /// `holdfast provenance v1`.
    pub format: String,
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// When it was written, milliseconds since 1970.
    pub exported_ms: u64,
    /// The signed manifests, oldest first; base64, as everything that was signed.
    pub manifests: Vec<String>,
    /// The signed release policies after the first manifest's.
    pub policies: Vec<String>,
    /// Where the custodians' shares come from.
    pub shares: Vec<ShareOrigin>,
    /// The versions, oldest first.
    pub versions: Vec<Version>,
}

/// Where one custodian's share comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareOrigin {
    /// Whose.
    pub custodian_id: CustodianId,
    /// When it was deposited, milliseconds since 1970, as the custodian says.
    pub deposited_ms: u64,
    /// The public part of the sharing (CBOR).
    pub set: String,
    /// The attestation document of the enclave that deposited it.
    pub document: String,
}

/// One version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The register entry, signed by the home custodian.
    pub entry: String,
    /// Whether the custodian was told that enough hold it.
    pub committed: bool,
    /// The attestation document that vouches for it.
    pub evidence: String,
    /// The signed commands that made it.
    pub commands: Vec<String>,
}

/// Collects everything from the custodians.
///
/// # Errors
/// [`SessionError`].
pub async fn export(session: &Session) -> Result<ProvenanceFile, SessionError> {
    let custody = session.custody().await;
    if !custody.iter().any(|(_, said)| matches!(said, Some(Ok(_)))) {
        return Err(nobody(custody));
    }
    let answered = || custody.iter().filter_map(|(contact, said)| Some((contact, said.as_ref()?.as_ref().ok()?)));
    let store = session.learn(answered().map(|(_, record)| record))?;
    let versions = history::read(session.home_contact()?, 1).await?;
    let origins = answered().flat_map(|(contact, record): (_, &CustodyRecord)| {
        let custodian_id = contact.custodian().id();
        record.shares.iter().map(move |share| origin(custodian_id, share))
    });
    Ok(ProvenanceFile {
        format: FORMAT.to_owned(),
        key_store_id: store.manifest.id(),
        exported_ms: now_ms(),
        manifests: chain(&store.manifest).signed.iter().map(|signed| STANDARD.encode(&**signed)).collect(),
        policies: store
            .policies()
            .iter()
            .filter(|known| !known.signed.is_empty())
            .map(|known| STANDARD.encode(&known.signed))
            .collect(),
        shares: origins.collect(),
        versions: versions.iter().map(version).collect(),
    })
}

fn origin(custodian_id: CustodianId, share: &ShareRecord) -> ShareOrigin {
    ShareOrigin {
        custodian_id,
        deposited_ms: share.deposited_ms,
        set: STANDARD.encode(&*cbor::encode(&share.set)),
        document: STANDARD.encode(&share.document),
    }
}

fn version(entry: &HistoryEntry) -> Version {
    Version {
        entry: STANDARD.encode(&entry.entry.signed),
        committed: entry.entry.is_committed,
        evidence: STANDARD.encode(&entry.evidence),
        commands: entry.commands.iter().map(|command| STANDARD.encode(&**command)).collect(),
    }
}

/// What a file proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProvenanceReport {
    /// The key store, where its manifest was read.
    pub key_store_id: Option<KeyStoreId>,
    /// Its name.
    pub name: String,
    /// How many manifests hold.
    pub manifests: usize,
    /// How many release policies hold, the first manifest's among them.
    pub policies: usize,
    /// Whether its enclaves are an emulator's.
    pub emulated_root: bool,
    /// Where shares come from.
    pub shares: Vec<ShareReport>,
    /// Each version.
    pub versions: Vec<VersionReport>,
    /// What does not hold besides.
    pub breaks: Vec<String>,
    /// Whether every link holds.
    pub verified: bool,
}

/// Where a share comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShareReport {
    /// Whose.
    pub custodian: String,
    /// Generation of the root key.
    pub generation: u32,
    /// SHA-256 of its set, as versions name it.
    pub share_set_sha256: String,
    /// Which enclave deposited it.
    pub evidence: Option<Evidence>,
}

impl fmt::Display for ProvenanceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.key_store_id.map(|id| id.to_string()).unwrap_or_default();
        writeln!(f, "key store {} {id}", printable(&self.name))?;
        write!(
            f,
            "{} manifests, {} release policies, {} versions",
            self.manifests,
            self.policies,
            self.versions.len()
        )?;
        for share in &self.shares {
            write!(f, "\nshare of {}, generation {}", printable(&share.custodian), share.generation)?;
            if let Some(evidence) = &share.evidence {
                write!(f, "\n  {}", evidence.summary())?;
            }
        }
        self.versions.iter().try_for_each(|version| write!(f, "\n{version}"))?;
        self.breaks.iter().try_for_each(|text| write!(f, "\n! {}", printable(text)))?;
        if self.emulated_root {
            write!(f, "\n{}", crate::output::EMULATED_WARNING)?;
        }
        if self.verified {
            let first = self.versions.first().map(|version| format_ms(version.recorded_ms)).unwrap_or_default();
            write!(f, "\nVERIFIED: every link holds, from the ceremony of {first} on")
        } else {
            write!(f, "\nBROKEN: see what is marked with !")
        }
    }
}

/// Verifies a file under `root`.
#[must_use]
pub fn verify(bytes: &[u8], root: &TrustRoot, expected: Option<KeyStoreId>) -> ProvenanceReport {
    let mut report = ProvenanceReport {
        key_store_id: None,
        name: String::new(),
        manifests: 0,
        policies: 0,
        emulated_root: false,
        shares: Vec::new(),
        versions: Vec::new(),
        breaks: Vec::new(),
        verified: false,
    };
    match serde_json::from_slice::<ProvenanceFile>(bytes) {
        Ok(file) if file.format == FORMAT => judge(&file, root, expected, &mut report),
        Ok(file) => report.breaks.push(format!("the format is {:?}; this version reads {FORMAT:?}", file.format)),
        Err(error) => report.breaks.push(format!("not a provenance file: {error}")),
    }
    let versions_hold = report.versions.iter().all(|version| version.breaks.is_empty());
    report.verified = report.breaks.is_empty() && versions_hold;
    report
}

fn judge(file: &ProvenanceFile, root: &TrustRoot, expected: Option<KeyStoreId>, report: &mut ProvenanceReport) {
    let decode = |texts: &[String]| texts.iter().map(|text| STANDARD.decode(text)).collect::<Result<Vec<_>, _>>();
    let (Ok(manifests), Ok(policies)) = (decode(&file.manifests), decode(&file.policies)) else {
        report.breaks.push("a manifest or policy is not base64".to_owned());
        return;
    };
    let manifest = match VerifiedManifest::verify_chain(manifests.iter().map(Vec::as_slice)) {
        Ok(manifest) => manifest,
        Err(error) => return report.breaks.push(error.to_string()),
    };
    let id = manifest.id();
    (report.key_store_id, report.manifests) = (Some(id), manifests.len());
    report.name.clone_from(&manifest.manifest().name);
    let wanted = manifest.manifest().release_policy.trust_root;
    report.emulated_root = wanted != AWS_ROOT_SHA256;
    if id != file.key_store_id || expected.is_some_and(|expected| expected != id) {
        report.breaks.push(format!("the manifests are those of key store {id}, not of the one that was expected"));
    }
    if root.fingerprint() != wanted {
        let text = format!(
            "the manifest trusts the root with SHA-256 {}, and the one given has {}; give it with --trust-root",
            hex::encode(wanted),
            hex::encode(root.fingerprint())
        );
        return report.breaks.push(text);
    }
    let mut store = KeyStore::new(manifest, root.clone());
    for (place, signed) in policies.iter().enumerate() {
        if KnownPolicy::open(signed, &store.manifest).is_none() {
            report
                .breaks
                .push(format!("release policy {} is not signed by enough administrators", place.saturating_add(1)));
        }
    }
    store.learn_policies(policies.iter().map(Vec::as_slice));
    report.policies = store.policies().len();
    judge_shares(file, &store, report);
    judge_versions(file, &store, report);
}

fn judge_shares(file: &ProvenanceFile, store: &KeyStore, report: &mut ProvenanceReport) {
    let custodians = store.manifest.manifest().custodians.iter();
    let names: Vec<_> = custodians.map(|custodian| (custodian.id(), custodian.name.clone())).collect();
    for origin in &file.shares {
        let name = names
            .iter()
            .find(|(id, _)| *id == origin.custodian_id)
            .map_or_else(|| origin.custodian_id.to_string(), |(_, name)| name.clone());
        let set = STANDARD.decode(&origin.set).ok().and_then(|set| cbor::decode::<ShareSet>(&set).ok());
        let (Some(set), Ok(document)) = (set, STANDARD.decode(&origin.document)) else {
            report.breaks.push(format!("the share of {name} is not described by a share set and a document"));
            continue;
        };
        let evidence = evidence::of_deposit(&document, store, origin.custodian_id);
        if let Err(error) = &evidence {
            report.breaks.push(format!("the share of {name}, generation {}: {error}", set.generation));
        }
        report.shares.push(ShareReport {
            custodian: name,
            generation: set.generation,
            share_set_sha256: hex::encode(share_set_sha256(&set)),
            evidence: evidence.ok(),
        });
    }
}

fn judge_versions(file: &ProvenanceFile, store: &KeyStore, report: &mut ProvenanceReport) {
    let decode = |text: &String| STANDARD.decode(text).unwrap_or_default();
    let entries: Vec<_> = file
        .versions
        .iter()
        .map(|version| HistoryEntry {
            entry: HeldEntry { signed: decode(&version.entry), is_committed: version.committed },
            evidence: decode(&version.evidence),
            commands: version.commands.iter().map(|command| ByteVec::from(decode(command))).collect(),
        })
        .collect();
    report.versions = history::verify(store, &entries);
    match report.versions.first() {
        None => report.breaks.push("there is no version: the ceremony has not taken place".to_owned()),
        Some(first) if first.version != 1 => {
            report.breaks.push(format!("the chain begins with version {}, not with the ceremony", first.version));
        }
        Some(_) => {}
    }
    judge_sets(report);
}

/// What was deposited stands in no signature of its own: the versions, which enclaves attested, name the sets that count.
fn judge_sets(report: &mut ProvenanceReport) {
    let named: BTreeSet<_> = report.versions.iter().filter_map(|version| version.share_set_sha256.as_deref()).collect();
    let strange = report.shares.iter().filter(|share| !named.contains(share.share_set_sha256.as_str()));
    report.breaks.extend(strange.map(|share| {
        format!(
            "the share of {}, generation {}, is of a set that no version names; where the root key is being changed, export once more",
            share.custodian, share.generation
        )
    }));
    // Shares of before are deleted with their root key; those of the newest version must be there.
    let newest = report.versions.last().and_then(|newest| newest.share_set_sha256.clone());
    if let Some(newest) = newest
        && !report.shares.iter().any(|share| share.share_set_sha256 == newest)
    {
        report.breaks.push("no share of the newest version's root key is on record".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_provenance_file_is_named() {
        let root = TrustRoot::aws();
        let empty = ProvenanceFile {
            format: FORMAT.to_owned(),
            key_store_id: KeyStoreId([1; 32]),
            exported_ms: 0,
            manifests: Vec::new(),
            policies: Vec::new(),
            shares: Vec::new(),
            versions: Vec::new(),
        };
        let json = |file: &ProvenanceFile| serde_json::to_vec(file).unwrap();
        let table = [
            (b"".to_vec(), "not a provenance file"),
            (b"{}".to_vec(), "not a provenance file"),
            (json(&ProvenanceFile { format: "v2".to_owned(), ..empty.clone() }), "the format is"),
            (json(&empty), "manifest"),
            (json(&ProvenanceFile { manifests: vec!["?".to_owned()], ..empty.clone() }), "not base64"),
            (json(&ProvenanceFile { manifests: vec!["AAAA".to_owned()], ..empty }), "signed envelope"),
        ];
        for (bytes, expected) in table {
            let report = verify(&bytes, &root, None);
            assert!(!report.verified, "{expected}");
            assert!(report.breaks.iter().any(|text| text.contains(expected)), "{expected}: {:?}", report.breaks);
        }
    }
}
