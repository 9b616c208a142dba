//! Stage three: evidence that answers this verifier, now, about an image that it accepts.
//!
//! Guarantees of [`VerifiedAttestation`]: rules 6 and 7 of section 6 of the design. It has private fields and one
//! constructor, so a function that takes it can only be reached with evidence that passed every rule. Assumes: the
//! caller's clock and its list of accepted measurements. Refuses: debug mode (registers all zero) whatever the list says.

use std::collections::BTreeMap;

use subtle::ConstantTimeEq;

use super::document::Claims;
use super::measurements::{Measurements, PCR_LEN};
use super::verify::VerifiedDocument;
use crate::limits::ATTESTATION_SKEW_MS;

/// What a verifier expects of an optional field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected<'a> {
    /// The field is null.
    Absent,
    /// The field holds exactly these bytes.
    Exactly(&'a [u8]),
    /// The field holds something, which the verifier reads from the result.
    Present,
    /// Either way; the verifier does not use the field.
    Any,
}

/// What a verifier expects of a document.
#[derive(Clone, Copy, Debug)]
pub struct Expectations<'a> {
    /// The challenge that the document must answer.
    pub nonce: &'a [u8],
    /// Longest age of the document, in milliseconds; [`ATTESTATION_SKEW_MS`] comes on top, either way.
    pub max_age_ms: u64,
    /// The accepted measurements; one set must match as a whole. No set accepts nothing.
    pub accepted: &'a [Measurements],
    /// What the enclave says about itself.
    pub user_data: Expected<'a>,
    /// The key to which an answer is encrypted.
    pub public_key: Expected<'a>,
}

/// The first rule of appraisal that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppraisalError {
    /// No nonce, or another one.
    #[error("the nonce is not the one of this challenge")]
    Nonce,
    /// Older than allowed.
    #[error("the document is too old")]
    Stale,
    /// From the future.
    #[error("the document's timestamp lies in the future")]
    Future,
    /// PCR 0, 1 or 2 is not shown.
    #[error("PCR {0} is missing")]
    MissingPcr(u8),
    /// PCR 0, 1 and 2 are all zero.
    #[error("the enclave runs in debug mode: PCR 0, 1 and 2 are zero")]
    DebugMode,
    /// One of PCR 0, 1 and 2 is all zero.
    #[error("PCR {0} is zero")]
    ZeroPcr(u8),
    /// No accepted set of measurements matches.
    #[error("no accepted measurements match")]
    Measurements,
    /// `user_data` is not what was expected.
    #[error("`user_data` is not what this request demands")]
    UserData,
    /// `public_key` is not what was expected.
    #[error("`public_key` is not what this request demands")]
    PublicKey,
}

/// Evidence that passed every rule.
///
/// Only [`VerifiedDocument::appraise`] makes one:
///
/// ```compile_fail,E0451
/// use holdfast_shared::attestation::VerifiedAttestation;
/// let forged = VerifiedAttestation { claims: todo!(), root_fingerprint: [0; 32], measurements: todo!(), accepted: 0 };
/// ```
///
/// and a stage cannot be left out:
///
/// ```compile_fail,E0599
/// use holdfast_shared::attestation::{Expectations, ParsedDocument};
/// fn skip(document: ParsedDocument, expected: &Expectations<'_>) {
///     let _ = document.appraise(expected, 0);
/// }
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedAttestation {
    claims: Claims,
    root_fingerprint: [u8; 32],
    measurements: Measurements,
    accepted: usize,
}

impl VerifiedDocument {
    /// The timestamp, in milliseconds since 1970: proven to be the NSM's, of any age.
    pub fn timestamp_ms(&self) -> u64 {
        self.claims.timestamp_ms
    }

    /// The registers: proven to be shown by the NSM, accepted by nobody yet. For records of refusals.
    pub fn pcrs(&self) -> &BTreeMap<u8, [u8; PCR_LEN]> {
        &self.claims.pcrs
    }

    /// The NSM's name for itself.
    pub fn module_id(&self) -> &str {
        &self.claims.module_id
    }

    /// SHA-256 of the DER of the root under which the document was verified.
    pub fn root_fingerprint(&self) -> [u8; 32] {
        self.root_fingerprint
    }

