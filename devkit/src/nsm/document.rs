//! Attestation documents as the NSM writes them, and every one that it would not write.
//!
//! Guarantees: an untouched [`DocumentBuilder`] builds what the device does, byte order of keys included. Each setter
//! replaces one part as given, right or wrong, so that a table of tests can break one rule at a time. The signature
//! covers whatever the payload became, unless it was set itself.

use std::collections::BTreeMap;

use minicbor::Encoder;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};

use super::NsmError;
use super::chain::EmulatedChain;

/// The protected header {1: −35}, ES384.
pub const PROTECTED_ES384: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];

/// Builds one document.
#[derive(Clone, Debug)]
pub struct DocumentBuilder {
    /// Name and encoded value of each entry of the payload, in order.
    fields: Vec<(String, Vec<u8>)>,
    tag: Option<u8>,
    protected: Vec<u8>,
    unprotected: Vec<u8>,
    payload: Option<Vec<u8>>,
    signature: Option<Vec<u8>>,
    leaf_key: Vec<u8>,
}

impl DocumentBuilder {
    /// A good document of this chain with PCR 0 to 15 zero, and no nonce, user data or public key.
    pub fn new(chain: &EmulatedChain, module_id: &str, timestamp_ms: u64) -> Self {
        let builder = Self {
            fields: Vec::new(),
            tag: None,
            protected: PROTECTED_ES384.to_vec(),
            unprotected: vec![0xa0],
            payload: None,
            signature: None,
            leaf_key: chain.leaf_key().to_vec(),
        };
        builder
            .field("module_id", text(module_id))
            .field("digest", text("SHA384"))
            .field("timestamp", unsigned(timestamp_ms))
            .pcrs(&(0..16).map(|index| (index, [0; 48])).collect())
            .field("certificate", bytes(chain.certificate()))
            .cabundle(&chain.cabundle())
            .public_key(None)
            .user_data(None)
            .nonce(None)
    }

    /// Sets an entry of the payload to an encoded value, or adds it at the end.
    #[must_use]
    pub fn field(mut self, name: &str, value: Vec<u8>) -> Self {
        match self.fields.iter_mut().find(|(existing, _)| existing == name) {
            Some((_, existing)) => *existing = value,
            None => self.fields.push((name.to_owned(), value)),
        }
        self
    }

    /// Adds an entry at the end even if it is there already.
    #[must_use]
    pub fn duplicate(mut self, name: &str, value: Vec<u8>) -> Self {
        self.fields.push((name.to_owned(), value));
        self
    }

    /// Removes an entry.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(existing, _)| existing != name);
        self
    }

    /// Turns the entries' order round.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.fields.reverse();
        self
    }

    /// Sets `pcrs`.
    #[must_use]
    pub fn pcrs(self, pcrs: &BTreeMap<u8, [u8; 48]>) -> Self {
        let entries = pcrs.iter().flat_map(|(index, value)| [unsigned(u64::from(*index)), bytes(value)]);
        let value = [head(5, pcrs.len()), entries.collect::<Vec<_>>().concat()].concat();
        self.field("pcrs", value)
    }

    /// Sets `cabundle`.
    #[must_use]
    pub fn cabundle(self, certificates: &[Vec<u8>]) -> Self {
        let entries: Vec<_> = certificates.iter().map(|certificate| bytes(certificate)).collect();
        self.field("cabundle", [head(4, certificates.len()), entries.concat()].concat())
    }

    /// Sets `public_key`.
    #[must_use]
    pub fn public_key(self, value: Option<&[u8]>) -> Self {
        self.field("public_key", optional(value))
    }

    /// Sets `user_data`.
    #[must_use]
    pub fn user_data(self, value: Option<&[u8]>) -> Self {
        self.field("user_data", optional(value))
    }

    /// Sets `nonce`.
    #[must_use]
    pub fn nonce(self, value: Option<&[u8]>) -> Self {
        self.field("nonce", optional(value))
    }

    /// Puts a tag below 24 before the document.
    #[must_use]
    pub fn tag(mut self, tag: u8) -> Self {
        self.tag = Some(0xc0 | tag);
        self
    }

    /// Sets the bytes of the protected header; the signature covers them.
    #[must_use]
    pub fn protected(mut self, protected: &[u8]) -> Self {
        self.protected = protected.to_vec();
        self
    }

    /// Sets the encoded unprotected header.
    #[must_use]
    pub fn unprotected(mut self, encoded: &[u8]) -> Self {
        self.unprotected = encoded.to_vec();
        self
    }

    /// Sets the payload as a whole, in place of its entries.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = Some(payload.to_vec());
        self
    }

    /// Sets the signature in place of a true one.
    #[must_use]
    pub fn signature(mut self, signature: &[u8]) -> Self {
        self.signature = Some(signature.to_vec());
        self
    }

    /// The payload's bytes.
    pub fn payload_bytes(&self) -> Vec<u8> {
        self.payload.clone().unwrap_or_else(|| {
            let entries = self.fields.iter().flat_map(|(name, value)| [text(name), value.clone()]);
            [head(5, self.fields.len()), entries.collect::<Vec<_>>().concat()].concat()
        })
    }

    /// The document.
    ///
    /// # Errors
    /// The leaf's key cannot sign.
    pub fn build(&self) -> Result<Vec<u8>, NsmError> {
        let payload = self.payload_bytes();
        let signature = match &self.signature {
            Some(signature) => signature.clone(),
            None => self.sign(&payload)?,
        };
        Ok([
            self.tag.into_iter().collect(),
            head(4, 4),
            bytes(&self.protected),
            self.unprotected.clone(),
            bytes(&payload),
            bytes(&signature),
        ]
        .concat())
    }

    /// The signature over the `Sig_structure` (RFC 9052, section 4.4).
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, NsmError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &self.leaf_key, &random)
            .map_err(|_| NsmError::LeafKey)?;
        let signed = [head(4, 4), text("Signature1"), bytes(&self.protected), bytes(&[]), bytes(payload)].concat();
        let signature = key.sign(&random, &signed).map_err(|_| NsmError::LeafKey)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// An encoded text.
pub fn text(value: &str) -> Vec<u8> {
    encoded(|encoder| encoder.str(value).is_ok())
}

/// An encoded byte string.
pub fn bytes(value: &[u8]) -> Vec<u8> {
    encoded(|encoder| encoder.bytes(value).is_ok())
}

/// An encoded unsigned integer.
pub fn unsigned(value: u64) -> Vec<u8> {
    encoded(|encoder| encoder.u64(value).is_ok())
}

fn optional(value: Option<&[u8]>) -> Vec<u8> {
    value.map_or_else(|| vec![0xf6], bytes)
}

/// The head of an array (major type 4) or a map (5).
fn head(major: u8, count: usize) -> Vec<u8> {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    encoded(|encoder| if major == 4 { encoder.array(count) } else { encoder.map(count) }.is_ok())
}

fn encoded(write: impl FnOnce(&mut Encoder<Vec<u8>>) -> bool) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    let written = write(&mut encoder);
    debug_assert!(written, "writing to a vector does not fail");
    encoder.into_writer()
}
