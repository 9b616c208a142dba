//! `holdfast tls`: key and certificate of a key store's host name. The key is made in the enclave and stays there.

use core::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use der::Decode;
use holdfast_shared::cbor::Message as _;
use holdfast_shared::command::{Action, Outcome, RenewalState};
use holdfast_shared::keystore::AcmeOrder;
use holdfast_shared::limits;
use holdfast_shared::manifest::DerCertificate;
use holdfast_shared::renewal::Validity;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;

use super::Done;
use crate::evidence::Evidence;
use crate::moment::{format_ms, now_ms};
use crate::session::{Completed, Session, SessionError, Wait};

/// Why a file is not a certificate chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not PEM, or without a certificate.
    #[error("is not a PEM file with certificates")]
    NotPem,
    /// Too many certificates, or too large ones.
    #[error("must have 1 to 6 certificates of at most 8 KiB, leaf first")]
    OutOfBounds,
}

/// A certificate signing request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SigningRequest {
    /// PKCS #10 in PEM.
    pub pem: String,
    /// Which enclave made it.
    pub evidence: Evidence,
}

impl SigningRequest {
    /// The request in an outcome.
    ///
    /// # Errors
    /// [`SessionError::OtherOutcome`].
    pub fn new(completed: Completed) -> Result<Self, SessionError> {
        match completed.outcome {
            Outcome::CertificateRequest { der } => {
                Ok(Self { pem: pem("CERTIFICATE REQUEST", &der), evidence: completed.evidence })
            }
            _ => Err(SessionError::OtherOutcome),
        }
    }
}

impl fmt::Display for SigningRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.pem.trim_end())
    }
}

/// Asks an enclave for a certificate signing request.
///
/// # Errors
/// [`SessionError`].
pub async fn request(session: &Session, wait: Wait<'_>) -> Result<SigningRequest, SessionError> {
    SigningRequest::new(session.order(Action::RequestCertificate, wait).await?)
}

/// Has a certificate chain installed.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Refused`] when the leaf is not for the enclave's key and host name.
pub async fn install(session: &Session, chain: Vec<DerCertificate>, wait: Wait<'_>) -> Result<Done, SessionError> {
    let done = format!("certificate for {} installed", session.store().manifest.manifest().host_name);
    Done::new(done, session.order(Action::InstallCertificate { chain }, wait).await?)
}

/// Asks an enclave for the public part of the TLS identity.
///
/// # Errors
/// [`SessionError`].
pub async fn show(session: &Session, wait: Wait<'_>) -> Result<TlsReport, SessionError> {
    TlsReport::new(session.order(Action::ShowTls, wait).await?)
}

/// Puts a standing order together.
///
/// # Errors
/// The rule that it breaks.
pub fn standing_order(
    directory: String,
    (directory_roots, issuing_roots): (Vec<DerCertificate>, Vec<DerCertificate>),
    contacts: Vec<String>,
    until_ms: u64,
) -> Result<AcmeOrder, String> {
    let order = AcmeOrder { directory, directory_roots, contacts, until_ms, issuing_roots };
    order.check().map(|()| order).map_err(str::to_owned)
}

/// Has certificates renewed by a standing order, or by none.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Refused`] when the order ends in the past or too late.
pub async fn set_renewal(session: &Session, order: Option<AcmeOrder>, wait: Wait<'_>) -> Result<Done, SessionError> {
    let done = match &order {
        Some(order) => format!("enclaves renew the certificate themselves until {}", format_ms(order.until_ms)),
        None => "the standing order is withdrawn; the certificate stays".to_owned(),
    };
    Done::new(done, session.order(Action::SetRenewal { order }, wait).await?)
}

/// The public part of a TLS identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsReport {
    /// The name that KMS calls.
    pub host_name: String,
    /// SHA-256 of the key's `SubjectPublicKeyInfo` in hexadecimal: to be looked for in logs of Certificate Transparency.
    pub public_key_sha256: String,
    /// The certificate in service, if one was installed.
    pub certificate: Option<CertificateLine>,
    /// The standing order to renew it, if there is one.
    pub standing_order: Option<StandingOrderLine>,
    /// Who says so.
    pub evidence: Evidence,
}

/// The first certificate of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateLine {
    /// SHA-256 of the certificate in hexadecimal.
    pub sha256: String,
    /// Distinguished name (RFC 4514); empty where the names stand in the extension alone.
    pub subject: String,
    /// Distinguished name of who signed it.
    pub issuer: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// From when on it should be renewed, after two thirds of its life; RFC 3339.
    pub renew_from: String,
    /// Whether that moment is over.
    pub is_due: bool,
    /// Certificates that are sent, this one included.
    pub chain_length: usize,
}

/// A standing order and how it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StandingOrderLine {
    /// URL of the authority's directory.
    pub directory: String,
    /// SHA-256 of each root of the directory's HTTPS certificate, in hexadecimal.
    pub directory_roots_sha256: Vec<String>,
    /// SHA-256 of each root to which its certificates must lead, in hexadecimal.
    pub issuing_roots_sha256: Vec<String>,
    /// Whom the authority may write to.
    pub contacts: Vec<String>,
    /// When it ends; RFC 3339.
    pub until: String,
    /// The account's URL, for `accounturi` in CAA records (RFC 8657); nothing before the first attempt.
    pub account: Option<String>,
    /// Whether an enclave is at it.
    pub is_running: bool,
    /// Attempts that failed in a row.
    pub failures: u32,
    /// Why the last one failed.
    pub last_failure: Option<String>,
    /// When the next one may begin after a failure; RFC 3339.
    pub next_attempt: Option<String>,
}

