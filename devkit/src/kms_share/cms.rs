//! Writes `CiphertextForRecipient` as KMS writes it (RFC 5652, section 6, in BER).
//!
//! Guarantees: the five outer containers have indefinite lengths, content comes in pieces of 1,000 bytes, the recipient is named by
//! 32 bytes: the form of the answers of KMS that were published. Shares no code with `holdfast_shared::cms`, which reads it.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeEncrypt, KeyIvInit};
use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use ring::rand::{SecureRandom, SystemRandom};
use rsa::pkcs8::DecodePublicKey;
use rsa::traits::PublicKeyParts;
use rsa::{Oaep, RsaPublicKey};
use sha2::Sha256;

const PIECE: usize = 1000;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const EXPLICIT_0: u8 = 0xa0;
const EXPLICIT_1: u8 = 0xa1;
const IMPLICIT_0: u8 = 0x80;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;

const ENVELOPED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03";
const DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
const RSAES_OAEP: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07";
const MGF1: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08";
const SHA_256: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x01";
const AES_256_CBC: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x01\x2a";
const VERSION_2: &[u8] = &[0x02, 0x01, 0x02];
const NULL: &[u8] = &[0x05, 0x00];

/// Encrypts to the RSA-2048 key in `public_key` (`SubjectPublicKeyInfo`); nothing if it is none.
#[must_use]
pub fn encrypt_to(public_key: &[u8], plaintext: &[u8]) -> Option<Vec<u8>> {
    let public = RsaPublicKey::from_public_key_der(public_key).ok()?;
    if public.size() != 256 {
        return None;
    }
    let (mut key, mut iv) = ([0; 32], [0; 16]);
    SystemRandom::new().fill(&mut key).ok()?;
    SystemRandom::new().fill(&mut iv).ok()?;
    let encrypted_key = public.encrypt(&mut UnwrapErr(SysRng), Oaep::<Sha256>::new(), &key).ok()?;
    let mut content = plaintext.to_vec();
    content.resize(plaintext.len() / 16 * 16 + 16, 0);
    let cipher = cbc::Encryptor::<aes::Aes256>::new_from_slices(&key, &iv).ok()?;
    let content = cipher.encrypt_padded::<Pkcs7>(&mut content, plaintext.len()).ok()?;
    let identifier = holdfast_shared::sha256(&[public_key]);
    Some(write(&identifier, &encrypted_key, &iv, content))
}

fn write(identifier: &[u8], encrypted_key: &[u8], iv: &[u8], content: &[u8]) -> Vec<u8> {
    let sha_256 = element(SEQUENCE, &[&*element(OID, SHA_256), NULL].concat());
    let mgf1 = element(SEQUENCE, &[element(OID, MGF1), sha_256.clone()].concat());
    let parameters = [element(EXPLICIT_0, &sha_256), element(EXPLICIT_1, &mgf1)].concat();
    let oaep = element(SEQUENCE, &[element(OID, RSAES_OAEP), element(SEQUENCE, &parameters)].concat());
    let recipient = [VERSION_2, &element(IMPLICIT_0, identifier), &oaep, &element(OCTETS, encrypted_key)].concat();
    let pieces: Vec<u8> = content.chunks(PIECE).flat_map(|piece| element(OCTETS, piece)).collect();
    let algorithm = element(SEQUENCE, &[element(OID, AES_256_CBC), element(OCTETS, iv)].concat());
    let encrypted_content =
        indefinite(SEQUENCE, &[element(OID, DATA), algorithm, indefinite(EXPLICIT_0, &pieces)].concat());
    let recipients = element(SET, &element(SEQUENCE, &recipient));
    let enveloped = indefinite(SEQUENCE, &[VERSION_2, &recipients, &encrypted_content].concat());
    indefinite(SEQUENCE, &[element(OID, ENVELOPED_DATA), indefinite(EXPLICIT_0, &enveloped)].concat())
}

/// With a length as short as can be; nothing here is longer than two bytes can say.
fn element(tag: u8, body: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head = match (high, low) {
        (0, 0..=0x7f) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&*head, body].concat()
}

fn indefinite(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag, 0x80], body, &[0, 0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written anew from its parts, an answer of KMS is the same to the last byte.
    #[test]
    fn the_form_is_that_of_kms() {
        for name in ["kms-2020", "kms-2025"] {
            let path = format!("{}/../tests/vectors/kms/{name}.json", env!("CARGO_MANIFEST_DIR"));
            let case: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            let field = |name: &str| hex::decode(case[name].as_str().unwrap()).unwrap();
            let message = field("message");
            let (identifier, key, iv) = (&message[33..65], &message[131..387], &message[415..431]);
            assert_eq!(write(identifier, key, iv, &field("content")), message, "{name}");
        }
    }

    #[test]
    fn no_other_key_than_rsa_2048_is_encrypted_to() {
        assert_eq!(encrypt_to(b"no key", b"secret"), None);
    }
}
