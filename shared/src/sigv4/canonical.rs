//! Canonical request and string to sign (specification, Appendix A, Tasks 1 and 2).
//!
//! The canonical URI is the raw path: [`crate::xks::RequestPath`] admits only characters that neither percent-encoding nor
//! path normalisation changes. The canonical query string is empty, because no query is admitted.

use super::SignedRequest;
use super::authorization::{ReadAuthorization, is_host_name};

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

/// What a canonical request is made of. The one place that knows its form: the enclave hashes it, and
/// `holdfast explain-signature` shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CanonicalRequest<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// Empty in everything that we accept.
    pub(super) query: &'a str,
    /// Names and values of the signed headers, in the order in which they are signed, values as received.
    pub(super) headers: &'a [(&'a str, &'a [u8])],
    /// The names, as the signer listed them.
    pub(super) signed_headers: &'a str,
    /// Of the body, in hexadecimal.
    pub(super) body_hash: &'a str,
}

impl CanonicalRequest<'_> {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len_at_most());
        for part in [self.method, "\n", self.path, "\n", self.query, "\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        for (name, value) in self.headers {
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
            write_header_value(&mut out, value);
            out.push(b'\n');
        }
        for part in ["\n", self.signed_headers, "\n", self.body_hash] {
            out.extend_from_slice(part.as_bytes());
        }
        out
    }

    /// Trimmed values are shorter.
    fn len_at_most(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        self.method.len()
            + self.path.len()
            + self.query.len()
            + headers
            + self.signed_headers.len()
            + self.body_hash.len()
            + 5
    }

    /// Of all at once: a hash that is fed in thirty pieces takes longer than the copy.
    pub(super) fn hash(&self) -> [u8; 32] {
        crate::sha256(&[&self.bytes()])
    }
}

/// Names and values of the signed headers, or nothing if one of them does not occur exactly once.
pub(super) fn signed_header_values<'a, F>(
    request: &SignedRequest<'a, F>,
    authorization: &ReadAuthorization<'a>,
) -> Option<Vec<(&'a str, &'a [u8])>>
where
    F: Fn(&str) -> Occurrence<'a>,
{
    let names = authorization.signed_headers().split(';');
    names.map(|name| Some((name, signed_header_value(request, name)?))).collect()
}

/// The value of a signed header, if it occurs exactly once.
pub(super) fn signed_header_value<'a, F>(request: &SignedRequest<'a, F>, name: &str) -> Option<&'a [u8]>
where
    F: Fn(&str) -> Occurrence<'a>,
{
    if is_host_name(name) { Some(request.authority.as_bytes()) } else { request.header_once(name) }
}

/// Trims a value and turns each inner run of spaces into one (AWS's `Trimall`). Tabs within a value stay what they are.
fn write_header_value(out: &mut Vec<u8>, value: &[u8]) {
    let mut words = value.trim_ascii().split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    if let Some(first) = words.next() {
        out.extend_from_slice(first);
    }
    for word in words {
        out.push(b' ');
        out.extend_from_slice(word);
    }
}

/// In hexadecimal, of which all is ASCII.
pub(super) fn hex_of(hash: &[u8; 32]) -> [u8; 64] {
    let mut text = [b'0'; 64];
    // The room is exactly what it takes, so this cannot fail.
    let written = hex::encode_to_slice(hash, &mut text);
    debug_assert!(written.is_ok());
    text
}

/// What the signature is over.
pub(super) fn string_to_sign(date: &str, scope: &str, request_hash: &[u8; 32]) -> String {
    let hash = hex_of(request_hash);
    ["AWS4-HMAC-SHA256\n", date, "\n", scope, "\n", core::str::from_utf8(&hash).unwrap_or_default()].concat()
}
