//! Messages under an external key: only what the key made opens, and a second implementation agrees.
//!
//! First byte `s`: salt and IV come from a byte each, then AAD (with its length) and the plaintext are encrypted. `g`: AWS's sample
//! proxy encrypts; a byte for its IV, a byte that says whether it saw AAD, then AAD and metadata (with their lengths) and the
//! plaintext. Else: AAD, metadata, IV, tag (each with its length) and ciphertext arrive.

use std::sync::LazyLock;

use holdfast_shared::external_key::integrity::integrity_value;
use holdfast_shared::external_key::{
    Ciphertext, ExternalKey, ExternalKeyId, ExternalKeyVersion, KeyState, KeyUsage, LegacyProfile, MessageRandomness,
};
use holdfast_shared::labels;
use holdfast_shared::limits::{AAD_MAX, PLAINTEXT_MAX};
use holdfast_shared::secrets::Secret;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;

use super::Verdict;
use super::input::Input;

const MATERIALS: [[u8; 32]; 2] = [[0x71; 32], [0x72; 32]];
/// Version numbers of the two materials. The first was imported from AWS's sample proxy.
const NUMBERS: [u32; 2] = [1, 0x0002_0304];

static KEY: LazyLock<ExternalKey> = LazyLock::new(|| {
    let versions = MATERIALS.iter().zip(NUMBERS).map(|(material, number)| {
        let version = ExternalKeyVersion::new(number, Secret::take(&mut material.clone())).unwrap();
        version.with_legacy((number == 1).then_some(LegacyProfile::AwsSample))
    });
    let id = ExternalKeyId::parse("key").unwrap();
    ExternalKey::new(id, KeyUsage::ENCRYPT_DECRYPT, KeyState::Enabled, versions.collect()).unwrap()
});

/// A message.
pub fn external_key_messages(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let how = input.byte();
    if how == b'g' {
        return sample_proxy(input);
    }
    if how != b's' {
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

/// A message that AWS's sample proxy made, with AAD or without any (which is not the same to it, and the same to us).
fn sample_proxy(mut input: Input<'_>) -> Verdict {
    let (iv, present) = ([input.byte(); 12], input.byte() % 2 == 1);
    let (aad, metadata) = (input.field(), input.field());
    let Some(framed) = sample_aad(aad, present, metadata) else { return Verdict::Refused };
    let mut sealed = input.rest().to_vec();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &MATERIALS[0]).unwrap());
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(iv), Aad::from(framed), &mut sealed).unwrap();
    let (ciphertext, tag) = sealed.split_at(sealed.len() - 16);
    let verdict = arrives(&Ciphertext { ciphertext, metadata, iv: &iv, tag }, aad);
    assert_eq!(verdict == Verdict::Accepted, ciphertext.len() <= PLAINTEXT_MAX && (present || aad.is_empty()));
    verdict
}

/// The sample proxy's AAD: the length of AAD, its hash if there was any, the length of the metadata, the metadata.
fn sample_aad(aad: &[u8], present: bool, metadata: &[u8]) -> Option<Vec<u8>> {
    let hash = if present { holdfast_shared::sha256(&[aad]).to_vec() } else { Vec::new() };
    let length = u16::try_from(aad.len()).ok()?.to_be_bytes();
    Some([length.as_slice(), &hash, &[u8::try_from(metadata.len()).ok()?], metadata].concat())
}

fn arrives(message: &Ciphertext<'_>, aad: &[u8]) -> Verdict {
    let opened = KEY.decrypt(message, aad).ok().map(|plaintext| plaintext.to_vec());
    assert_eq!(opened, open(message, aad), "two implementations disagree");
    Verdict::from(opened.is_some())
}

fn open(message: &Ciphertext<'_>, aad: &[u8]) -> Option<Vec<u8>> {
    let legacy = |present| {
        let framed = sample_aad(aad, present, message.metadata)?;
        gcm(&MATERIALS[0], message, framed)
    };
    open_own(message, aad).or_else(|| legacy(true)).or_else(|| if aad.is_empty() { legacy(false) } else { None })
}

/// Section 4 of the design, with HKDF written out as HMAC (RFC 5869, section 2.3).
fn open_own(message: &Ciphertext<'_>, aad: &[u8]) -> Option<Vec<u8>> {
    let [1, high, middle, low, salt @ ..] = message.metadata else { return None };
    let number = u32::from(*high) << 16 | u32::from(*middle) << 8 | u32::from(*low);
    let (material, _) = MATERIALS.iter().zip(NUMBERS).find(|(_, known)| *known == number)?;
    if salt.len() != 16 {
        return None;
    }
    let info = [labels::EXTERNAL_KEY_MESSAGE.as_bytes(), salt, &[1]].concat();
    let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, material), &info);
    let aad_len = u16::try_from(aad.len()).ok()?.to_be_bytes();
    gcm(derived.as_ref(), message, [aad_len.as_slice(), aad, &[20], message.metadata].concat())
}

fn gcm(key: &[u8], message: &Ciphertext<'_>, framed_aad: Vec<u8>) -> Option<Vec<u8>> {
    if (message.tag.len(), message.iv.len()) != (16, 12) || message.ciphertext.len() > PLAINTEXT_MAX {
        return None;
    }
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
    let nonce = Nonce::try_assume_unique_for_key(message.iv).ok()?;
    let mut buffer = [message.ciphertext, message.tag].concat();
    key.open_in_place(nonce, Aad::from(framed_aad), &mut buffer).ok().map(|plaintext| plaintext.to_vec())
}
