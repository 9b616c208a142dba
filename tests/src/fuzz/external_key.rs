//! Messages under an external key: only what the key made opens, and a second implementation agrees.
//!
//! First byte `s`: salt and IV come from a byte each, then AAD (with its length) and the plaintext are encrypted. Else: AAD,
//! metadata, IV, tag (each with its length) and ciphertext arrive.

use std::sync::LazyLock;

use holdfast_shared::external_key::integrity::integrity_value;
use holdfast_shared::external_key::{
    Ciphertext, ExternalKey, ExternalKeyId, ExternalKeyVersion, KeyState, KeyUsage, MessageRandomness,
};
use holdfast_shared::labels;
use holdfast_shared::limits::{AAD_MAX, PLAINTEXT_MAX};
use holdfast_shared::secrets::Secret;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;

use super::Verdict;
use super::input::Input;

const MATERIALS: [[u8; 32]; 2] = [[0x71; 32], [0x72; 32]];
/// Version numbers of the two materials.
const NUMBERS: [u32; 2] = [1, 0x0102_0304 & 0x00ff_ffff];

static KEY: LazyLock<ExternalKey> = LazyLock::new(|| {
    let versions = MATERIALS
        .iter()
        .zip(NUMBERS)
        .map(|(material, number)| ExternalKeyVersion::new(number, Secret::take(&mut material.clone())).unwrap());
    let id = ExternalKeyId::parse("key").unwrap();
    ExternalKey::new(id, KeyUsage::ENCRYPT_DECRYPT, KeyState::Enabled, versions.collect()).unwrap()
});

/// A message.
pub fn external_key_messages(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    if input.byte() != b's' {
        let (aad, metadata, iv, tag) = (input.field(), input.field(), input.field(), input.field());
        return arrives(&Ciphertext { ciphertext: input.rest(), metadata, iv, tag }, aad);
    }
    let randomness = MessageRandomness { salt: [input.byte(); 16], iv: [input.byte(); 12] };
    let (aad, plaintext) = (input.field(), input.rest());
    let message = KEY.encrypt(&randomness, aad, plaintext);
    assert_eq!(message.is_ok(), plaintext.len() <= PLAINTEXT_MAX && aad.len() <= AAD_MAX);
    let Ok(mut message) = message else { return Verdict::Refused };
    assert_eq!(arrives(&message.as_ciphertext(), aad), Verdict::Accepted);
    let verified = KEY.encrypt_verified(&randomness, aad, plaintext).unwrap().into_parts();
    assert_eq!(verified, (message.clone(), integrity_value(aad, &message.as_ciphertext())));
    assert_eq!(arrives(&message.as_ciphertext(), &[aad, b"."].concat()), Verdict::Refused, "another AAD");
    let at = plaintext.len() % 16;
    message.tag[at] ^= 1;
    assert_eq!(arrives(&message.as_ciphertext(), aad), Verdict::Refused, "another tag");
    Verdict::Accepted
}

fn arrives(message: &Ciphertext<'_>, aad: &[u8]) -> Verdict {
    let opened = KEY.decrypt(message, aad).ok().map(|plaintext| plaintext.to_vec());
    assert_eq!(opened, open(message, aad), "two implementations disagree");
    Verdict::from(opened.is_some())
}

/// Section 4 of the design, with HKDF written out as HMAC (RFC 5869, section 2.3).
fn open(message: &Ciphertext<'_>, aad: &[u8]) -> Option<Vec<u8>> {
    let [1, high, middle, low, salt @ ..] = message.metadata else { return None };
    let number = u32::from(*high) << 16 | u32::from(*middle) << 8 | u32::from(*low);
    let (material, _) = MATERIALS.iter().zip(NUMBERS).find(|(_, known)| *known == number)?;
    let lengths = (salt.len(), message.tag.len(), message.iv.len());
    if lengths != (16, 16, 12) || message.ciphertext.len() > PLAINTEXT_MAX {
        return None;
    }
    let info = [labels::EXTERNAL_KEY_MESSAGE.as_bytes(), salt, &[1]].concat();
    let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, material), &info);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, derived.as_ref()).ok()?);
    let aad_len = u16::try_from(aad.len()).ok()?.to_be_bytes();
    let framed = [aad_len.as_slice(), aad, &[20], message.metadata].concat();
    let nonce = Nonce::try_assume_unique_for_key(message.iv).ok()?;
    let mut buffer = [message.ciphertext, message.tag].concat();
    key.open_in_place(nonce, Aad::from(framed), &mut buffer).ok().map(|plaintext| plaintext.to_vec())
}