impl From<RenewalState> for StandingOrderLine {
    fn from(RenewalState { order, progress }: RenewalState) -> Self {
        let sha256 = |root: &DerCertificate| hex::encode(holdfast_shared::sha256(&[&root.0]));
        Self {
            directory: order.directory,
            directory_roots_sha256: order.directory_roots.iter().map(sha256).collect(),
            issuing_roots_sha256: order.issuing_roots.iter().map(sha256).collect(),
            contacts: order.contacts,
            until: format_ms(order.until_ms),
            account: progress.account,
            is_running: progress.attempt.is_some_and(|attempt| now_ms() < attempt.ends_ms()),
            failures: progress.failures,
            next_attempt: progress.last_failure.as_ref().map(|_| format_ms(progress.again_ms)),
            last_failure: progress.last_failure,
        }
    }
}

impl fmt::Display for StandingOrderLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "by order     {} until {}", self.directory, self.until)?;
        match &self.account {
            Some(account) => writeln!(f, "account      {account}")?,
            None => writeln!(f, "account      none yet")?,
        }
        if self.is_running {
            writeln!(f, "attempt      an enclave is at it")?;
        }
        if let (Some(failure), Some(next)) = (&self.last_failure, &self.next_attempt) {
            writeln!(f, "failed       {} times; next try from {next}: {failure}", self.failures)?;
        }
        Ok(())
    }
}

impl CertificateLine {
    /// Reads the first certificate of a chain; nothing if there is none.
    fn new(chain: &[DerCertificate]) -> Option<Self> {
        let leaf = chain.first()?;
        let validity = Validity::of(leaf)?;
        let parsed = x509_cert::Certificate::from_der(&leaf.0).ok()?;
        let tbs = parsed.tbs_certificate();
        let renew_from_ms = validity.renew_from_ms();
        Some(Self {
            sha256: hex::encode(holdfast_shared::sha256(&[&leaf.0])),
            subject: printable(&tbs.subject().to_string()),
            issuer: printable(&tbs.issuer().to_string()),
            not_before: format_ms(validity.not_before_ms),
            not_after: format_ms(validity.not_after_ms),
            renew_from: format_ms(renew_from_ms),
            is_due: now_ms() >= renew_from_ms,
            chain_length: chain.len(),
        })
    }
}

impl TlsReport {
    /// The identity in an outcome.
    ///
    /// # Errors
    /// [`SessionError::OtherOutcome`].
    pub fn new(completed: Completed) -> Result<Self, SessionError> {
        match completed.outcome {
            Outcome::Tls { host_name, public_key_sha256, chain, renewal } => Ok(Self {
                host_name: host_name.to_string(),
                public_key_sha256: hex::encode(public_key_sha256),
                certificate: CertificateLine::new(&chain),
                standing_order: renewal.map(|state| StandingOrderLine::from(*state)),
                evidence: completed.evidence,
            }),
            _ => Err(SessionError::OtherOutcome),
        }
    }
}

impl fmt::Display for TlsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "host name    {}", self.host_name)?;
        writeln!(f, "public key   SHA-256 {}", self.public_key_sha256)?;
        match &self.certificate {
            None => writeln!(f, "certificate  none; get one with: holdfast tls csr, holdfast tls install")?,
            Some(line) => {
                writeln!(f, "certificate  SHA-256 {}", line.sha256)?;
                let subject = if line.subject.is_empty() { "none; see the alternative names" } else { &line.subject };
                writeln!(f, "subject      {subject}")?;
                writeln!(f, "issuer       {}", line.issuer)?;
                writeln!(f, "valid        {} to {}", line.not_before, line.not_after)?;
                let due = if line.is_due { ", and is due" } else { "" };
                writeln!(f, "renewal      from {}{due}", line.renew_from)?;
            }
        }
        match &self.standing_order {
            Some(order) => write!(f, "{order}")?,
            None => writeln!(f, "by order     no; set one with: holdfast tls auto")?,
        }
        write!(f, "  {}", self.evidence.summary())
    }
}

/// What a CA wrote, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// Reads a chain from PEM, leaf first. Other blocks (comments, parameters) are left out, as ACME clients write them.
///
/// # Errors
/// [`ChainError`].
pub fn parse_chain(text: &[u8]) -> Result<Vec<DerCertificate>, ChainError> {
    let chain = CertificateDer::pem_slice_iter(text)
        .map(|certificate| certificate.map(|der| DerCertificate(der.to_vec())))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| ChainError::NotPem)?;
    match chain.len() {
        0 => Err(ChainError::NotPem),
        1..=limits::CERTIFICATE_CHAIN_MAX if chain.iter().all(|der| der.0.len() <= limits::CERTIFICATE_DER_MAX) => {
            Ok(chain)
        }
        _ => Err(ChainError::OutOfBounds),
    }
}

/// PEM (RFC 7468): lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (index, character) in STANDARD.encode(der).chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text + &format!("\n-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains() {
        let one = pem("CERTIFICATE", &[0x30; 100]);
        assert_eq!(parse_chain(one.as_bytes()).unwrap(), [DerCertificate(vec![0x30; 100])]);
        let with_text = format!("subject=CN=x\n{one}\nissuer=CN=y\n{one}");
        assert_eq!(parse_chain(with_text.as_bytes()).unwrap().len(), 2);
        assert_eq!(parse_chain(one.repeat(7).as_bytes()), Err(ChainError::OutOfBounds));
        assert_eq!(parse_chain(pem("CERTIFICATE", &[0; 8193]).as_bytes()), Err(ChainError::OutOfBounds));
        for bad in [
            "",
            "nothing",
            "-----BEGIN CERTIFICATE-----\nMAA=\n",
            "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n",
        ] {
            assert_eq!(parse_chain(bad.as_bytes()), Err(ChainError::NotPem), "{bad:?}");
        }
    }
}
