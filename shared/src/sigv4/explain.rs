//! A signature taken apart, for `holdfast explain-signature`: what the verifier computes, with every part open to change, so
//! that the operator's tool can find out what a client signed instead.
//!
//! Guarantees: canonical request, string to sign and key derivation are those of the verifier, not copies. Assumes: the caller
//! sits with the operator, who has the secret anyway. Refuses: to be a verdict; only [`super::Claim`] is. The enclave has no
//! use for this module: nothing that it logs or sends may hold a canonical form or an expected signature.

use super::authorization::{AuthorizationError, ReadAuthorization};
use super::canonical::{CanonicalRequest, signed_header_value, string_to_sign};
use super::credential::{Seed, SigningKey};
use super::date::RequestDate;
use super::{AccessKeyId, Occurrence, SignedRequest};
use crate::secrets::SecretBytes;

/// Why there is nothing to take apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The `Authorization` header cannot be read.
    #[error("the Authorization header is not acceptable: {0}")]
    Authorization(#[from] AuthorizationError),
    /// A header that is named as signed, or needed, does not occur exactly once.
    #[error("the header {0} is signed, but it is absent or repeated")]
    Header(String),
}

/// What the `Authorization` header claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedSignature {
    /// Who is said to have signed.
    pub access_key_id: AccessKeyId,
    /// The signature.
    pub signature: [u8; 32],
}

/// The key that signs for one day, region and service.
#[derive(Debug)]
pub struct ScopeKey(SigningKey);

impl ScopeKey {
    /// Whether `signature` is made with it over `text`.
    #[must_use]
    pub fn signs(&self, text: &[u8], signature: &[u8; 32]) -> bool {
        self.0.verify(text, signature)
    }
}

/// Everything that a signature covers. As public fields, because to explain is to try what else they may have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedParts {
    /// The method.
    pub method: String,
    /// The canonical URI: for us, the path as received.
    pub path: String,
    /// The canonical query: for us, empty.
    pub query: String,
    /// Names and values of the signed headers, in order, values as received.
    pub headers: Vec<(String, Vec<u8>)>,
    /// `SignedHeaders`, as claimed.
    pub signed_headers: String,
    /// What stands for the body: for us, its SHA-256 in hexadecimal.
    pub body_hash: String,
    /// `x-amz-date`, as received.
    pub date: String,
    /// The day in the credential scope.
    pub day: String,
    /// The region in the credential scope.
    pub region: String,
    /// The service in the credential scope.
    pub service: String,
}

impl SignedParts {
    /// Takes a request apart, whatever region or service it was signed for, and whenever.
    ///
    /// # Errors
    /// [`ExplainError`] where the request does not even say what was signed.
    pub fn of<'a, F>(request: &SignedRequest<'a, F>) -> Result<(Self, ClaimedSignature), ExplainError>
    where
        F: Fn(&str) -> Occurrence<'a>,
    {
        let once = |name: &str| signed_header_value(request, name).ok_or_else(|| ExplainError::Header(name.to_owned()));
        let header = request.header_once("authorization").ok_or(AuthorizationError::Absent)?;
        let authorization = ReadAuthorization::read(header)?;
        let access_key_id =
            AccessKeyId::parse(authorization.access_key_id()).map_err(|_| AuthorizationError::Malformed)?;
        let names = authorization.signed_headers().split(';');
        let parts = Self {
            method: request.method.to_owned(),
            path: request.path.to_owned(),
            query: String::new(),
            headers: names
                .map(|name| Ok((name.to_owned(), once(name)?.to_vec())))
                .collect::<Result<_, ExplainError>>()?,
            signed_headers: authorization.signed_headers().to_owned(),
            body_hash: hex::encode(crate::sha256(&[request.body])),
            date: String::from_utf8_lossy(once("x-amz-date")?).into_owned(),
            day: authorization.day().to_owned(),
            region: authorization.region().to_owned(),
            service: authorization.service().to_owned(),
        };
        Ok((parts, ClaimedSignature { access_key_id, signature: *authorization.signature() }))
    }

    /// `x-amz-date` in milliseconds since 1970, if it is a date.
    #[must_use]
    pub fn date_ms(&self) -> Option<u64> {
        RequestDate::parse(self.date.as_bytes()).map(|date| date.epoch_ms())
    }

    /// The canonical request.
    #[must_use]
    pub fn canonical_request(&self) -> Vec<u8> {
        self.with_canonical(|canonical| canonical.bytes())
    }

    /// The string to sign.
    #[must_use]
    pub fn string_to_sign(&self) -> String {
        string_to_sign(&self.date, &self.scope(), &self.with_canonical(|canonical| canonical.hash()))
    }

    /// The string to sign over another canonical request.
    #[must_use]
    pub fn string_to_sign_over(&self, canonical_request: &[u8]) -> String {
        string_to_sign(&self.date, &self.scope(), &crate::sha256(&[canonical_request]))
    }

    /// Whether `signature` is `secret`'s over all this.
    #[must_use]
    pub fn are_signed_by(&self, secret: &SecretBytes, signature: &[u8; 32]) -> bool {
        self.scope_signs(secret, self.string_to_sign().as_bytes(), signature)
    }

    /// Whether `signature` is `secret`'s, in this scope, over `text`.
    #[must_use]
    pub fn scope_signs(&self, secret: &SecretBytes, text: &[u8], signature: &[u8; 32]) -> bool {
        self.scope_key(secret).signs(text, signature)
    }

    /// The key of `secret` in this scope, for many tries.
    #[must_use]
    pub fn scope_key(&self, secret: &SecretBytes) -> ScopeKey {
        ScopeKey(SigningKey::derive(&Seed::of(secret.expose()), &self.day, &self.region, &self.service))
    }

    fn scope(&self) -> String {
        [&self.day, "/", &self.region, "/", &self.service, "/aws4_request"].concat()
    }

    fn with_canonical<T>(&self, read: impl FnOnce(CanonicalRequest<'_>) -> T) -> T {
        let headers: Vec<(&str, &[u8])> = self.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        read(CanonicalRequest {
            method: &self.method,
            path: &self.path,
            query: &self.query,
            headers: &headers,
            signed_headers: &self.signed_headers,
            body_hash: &self.body_hash,
        })
    }
}
