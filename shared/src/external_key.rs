//! External keys: their names, usage and state, and how they encrypt messages.
//!
//! Guarantees: material is held in [`crate::secrets::Secret`] and leaves it only into `ring`; an encryption whose integrity
//! value KMS asked for was decrypted again before it is returned ([`integrity`]). Assumes: the caller supplies fresh
//! randomness for each message ([`MessageRandomness`]). Refuses: ciphertexts whose metadata is not in our format, except under an imported
//! key with a [`LegacyProfile`].

mod id;
pub mod integrity;
mod key;
mod legacy;
mod message;

pub use id::{ExternalKeyId, KeyState, KeyUsage};
pub use key::{ExternalKey, ExternalKeyError, version_of};
pub use legacy::LegacyProfile;
pub use message::{
    Ciphertext, DecryptError, EncryptError, EncryptedMessage, ExternalKeyVersion, IV_LEN, METADATA_LEN,
    MessageRandomness, SALT_LEN, TAG_LEN, VERSION_MAX, VersionNumberError,
};
