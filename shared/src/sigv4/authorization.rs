//! The `Authorization` header.
//!
//! ```text
//! AWS4-HMAC-SHA256 Credential=ID/yyyymmdd/REGION/kms-xks-proxy/aws4_request,[ ]SignedHeaders=a;b,[ ]Signature=<64 hex>
//! ```
//!
//! Guarantees: one accepted spelling, so that two parsers cannot read one header differently. The order of the parts is the
//! one that the specification shows and every AWS signer writes; only the space after a comma may be missing. Reading and
//! accepting are two steps, because `holdfast explain-signature` also has to understand headers for another service.

use super::SERVICE;
use crate::limits::{AUTHORIZATION_MAX, REGION_MAX, SIGNED_HEADER_NAME_MAX, SIGNED_HEADERS_MAX};
use crate::xks::names::{NameError, validated_text};

/// What is wrong with an `Authorization` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorizationError {
    /// There is none, or more than one.
    #[error("absent or repeated")]
    Absent,
    /// Longer than [`AUTHORIZATION_MAX`].
    #[error("too long")]
    TooLong,
    /// Not in the accepted form.
    #[error("malformed")]
    Malformed,
    /// The credential scope is not this service's, or not of a region that is served.
    #[error("scope of another service or region")]
    Scope,
    /// `SignedHeaders` is unsorted, doubled, not lower-case, lacks `host` or `x-amz-date`, or names the host twice.
    #[error("unacceptable SignedHeaders")]
    SignedHeaders,
}

validated_text! {
    /// The name of an AWS Region.
    Region, NameError, check_region
}

fn check_region(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > REGION_MAX {
        return Err(NameError::Length);
    }
    if !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return Err(NameError::Character);
    }
    Ok(())
}

/// From which regions requests are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Regions {
    /// From any: the region is part of what is signed, but not restricted.
    Any,
    /// From these.
    Only(Vec<Region>),
}

impl Regions {
    fn allow(&self, region: &str) -> bool {
        match self {
            Self::Any => check_region(region).is_ok(),
            Self::Only(regions) => regions.iter().any(|allowed| allowed.as_str() == region),
        }
    }
}

/// A well-formed header for some service.
#[derive(Debug)]
pub(super) struct ReadAuthorization<'a> {
    access_key_id: &'a str,
    /// `yyyymmdd/region/service/aws4_request`, as it is signed.
    scope: &'a str,
    day: &'a str,
    region: &'a str,
    service: &'a str,
    /// As it is signed: sorted, separated by `;`.
    signed_headers: &'a str,
    signature: [u8; 32],
}

impl<'a> ReadAuthorization<'a> {
    /// Reads a header, whatever its scope is for.
    pub(super) fn read(header: &'a [u8]) -> Result<Self, AuthorizationError> {
        use AuthorizationError::{Malformed, TooLong};

        if header.len() > AUTHORIZATION_MAX {
            return Err(TooLong);
        }
        let text = core::str::from_utf8(header).map_err(|_| Malformed)?;
        let rest = text.strip_prefix("AWS4-HMAC-SHA256 Credential=").ok_or(Malformed)?;
        let (credential, rest) = split_part(rest, "SignedHeaders=").ok_or(Malformed)?;
        let (signed_headers, signature) = split_part(rest, "Signature=").ok_or(Malformed)?;

        let (access_key_id, scope) = credential.split_once('/').ok_or(Malformed)?;
        super::check_access_key_id(access_key_id).map_err(|_| Malformed)?;
        let mut parts = scope.split('/');
        let mut part = || parts.next().ok_or(Malformed);
        let (day, region, service) = (part()?, part()?, part()?);
        if part()? != "aws4_request" || parts.next().is_some() {
            return Err(Malformed);
        }
        check_signed_headers(signed_headers)?;
        let signature = parse_signature(signature).ok_or(Malformed)?;
        Ok(Self { access_key_id, scope, day, region, service, signed_headers, signature })
    }

    /// Accepts a scope of this service and of a region that is served.
    pub(super) fn accept(self, regions: &Regions) -> Result<Authorization<'a>, AuthorizationError> {
        if self.service != SERVICE || !regions.allow(self.region) {
            return Err(AuthorizationError::Scope);
        }
        Ok(Authorization(self))
    }

    pub(super) fn access_key_id(&self) -> &'a str {
        self.access_key_id
    }

    pub(super) fn scope(&self) -> &'a str {
        self.scope
    }

    pub(super) fn day(&self) -> &'a str {
        self.day
    }

    pub(super) fn region(&self) -> &'a str {
        self.region
    }

    pub(super) fn service(&self) -> &'a str {
        self.service
    }

    pub(super) fn signed_headers(&self) -> &'a str {
        self.signed_headers
    }

    pub(super) fn signature(&self) -> &[u8; 32] {
        &self.signature
    }
}

/// A well-formed header for this service and a region that is served.
#[derive(Debug)]
pub(super) struct Authorization<'a>(ReadAuthorization<'a>);

impl<'a> Authorization<'a> {
    pub(super) fn parse(header: &'a [u8], regions: &Regions) -> Result<Self, AuthorizationError> {
        ReadAuthorization::read(header)?.accept(regions)
    }
}

impl<'a> core::ops::Deref for Authorization<'a> {
    type Target = ReadAuthorization<'a>;

    fn deref(&self) -> &ReadAuthorization<'a> {
        &self.0
    }
}

/// Splits `…,[ ]NAME…` at its first comma, after which exactly `name` must follow.
fn split_part<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (value, rest) = text.split_once(',')?;
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    Some((value, rest.strip_prefix(name)?))
}

/// AWS signers write 64 lower-case digits; upper case would be a second spelling of one signature.
fn parse_signature(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let pairs: &[[u8; 2]; 32] = pairs.try_into().ok().filter(|_| rest.is_empty())?;
    let mut signature = [0; 32];
    for (byte, [high, low]) in signature.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(signature)
}

const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// Sorted and unique, lower-case names; `x-amz-date` among them, and either `host` or HTTP/2's `:authority`, as Appendix A,
/// Task 1 demands "at the very least". Both at once would be two names for one value, which no signer writes.
fn check_signed_headers(text: &str) -> Result<(), AuthorizationError> {
    let mut previous = "";
    let (mut hosts, mut date) = (0, false);
    for (count, name) in text.split(';').enumerate() {
        if count >= SIGNED_HEADERS_MAX || name <= previous || !is_signed_header_name(name) {
            return Err(AuthorizationError::SignedHeaders);
        }
        hosts += u32::from(is_host_name(name));
        date |= name == "x-amz-date";
        previous = name;
    }
    if hosts == 1 && date { Ok(()) } else { Err(AuthorizationError::SignedHeaders) }
}

/// Whether a signed name stands for `Host` (HTTP/1.1) or `:authority` (HTTP/2).
pub(super) fn is_host_name(name: &str) -> bool {
    matches!(name, "host" | ":authority")
}

fn is_signed_header_name(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    name == ":authority" || (!name.is_empty() && name.len() <= SIGNED_HEADER_NAME_MAX && name.bytes().all(token))
}
