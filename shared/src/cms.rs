//! `CiphertextForRecipient`: what AWS KMS answers to a request with an attestation document.
//!
//! ```text
//! ContentInfo (envelopedData) ─ EnvelopedData v2 ┬ one KeyTransRecipientInfo v2: RSAES-OAEP, SHA-256, MGF1 with SHA-256
//!                                                └ AES-256-CBC: IV, content in one piece or in several
//! ```
//!
//! KMS writes CMS (RFC 5652, section 6) in BER: the five outer containers have indefinite lengths, everything within the recipient
//! has definite ones, and content of more than 1,000 bytes comes in pieces. AWS's own SDK for Nitro Enclaves accepts that form
//! alone, with the content primitive as another choice; so does this reader, which compares every byte that never differs. The
//! one freedom more is the NULL after SHA-256, which RFC 4055 makes optional and OpenSSL leaves out.
//!
//! Guarantees: an [`EnvelopedData`] has one recipient, a key of 256 bytes, an IV of 16 and content of whole blocks within bounds;
//! work and memory are bounded by the input's length. Assumes: nothing; what is read is no proof of anything: whoever knows
//! the public key can make such a message, so the plaintext needs a check of its own (a share has its commitment). Refuses:
//! other algorithms and versions, certificates of an originator, attributes, more recipients, lengths in more bytes
//! than needed, anything after the end.

use crate::limits::{CIPHERTEXT_FOR_RECIPIENT_MAX, KMS_PLAINTEXT_MAX, KMS_RECIPIENT_ID_MAX};

/// Bytes of an RSA-2048 ciphertext.
pub const ENCRYPTED_KEY_LEN: usize = 256;
/// Bytes of a block of AES and of an IV.
pub const BLOCK_LEN: usize = 16;
/// Bytes of the longest content: padding adds at most one block.
pub const CONTENT_MAX: usize = KMS_PLAINTEXT_MAX + BLOCK_LEN;

/// `ContentInfo`, its type `envelopedData`, the explicit `content`, `EnvelopedData`, version 2.
const HEAD: &[u8] = b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03\xa0\x80\x30\x80\x02\x01\x02";
/// Version 2: the recipient is named by a key identifier.
const RECIPIENT_VERSION: &[u8] = b"\x02\x01\x02";
/// RSAES-OAEP with SHA-256 and MGF1 with SHA-256 (RFC 4055, section 4.1), parameters of SHA-256 NULL.
const RSAES_OAEP: &[u8] = b"\x30\x3c\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07\x30\x2f\
    \xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\
    \xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08\
    \x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00";
/// The same without NULL: RFC 4055, section 2.1, has both spellings accepted.
const RSAES_OAEP_NO_NULL: &[u8] = b"\x30\x38\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07\x30\x2b\
    \xa0\x0d\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\
    \xa1\x1a\x30\x18\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08\
    \x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01";
/// `EncryptedContentInfo`, its type `data`.
const CONTENT_HEAD: &[u8] = b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
/// AES-256-CBC (RFC 3565, section 4.1), up to its IV.
const AES_256_CBC: &[u8] = b"\x30\x1d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2a\x04\x10";
/// `encryptedContent` in pieces.
const PIECES: &[u8] = b"\xa0\x80";
/// The end of an indefinite length.
const END: &[u8] = b"\x00\x00";

const SET: u8 = 0x31;
const SEQUENCE: u8 = 0x30;
const OCTET_STRING: u8 = 0x04;
/// `subjectKeyIdentifier`, and `encryptedContent` in one piece: implicit `[0]`.
const IMPLICIT_0: u8 = 0x80;

/// Why a message is not what KMS sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CmsError {
    /// More bytes than KMS may send.
    #[error("CiphertextForRecipient is longer than {CIPHERTEXT_FOR_RECIPIENT_MAX} bytes")]
    TooLong,
    /// Something else than KMS sends, or the end.
    #[error("CiphertextForRecipient is not what KMS sends: {0}")]
    Unexpected(&'static str),
}

/// A message taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct EnvelopedData<'a> {
    encrypted_key: &'a [u8; ENCRYPTED_KEY_LEN],
    iv: &'a [u8; BLOCK_LEN],
    content: Vec<u8>,
}

