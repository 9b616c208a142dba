//! `holdfast attest`: whether a TLS connection ends inside the published image, which holds a certain key store.
//!
//! Guarantees: "verified" is said of the connection over which the document came, after every check of [`proof::Check`] by the
//! verifier that custodians use; what stands in the way is named by the first rule that is broken. Assumes: the id of the key store
//! and the measurements come by another way than this connection. Refuses: a TLS certificate that no authority vouches for, as any
//! client would; there is no way around that.

mod report;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_client::{Connect, HttpsAnswer, HttpsClient, HttpsError, Tcp, is_usable_root};
use holdfast_shared::attestation::TrustRoot;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::limits::ATTESTATION_DOCUMENT_MAX;
use holdfast_shared::proof::{self, ProofQuery};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

pub use self::report::{AttestReport, CheckLine, Finding, Proven, Reason};
use super::measurements::AcceptedSets;
use crate::arguments::{HttpsUrl, Resolution};
use crate::files::{self, FileError};
use crate::moment;

/// What is said where an emulator's root is trusted.
pub const EMULATED_WARNING: &str =
    "WARNING: --trust-root names an EMULATED attestation root, NOT that of AWS: whoever has its key can prove anything";

/// Bytes of a file of certificate authorities: those of an operating system have a quarter of it.
const AUTHORITIES_MAX: usize = 1024 * 1024;
/// Longest time for the request.
const TIMEOUT: Duration = Duration::from_secs(20);
/// What an enclave answers while others ask it for documents, too; how often it is asked again, and after which time.
const TOO_MANY: u16 = 429;
const ATTEMPTS: u8 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Why nothing was asked.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// The address belongs to another name or port than the URL's.
    #[error("--resolve says where {asked} is, and the URL is of {url}: name the URL's host and port")]
    OtherAddress {
        /// Whose address was given.
        asked: String,
        /// Whose is needed.
        url: String,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not the certificates that it should hold.
    #[error("{path}: is not a PEM file with certificates", path = path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
    },
    /// This system has no certificate authorities.
    #[error("this system names no certificate authorities{0}: give a file of them with --ca FILE")]
    NoAuthorities(String),
    /// The URL or the authorities cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// No randomness.
    #[error("the operating system gave no randomness")]
    NoRandomness,
}

/// Who must vouch for the TLS certificate.
#[derive(Clone, Debug)]
pub struct Authorities {
    roots: Vec<Vec<u8>>,
    /// For people.
    name: String,
}

impl Authorities {
    /// Those of a PEM file, and no others.
    ///
    /// # Errors
    /// [`AttestError`].
    pub fn read(path: &Path) -> Result<Self, AttestError> {
        let pem = files::read(path, AUTHORITIES_MAX)?;
        let refused = || AttestError::Authorities { path: path.to_owned() };
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let roots: Vec<_> = all.map_err(|_| refused())?.into_iter().map(|root| root.to_vec()).collect();
        if roots.is_empty() {
            return Err(refused());
        }
        Ok(Self { roots, name: format!("the authorities in {}", path.display()) })
    }

    /// The certificates, in DER.
    pub fn roots(&self) -> impl Iterator<Item = &[u8]> {
        self.roots.iter().map(Vec::as_slice)
    }

    /// Those of the operating system.
    ///
    /// # Errors
    /// [`AttestError::NoAuthorities`].
    pub fn of_this_system() -> Result<Self, AttestError> {
        let found = rustls_native_certs::load_native_certs();
        let all = found.certs.into_iter().map(|root| root.to_vec());
        let roots: Vec<_> = all.filter(|root| is_usable_root(root)).collect();
        if roots.is_empty() {
            let first = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(AttestError::NoAuthorities(first));
        }
        Ok(Self { name: format!("the {} authorities of this system", roots.len()), roots })
    }
}

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Where.
    pub url: HttpsUrl,
    /// The key store that should be held there.
    pub key_store_id: KeyStoreId,
    /// The images that may hold it.
    pub accepted: AcceptedSets,
    /// Who must vouch for the TLS certificate.
    pub authorities: Authorities,
    /// The address, if not the one that the DNS names.
    pub resolution: Option<Resolution>,
    /// The root of the evidence.
    pub trust_root: TrustRoot,
}

