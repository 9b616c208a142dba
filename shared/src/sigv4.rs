//! AWS Signature Version 4, verifier's side, for the service `kms-xks-proxy` (specification, Appendix A).
//!
//! ```text
//! request ─► Claim (parsed, fresh; nothing secret used yet) ─► Authenticated (the one proof of a valid signature)
//! ```
//!
//! Guarantees: an [`Authenticated`] exists only for a request whose method, path, signed headers and body were signed with
//! a secret of the given [`CredentialSet`] within five minutes of the given time; unknown access key ids cost the same work
//! and give the same error as bad signatures; the signature is compared in constant time. Assumes: the caller passes the
//! path raw, the body as received, and attested time. Refuses: every spelling of the header but one (spaces after commas
//! aside).

mod authorization;
mod canonical;
mod credential;
mod date;
pub mod explain;
pub mod sign;

pub use authorization::{AuthorizationError, Region, Regions};
pub use canonical::Occurrence;
pub use credential::{Credential, CredentialError, CredentialSet};

use authorization::Authorization;
use canonical::{CanonicalRequest, hex_of, signed_header_values, string_to_sign};
use date::RequestDate;

use crate::limits::{ACCESS_KEY_ID_LEN, SIGV4_SKEW_MS};
use crate::xks::names::{NameError, validated_text};

/// The service in every credential scope.
pub const SERVICE: &str = "kms-xks-proxy";

validated_text! {
    /// An access key id: 20 to 30 characters of `A-Z 2-7` (specification, Appendix A).
    AccessKeyId, NameError, check_access_key_id
}

fn check_access_key_id(text: &str) -> Result<(), NameError> {
    if !ACCESS_KEY_ID_LEN.contains(&text.len()) {
        return Err(NameError::Length);
    }
    if !text.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'2'..=b'7')) {
        return Err(NameError::Character);
    }
    Ok(())
}

/// Why a signature was not accepted. For counters and our own logs: on the wire all are one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The `Authorization` header is absent, repeated, or not in the one accepted form.
    #[error("the Authorization header is not acceptable: {0}")]
    Authorization(#[from] AuthorizationError),
    /// A header that the signature names or needs is absent or repeated.
    #[error("a signed header is absent or repeated")]
    Header,
    /// `x-amz-date` is not a date, or not the one in the credential scope.
    #[error("x-amz-date is not a date or differs from the credential scope")]
    Date,
    /// `x-amz-date` is more than five minutes away.
    #[error("the request is too old or from the future")]
    Skew,
    /// `x-amz-content-sha256` differs from the body.
    #[error("x-amz-content-sha256 differs from the body")]
    ContentHash,
    /// The access key id is unknown or the signature wrong; which of the two is not told.
    #[error("the signature is not valid")]
    Mismatch,
}

/// A request as received.
pub struct SignedRequest<'a, F> {
    /// The method.
    pub method: &'a str,
    /// The path, raw.
    pub path: &'a str,
    /// `Host` (HTTP/1.1) or `:authority` (HTTP/2), raw; stands for the header `host`.
    pub authority: &'a str,
    /// Looks up any other header by its lower-case name.
    pub header: F,
    /// The body, as received.
    pub body: &'a [u8],
}

/// A signature that is well-formed and fresh, but not verified.
pub struct Claim<'a> {
    authorization: Authorization<'a>,
    date: RequestDate<'a>,
    request_hash: [u8; 32],
}

/// Proof that a request carried a valid signature.
#[derive(Debug)]
pub struct Authenticated {
    access_key_id: AccessKeyId,
}

impl Authenticated {
    /// Whose signature it was.
    #[must_use]
    pub fn access_key_id(&self) -> &AccessKeyId {
        &self.access_key_id
    }
}

impl<'a> Claim<'a> {
    /// Reads the signature of `request` and judges everything that needs no secret.
    ///
    /// # Errors
    /// The first rule that the request breaks.
    pub fn parse<F>(request: &SignedRequest<'a, F>, regions: &Regions, now_ms: u64) -> Result<Self, SignatureError>
    where
        F: Fn(&str) -> Occurrence<'a>,
    {
        let header = request.header_once("authorization").ok_or(AuthorizationError::Absent)?;
        let authorization = Authorization::parse(header, regions)?;
        let date = request.header_once("x-amz-date").ok_or(SignatureError::Header)?;
        let date = RequestDate::parse(date).ok_or(SignatureError::Date)?;
        if date.day() != authorization.day() {
            return Err(SignatureError::Date);
        }
        if date.epoch_ms().abs_diff(now_ms) > SIGV4_SKEW_MS {
            return Err(SignatureError::Skew);
        }
        let body_hash = hex_of(&crate::sha256(&[request.body]));
        let body_hash = core::str::from_utf8(&body_hash).unwrap_or_default();
        // Appendix A does not speak of this header, and KMS does not send it, but `curl` and SDKs may. Where it is present,
        // signed or not, it must say the truth; so `UNSIGNED-PAYLOAD` is refused.
        match (request.header)("x-amz-content-sha256") {
            Occurrence::Absent => {}
            Occurrence::Once(claimed) if claimed == body_hash.as_bytes() => {}
            Occurrence::Once(_) | Occurrence::Repeated => return Err(SignatureError::ContentHash),
        }
        let headers = signed_header_values(request, &authorization).ok_or(SignatureError::Header)?;
        let canonical = CanonicalRequest {
            method: request.method,
            path: request.path,
            query: "",
            headers: &headers,
            signed_headers: authorization.signed_headers(),
            body_hash,
        };
        Ok(Self { request_hash: canonical.hash(), authorization, date })
    }

    /// Verifies the claim. The work and the error are the same whether the access key id is unknown or the signature wrong.
    ///
    /// # Errors
    /// [`SignatureError::Mismatch`].
    pub fn verify(self, credentials: &CredentialSet) -> Result<Authenticated, SignatureError> {
        let text = string_to_sign(self.date.as_str(), self.authorization.scope(), &self.request_hash);
        let access_key_id = credentials.verify(&self.authorization, text.as_bytes()).ok_or(SignatureError::Mismatch)?;
        Ok(Authenticated { access_key_id: access_key_id.clone() })
    }
}

impl<'a, F: Fn(&str) -> Occurrence<'a>> SignedRequest<'a, F> {
    fn header_once(&self, name: &str) -> Option<&'a [u8]> {
        match (self.header)(name) {
            Occurrence::Once(value) => Some(value),
            Occurrence::Absent | Occurrence::Repeated => None,
        }
    }
}

#[cfg(test)]
mod tests;
