//! What `holdfast attest` shows: each check, whether it holds, and what it says.

use core::fmt;

use holdfast_shared::attestation::Measurements;
use holdfast_shared::ids::{BlobId, KeyStoreId};
use holdfast_shared::proof::{Check, ProofError, VerifiedConnection};
use serde::Serialize;

use super::Question;
use crate::moment::format_ms;
use crate::output::printable;

/// What came of a request.
#[derive(Debug)]
pub enum Finding {
    /// No connection, or no HTTP on it.
    Unanswered {
        /// Why.
        reason: Reason,
        /// In words.
        explanation: String,
    },
    /// An answer that is no document.
    Refused {
        /// Why.
        reason: Reason,
        /// In words.
        explanation: String,
    },
    /// A document that does not prove it.
    Disproved {
        /// The first rule that is broken.
        error: ProofError,
        /// SHA-256 of the public key of this connection.
        tls_public_key_sha256: [u8; 32],
    },
    /// A document that proves it.
    Verified(Box<VerifiedConnection>),
}

/// Why a connection is not proven, each with its own way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// There is no connection.
    Unreachable,
    /// No authority vouches for the TLS certificate.
    Certificate,
    /// There is no such endpoint, or none for this key store.
    NoEndpoint,
    /// The endpoint gives no document now.
    Refused,
    /// What was answered is no document.
    Malformed,
    /// The document is not signed under the root: anybody could have made it.
    HostMade,
    /// The document answers another request, or an earlier time.
    Old,
    /// The enclave runs in debug mode.
    Debug,
    /// Another image, configuration or key store.
    Foreign,
    /// The document was made for another purpose.
    OtherPurpose,
    /// The document is genuine, and this connection ends elsewhere.
    Diverted,
}

impl Reason {
    fn of(error: &ProofError) -> Self {
        match error.check() {
            Check::Document => Self::Malformed,
            Check::Root if error.is_of_validity() => Self::Old,
            Check::Root => Self::HostMade,
            Check::Nonce | Check::Age => Self::Old,
            Check::Mode => Self::Debug,
            Check::Image | Check::KeyStore => Self::Foreign,
            Check::Purpose => Self::OtherPurpose,
            Check::Connection => Self::Diverted,
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Unreachable => "there is no connection, so nothing is known",
            Self::Certificate => {
                "no authority vouches for the TLS certificate: if it is of a private one, name that with --ca; otherwise somebody else \
                 answers"
            }
            Self::NoEndpoint => "nothing there speaks for this key store: no such endpoint, or another key store's",
            Self::Refused => "the endpoint gives no document at the moment",
            Self::Malformed => "the answer is no attestation document",
            Self::HostMade => "the document is not signed under the root: whoever runs the host could have made it",
            Self::Old => "the document was not made for this request, now: a recording that is played again",
            Self::Debug => "the enclave runs in debug mode: whoever runs the host can read its memory",
            Self::Foreign => "it is not the image, the configuration or the key store that it should be",
            Self::OtherPurpose => {
                "the document was made for another purpose, and passed off as a proof of this connection"
            }
            Self::Diverted => {
                "the document is genuine, and this connection ends elsewhere: whoever ends it passed the document on, and reads all \
                 that comes over it"
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "unreachable",
            Self::Certificate => "certificate",
            Self::NoEndpoint => "no-endpoint",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::HostMade => "host-made",
            Self::Old => "old",
            Self::Debug => "debug",
            Self::Foreign => "foreign",
            Self::OtherPurpose => "other-purpose",
            Self::Diverted => "diverted",
        })
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckLine {
    /// Its name.
    pub check: &'static str,
    /// Whether it holds; nothing if one before it does not.
    pub holds: Option<bool>,
    /// What it says, or why it does not hold.
    pub says: String,
}

/// What a verified document says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proven {
    /// The NSM's name for itself: instance and enclave.
    pub module_id: String,
    /// When the document was made, milliseconds since 1970.
    pub made_ms: u64,
    /// What the enclave measures.
    pub measurements: Measurements,
    /// The key store's version.
    pub version: u64,
    /// The sealed key store of that version.
    pub blob_id: BlobId,
    /// SHA-256 of the DER of the connection's public key.
    pub tls_public_key_sha256: String,
}

/// Every check, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttestReport {
    /// Whether all of them hold.
    pub verified: bool,
    /// Why not.
    pub reason: Option<Reason>,
    /// Where.
    pub url: String,
    /// The key store that should be held there.
    pub key_store_id: KeyStoreId,
    /// The image's name, where the file of measurements has one.
    pub image: Option<String>,
    /// Whether the root of the evidence is that of AWS Nitro Enclaves.
    pub root_is_aws: bool,
    /// SHA-256 of the root, in DER.
    pub root_sha256: String,
    /// The checks, in order.
    pub checks: Vec<CheckLine>,
    /// What is proven, if all of it is.
    pub proven: Option<Proven>,
}

/// The checks that come before those of the document.
const CERTIFICATE: &str = "certificate";
const ANSWER: &str = "answer";

const fn name(check: Check) -> &'static str {
    match check {
        Check::Document => "document",
        Check::Root => "root",
        Check::Nonce => "nonce",
        Check::Age => "age",
        Check::Mode => "mode",
        Check::Image => "image",
        Check::Purpose => "purpose",
        Check::KeyStore => "key store",
        Check::Connection => "connection",
    }
}

