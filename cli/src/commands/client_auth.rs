//! `holdfast client-auth`: which client certificates the key store accepts (mTLS).
//!
//! AWS deprecated mTLS for external key stores in March 2026; it is off unless it is set. The signature of each request is checked
//! either way.

use core::fmt;

use holdfast_shared::cbor::Message;
use holdfast_shared::command::{Action, Outcome};
use holdfast_shared::keystore::ClientAuthentication;
use holdfast_shared::limits;
use holdfast_shared::manifest::DerCertificate;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;

use super::Done;
use crate::evidence::Evidence;
use crate::session::{Completed, Session, SessionError, Wait};

/// What whoever sets it is told.
pub const DEPRECATED: &str =
    "AWS deprecated mTLS for external key stores in March 2026; KMS authenticates itself by SigV4 in any case";

/// Which client certificates are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientAuthenticationReport {
    /// Nothing: clients are asked for no certificate.
    pub client_authentication: Option<ClientAuthenticationLine>,
    /// Who says so.
    pub evidence: Evidence,
}

/// By whom client certificates are issued, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientAuthenticationLine {
    /// SHA-256 of each authority's certificate.
    pub authorities_sha256: Vec<String>,
    /// Accepted subject common names.
    pub subject_common_names: Vec<String>,
}

impl From<ClientAuthentication> for ClientAuthenticationLine {
    fn from(settings: ClientAuthentication) -> Self {
        let sha256 = |authority: &DerCertificate| hex::encode(holdfast_shared::sha256(&[&authority.0]));
        Self {
            authorities_sha256: settings.authorities.iter().map(sha256).collect(),
            subject_common_names: settings.subject_common_names,
        }
    }
}

impl ClientAuthenticationReport {
    fn new(completed: Completed) -> Result<Self, SessionError> {
        match completed.outcome {
            Outcome::Settings { client_authentication, .. } => Ok(Self {
                client_authentication: client_authentication.map(ClientAuthenticationLine::from),
                evidence: completed.evidence,
            }),
            _ => Err(SessionError::OtherOutcome),
        }
    }
}

impl fmt::Display for ClientAuthenticationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.client_authentication {
            Some(line) => {
                for authority in &line.authorities_sha256 {
                    writeln!(f, "authority    SHA-256 {authority}")?;
                }
                for name in &line.subject_common_names {
                    writeln!(f, "common name  {name}")?;
                }
            }
            None => writeln!(f, "no client certificate is asked for")?,
        }
        write!(f, "  {}", self.evidence.summary())
    }
}

/// Demands client certificates, or demands none.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Refused`] when an authority is no certificate.
pub async fn set(
    session: &Session,
    settings: Option<ClientAuthentication>,
    wait: Wait<'_>,
) -> Result<Done, SessionError> {
    let done = if settings.is_some() {
        "client authentication set: connections without an accepted certificate are refused"
    } else {
        "client authentication cleared"
    };
    Done::new(done.to_owned(), session.order(Action::SetClientAuthentication { settings }, wait).await?)
}

/// Reads authorities' certificates in PEM.
///
/// # Errors
/// [`AuthoritiesError`].
pub fn parse_authorities(pem: &[u8]) -> Result<Vec<DerCertificate>, AuthoritiesError> {
    let authorities = CertificateDer::pem_slice_iter(pem)
        .map(|certificate| certificate.map(|certificate| DerCertificate(certificate.to_vec())))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| AuthoritiesError::NotPem)?;
    match authorities.len() {
        0 => Err(AuthoritiesError::NotPem),
        1..=limits::CLIENT_AUTHORITIES_MAX => Ok(authorities),
        _ => Err(AuthoritiesError::TooMany),
    }
}

/// Why a file does not name authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthoritiesError {
    /// Not PEM, or without a certificate.
    #[error("is not a PEM file with certificates")]
    NotPem,
    /// More than may be trusted.
    #[error("has more than 8 certificates; name only those that issue the clients' certificates")]
    TooMany,
}

/// Puts settings together.
///
/// # Errors
/// The rule that they break.
pub fn settings(
    authorities: Vec<DerCertificate>,
    subject_common_names: Vec<String>,
) -> Result<ClientAuthentication, String> {
    let settings = ClientAuthentication { authorities, subject_common_names };
    settings.check().map(|()| settings).map_err(str::to_owned)
}

/// Asks an enclave for the settings.
///
/// # Errors
/// [`SessionError`].
pub async fn show(session: &Session, wait: Wait<'_>) -> Result<ClientAuthenticationReport, SessionError> {
    ClientAuthenticationReport::new(session.order(Action::ShowSettings, wait).await?)
}
