//! Stage one: bytes that have the shape of an attestation document.
//!
//! Guarantees of [`ParsedDocument`]: rules 1 to 3 of section 6 of the design. Assumes nothing of the bytes. Refuses
//! every encoding but the one of the NSM: definite lengths, shortest integers, no key twice, no key that we do not
//! know, nothing after the end. It says nothing about who made the document, so the little of its content that it shows
//! is called *claimed*: [`verify`](ParsedDocument::verify) is the only way on.

use std::collections::BTreeMap;

use super::measurements::PCR_LEN;
use super::reader::Reader;
use crate::limits::{
    ATTESTATION_CABUNDLE_MAX, ATTESTATION_CERTIFICATE_MAX, ATTESTATION_DOCUMENT_MAX, ATTESTATION_FIELD_MAX,
    ATTESTATION_PAYLOAD_MAX, PCR_MAX,
};

/// The tag of a `COSE_Sign1` (RFC 9052, section 2).
const COSE_SIGN1: u64 = 18;
/// The protected header {1: −35}: algorithm ES384 (RFC 9053, section 2.1).
pub(super) const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];
/// Bytes of an ES384 signature: r ‖ s.
pub(super) const SIGNATURE_LEN: usize = 96;

/// The rule of the document's shape that was broken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Longer than [`ATTESTATION_DOCUMENT_MAX`].
    #[error("the document is longer than the bound")]
    TooLong,
    /// Not CBOR, not UTF-8 where text is due, or cut short.
    #[error("the document is not well-formed CBOR or ends early")]
    Cbor,
    /// A length that is not known beforehand.
    #[error("a length is indefinite")]
    IndefiniteLength,
    /// An integer or a length in more bytes than it needs.
    #[error("an integer or a length is not in its shortest form")]
    LongForm,
    /// Bytes after the end of the document or of the payload.
    #[error("bytes follow the end")]
    TrailingBytes,
    /// Not an array of four, untagged or under tag 18.
    #[error("the envelope is not a COSE_Sign1")]
    Envelope,
    /// The protected header is not exactly {1: −35}.
    #[error("the protected header is not exactly ES384")]
    ProtectedHeader,
    /// The unprotected header is not an empty map.
    #[error("the unprotected header is not empty")]
    UnprotectedHeader,
    /// The payload is not a byte string of 1 to [`ATTESTATION_PAYLOAD_MAX`] bytes that holds a map.
    #[error("the payload is not a map in a bounded byte string")]
    Payload,
    /// The signature is not 96 bytes.
    #[error("the signature is not 96 bytes")]
    Signature,
    /// A key of the payload that the NSM does not write.
    #[error("the payload has an unknown key")]
    UnknownKey,
    /// A key of the payload, or a PCR, twice.
    #[error("the payload has a key twice")]
    DuplicateKey,
    /// A key of the payload that must be there is not.
    #[error("the payload lacks `{0}`")]
    Missing(&'static str),
    /// `module_id` is not a non-empty text.
    #[error("`module_id` is not a non-empty text")]
    ModuleId,
    /// `digest` is not "SHA384".
    #[error("`digest` is not \"SHA384\"")]
    Digest,
    /// `timestamp` is not a positive integer.
    #[error("`timestamp` is not a positive integer")]
    Timestamp,
    /// `pcrs` is not a map of 1 to 32 entries with indexes 0 to 31.
    #[error("`pcrs` is not a map of 1 to 32 entries with indexes 0 to 31")]
    Pcrs,
    /// A PCR is not 48 bytes.
    #[error("a PCR is not 48 bytes")]
    PcrLength,
    /// `certificate` is not 1 to 1,024 bytes.
    #[error("`certificate` is not 1 to 1024 bytes")]
    Certificate,
    /// `cabundle` is not an array of 1 to [`ATTESTATION_CABUNDLE_MAX`] certificates of 1 to 1,024 bytes.
    #[error("`cabundle` is not a bounded array of certificates of 1 to 1024 bytes")]
    CaBundle,
    /// `public_key` is neither null nor at most 1,024 bytes.
    #[error("`public_key` is neither null nor at most 1024 bytes")]
    PublicKey,
    /// `user_data` is neither null nor at most 1,024 bytes.
    #[error("`user_data` is neither null nor at most 1024 bytes")]
    UserData,
    /// `nonce` is neither null nor at most 1,024 bytes.
    #[error("`nonce` is neither null nor at most 1024 bytes")]
    Nonce,
}