impl AttestReport {
    pub(super) fn new(question: &Question, finding: Finding) -> Self {
        let mut lines = Lines::default();
        let tls = format!("for {}, vouched for by {}", question.url.host, question.authorities.name);
        let mut proven = None;
        let reason = match finding {
            Finding::Unanswered { reason, explanation } => {
                lines.fails(CERTIFICATE, explanation);
                Some(reason)
            }
            Finding::Refused { reason, explanation } => {
                lines.holds(CERTIFICATE, tls);
                lines.fails(ANSWER, explanation);
                Some(reason)
            }
            Finding::Disproved { error, tls_public_key_sha256 } => {
                lines.holds(CERTIFICATE, tls);
                lines.holds(ANSWER, "200".to_owned());
                for check in Check::ALL.into_iter().take_while(|check| *check < error.check()) {
                    lines.holds(name(check), meaning(question, check).to_owned());
                }
                let own = match error {
                    ProofError::Connection { .. } => {
                        format!("; this connection's is {}", hex::encode(tls_public_key_sha256))
                    }
                    _ => String::new(),
                };
                lines.fails(name(error.check()), format!("{error}{own}"));
                Some(Reason::of(&error))
            }
            Finding::Verified(verified) => {
                lines.holds(CERTIFICATE, tls);
                lines.holds(ANSWER, "200".to_owned());
                for check in Check::ALL {
                    lines.holds(name(check), meaning(question, check).to_owned());
                }
                proven = Some(Proven::of(&verified));
                None
            }
        };
        Self {
            verified: proven.is_some(),
            reason,
            url: question.url.to_string(),
            key_store_id: question.key_store_id,
            image: question.accepted.name.clone(),
            root_is_aws: question.trust_root.is_aws(),
            root_sha256: hex::encode(question.trust_root.fingerprint()),
            checks: lines.complete(),
            proven,
        }
    }
}

impl Proven {
    fn of(verified: &VerifiedConnection) -> Self {
        let (attestation, user_data) = (verified.attestation(), verified.user_data());
        Self {
            module_id: attestation.module_id().to_owned(),
            made_ms: attestation.timestamp_ms(),
            measurements: attestation.measurements().clone(),
            version: user_data.version,
            blob_id: user_data.blob_id,
            tls_public_key_sha256: hex::encode(user_data.tls_public_key_sha256),
        }
    }
}

/// What is known once a check holds.
fn meaning(question: &Question, check: Check) -> &'static str {
    match check {
        Check::Document => "an attestation document as an NSM writes it",
        Check::Root if question.trust_root.is_aws() => {
            "signed under the root of AWS Nitro Enclaves: no host can make one"
        }
        Check::Root => "signed under an EMULATED root, NOT that of AWS: this proves nothing but that the parts fit",
        Check::Nonce => "made for this request: no recording",
        Check::Age => "made within the last two minutes",
        Check::Mode => "not in debug mode: nobody outside reads the enclave's memory",
        Check::Image => "an accepted image with an accepted static configuration",
        Check::Purpose => "made to prove where a connection ends",
        Check::KeyStore => "the enclave holds this key store, under a lease and unblocked",
        Check::Connection => "the enclave has the TLS key of this very connection: nobody in between ends it",
    }
}

#[derive(Default)]
struct Lines(Vec<CheckLine>);

impl Lines {
    fn holds(&mut self, check: &'static str, says: String) {
        self.0.push(CheckLine { check, holds: Some(true), says });
    }

    fn fails(&mut self, check: &'static str, says: String) {
        self.0.push(CheckLine { check, holds: Some(false), says });
    }

    /// With those that were not looked at.
    fn complete(mut self) -> Vec<CheckLine> {
        let all = [CERTIFICATE, ANSWER].into_iter().chain(Check::ALL.into_iter().map(name));
        for check in all.skip(self.0.len()) {
            self.0.push(CheckLine { check, holds: None, says: "not looked at".to_owned() });
        }
        self.0
    }
}

impl fmt::Display for AttestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            None => writeln!(f, "VERIFIED: this connection to {} ends inside the enclave that it should", self.url)?,
            Some(reason) => writeln!(f, "REFUSED ({reason}): {}", reason.meaning())?,
        }
        if !self.root_is_aws {
            writeln!(f, "NOT AWS: the attestation root is an emulator's, SHA-256 {}", self.root_sha256)?;
        }
        write!(f, "key store    {}", self.key_store_id)?;
        for line in &self.checks {
            let holds = match line.holds {
                Some(true) => "ok",
                Some(false) => "FAILED",
                None => "-",
            };
            write!(f, "\n{holds:<7} {:<12} {}", line.check, printable(&line.says))?;
        }
        let Some(proven) = &self.proven else { return Ok(()) };
        write!(f, "\nmodule       {}, at {}", printable(&proven.module_id), format_ms(proven.made_ms))?;
        if let Some(image) = &self.image {
            write!(f, "\nimage        {}", printable(image))?;
        }
        crate::commands::manifest::write_measurements(f, &proven.measurements)?;
        write!(f, "\nversion      {}, sealed as {}", proven.version, proven.blob_id)?;
        write!(f, "\nTLS key      SHA-256 {}", proven.tls_public_key_sha256)
    }
}
