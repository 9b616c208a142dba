//! The ciphertext data integrity value (CDIV) and the order in which it is made (specification, Appendix C).
//!
//! ```text
//! encrypt ─► EncryptedMessage ─► Hashed (value computed) ─► decrypt from the returned fields, compare ─► VerifiedMessage
//! ```
//!
//! Guarantees: the value is computed *before* the verifying decryption, which the types force, so that a bit that flips in
//! the output after hashing or before decrypting cannot pass both; the verifying decryption starts from the fields that
//! KMS will get, its message key derived anew. Assumes nothing of the memory in between.

use ring::digest::{Context, SHA256};

use super::message::{Ciphertext, EncryptError, EncryptedMessage, ExternalKeyVersion};
use crate::secrets::is_equal;

/// SHA-256 over AAD ‖ metadata ‖ IV ‖ ciphertext ‖ tag; without lengths, as Appendix C notes.
#[must_use]
pub fn integrity_value(aad: &[u8], message: &Ciphertext<'_>) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    hash.update(aad);
    hash.update(message.metadata);
    hash.update(message.iv);
    hash.update(message.ciphertext);
    hash.update(message.tag);
    let mut value = [0; 32];
    value.copy_from_slice(hash.finish().as_ref());
    value
}

/// A message whose value is computed, and which nothing has verified yet (steps 1 and 2 of Appendix C).
#[derive(Debug)]
pub struct Hashed {
    message: EncryptedMessage,
    value: [u8; 32],
}

/// A message that was decrypted again after its value was computed (steps 3 and 4).
#[derive(Debug)]
pub struct VerifiedMessage {
    message: EncryptedMessage,
    value: [u8; 32],
}

impl Hashed {
    /// Step 2: computes the value of a fresh encryption.
    #[must_use]
    pub fn compute(message: EncryptedMessage, aad: &[u8]) -> Self {
        let value = integrity_value(aad, &message.as_ciphertext());
        Self { message, value }
    }

    /// Steps 3 and 4: decrypts what will be returned and compares it with what was to be encrypted, in constant time.
    ///
    /// # Errors
    /// If the message does not decrypt, or not to `plaintext`.
    pub fn verify(
        self,
        key: &ExternalKeyVersion,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<VerifiedMessage, EncryptError> {
        let decrypted = key.decrypt(&self.message.as_ciphertext(), aad).map_err(|_| EncryptError::Failed)?;
        if !is_equal(&decrypted, plaintext) {
            return Err(EncryptError::Failed);
        }
        Ok(VerifiedMessage { message: self.message, value: self.value })
    }
}

impl VerifiedMessage {
    /// The message and its value.
    #[must_use]
    pub fn into_parts(self) -> (EncryptedMessage, [u8; 32]) {
        (self.message, self.value)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::external_key::MessageRandomness;
    use crate::secrets::Secret;

    #[test]
    fn the_example_of_the_specification() {
        let decode = |text| STANDARD.decode(text).unwrap();
        let (ciphertext, metadata) = (decode("ghxkK1txeDNn3q8Y"), decode("a2V5X3ZlcnNpb249MQ=="));
        let (iv, tag) = (decode("HMrlRw85cAJUd5Ax"), decode("vBxN2ncH1oEkR8WVXpmyYQ=="));
        let message = Ciphertext { ciphertext: &ciphertext, metadata: &metadata, iv: &iv, tag: &tag };
        let value = integrity_value(b"project=nile,department=marketing", &message);
        assert_eq!(hex::encode(value), "a8703f2260bd8791ec2d15ea0b23e65a0631eedcf2a13a65cc82db3f47cf5ec7");
        assert_eq!(STANDARD.encode(value), "qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=");
    }

    #[derive(serde::Deserialize)]
    struct Vector {
        version: u32,
        material: String,
        salt: String,
        iv: String,
        aad: String,
        plaintext: String,
        ciphertext: String,
        metadata: String,
        tag: String,
        integrity_value: String,
    }

    /// Vectors made by another implementation: `tests/vectors/external_key/generate.py`.
    #[test]
    fn vectors() {
        let fixed = |text: &str| <[u8; 32]>::try_from(hex::decode(text).unwrap()).unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/external_key");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let vector: Vector = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let key = ExternalKeyVersion::new(vector.version, Secret::take(&mut fixed(&vector.material))).unwrap();
            let randomness = MessageRandomness {
                salt: hex::decode(&vector.salt).unwrap().try_into().unwrap(),
                iv: hex::decode(&vector.iv).unwrap().try_into().unwrap(),
            };
            let (aad, plaintext) = (hex::decode(&vector.aad).unwrap(), hex::decode(&vector.plaintext).unwrap());
            let message = key.encrypt(&randomness, &aad, &plaintext).unwrap();
            let (message, value) = Hashed::compute(message, &aad).verify(&key, &aad, &plaintext).unwrap().into_parts();
            let name = path.display();
            assert_eq!(hex::encode(&message.ciphertext), vector.ciphertext, "{name}");
            assert_eq!(hex::encode(message.metadata), vector.metadata, "{name}");
            assert_eq!(hex::encode(message.iv), vector.iv, "{name}");
            assert_eq!(hex::encode(message.tag), vector.tag, "{name}");
            assert_eq!(hex::encode(value), vector.integrity_value, "{name}");
            count += 1;
        }
        assert!(count >= 5, "only {count} vectors were found");
    }

    #[test]
    fn a_bit_flipped_after_hashing_is_found() {
        let key = ExternalKeyVersion::new(1, Secret::take(&mut [1; 32])).unwrap();
        let randomness = MessageRandomness { salt: [2; 16], iv: [3; 12] };
        let fresh = || Hashed::compute(key.encrypt(&randomness, b"aad", b"plaintext").unwrap(), b"aad");

        let (message, value) = fresh().verify(&key, b"aad", b"plaintext").unwrap().into_parts();
        assert_eq!(value, integrity_value(b"aad", &message.as_ciphertext()));

        let flips: [fn(&mut EncryptedMessage); 4] = [
            |message| message.ciphertext[4] ^= 0x10,
            |message| message.metadata[12] ^= 0x10,
            |message| message.iv[4] ^= 0x10,
            |message| message.tag[4] ^= 0x10,
        ];
        for flip in flips {
            let mut hashed = fresh();
            flip(&mut hashed.message);
            assert_eq!(hashed.verify(&key, b"aad", b"plaintext").unwrap_err(), EncryptError::Failed);
        }
        assert_eq!(fresh().verify(&key, b"aad", b"plaintexT").unwrap_err(), EncryptError::Failed);
    }
}