/// What the payload says. Claims until the document is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) module_id: String,
    pub(super) timestamp_ms: u64,
    pub(super) pcrs: BTreeMap<u8, [u8; PCR_LEN]>,
    pub(super) certificate: Vec<u8>,
    pub(super) cabundle: Vec<Vec<u8>>,
    pub(super) public_key: Option<Vec<u8>>,
    pub(super) user_data: Option<Vec<u8>>,
    pub(super) nonce: Option<Vec<u8>>,
}

/// A document with the right shape; nothing it says is proven.
#[derive(Clone, Debug)]
pub struct ParsedDocument {
    pub(super) payload: Vec<u8>,
    pub(super) signature: [u8; SIGNATURE_LEN],
    pub(super) claims: Claims,
}

impl ParsedDocument {
    /// The timestamp that the document claims, milliseconds since 1970: proven only by verification. For an enclave that
    /// reads its own NSM's time.
    #[must_use]
    pub fn claimed_timestamp_ms(&self) -> u64 {
        self.claims.timestamp_ms
    }

    /// The nonce that the document claims to answer: to look up the challenge before the costly verification.
    #[must_use]
    pub fn claimed_nonce(&self) -> Option<&[u8]> {
        self.claims.nonce.as_deref()
    }

    /// The `user_data` that the document claims: to know for whom it says it was made before the costly verification.
    #[must_use]
    pub fn claimed_user_data(&self) -> Option<&[u8]> {
        self.claims.user_data.as_deref()
    }

    /// Reads a document (section 6 of the design, rules 1 to 3).
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn parse(document: &[u8]) -> Result<Self, ParseError> {
        if document.len() > ATTESTATION_DOCUMENT_MAX {
            return Err(ParseError::TooLong);
        }
        let mut reader = Reader::new(document);
        if reader.tag()?.is_some_and(|tag| tag != COSE_SIGN1) || reader.array(ParseError::Envelope)? != 4 {
            return Err(ParseError::Envelope);
        }
        if reader.bytes(ParseError::ProtectedHeader)? != PROTECTED {
            return Err(ParseError::ProtectedHeader);
        }
        if reader.map(ParseError::UnprotectedHeader)? != 0 {
            return Err(ParseError::UnprotectedHeader);
        }
        let payload = reader.bytes(ParseError::Payload)?;
        if payload.is_empty() || payload.len() > ATTESTATION_PAYLOAD_MAX {
            return Err(ParseError::Payload);
        }
        let signature = reader.bytes(ParseError::Signature)?;
        let signature = signature.try_into().map_err(|_| ParseError::Signature)?;
        reader.finish()?;
        Ok(Self { payload: payload.to_vec(), signature, claims: parse_payload(payload)? })
    }
}

/// A field that may be null.
struct Nullable<'b>(Option<&'b [u8]>);

impl Nullable<'_> {
    /// AWS's grammar marks these fields as optional; absent says the same as null.
    fn flatten(field: Option<Self>) -> Option<Vec<u8>> {
        field.and_then(|field| field.0).map(<[u8]>::to_vec)
    }
}

/// The payload's fields as they come, in any order.
#[derive(Default)]
struct Fields<'b> {
    module_id: Option<&'b str>,
    digest: Option<()>,
    timestamp_ms: Option<u64>,
    pcrs: Option<BTreeMap<u8, [u8; PCR_LEN]>>,
    certificate: Option<&'b [u8]>,
    cabundle: Option<Vec<Vec<u8>>>,
    public_key: Option<Nullable<'b>>,
    user_data: Option<Nullable<'b>>,
    nonce: Option<Nullable<'b>>,
}