impl<'a> EnvelopedData<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// [`CmsError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CmsError> {
        if bytes.len() > CIPHERTEXT_FOR_RECIPIENT_MAX {
            return Err(CmsError::TooLong);
        }
        let mut reader = Reader(bytes);
        reader.literal(HEAD, "its head is not that of EnvelopedData, version 2")?;
        let mut recipients = Reader(reader.element(SET, "no recipients")?);
        let recipient = recipients.element(SEQUENCE, "no recipient by public key")?;
        recipients.end("more than one recipient")?;
        let encrypted_key = read_recipient(recipient)?;
        reader.literal(CONTENT_HEAD, "its content is not data, or something stands before it")?;
        reader.literal(AES_256_CBC, "its content is not encrypted with AES-256-CBC")?;
        let iv = reader.array("its IV is cut off")?;
        let content = reader.content()?;
        for _ in 0..4 {
            reader.literal(END, "something stands after the content")?;
        }
        reader.end("something stands after the end")?;
        Ok(Self { encrypted_key, iv, content })
    }

    /// The content's key, encrypted to the recipient.
    #[must_use]
    pub const fn encrypted_key(&self) -> &'a [u8; ENCRYPTED_KEY_LEN] {
        self.encrypted_key
    }

    /// The IV.
    #[must_use]
    pub const fn iv(&self) -> &'a [u8; BLOCK_LEN] {
        self.iv
    }

    /// The encrypted content: whole blocks, at least one.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.content
    }
}

/// `KeyTransRecipientInfo`. The identifier says nothing that we would believe: there is one recipient, and the key fits or does not.
fn read_recipient(bytes: &[u8]) -> Result<&[u8; ENCRYPTED_KEY_LEN], CmsError> {
    let mut reader = Reader(bytes);
    reader.literal(RECIPIENT_VERSION, "its recipient is not of version 2")?;
    let identifier = reader.element(IMPLICIT_0, "its recipient has no key identifier")?;
    if identifier.is_empty() || identifier.len() > KMS_RECIPIENT_ID_MAX {
        return Err(CmsError::Unexpected("its recipient's identifier is empty or too long"));
    }
    let oaep = if reader.0.starts_with(RSAES_OAEP_NO_NULL) { RSAES_OAEP_NO_NULL } else { RSAES_OAEP };
    reader.literal(oaep, "its key is not encrypted with RSAES-OAEP, SHA-256 and MGF1 with SHA-256")?;
    let key = reader.element(OCTET_STRING, "no encrypted key")?;
    reader.end("something stands after the encrypted key")?;
    key.try_into().map_err(|_| CmsError::Unexpected("its encrypted key has not 256 bytes"))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn literal(&mut self, expected: &[u8], otherwise: &'static str) -> Result<(), CmsError> {
        self.0 = self.0.strip_prefix(expected).ok_or(CmsError::Unexpected(otherwise))?;
        Ok(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self, otherwise: &'static str) -> Result<&'a [u8; N], CmsError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(CmsError::Unexpected(otherwise))?;
        self.0 = rest;
        Ok(array)
    }

    /// An element with this tag and a definite length, written as short as can be.
    fn element(&mut self, tag: u8, otherwise: &'static str) -> Result<&'a [u8], CmsError> {
        if self.byte() != Some(tag) {
            return Err(CmsError::Unexpected(otherwise));
        }
        let len = self.length().ok_or(CmsError::Unexpected("a length is not definite and as short as can be"))?;
        self.take(len).ok_or(CmsError::Unexpected("an element is cut off"))
    }

    /// Two bytes hold every length that the bound on the whole admits.
    fn length(&mut self) -> Option<usize> {
        match self.byte()? {
            short @ 0..=0x7f => Some(short.into()),
            0x81 => self.byte().filter(|len| *len >= 0x80).map(usize::from),
            0x82 => Some(u16::from_be_bytes([self.byte()?, self.byte()?])).filter(|len| *len >= 0x100).map(usize::from),
            _ => None,
        }
    }

    fn content(&mut self) -> Result<Vec<u8>, CmsError> {
        let mut content = Vec::new();
        if self.0.starts_with(PIECES) {
            self.literal(PIECES, "no content")?;
            while !self.0.starts_with(END) {
                let piece = self.element(OCTET_STRING, "a piece of its content is no octet string")?;
                if piece.is_empty() {
                    return Err(CmsError::Unexpected("a piece of its content is empty"));
                }
                content.extend_from_slice(piece);
            }
            self.literal(END, "its content has no end")?;
        } else {
            content.extend_from_slice(self.element(IMPLICIT_0, "no content")?);
        }
        if content.is_empty() || content.len() > CONTENT_MAX || !content.len().is_multiple_of(BLOCK_LEN) {
            return Err(CmsError::Unexpected("its content is empty, too long, or not in whole blocks"));
        }
        Ok(content)
    }

    fn end(&self, otherwise: &'static str) -> Result<(), CmsError> {
        if self.0.is_empty() { Ok(()) } else { Err(CmsError::Unexpected(otherwise)) }
    }
}

#[cfg(test)]
mod tests;
