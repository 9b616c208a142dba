//! `holdfast certificate`: the TLS certificate of a key store's host name. Its key is made in the enclave and stays there.

use core::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_shared::command::{Action, Outcome};
use holdfast_shared::limits;
use holdfast_shared::manifest::DerCertificate;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;

use super::Done;
use crate::evidence::Evidence;
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
