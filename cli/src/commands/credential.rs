//! `holdfast credential`: the credentials with which KMS signs its requests.
//!
//! Guarantees: a secret is shown only where that was asked for, and imported only to a key that an accepted enclave of this key
//! store was attested to hold.

use core::fmt;
use std::path::Path;

use holdfast_shared::command::{self, Action, Outcome};
use holdfast_shared::hpke::PublicKey;
use holdfast_shared::ids::CommandId;
use holdfast_shared::keystore::CredentialRecord;
use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::sigv4::AccessKeyId;
use serde::Serialize;
use serde::ser::Serializer;

use super::Done;
use crate::evidence::{self, Evidence, EvidenceError};
use crate::files::{self, FileError};
use crate::moment;
use crate::session::{Completed, Session, SessionError, Wait};

/// A credential that came out of an enclave.
#[derive(Debug)]
pub struct Issued {
    /// The credential.
    pub credential: CredentialRecord,
    /// The command that made it, or the ceremony.
    pub command_id: CommandId,
    /// Who says so.
    pub evidence: Evidence,
}

impl Issued {
    fn new(completed: Completed) -> Result<Self, SessionError> {
        match completed.outcome {
            Outcome::Credential { credential } => {
                Ok(Self { credential, command_id: completed.command_id, evidence: completed.evidence })
            }
            _ => Err(SessionError::OtherOutcome),
        }
    }

    /// For a person or a program, with the secret or without.
    #[must_use]
    pub fn into_report(self, show_secret: bool) -> CredentialReport {
        CredentialReport {
            access_key_id: self.credential.access_key_id.to_string(),
            secret_access_key: show_secret.then_some(self.credential.secret_access_key),
            command_id: self.command_id,
            evidence: self.evidence,
        }
    }
}

/// A credential as it is printed.
#[derive(Debug, Serialize)]
pub struct CredentialReport {
    /// 20 to 30 characters.
    pub access_key_id: String,
    /// 43 to 64 characters, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_secret")]
    pub secret_access_key: Option<SecretBytes>,
    /// The command that made it, or the ceremony.
    pub command_id: CommandId,
    /// Who says so.
    pub evidence: Evidence,
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn serialize_secret<S: Serializer>(secret: &Option<SecretBytes>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.as_ref().map_or("", secret_text))
}

impl fmt::Display for CredentialReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "access key id      {}", self.access_key_id)?;
        match &self.secret_access_key {
            Some(secret) => writeln!(f, "secret access key  {}", secret_text(secret))?,
            None => writeln!(f, "secret access key  (not shown; give --show-secret, or --out FILE)")?,
        }
        write!(f, "  {}", self.evidence.summary())
    }
}

/// The characters of a secret access key. Every one that we make or accept is ASCII.
#[must_use]
pub fn secret_text(secret: &SecretBytes) -> &str {
    core::str::from_utf8(secret.expose()).unwrap_or_default()
}

/// The credential as `--xks-proxy-authentication-credential file://…` takes it.
#[must_use]
pub fn credential_json(credential: &CredentialRecord) -> SecretBytes {
    #[derive(Serialize)]
    struct File<'a> {
        #[serde(rename = "AccessKeyId")]
        access_key_id: &'a str,
        #[serde(rename = "RawSecretAccessKey")]
        raw_secret_access_key: &'a str,
    }
    let file = File {
        access_key_id: credential.access_key_id.as_str(),
        raw_secret_access_key: secret_text(&credential.secret_access_key),
    };
    SecretBytes::new(crate::home::to_json(&file).into_bytes())
}

/// Writes a credential into a new file that only its owner can read.
///
/// # Errors
/// [`FileError`].
pub fn write(issued: &Issued, path: &Path) -> Result<(), FileError> {
    files::write_new_secret(path, credential_json(&issued.credential).expose())
}

/// Opens the credential that the ceremony made, or the one that the command `command_id` made.
///
/// # Errors
/// [`SessionError`].
pub async fn show(session: &Session, command_id: Option<CommandId>, wait: Wait<'_>) -> Result<Issued, SessionError> {
    Issued::new(match command_id {
        None => session.ceremony(wait).await?,
        Some(command_id) => session.result_of(command_id, wait).await?,
    })
}

/// Has a credential made in the enclave.
///
/// # Errors
/// [`SessionError`].
pub async fn create(session: &Session, wait: Wait<'_>) -> Result<Issued, SessionError> {
    Issued::new(session.order(Action::CreateCredential, wait).await?)
}

/// Has a credential removed.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Refused`] when it is unknown or the last.
pub async fn remove(session: &Session, access_key_id: AccessKeyId, wait: Wait<'_>) -> Result<Done, SessionError> {
    let done = format!("credential {access_key_id} removed");
    Done::new(done, session.order(Action::RemoveCredential { access_key_id }, wait).await?)
}

/// Brings a credential of one's own into an enclave.
///
/// # Errors
/// [`SessionError`]; [`SessionError::NoLease`] when no enclave runs, [`SessionError::Command`] when the secret breaks a rule.
pub async fn import(
    session: &Session,
    access_key_id: AccessKeyId,
    secret_access_key: SecretBytes,
    wait: Wait<'_>,
) -> Result<Done, SessionError> {
    let recipient = attested_key(session).await?;
    let done = format!("credential {access_key_id} imported");
    let command_id = session.new_command_id()?;
    let credential = CredentialRecord { access_key_id, secret_access_key, created_ms: None };
    let key_store_id = session.store().manifest.id();
    let sealed = command::seal_credential(&credential, key_store_id, command_id, &recipient)?;
    let action = Action::ImportCredential { recipient, sealed };
    Done::new(done, session.order_as(command_id, action, wait).await?)
}

/// The key of the enclave that asked last, among those whose evidence holds.
pub(super) async fn attested_key(session: &Session) -> Result<PublicKey, SessionError> {
    let mut leases = session.status().await?.leases;
    leases.sort_by_key(|lease| std::cmp::Reverse(lease.seen_ms));
    let mut first_error: Option<EvidenceError> = None;
    for lease in &leases {
        match evidence::of_lease(lease, session.store(), session.custodian().id(), moment::now_ms()) {
            Ok((_, key)) => return Ok(key),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.map_or(SessionError::NoLease, SessionError::from))
}
