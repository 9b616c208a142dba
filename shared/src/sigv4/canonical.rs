//! Canonical request and string to sign (specification, Appendix A, Tasks 1 and 2).
//!
//! The canonical URI is the raw path: [`crate::xks::RequestPath`] admits only characters that neither percent-encoding nor
//! path normalisation changes. The canonical query string is empty, because no query is admitted.

use ring::digest::{Context, SHA256};

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

/// Takes the pieces of a canonical request in their order.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Context {
    fn put(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
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
    pub(super) fn write(&self, sink: &mut impl Sink) {
        for part in [self.method, "\n", self.path, "\n", self.query, "\n"] {
            sink.put(part.as_bytes());
        }
        for (name, value) in self.headers {
            sink.put(name.as_bytes());
            sink.put(b":");
            write_header_value(sink, value);
            sink.put(b"\n");
        }
        for part in ["\n", self.signed_headers, "\n", self.body_hash] {
            sink.put(part.as_bytes());
        }
    }

    pub(super) fn hash(&self) -> [u8; 32] {
        let mut hash = Context::new(&SHA256);
        self.write(&mut hash);
        let mut out = [0; 32];
        out.copy_from_slice(hash.finish().as_ref());
        out
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
fn write_header_value(sink: &mut impl Sink, value: &[u8]) {
    let mut words = value.trim_ascii().split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    if let Some(first) = words.next() {
        sink.put(first);
    }
    for word in words {
        sink.put(b" ");
        sink.put(word);
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
