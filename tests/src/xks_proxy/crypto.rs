//! The key: AES-256-GCM, with the framing of the specification's section "Encrypt" as AAD.

use holdfast_shared::sha256;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::Flaw;
use crate::random::random_bytes;

/// What every message carries.
const METADATA: &[u8] = b"key_version=1";

pub(super) struct Key(LessSafeKey);

pub(super) struct Encrypted {
    pub(super) ciphertext: Vec<u8>,
    pub(super) metadata: Vec<u8>,
    pub(super) iv: Vec<u8>,
    pub(super) tag: Vec<u8>,
}

impl Encrypted {
    /// The value of the specification's Appendix C.
    pub(super) fn integrity(&self, aad: &[u8]) -> [u8; 32] {
        sha256(&[aad, &self.metadata, &self.iv, &self.ciphertext, &self.tag])
    }
}

impl Key {
    pub(super) fn new() -> Self {
        Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &random_bytes::<32>()).unwrap()))
    }

    pub(super) fn encrypt(&self, flaw: Flaw, plaintext: &[u8], aad: &[u8]) -> Encrypted {
        let iv = random_bytes::<12>();
        let mut ciphertext = plaintext.to_vec();
        let framed = Aad::from(framed(flaw, aad, METADATA));
        let tag = self.0.seal_in_place_separate_tag(Nonce::assume_unique_for_key(iv), framed, &mut ciphertext);
        let (metadata, tag) = (METADATA.to_vec(), tag.unwrap().as_ref().to_vec());
        Encrypted { ciphertext, metadata, iv: iv.to_vec(), tag }
    }

    /// The plaintext, unless something of the message is not what it was.
    pub(super) fn decrypt(&self, flaw: Flaw, message: &Encrypted, aad: &[u8]) -> Option<Vec<u8>> {
        if flaw == Flaw::IgnoresTag {
            return Some(message.ciphertext.clone());
        }
        let nonce = Nonce::try_assume_unique_for_key(&message.iv).ok()?;
        let mut sealed = [message.ciphertext.as_slice(), &message.tag].concat();
        let framed = Aad::from(framed(flaw, aad, &message.metadata));
        let mut plaintext = self.0.open_in_place(nonce, framed, &mut sealed).ok()?.to_vec();
        if let (Flaw::OtherPlaintext, Some(first)) = (flaw, plaintext.first_mut()) {
            *first ^= 1;
        }
        Some(plaintext)
    }
}

fn framed(flaw: Flaw, aad: &[u8], metadata: &[u8]) -> Vec<u8> {
    let aad = if flaw == Flaw::IgnoresAad { b"" } else { aad };
    let metadata = if flaw == Flaw::IgnoresMetadata { b"" } else { metadata };
    let lengths = (u16::try_from(aad.len()).unwrap().to_be_bytes(), [u8::try_from(metadata.len()).unwrap()]);
    [&lengths.0, aad, &lengths.1, metadata].concat()
}