/// Connects where it was told to.
struct Resolved(Option<Resolution>);

impl Connect for Resolved {
    type Stream = tokio::net::TcpStream;

    async fn connect(&self, address: &str) -> io::Result<Self::Stream> {
        match &self.0 {
            Some(resolution) => Tcp.connect(&resolution.address.to_string()).await,
            None => Tcp.connect(address).await,
        }
    }
}

/// Asks for a document over one connection, and verifies it together with that connection.
///
/// # Errors
/// [`AttestError`], when nothing could be asked; a proof that fails is a report.
pub async fn attest(question: &Question) -> Result<AttestReport, AttestError> {
    if let Some(resolution) = question.resolution.as_ref().filter(|found| found.asked != question.url.address()) {
        return Err(AttestError::OtherAddress { asked: resolution.asked.clone(), url: question.url.address() });
    }
    let roots = question.authorities.roots.iter().map(Vec::as_slice);
    let connector = Resolved(question.resolution.clone());
    let client = HttpsClient::by_system_clock(connector, &question.url.address(), roots)
        .map_err(|error| AttestError::Unusable(error.to_string()))?;
    let mut rest = ATTEMPTS;
    loop {
        let mut nonce = [0; 32];
        SystemRandom::new().fill(&mut nonce).map_err(|_| AttestError::NoRandomness)?;
        let target = ProofQuery { nonce, key_store: Some(question.key_store_id) }.path_and_query();
        let finding = match client.get(&target, ATTESTATION_DOCUMENT_MAX, TIMEOUT).await {
            Ok(answer) if answer.status.as_u16() == TOO_MANY && rest > 1 => {
                rest = rest.saturating_sub(1);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Ok(answer) => judge(question, &nonce, &answer),
            Err(error) => {
                let explanation = format!("{error}{}", error.remedy());
                Finding::Unanswered { reason: reason_of(&error), explanation }
            }
        };
        return Ok(AttestReport::new(question, finding));
    }
}

fn reason_of(error: &HttpsError) -> Reason {
    if error.is_of_certificate() { Reason::Certificate } else { Reason::Unreachable }
}

/// An error of the API on the wire.
#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "errorName")]
    name: String,
    #[serde(rename = "errorMessage")]
    message: String,
}

fn judge(question: &Question, nonce: &[u8; 32], answer: &HttpsAnswer) -> Finding {
    let key = answer.certificates.first().and_then(|leaf| proof::tls_public_key_sha256(leaf));
    let Some(tls_public_key_sha256) = key else {
        let explanation = "the TLS certificate cannot be read".to_owned();
        return Finding::Unanswered { reason: Reason::Certificate, explanation };
    };
    match answer.status.as_u16() {
        200 => {}
        404 => return Finding::Refused { reason: Reason::NoEndpoint, explanation: refusal(answer) },
        _ => return Finding::Refused { reason: Reason::Refused, explanation: refusal(answer) },
    }
    let expected = proof::Expected {
        nonce,
        key_store_id: question.key_store_id,
        accepted: &question.accepted.sets,
        tls_public_key_sha256,
        root: &question.trust_root,
        now_ms: moment::now_ms(),
    };
    match proof::verify(&answer.body, &expected) {
        Ok(verified) => Finding::Verified(Box::new(verified)),
        Err(error) => Finding::Disproved { error, tls_public_key_sha256 },
    }
}

/// What the other side said instead of a document.
fn refusal(answer: &HttpsAnswer) -> String {
    let status = answer.status.as_u16();
    match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(Refusal { name, message }) => format!("status {status}, {name}: {message}"),
        Err(_) => format!("status {status}"),
    }
}
