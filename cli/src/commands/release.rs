//! `holdfast release`, `holdfast releases`: which boots wait for a share, and what was released and refused.
//!
//! Guarantees: a boot is approved only after its attestation document was verified here, under the manifest's root and the release
//! policy in force, as this boot's.

use core::fmt;
use std::collections::BTreeMap;

use holdfast_shared::attestation::Measurements;
use holdfast_shared::ids::{AdministratorId, BootId};
use holdfast_shared::policy::{self, ReleaseApproval};
use holdfast_shared::query::{Answer, Question, ReleaseEntry, WaitingRelease};
use holdfast_shared::{api, labels, limits};
use ring::rand::SystemRandom;
use serde::Serialize;

use super::block::nobody;
use super::manifest::write_measurements;
use super::spread::{self, Spread};
use crate::evidence::{self, Evidence};
use crate::home::KeyStore;
use crate::moment::{format_ms, now_ms};
use crate::output::printable;
use crate::session::{Contact, Session, SessionError, Wait, with_each};
use crate::words::administrator_name;

/// Boots that wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WaitingReport {
    /// By boot.
    pub waiting: Vec<WaitingBoot>,
}

/// A boot that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WaitingBoot {
    /// The boot.
    pub boot_id: BootId,
    /// What this tool found when it verified the boot's document itself; none where no custodian's holds.
    pub evidence: Option<Evidence>,
    /// At which custodians it waits.
    pub at: Vec<WaitingAt>,
}

/// Where a boot waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WaitingAt {
    /// The custodian.
    pub custodian: String,
    /// When it asked first, milliseconds since 1970.
    pub first_ms: u64,
    /// When it asked last, milliseconds since 1970.
    pub last_ms: u64,
    /// Who approved it.
    pub approved_by: Vec<String>,
    /// How many approvals it needs.
    pub needed: u8,
    /// Why the document does not hold, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_error: Option<String>,
}

impl fmt::Display for WaitingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.waiting.is_empty() {
            return write!(f, "no boot waits for approval");
        }
        for (place, boot) in self.waiting.iter().enumerate() {
            let end = if place == 0 { "" } else { "\n" };
            write!(f, "{end}{boot}")?;
        }
        Ok(())
    }
}

impl fmt::Display for WaitingBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot {}", self.boot_id)?;
        match &self.evidence {
            Some(evidence) => {
                write!(f, "\n  {}", evidence.summary())?;
                write_measurements(f, &evidence.measurements)?;
            }
            None => write!(f, "\n  EVIDENCE REFUSED: do not approve it")?,
        }
        for at in &self.at {
            let (has, needed) = (at.approved_by.len(), at.needed);
            let by = if has == 0 { String::new() } else { format!(" ({})", printable(&at.approved_by.join(", "))) };
            let asked = format_ms(at.last_ms);
            write!(f, "\n  {}: has {has} of {needed} approvals{by}, asked last at {asked}", printable(&at.custodian))?;
            if let Some(error) = &at.evidence_error {
                write!(f, "; EVIDENCE REFUSED: {}", printable(error))?;
            }
        }
        Ok(())
    }
}

/// Asks custodians which boots wait.
///
/// # Errors
/// [`SessionError::Nobody`].
pub async fn waiting(session: &Session) -> Result<WaitingReport, SessionError> {
    let heard = with_each(session.contacts(), session.contacts().len(), |contact| async move {
        match contact.ask(Question::WaitingReleases).await? {
            Answer::WaitingReleases(waiting) => Ok(waiting),
            _ => Err(SessionError::OtherAnswer),
        }
    })
    .await;
    if !heard.iter().any(|(_, said)| matches!(said, Some(Ok(_)))) {
        return Err(nobody(heard));
    }
    let store = session.refreshed().await.unwrap_or_else(|_| session.store().clone());
    let mut boots = BTreeMap::new();
    for (contact, said) in &heard {
        for waiting in said.iter().flatten().flatten() {
            let boot = boots.entry(waiting.boot_id).or_insert_with(|| WaitingBoot {
                boot_id: waiting.boot_id,
                evidence: None,
                at: Vec::new(),
            });
            note(boot, waiting, contact, &store);
        }
    }
    Ok(WaitingReport { waiting: boots.into_values().collect() })
}

fn note(boot: &mut WaitingBoot, waiting: &WaitingRelease, contact: &Contact, store: &KeyStore) {
    let custodian = contact.custodian();
    let judged = evidence::of_release(&waiting.document, waiting.boot_id, store, custodian.id(), now_ms());
    let manifest = store.manifest.manifest();
    let name = |id: &AdministratorId| administrator_name(manifest, *id);
    boot.at.push(WaitingAt {
        custodian: contact.name().to_owned(),
        first_ms: waiting.first_ms,
        last_ms: waiting.last_ms,
        approved_by: waiting.approved_by.iter().map(name).collect(),
        needed: waiting.needed,
        evidence_error: judged.as_ref().err().map(ToString::to_string),
    });
    if let Ok((evidence, _)) = judged {
        boot.evidence.get_or_insert(evidence);
    }
}

