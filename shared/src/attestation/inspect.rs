//! What a document proves, for a person.
//!
//! Guarantees: a [`Report`] is `verified` only if the document passed parsing and verification; what it claims is
//! shown either way. Assumes: the reader does not act on the claims of a refused document. Refuses nothing: every
//! input gives a report. There is no appraisal here, since only a verifier knows what it asked for.

use std::collections::BTreeMap;

use serde::Serialize;

use super::certificate::CertificateSummary;
use super::document::{Claims, ParsedDocument};
use super::measurements::PCR_LEN;
use super::root::TrustRoot;

/// How far a document came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its shape is wrong.
    Parse,
    /// Its certificates or its signature are wrong.
    Verify,
}

/// The first rule that a document breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokenRule {
    /// Where it was found.
    pub stage: Stage,
    /// The rule, in the words of the error.
    pub rule: String,
}

/// What a document says. Proven only where the report says `verified`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// The NSM's name for itself.
    pub module_id: String,
    /// When the NSM made the document, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Whether PCR 0, 1 and 2 are zero, which no release policy accepts.
    pub debug_mode: bool,
    /// The registers that are not zero, in hexadecimal.
    pub pcrs: BTreeMap<u8, String>,
    /// The indexes of all registers shown, zero or not.
    pub pcr_indexes: Vec<u8>,
    /// `public_key`, in hexadecimal.
    pub public_key: Option<String>,
    /// `user_data`, in hexadecimal.
    pub user_data: Option<String>,
    /// `nonce`, in hexadecimal.
    pub nonce: Option<String>,
}

/// The result of [`inspect`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the document is an NSM's under the root, at the time asked for.
    pub verified: bool,
    /// What it breaks, if it is not.
    pub broken: Option<BrokenRule>,
    /// The time asked for, in milliseconds since 1970.
    pub at_ms: u64,
    /// SHA-256 of the DER of the root, in hexadecimal.
    pub root_fingerprint: String,
    /// Whether the root is that of AWS Nitro Enclaves.
    pub root_is_aws: bool,
    /// Bytes of the document.
    pub document_len: usize,
    /// What the document says, if it has the right shape.
    pub statement: Option<Statement>,
    /// The pinned root, `cabundle`[1..] and `certificate`, if they could be read.
    pub chain: Vec<CertificateSummary>,
}

/// Says what a document proves under a root at a time, or the first rule that it breaks.
///
/// ```
/// use holdfast_shared::attestation::{TrustRoot, inspect};
///
/// let report = inspect(b"not a document", &TrustRoot::aws(), 1_734_075_478_960);
/// assert!(!report.verified);
/// ```
pub fn inspect(document: &[u8], root: &TrustRoot, at_ms: u64) -> Report {
    let mut report = Report {
        verified: false,
        broken: None,
        at_ms,
        root_fingerprint: hex::encode(root.fingerprint()),
        root_is_aws: root.is_aws(),
        document_len: document.len(),
        statement: None,
        chain: Vec::new(),
    };
    let parsed = match ParsedDocument::parse(document) {
        Ok(parsed) => parsed,
        Err(error) => {
            report.broken = Some(broken(Stage::Parse, &error));
            return report;
        }
    };
    report.statement = Some(statement(&parsed.claims));
    report.chain = parsed.path_summary(root).unwrap_or_default();
    match parsed.verify(root, at_ms) {
        Ok(_) => report.verified = true,
        Err(error) => report.broken = Some(broken(Stage::Verify, &error)),
    }
    report
}

fn broken(stage: Stage, error: &dyn std::error::Error) -> BrokenRule {
    BrokenRule { stage, rule: error.to_string() }
}

fn statement(claims: &Claims) -> Statement {
    let is_zero = |value: &[u8; PCR_LEN]| *value == [0; PCR_LEN];
    let hexadecimal = |field: &Option<Vec<u8>>| field.as_ref().map(hex::encode);
    Statement {
        module_id: claims.module_id.clone(),
        timestamp_ms: claims.timestamp_ms,
        debug_mode: (0..=2).all(|index| claims.pcrs.get(&index).is_some_and(is_zero)),
        pcrs: claims
            .pcrs
            .iter()
            .filter(|(_, value)| !is_zero(value))
            .map(|(index, value)| (*index, hex::encode(value)))
            .collect(),
        pcr_indexes: claims.pcrs.keys().copied().collect(),
        public_key: hexadecimal(&claims.public_key),
        user_data: hexadecimal(&claims.user_data),
        nonce: hexadecimal(&claims.nonce),
    }
}
