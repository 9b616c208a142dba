//! Messages of AWS's sample proxy (`aws-samples/aws-kms-xks-proxy`), for decryption only (ADR 0011).
//!
//! ```text
//! key         = the raw AES-256 key itself
//! IV          = 12 bytes drawn by proxy or HSM, or 16 bytes where the HSM draws it itself
//! AAD for GCM = length of AAD (2 bytes, big endian) ‖ SHA-256(AAD), if KMS sent AAD ‖ length of metadata (1 byte) ‖ metadata
//! metadata    = the same bytes for all messages of one proxy, from its configuration; nothing by default
//! ```
//!
//! Guarantees: nothing is ever encrypted in this form. Assumes: the material was imported, so that somebody else may still have it.
//! Refuses: IVs of another length than 12 and 16, tags of another length than 16.
//!
//! The sample proxy hashes AAD that is present and empty, and does not hash AAD that is absent. The specification calls the two equal,
//! and a request parsed by its rules no longer tells them apart, so both forms are tried.

use aes_gcm::aead::consts::U16;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::aes::Aes256;
use aes_gcm::{AesGcm, Tag};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::message::{Ciphertext, DecryptError, IV_LEN, TAG_LEN};
use crate::limits::PLAINTEXT_MAX;
use crate::secrets::{Secret, WipedBytes};

/// A message format of another proxy, for decryption only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum LegacyProfile {
    /// AWS's sample proxy (`aws-samples/aws-kms-xks-proxy`).
    #[n(0)]
    AwsSample,
}

/// Bytes of the IVs that some HSMs draw themselves.
const LONG_IV_LEN: usize = 16;

/// Decrypts one message of the sample proxy.
pub(super) fn decrypt(material: &Secret<32>, message: &Ciphertext<'_>, aad: &[u8]) -> Result<WipedBytes, DecryptError> {
    if message.ciphertext.len() > PLAINTEXT_MAX || message.tag.len() != TAG_LEN {
        return Err(DecryptError);
    }
    let hashed = frame_aad(aad, true, message.metadata).ok_or(DecryptError)?;
    match open(material, message, &hashed) {
        Err(DecryptError) if aad.is_empty() => {
            let absent = frame_aad(aad, false, message.metadata).ok_or(DecryptError)?;
            open(material, message, &absent)
        }
        result => result,
    }
}

/// The AAD input of AES-GCM.
fn frame_aad(aad: &[u8], present: bool, metadata: &[u8]) -> Option<Vec<u8>> {
    let mut framed = u16::try_from(aad.len()).ok()?.to_be_bytes().to_vec();
    if present {
        framed.extend_from_slice(&crate::sha256(&[aad]));
    }
    framed.push(u8::try_from(metadata.len()).ok()?);
    framed.extend_from_slice(metadata);
    Some(framed)
}

fn open(material: &Secret<32>, message: &Ciphertext<'_>, framed_aad: &[u8]) -> Result<WipedBytes, DecryptError> {
    match message.iv.len() {
        IV_LEN => open_with_ring(material, message, framed_aad),
        LONG_IV_LEN => open_with_long_iv(material, message, framed_aad),
        _ => Err(DecryptError),
    }
}

fn open_with_ring(
    material: &Secret<32>,
    message: &Ciphertext<'_>,
    framed_aad: &[u8],
) -> Result<WipedBytes, DecryptError> {
    let key = UnboundKey::new(&AES_256_GCM, material.expose()).map(LessSafeKey::new).map_err(|_| DecryptError)?;
    let nonce = Nonce::try_assume_unique_for_key(message.iv).map_err(|_| DecryptError)?;
    let mut buffer = WipedBytes::new(Vec::with_capacity(message.ciphertext.len() + TAG_LEN));
    buffer.extend_from_slice(message.ciphertext);
    buffer.extend_from_slice(message.tag);
    let plaintext_len = key.open_in_place(nonce, Aad::from(framed_aad), &mut buffer).map_err(|_| DecryptError)?.len();
    buffer.truncate(plaintext_len);
    Ok(buffer)
}

