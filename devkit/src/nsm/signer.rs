//! Signs the documents of a virtual machine's NSM.
//!
//! QEMU's machine `nitro-enclave` has an NSM that measures what it boots, and signs nothing: its documents name the algorithm
//! −1, and certificate, bundle and signature are 64 zero bytes each. Here such a document gets a chain and a signature of the
//! emulator's root around the same fields, so that it proves to whoever names that root what the machine measured.
//!
//! Guarantees: every field but `certificate` and `cabundle` has the bytes that the machine wrote. Assumes: whoever reaches the
//! socket is the machine; the root proves that as little as it proves anything else. Refuses: a document that is signed already, or
//! of another form.

use minicbor::Decoder;

use super::NsmError;
use super::document::DocumentBuilder;

/// What stands where QEMU has nothing to say.
const NOTHING: [u8; 64] = [0; 64];
/// {1: −1}: no algorithm.
const UNSIGNED: &[u8] = &[0xa1, 0x01, 0x20];
/// Bytes of a document: what fits into the device's answer.
pub const UNSIGNED_MAX: usize = super::wire::RESPONSE_MAX;

/// An unsigned document's fields as they stand.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnsignedDocument<'a> {
    /// `module_id`.
    pub(super) module_id: &'a str,
    /// Name and encoded value of the others but `certificate` and `cabundle`.
    fields: Vec<(&'a str, &'a [u8])>,
}

impl<'a> UnsignedDocument<'a> {
    /// Reads a document that has exactly the form of QEMU's.
    pub(super) fn read(document: &'a [u8]) -> Result<Self, NsmError> {
        Self::parse(document).ok_or(NsmError::NotUnsigned)
    }

    fn parse(document: &'a [u8]) -> Option<Self> {
        let mut cose = Decoder::new(document);
        let framed = document.len() <= UNSIGNED_MAX && cose.array().ok()? == Some(4) && cose.bytes().ok()? == UNSIGNED;
        if !framed || cose.map().ok()? != Some(0) {
            return None;
        }
        let payload = cose.bytes().ok()?;
        if cose.bytes().ok()? != NOTHING || cose.position() != document.len() {
            return None;
        }
        let mut map = Decoder::new(payload);
        let (mut module_id, mut certificate, mut cabundle, mut fields) = (None, false, false, Vec::new());
        for _ in 0..map.map().ok()?? {
            let name = map.str().ok()?;
            let start = map.position();
            match name {
                "certificate" => certificate = map.bytes().ok()? == NOTHING,
                "cabundle" => cabundle = map.array().ok()? == Some(1) && map.bytes().ok()? == NOTHING,
                "module_id" => module_id = Some(map.str().ok()?),
                _ => {
                    map.skip().ok()?;
                    fields.push((name, payload.get(start..map.position())?));
                }
            }
        }
        let complete = certificate && cabundle && map.position() == payload.len();
        Some(Self { module_id: module_id.filter(|_| complete)?, fields })
    }

    /// The same fields in a document that will be signed.
    pub(super) fn onto(&self, document: DocumentBuilder) -> DocumentBuilder {
        self.fields.iter().fold(document, |document, (name, value)| document.field(name, value.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::{bytes, text, unsigned};
    use super::super::{EmulatedRoot, Emulator, Settings};
    use super::*;
    use crate::nsm::EmulatedChain;
    use holdfast_shared::attestation::ParsedDocument;

    fn qemu(change: impl FnOnce(DocumentBuilder) -> DocumentBuilder) -> Vec<u8> {
        let root = EmulatedRoot::generate().unwrap();
        let chain = EmulatedChain::standard(&root, "i-1-enc1", 1_800_000_000_000).unwrap();
        let document = DocumentBuilder::new(&chain, "i-1-enc1", 1_800_000_000_000)
            .protected(UNSIGNED)
            .signature(&NOTHING)
            .field("certificate", bytes(&NOTHING))
            .cabundle(&[NOTHING.to_vec()])
            .nonce(Some(b"nonce"))
            .user_data(Some(b"data"));
        change(document).build().unwrap()
    }

    #[test]
    fn an_unsigned_document_gets_a_signature_and_keeps_its_fields() {
        let emulator = Emulator::new(EmulatedRoot::generate().unwrap(), Settings::default()).unwrap();
        let unsigned = qemu(|document| document);
        let now_ms = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        assert!(ParsedDocument::parse(&unsigned).is_err(), "nobody takes it as it is");
        let signed = emulator.sign(&unsigned).unwrap();
        let parsed = ParsedDocument::parse(&signed).unwrap();
        let verified = parsed.verify(&emulator.trust_root().unwrap(), now_ms).unwrap();
        assert_eq!(verified.module_id(), "i-1-enc1");
        assert_eq!(verified.timestamp_ms(), 1_800_000_000_000);
        assert!(emulator.sign(&signed).is_err(), "what is signed is not signed again");
    }

    #[test]
    fn any_other_form_is_refused() {
        type Change = fn(DocumentBuilder) -> DocumentBuilder;
        let table: [(&str, Change); 8] = [
            ("another algorithm", |document| document.protected(&[0xa1, 0x01, 0x38, 0x22])),
            ("a signature", |document| document.signature(&[1; 64])),
            ("a longer signature", |document| document.signature(&[0; 96])),
            ("a certificate", |document| document.field("certificate", bytes(&[1; 64]))),
            ("no certificate", |document| document.without("certificate")),
            ("a bundle", |document| document.cabundle(&[vec![1; 64]])),
            ("two in the bundle", |document| document.cabundle(&[NOTHING.to_vec(), NOTHING.to_vec()])),
            ("an unprotected header", |document| {
                document.unprotected(&[&[0xa1][..], &unsigned(1), &text("x")].concat())
            }),
        ];
        assert!(UnsignedDocument::read(&qemu(|document| document)).is_ok());
        for (name, change) in table {
            assert!(UnsignedDocument::read(&qemu(change)).is_err(), "{name}");
        }
        let whole = qemu(|document| document);
        for length in 0..whole.len() {
            assert!(UnsignedDocument::read(&whole[..length]).is_err(), "{length}");
        }
        assert!(UnsignedDocument::read(&[whole.as_slice(), &[0]].concat()).is_err());
    }
}
