//! `holdfast audit`: settings of the audit log, and what custodians say of it. What is done with the log itself is in [`crate::audit`].

use core::fmt;
use std::collections::BTreeSet;

use holdfast_shared::audit::{AuditMode, AuditSettings, Auditor, Terms, segment};
use holdfast_shared::cbor::Message as _;
use holdfast_shared::command::{Action, Outcome};
use holdfast_shared::hpke::PublicKey;
use holdfast_shared::ids::BootId;
use holdfast_shared::query::{Answer, AuditHead, Question};
use serde::{Deserialize, Serialize};

use super::Done;
use crate::audit::heads::{CustodianHeads, HeadLine, HeadsFile};
use crate::evidence::Evidence;
use crate::moment::now_ms;
use crate::session::{Completed, Contact, Session, SessionError, Wait, with_each};

/// The settings in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Whether they were set, or are those of a key store without settings.
    pub is_set: bool,
    /// Who reads besides administrators, or instead of them.
    pub auditors: Vec<AuditorLine>,
    /// Whether administrators read.
    pub administrators_read: bool,
    /// `relaxed` or `strict`.
    pub mode: &'static str,
    /// How old the oldest record may be that too few custodians witnessed.
    pub max_unwitnessed_seconds: u32,
    /// How many such records there may be.
    pub max_unwitnessed_records: u64,
    /// Who says so.
    pub evidence: Evidence,
}

/// An auditor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditorLine {
    /// For people.
    pub name: String,
    /// SHA-256 of the public key.
    pub key_sha256: String,
}

/// The public part of an auditor's keys, as a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditorFile {
    /// For people.
    pub name: String,
    /// Segment keys are encrypted to it.
    pub encryption_key: PublicKey,
}

impl fmt::Display for AuditorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::home::to_json(self).trim_end())
    }
}

impl From<AuditorFile> for Auditor {
    fn from(file: AuditorFile) -> Self {
        Self { name: file.name, encryption_key: file.encryption_key }
    }
}

impl AuditReport {
    fn new(completed: Completed) -> Result<Self, SessionError> {
        let Outcome::Settings { audit, .. } = completed.outcome else { return Err(SessionError::OtherOutcome) };
        let Terms { mode, max_unwitnessed } = Terms::of(audit.as_ref());
        let line = |auditor: &Auditor| AuditorLine {
            name: auditor.name.clone(),
            key_sha256: hex::encode(segment::fingerprint(&auditor.encryption_key)),
        };
        Ok(Self {
            is_set: audit.is_some(),
            auditors: audit.iter().flat_map(|settings| &settings.auditors).map(line).collect(),
            administrators_read: audit.as_ref().is_none_or(|settings| settings.administrators_read),
            mode: match mode {
                AuditMode::Relaxed => "relaxed",
                AuditMode::Strict => "strict",
            },
            max_unwitnessed_seconds: max_unwitnessed.seconds,
            max_unwitnessed_records: max_unwitnessed.records,
            evidence: completed.evidence,
        })
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.administrators_read {
            writeln!(f, "reader       every administrator")?;
        }
        for auditor in &self.auditors {
            writeln!(f, "reader       {} (key SHA-256 {})", auditor.name, auditor.key_sha256)?;
        }
        writeln!(f, "mode         {}{}", self.mode, if self.is_set { "" } else { " (default)" })?;
        writeln!(
            f,
            "unwitnessed  at most {} seconds and {} records",
            self.max_unwitnessed_seconds, self.max_unwitnessed_records
        )?;
        write!(f, "  {}", self.evidence.summary())
    }
}

/// Puts settings together.
///
/// # Errors
/// The rule that they break.
pub fn settings(settings: AuditSettings) -> Result<AuditSettings, String> {
    match settings.auditors.iter().find(|auditor| !auditor.encryption_key.is_on_curve()) {
        Some(auditor) => Err(format!("the key of auditor {} is no point of the curve P-384", auditor.name)),
        None => settings.check().map(|()| settings).map_err(str::to_owned),
    }
}

/// Changes the settings, or goes back to the default.
///
/// # Errors
/// [`SessionError`].
pub async fn set(session: &Session, settings: Option<AuditSettings>, wait: Wait<'_>) -> Result<Done, SessionError> {
    let done = if settings.is_some() { "audit settings changed" } else { "audit settings cleared" };
    Done::new(done.to_owned(), session.order(Action::SetAudit { settings }, wait).await?)
}

/// Asks an enclave for the settings.
///
/// # Errors
/// [`SessionError`].
pub async fn show(session: &Session, wait: Wait<'_>) -> Result<AuditReport, SessionError> {
    AuditReport::new(session.order(Action::ShowSettings, wait).await?)
}

/// Asks every custodian how far the logs have come. `told` hears of those that do not say.
///
/// # Errors
/// [`SessionError::Nobody`] when none does.
pub async fn heads(session: &Session, told: &dyn Fn(&str)) -> Result<HeadsFile, SessionError> {
    let taken_ms = now_ms();
    let all = session.contacts().len();
    let heard = with_each(session.contacts(), all, |contact| async move { heads_of(&contact).await }).await;
    let mut custodians = Vec::new();
    let mut failures = Vec::new();
    for (contact, said) in heard {
        match said {
            Some(Ok((heads, running))) => custodians.push(CustodianHeads {
                name: contact.name().to_owned(),
                custodian_id: contact.custodian().id(),
                running,
                heads: heads.into_iter().map(HeadLine::from).collect(),
            }),
            Some(Err(error)) => failures.push(format!("{}: {error}", contact.name())),
            None => failures.push(format!("{}: no answer", contact.name())),
        }
    }
    if custodians.is_empty() {
        return Err(SessionError::Nobody(failures.join("; ")));
    }
    for failure in &failures {
        told(failure);
    }
    Ok(HeadsFile { key_store_id: Some(session.store().manifest.id()), taken_ms, custodians })
}

async fn heads_of(contact: &Contact) -> Result<(Vec<AuditHead>, Vec<BootId>), SessionError> {
    let Answer::Status(status) = contact.ask(Question::Status).await? else { return Err(SessionError::OtherAnswer) };
    let running: BTreeSet<BootId> = status.leases.iter().map(|lease| lease.boot_id).collect();
    let mut heads: Vec<AuditHead> = Vec::new();
    loop {
        let after = heads.last().map(|head| head.boot_id);
        let Answer::AuditHeads(page) = contact.ask(Question::AuditHeads(after)).await? else {
            return Err(SessionError::OtherAnswer);
        };
        // Each page begins after the last: a custodian that repeats itself does not keep us.
        match page.first() {
            Some(first) if after.is_none_or(|after| first.boot_id > after) => heads.extend(page),
            Some(_) => return Err(SessionError::OtherAnswer),
            None => return Ok((heads, running.into_iter().collect())),
        }
    }
}