/// *ring* takes IVs of 12 bytes only.
fn open_with_long_iv(
    material: &Secret<32>,
    message: &Ciphertext<'_>,
    framed_aad: &[u8],
) -> Result<WipedBytes, DecryptError> {
    let key = AesGcm::<Aes256, U16>::new_from_slice(material.expose()).map_err(|_| DecryptError)?;
    let iv = message.iv.try_into().map_err(|_| DecryptError)?;
    let tag: &Tag = message.tag.try_into().map_err(|_| DecryptError)?;
    let mut buffer = WipedBytes::new(message.ciphertext.to_vec());
    key.decrypt_inout_detached(iv, framed_aad, InOutBuf::from(buffer.as_mut_slice()), tag).map_err(|_| DecryptError)?;
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::external_key::{ExternalKey, ExternalKeyId, ExternalKeyVersion, KeyState, KeyUsage, MessageRandomness};

    #[derive(serde::Deserialize)]
    struct Vector {
        material: String,
        iv: String,
        aad: Option<String>,
        metadata: String,
        ciphertext: String,
        tag: String,
        plaintext: Option<String>,
    }

    fn vectors() -> Vec<(String, Vector)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/legacy");
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut vectors: Vec<_> = paths
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .map(|path| {
                let vector = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                (path.file_stem().unwrap().to_str().unwrap().to_owned(), vector)
            })
            .collect();
        vectors.sort_by(|(left, _), (right, _)| left.cmp(right));
        assert!(vectors.len() >= 40, "only {} vectors were found", vectors.len());
        vectors
    }

    fn key(versions: Vec<ExternalKeyVersion>) -> ExternalKey {
        let id = ExternalKeyId::parse("imported").unwrap();
        ExternalKey::new(id, KeyUsage::ENCRYPT_DECRYPT, KeyState::Enabled, versions).unwrap()
    }

    fn version(number: u32, material: &str, legacy: Option<LegacyProfile>) -> ExternalKeyVersion {
        let mut bytes: [u8; 32] = hex::decode(material).unwrap().try_into().unwrap();
        ExternalKeyVersion::new(number, Secret::take(&mut bytes)).unwrap().with_legacy(legacy)
    }

    fn fresh(number: u32) -> ExternalKeyVersion {
        ExternalKeyVersion::new(number, Secret::take(&mut [0x77; 32])).unwrap()
    }

    /// Made by another implementation: `tests/vectors/legacy/make.py`.
    #[test]
    fn messages_of_the_sample_proxy_decrypt_under_an_imported_key_alone() {
        const LEGACY: Option<LegacyProfile> = Some(LegacyProfile::AwsSample);
        for (name, vector) in vectors() {
            let decode = |text: &str| hex::decode(text).unwrap();
            let (iv, metadata) = (decode(&vector.iv), decode(&vector.metadata));
            let (ciphertext, tag) = (decode(&vector.ciphertext), decode(&vector.tag));
            let aad = vector.aad.as_deref().map(decode).unwrap_or_default();
            let message = Ciphertext { ciphertext: &ciphertext, metadata: &metadata, iv: &iv, tag: &tag };
            let decrypt = |versions| key(versions).decrypt(&message, &aad).ok().map(|text| text.to_vec());
            let material = &vector.material;
            let expected = vector.plaintext.as_deref().map(decode);
            assert_eq!(expected.is_none(), name.starts_with("bad-"), "{name}");
            assert_eq!(decrypt(vec![version(1, material, LEGACY)]), expected, "{name}");
            assert_eq!(decrypt(vec![version(1, material, LEGACY), fresh(2)]), expected, "{name}: after a rotation");
            assert_eq!(decrypt(vec![version(1, material, None)]), None, "{name}: without the profile");
            assert_eq!(decrypt(vec![fresh(2)]), None, "{name}: after the version was destroyed");
        }
    }

    #[test]
    fn a_key_with_the_profile_encrypts_in_our_form_only() {
        let imported = key(vec![version(1, &"42".repeat(32), Some(LegacyProfile::AwsSample))]);
        let randomness = MessageRandomness { salt: [5; 16], iv: [6; 12] };
        let message = imported.encrypt(&randomness, b"aad", b"plaintext").unwrap();
        assert_eq!(message.metadata[..4], [1, 0, 0, 1]);
        assert_eq!(*imported.decrypt(&message.as_ciphertext(), b"aad").unwrap(), b"plaintext");
        let ours = key(vec![version(1, &"42".repeat(32), None)]);
        assert_eq!(*ours.decrypt(&message.as_ciphertext(), b"aad").unwrap(), b"plaintext");
    }

    #[test]
    fn lengths_are_refused_before_a_cipher_sees_them() {
        let imported = key(vec![version(1, &"42".repeat(32), Some(LegacyProfile::AwsSample))]);
        for (iv, tag, ciphertext) in
            [(0, 16, 4), (11, 16, 4), (13, 16, 4), (15, 16, 4), (17, 16, 4), (12, 15, 4), (16, 12, 4), (12, 16, 8193)]
        {
            let (iv, tag, ciphertext) = (vec![1; iv], vec![2; tag], vec![3; ciphertext]);
            let message = Ciphertext { ciphertext: &ciphertext, metadata: &[], iv: &iv, tag: &tag };
            assert_eq!(imported.decrypt(&message, b"").unwrap_err(), DecryptError);
        }
        assert_eq!(frame_aad(&vec![0; 65_536], true, b""), None);
        assert_eq!(frame_aad(b"", true, &[0; 256]), None);
    }
}