/// Finds a waiting boot by the beginning of its id.
///
/// # Errors
/// What to give instead.
pub fn find<'a>(waiting: &'a WaitingReport, prefix: &str) -> Result<&'a WaitingBoot, String> {
    let wanted = prefix.to_ascii_lowercase();
    let mut meant =
        waiting.waiting.iter().filter(|boot| wanted.len() >= 4 && boot.boot_id.to_string().starts_with(&wanted));
    match (meant.next(), meant.next()) {
        (Some(boot), None) if boot.evidence.is_some() => Ok(boot),
        (Some(boot), None) => {
            Err(format!("the attestation document of the boot {} is refused; it is not approved", boot.boot_id))
        }
        (None, _) => Err(format!("no boot that waits begins with {prefix}; see them with: holdfast release list")),
        (Some(_), Some(_)) => Err(format!("more than one boot begins with {prefix}; give more digits")),
    }
}

/// An approval that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReleaseApproved {
    /// The boot.
    pub boot_id: BootId,
    /// Until then it may obtain releases, milliseconds since 1970.
    pub expires_ms: u64,
    /// Who has it.
    #[serde(flatten)]
    pub spread: Spread,
}

impl fmt::Display for ReleaseApproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "approved boot {} until {}\n{}", self.boot_id, format_ms(self.expires_ms), self.spread)
    }
}

/// Approves a boot at every custodian.
///
/// # Errors
/// [`SessionError`].
pub async fn approve(
    session: &Session,
    boot_id: BootId,
    life_ms: u64,
    wait: Wait<'_>,
) -> Result<ReleaseApproved, SessionError> {
    let expires_ms = now_ms().saturating_add(life_ms.min(limits::APPROVAL_LIFE_MAX_MS));
    let approval = ReleaseApproval {
        label: labels::APPROVAL.to_owned(),
        key_store_id: session.store().manifest.id(),
        boot_id,
        expires_ms,
    };
    let signed = policy::approve(&approval, &session.keys().signing_key, &SystemRandom::new())?;
    // So many shares bring a boot up.
    let spread = spread::to_all(session.contacts(), session.quorum().answers(), wait, move |contact| {
        let signed = signed.clone();
        async move { contact.send(api::APPROVALS, signed).await }
    })
    .await?;
    Ok(ReleaseApproved { boot_id, expires_ms, spread })
}

/// A custodian's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordReport {
    /// Whose.
    pub custodian: String,
    /// Newest first.
    pub records: Vec<RecordLine>,
}

/// A release, or a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordLine {
    /// Grows with each entry.
    pub id: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Whether a lease was granted.
    pub released: bool,
    /// What was released, or why not.
    pub reason: String,
    /// Epoch of the policy by which it was decided.
    pub policy_epoch: u64,
    /// As the custodian proved it.
    pub module_id: Option<String>,
    /// As the custodian proved it.
    pub boot_id: Option<BootId>,
    /// As the custodian proved them.
    pub measurements: Option<Measurements>,
}

impl From<ReleaseEntry> for RecordLine {
    fn from(entry: ReleaseEntry) -> Self {
        Self {
            id: entry.id,
            at_ms: entry.at_ms,
            released: entry.is_released,
            reason: entry.reason,
            policy_epoch: entry.policy_epoch,
            module_id: entry.module_id,
            boot_id: entry.boot_id,
            measurements: entry.measurements,
        }
    }
}

impl fmt::Display for RecordReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record of {}: {} entries", printable(&self.custodian), self.records.len())?;
        for line in &self.records {
            let what = if line.released { "released" } else { "-       " };
            write!(f, "\n{} {what} {}", format_ms(line.at_ms), printable(&line.reason))?;
            if let Some(boot) = &line.boot_id {
                write!(f, " (boot {boot}, {})", printable(line.module_id.as_deref().unwrap_or("unproven")))?;
            }
        }
        Ok(())
    }
}

/// Reads a custodian's record, newest first, at most `limit` entries.
///
/// # Errors
/// [`SessionError`].
pub async fn records(session: &Session, custodian: Option<&str>, limit: usize) -> Result<RecordReport, SessionError> {
    let contact = session.contact(custodian)?;
    let (mut records, mut before) = (Vec::new(), 0);
    while records.len() < limit {
        let Answer::Records(page) = contact.ask(Question::Records(before)).await? else {
            return Err(SessionError::OtherAnswer);
        };
        let Some(oldest) = page.last().map(|entry| entry.id) else { break };
        // One that counts upwards would keep us here.
        if before != 0 && oldest >= before {
            return Err(SessionError::OtherAnswer);
        }
        before = oldest;
        records.extend(page.into_iter().map(RecordLine::from));
        if before <= 1 {
            break;
        }
    }
    records.truncate(limit);
    Ok(RecordReport { custodian: contact.name().to_owned(), records })
}