fn parse_payload(payload: &[u8]) -> Result<Claims, ParseError> {
    let mut reader = Reader::new(payload);
    let mut fields = Fields::default();
    // A key that is not known or comes twice ends the loop, so it runs at most ten times whatever the map's head says.
    for _ in 0..reader.map(ParseError::Payload)? {
        match reader.text(ParseError::UnknownKey)? {
            "module_id" => once(&mut fields.module_id, module_id(&mut reader))?,
            "digest" => once(&mut fields.digest, digest(&mut reader))?,
            "timestamp" => once(&mut fields.timestamp_ms, timestamp(&mut reader))?,
            "pcrs" => once(&mut fields.pcrs, pcrs(&mut reader))?,
            "certificate" => once(&mut fields.certificate, certificate(&mut reader, ParseError::Certificate))?,
            "cabundle" => once(&mut fields.cabundle, cabundle(&mut reader))?,
            "public_key" => once(&mut fields.public_key, field(&mut reader, ParseError::PublicKey))?,
            "user_data" => once(&mut fields.user_data, field(&mut reader, ParseError::UserData))?,
            "nonce" => once(&mut fields.nonce, field(&mut reader, ParseError::Nonce))?,
            _ => return Err(ParseError::UnknownKey),
        }
    }
    reader.finish()?;
    fields.digest.ok_or(ParseError::Missing("digest"))?;
    Ok(Claims {
        module_id: fields.module_id.ok_or(ParseError::Missing("module_id"))?.to_owned(),
        timestamp_ms: fields.timestamp_ms.ok_or(ParseError::Missing("timestamp"))?,
        pcrs: fields.pcrs.ok_or(ParseError::Missing("pcrs"))?,
        certificate: fields.certificate.ok_or(ParseError::Missing("certificate"))?.to_vec(),
        cabundle: fields.cabundle.ok_or(ParseError::Missing("cabundle"))?,
        public_key: Nullable::flatten(fields.public_key),
        user_data: Nullable::flatten(fields.user_data),
        nonce: Nullable::flatten(fields.nonce),
    })
}

/// Puts a value into its empty place.
fn once<T>(place: &mut Option<T>, value: Result<T, ParseError>) -> Result<(), ParseError> {
    if place.is_some() {
        return Err(ParseError::DuplicateKey);
    }
    *place = Some(value?);
    Ok(())
}

fn module_id<'b>(reader: &mut Reader<'b>) -> Result<&'b str, ParseError> {
    let text = reader.text(ParseError::ModuleId)?;
    if text.is_empty() { Err(ParseError::ModuleId) } else { Ok(text) }
}

fn digest(reader: &mut Reader<'_>) -> Result<(), ParseError> {
    let text = reader.text(ParseError::Digest)?;
    if text == "SHA384" { Ok(()) } else { Err(ParseError::Digest) }
}

fn timestamp(reader: &mut Reader<'_>) -> Result<u64, ParseError> {
    let timestamp_ms = reader.unsigned(ParseError::Timestamp)?;
    if timestamp_ms == 0 { Err(ParseError::Timestamp) } else { Ok(timestamp_ms) }
}

fn pcrs(reader: &mut Reader<'_>) -> Result<BTreeMap<u8, [u8; PCR_LEN]>, ParseError> {
    let count = count(reader.map(ParseError::Pcrs)?, PCR_MAX).ok_or(ParseError::Pcrs)?;
    let mut pcrs = BTreeMap::new();
    for _ in 0..count {
        let index = u8::try_from(reader.unsigned(ParseError::Pcrs)?).map_err(|_| ParseError::Pcrs)?;
        if usize::from(index) >= PCR_MAX {
            return Err(ParseError::Pcrs);
        }
        let value = reader.bytes(ParseError::PcrLength)?;
        let value = value.try_into().map_err(|_| ParseError::PcrLength)?;
        if pcrs.insert(index, value).is_some() {
            return Err(ParseError::DuplicateKey);
        }
    }
    Ok(pcrs)
}

fn certificate<'b>(reader: &mut Reader<'b>, wrong: ParseError) -> Result<&'b [u8], ParseError> {
    let bytes = reader.bytes(wrong)?;
    if bytes.is_empty() || bytes.len() > ATTESTATION_CERTIFICATE_MAX {
        return Err(wrong);
    }
    Ok(bytes)
}

fn cabundle(reader: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, ParseError> {
    let count = reader.array(ParseError::CaBundle)?;
    let count = self::count(count, ATTESTATION_CABUNDLE_MAX).ok_or(ParseError::CaBundle)?;
    (0..count).map(|_| certificate(reader, ParseError::CaBundle).map(<[u8]>::to_vec)).collect()
}

fn field<'b>(reader: &mut Reader<'b>, wrong: ParseError) -> Result<Nullable<'b>, ParseError> {
    let bytes = reader.optional_bytes(wrong)?;
    if bytes.is_some_and(|bytes| bytes.len() > ATTESTATION_FIELD_MAX) {
        return Err(wrong);
    }
    Ok(Nullable(bytes))
}

/// A number of entries between one and `max`.
fn count(count: u64, max: usize) -> Option<usize> {
    usize::try_from(count).ok().filter(|count| (1..=max).contains(count))
}