    /// Asks whether the document answers this verifier (section 6 of the design, rule 6).
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn appraise(self, expected: &Expectations<'_>, now_ms: u64) -> Result<VerifiedAttestation, AppraisalError> {
        let claims = self.claims;
        let nonce = claims.nonce.as_deref().ok_or(AppraisalError::Nonce)?;
        if !bool::from(nonce.ct_eq(expected.nonce)) {
            return Err(AppraisalError::Nonce);
        }
        check_age(claims.timestamp_ms, expected.max_age_ms, now_ms)?;
        let (measurements, accepted) = check_measurements(&claims.pcrs, expected.accepted)?;
        check_field(claims.user_data.as_deref(), expected.user_data, AppraisalError::UserData)?;
        check_field(claims.public_key.as_deref(), expected.public_key, AppraisalError::PublicKey)?;
        Ok(VerifiedAttestation { claims, root_fingerprint: self.root_fingerprint, measurements, accepted })
    }
}

impl VerifiedAttestation {
    /// The same evidence against another list of accepted measurements: what a lease renewal asks when the policy
    /// changed since the release.
    ///
    /// # Errors
    /// No set of the list matches.
    pub fn reappraise(self, accepted: &[Measurements]) -> Result<Self, AppraisalError> {
        let (measurements, accepted) = check_measurements(&self.claims.pcrs, accepted)?;
        Ok(Self { measurements, accepted, ..self })
    }

    /// The NSM's name for itself: instance id and enclave id.
    pub fn module_id(&self) -> &str {
        &self.claims.module_id
    }

    /// When the NSM made the document, in milliseconds since 1970.
    pub fn timestamp_ms(&self) -> u64 {
        self.claims.timestamp_ms
    }

    /// Every register that the document shows.
    pub fn pcrs(&self) -> &BTreeMap<u8, [u8; PCR_LEN]> {
        &self.claims.pcrs
    }

    /// The document's registers in the form of a policy.
    pub fn measurements(&self) -> &Measurements {
        &self.measurements
    }

    /// Which of the accepted sets matched: its index.
    pub fn accepted_index(&self) -> usize {
        self.accepted
    }

    /// The key that the enclave put into the document.
    pub fn public_key(&self) -> Option<&[u8]> {
        self.claims.public_key.as_deref()
    }

    /// What the enclave says about itself.
    pub fn user_data(&self) -> Option<&[u8]> {
        self.claims.user_data.as_deref()
    }

    /// The challenge that the document answers.
    pub fn nonce(&self) -> &[u8] {
        self.claims.nonce.as_deref().unwrap_or_default()
    }

    /// SHA-256 of the DER of the root under which the document was verified.
    pub fn root_fingerprint(&self) -> [u8; 32] {
        self.root_fingerprint
    }
}

fn check_age(timestamp_ms: u64, max_age_ms: u64, now_ms: u64) -> Result<(), AppraisalError> {
    let oldest_ms = now_ms.saturating_sub(max_age_ms).saturating_sub(ATTESTATION_SKEW_MS);
    if timestamp_ms < oldest_ms {
        return Err(AppraisalError::Stale);
    }
    if timestamp_ms > now_ms.saturating_add(ATTESTATION_SKEW_MS) {
        return Err(AppraisalError::Future);
    }
    Ok(())
}

/// The registers as a policy writes them, and the index of the first accepted set that matches.
fn check_measurements(
    pcrs: &BTreeMap<u8, [u8; PCR_LEN]>,
    accepted: &[Measurements],
) -> Result<(Measurements, usize), AppraisalError> {
    if let Some(missing) = (0..=2).find(|index| !pcrs.contains_key(index)) {
        return Err(AppraisalError::MissingPcr(missing));
    }
    let is_zero = |index: &u8| pcrs.get(index) == Some(&[0; PCR_LEN]);
    if (0..=2).all(|index| is_zero(&index)) {
        return Err(AppraisalError::DebugMode);
    }
    if let Some(zero) = (0..=2).find(is_zero) {
        return Err(AppraisalError::ZeroPcr(zero));
    }
    let matching = accepted.iter().position(|set| set.accepts(pcrs));
    Measurements::shown_by(pcrs).zip(matching).ok_or(AppraisalError::Measurements)
}

fn check_field(field: Option<&[u8]>, expected: Expected<'_>, error: AppraisalError) -> Result<(), AppraisalError> {
    let as_expected = match expected {
        Expected::Absent => field.is_none(),
        Expected::Exactly(bytes) => field == Some(bytes),
        Expected::Present => field.is_some(),
        Expected::Any => true,
    };
    if as_expected { Ok(()) } else { Err(error) }
}
