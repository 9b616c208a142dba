//! `holdfast history`: a key store's versions, each proven.
//!
//! Guarantees: an entry is shown without a break only if the home custodian signed it, it follows the one before it, an enclave that
//! was accepted then attested exactly it, and each command that the enclave names bears as many signatures as it needed. Everything
//! else is named as what it is: a gap, a command that is not on record, evidence that does not hold.

use core::fmt;

use holdfast_shared::command::{self, Command};
use holdfast_shared::ids::{AdministratorId, BlobId, CommandId, KeyStoreId};
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::provenance::VersionUserData;
use holdfast_shared::query::{Answer, HistoryEntry, Question};
use holdfast_shared::register::{self, RegisterEntry};
use serde::Serialize;

use crate::evidence::{self, Evidence};
use crate::home::{KeyStore, prefixes};
use crate::moment::format_ms;
use crate::output::printable;
use crate::session::{Contact, Session, SessionError};
use crate::words;

/// Versions that are read at most.
const VERSIONS_MAX: usize = 100_000;

/// Versions, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryReport {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// Whose record it is.
    pub said_by: String,
    /// Oldest first.
    pub versions: Vec<VersionReport>,
    /// Whether every link holds.
    pub verified: bool,
}

/// A version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VersionReport {
    /// From 1; 0 where the entry could not be read.
    pub version: u64,
    /// Its blob.
    pub blob_id: Option<BlobId>,
    /// The home custodian's time, in milliseconds since 1970.
    pub recorded_ms: u64,
    /// Whether the custodian was told that enough hold it.
    pub committed: bool,
    /// Sequence of the manifest in force.
    pub manifest_sequence: Option<u32>,
    /// SHA-256 of the set of shares of its root key.
    pub share_set_sha256: Option<String>,
    /// Which enclave made it.
    pub evidence: Option<Evidence>,
    /// What was ordered.
    pub commands: Vec<CommandLine>,
    /// What does not hold.
    pub breaks: Vec<String>,
}

/// A command that made a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CommandLine {
    /// Its id.
    pub command_id: CommandId,
    /// In words; none where it is not on record.
    pub order: Option<String>,
    /// Who signed it.
    pub signed_by: Vec<String>,
    /// When, milliseconds since 1970.
    pub issued_ms: Option<u64>,
}

impl fmt::Display for HistoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key store {}, as {} has it on record", self.key_store_id, printable(&self.said_by))?;
        self.versions.iter().try_for_each(|version| write!(f, "\n{version}"))?;
        if self.verified {
            write!(f, "\nVERIFIED: every link of these {} versions holds", self.versions.len())
        } else {
            write!(f, "\nBROKEN: see what is marked with !")
        }
    }
}

impl fmt::Display for VersionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let committed = if self.committed { "" } else { ", not committed" };
        write!(f, "version {} of {}{committed}", self.version, format_ms(self.recorded_ms))?;
        if let Some(evidence) = &self.evidence {
            write!(f, "\n  {}", evidence.summary())?;
        }
        for command in &self.commands {
            let order = command.order.as_deref().unwrap_or("(not on record here)");
            let by = if command.signed_by.is_empty() {
                String::new()
            } else {
                format!(", signed by {}", command.signed_by.join(", "))
            };
            write!(f, "\n  {} {}{}", command.command_id, printable(order), printable(&by))?;
        }
        if self.commands.is_empty() && self.breaks.is_empty() {
            let what = if self.version == 1 { "the ceremony" } else { "made by an enclave without an order" };
            write!(f, "\n  {what}")?;
        }
        self.breaks.iter().try_for_each(|text| write!(f, "\n! {}", printable(text)))
    }
}

/// Reads a custodian's history from a version on.
///
/// # Errors
/// [`SessionError`].
pub async fn read(contact: &Contact, from: u64) -> Result<Vec<HistoryEntry>, SessionError> {
    let (mut all, mut from) = (Vec::new(), from.max(1));
    while all.len() < VERSIONS_MAX {
        let Answer::History(page) = contact.ask(Question::History(from)).await? else {
            return Err(SessionError::OtherAnswer);
        };
        let Some(last) = page.last() else { break };
        // Only to know where to go on; it is verified with the others.
        let next = claimed(last).map_or(u64::MAX, |entry| entry.version.saturating_add(1));
        if next <= from {
            return Err(SessionError::OtherAnswer);
        }
        from = next;
        all.extend(page);
    }
    Ok(all)
}

fn claimed(entry: &HistoryEntry) -> Option<RegisterEntry> {
    let envelope: holdfast_shared::signature::Envelope = holdfast_shared::cbor::decode(&entry.entry.signed).ok()?;
    holdfast_shared::cbor::decode(envelope.unverified_payload()).ok()
}

/// Reads and verifies a custodian's history.
///
/// # Errors
/// [`SessionError`].
pub async fn history(session: &Session, custodian: Option<&str>, from: u64) -> Result<HistoryReport, SessionError> {
    let contact = session.contact(custodian)?;
    // The one before the first proves its link.
    let entries = read(contact, from.saturating_sub(1)).await?;
    let store = session.refreshed().await?;
    let mut versions = verify(&store, &entries);
    versions.retain(|version| version.version >= from || version.version == 0);
    let verified = versions.iter().all(|version| version.breaks.is_empty());
    Ok(HistoryReport { key_store_id: store.manifest.id(), said_by: contact.name().to_owned(), versions, verified })
}

