//! Canonical request and string to sign (specification, Appendix A, Tasks 1 and 2).
//!
//! The canonical URI is the raw path: [`crate::xks::RequestPath`] admits only characters that neither percent-encoding nor
//! path normalisation changes. The canonical query string is empty, because no query is admitted.

use ring::digest::{Context, SHA256};

use super::SignedRequest;
use super::authorization::Authorization;
use super::date::RequestDate;

/// How often a header occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurrence<'a> {
    /// Not at all.
    Absent,
    /// Once, with this value.
    Once(&'a [u8]),
    /// More than once. A signer would join the values; nothing that KMS signs repeats, so a repeated header that is signed is
    /// refused instead, as one that two readers could take differently.
    Repeated,
}

/// SHA-256 of the canonical request, or nothing if a header named as signed does not occur exactly once.
pub(super) fn canonical_request_hash<'a, F>(
    request: &SignedRequest<'a, F>,
    authorization: &Authorization<'a>,
    body_hash: &str,
) -> Option<[u8; 32]>
where
    F: Fn(&str) -> Occurrence<'a>,
{
    let mut hash = Context::new(&SHA256);
    hash.update(request.method.as_bytes());
    hash.update(b"\n");
    hash.update(request.path.as_bytes());
    hash.update(b"\n\n");
    for name in authorization.signed_headers().split(';') {
        let value = match name {
            "host" | ":authority" => request.authority.as_bytes(),
            _ => request.header_once(name)?,
        };
        hash.update(name.as_bytes());
        hash.update(b":");
        hash_header_value(&mut hash, value);
        hash.update(b"\n");
    }
    hash.update(b"\n");
    hash.update(authorization.signed_headers().as_bytes());
    hash.update(b"\n");
    hash.update(body_hash.as_bytes());
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    Some(out)
}

/// Trims a value and turns each inner run of spaces into one.
fn hash_header_value(hash: &mut Context, value: &[u8]) {
    let mut words = value.trim_ascii().split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    if let Some(first) = words.next() {
        hash.update(first);
    }
    for word in words {
        hash.update(b" ");
        hash.update(word);
    }
}

/// What the signature is over.
pub(super) fn string_to_sign(
    date: &RequestDate<'_>,
    authorization: &Authorization<'_>,
    request_hash: &[u8; 32],
) -> String {
    ["AWS4-HMAC-SHA256\n", date.as_str(), "\n", authorization.scope(), "\n", &hex::encode(request_hash)].concat()
}