/// Verifies versions as a chain, oldest first.
#[must_use]
pub fn verify(store: &KeyStore, entries: &[HistoryEntry]) -> Vec<VersionReport> {
    let manifests = prefixes(&store.manifest);
    let mut before: Option<RegisterEntry> = None;
    let mut reports = Vec::with_capacity(entries.len());
    for entry in entries {
        let (report, read) = one(store, &manifests, entry, before.as_ref());
        reports.push(report);
        before = read.or(before);
    }
    reports
}

fn one(
    store: &KeyStore,
    manifests: &[VerifiedManifest],
    entry: &HistoryEntry,
    before: Option<&RegisterEntry>,
) -> (VersionReport, Option<RegisterEntry>) {
    let mut report = VersionReport {
        version: 0,
        blob_id: None,
        recorded_ms: 0,
        committed: entry.entry.is_committed,
        manifest_sequence: None,
        share_set_sha256: None,
        evidence: None,
        commands: Vec::new(),
        breaks: Vec::new(),
    };
    let Some(home) = store.manifest.home_custodian() else { return (report, None) };
    let read = match register::open(&entry.entry.signed, store.manifest.id(), &home.signing_key) {
        Ok(read) => read,
        Err(error) => {
            report.version = claimed(entry).map_or(0, |entry| entry.version);
            report.breaks.push(format!("the entry is not the home custodian's: {error}"));
            return (report, None);
        }
    };
    (report.version, report.blob_id, report.recorded_ms) = (read.version, Some(read.blob_id), read.recorded_ms);
    report.breaks.extend(link(before, &read));
    match evidence::of_version(&entry.evidence, store) {
        Err(error) => report.breaks.push(format!("no accepted enclave vouches for it: {error}")),
        Ok((evidence, said)) => {
            report.evidence = Some(evidence);
            report.manifest_sequence = Some(said.manifest.sequence);
            report.share_set_sha256 = Some(hex::encode(said.share_set_sha256));
            report.breaks.extend(vouched(&read, &said, store));
            let signed: Vec<_> = entry.commands.iter().map(|command| command.as_slice()).collect();
            commands(&mut report, &said, &signed, manifests);
        }
    }
    (report, Some(read))
}

/// What is wrong between an entry and the one before it.
fn link(before: Option<&RegisterEntry>, read: &RegisterEntry) -> Option<String> {
    let before = before?;
    match read.version.checked_sub(before.version) {
        Some(1) if read.previous == Some(before.blob_id) => None,
        Some(1) => Some(format!("does not follow version {}: another blob is named as the one before", before.version)),
        None | Some(0) => Some(format!("comes after version {}, out of order", before.version)),
        Some(_) => Some(format!(
            "versions {} to {} are missing",
            before.version.saturating_add(1),
            read.version.saturating_sub(1)
        )),
    }
}

/// What the enclave said, against what the home custodian signed.
fn vouched(read: &RegisterEntry, said: &VersionUserData, store: &KeyStore) -> Option<String> {
    let is_this = said.key_store_id == store.manifest.id()
        && (said.version, said.blob_id, said.previous) == (read.version, read.blob_id, read.previous);
    if !is_this {
        return Some("the enclave vouches for another version".to_owned());
    }
    let (named, known) = (said.manifest, store.manifest.sequence());
    if store.manifest.lineage().any(|manifest| manifest == said.manifest) {
        None
    } else if named.sequence > known {
        Some(format!("the enclave names manifest {}, of which {known} are known", named.sequence))
    } else {
        Some(format!("the enclave names another manifest {} than the one known here", named.sequence))
    }
}

fn commands(report: &mut VersionReport, said: &VersionUserData, signed: &[&[u8]], manifests: &[VerifiedManifest]) {
    for command_id in &said.commands {
        let mut of_id = signed.iter().filter(|signed| command::claimed_id(signed) == Ok(*command_id));
        let Some(signed) = of_id.next() else {
            report.commands.push(CommandLine {
                command_id: *command_id,
                order: None,
                signed_by: Vec::new(),
                issued_ms: None,
            });
            continue;
        };
        match opened(signed, said.manifest.sequence, manifests) {
            Ok((command, signed_by)) => report.commands.push(CommandLine {
                command_id: *command_id,
                order: Some(words::order(&command.action)),
                signed_by,
                issued_ms: Some(command.issued_ms),
            }),
            Err(error) => report.breaks.push(format!("the command {command_id}: {error}")),
        }
    }
    for signed in signed {
        if !command::claimed_id(signed).is_ok_and(|id| said.commands.contains(&id)) {
            report.breaks.push("the custodian names a command that the enclave does not".to_owned());
        }
    }
}

/// A command and its signers, with as many signatures as it needed under the manifest in force, or under the one before: the order to
/// adopt a manifest is signed by those before it.
fn opened(signed: &[u8], sequence: u32, manifests: &[VerifiedManifest]) -> Result<(Command, Vec<String>), String> {
    let in_force = manifests
        .iter()
        .filter(|manifest| manifest.sequence() == sequence || Some(manifest.sequence()) == sequence.checked_sub(1));
    let mut reason = "no manifest of that sequence is known".to_owned();
    for manifest in in_force {
        let contents = manifest.manifest();
        match command::open(signed, manifest.id(), &contents.administrators) {
            Ok((command, signers)) if signers.len() >= usize::from(command.action.threshold(&contents.thresholds)) => {
                let name = |id: &AdministratorId| words::administrator_name(contents, *id);
                return Ok((command, signers.iter().map(name).collect()));
            }
            Ok((command, signers)) => {
                let needed = command.action.threshold(&contents.thresholds);
                reason = format!("needed {needed} signatures and has {}", signers.len());
            }
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}
