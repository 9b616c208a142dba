//! The register: which version of a key store is the newest, signed by the home custodian.
//!
//! Guarantees: a [`RegisterEntry`] obtained by [`open`] was signed by that custodian for that key store. Whether it is the
//! newest is another question, which the release answers by asking enough custodians.

use ring::rand::SecureRandom;

use crate::cbor::{self, DecodeError, message};
use crate::ids::{BlobId, KeyStoreId};
use crate::labels;
use crate::signature::{Envelope, SignatureError, SigningKey, VerifyingKey};

/// One version of a key store.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct RegisterEntry {
    /// [`labels::REGISTER`].
    #[n(0)]
    pub label: String,
    /// The key store.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// Starts at 1, grows by one.
    #[n(2)]
    pub version: u64,
    /// The sealed key store of this version.
    #[n(3)]
    pub blob_id: BlobId,
    /// The one before; absent for version 1.
    #[n(4)]
    pub previous: Option<BlobId>,
    /// The custodian's time, milliseconds since 1970.
    #[n(5)]
    pub recorded_ms: u64,
}

message!(RegisterEntry, 512, "register entry", |entry| {
    if entry.label != labels::REGISTER {
        Err("is not a register entry of this version")
    } else if entry.version == 0 || (entry.version == 1) != entry.previous.is_none() {
        Err("version 1 alone has no predecessor")
    } else {
        Ok(())
    }
});

/// Why a register entry was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Not a register entry.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Not signed by the home custodian.
    #[error("register entry: {0}")]
    Signature(#[from] SignatureError),
    /// About another key store.
    #[error("register entry: of another key store")]
    OtherKeyStore,
}

/// Signs an entry.
///
/// # Errors
/// [`SignatureError::SigningFailed`].
pub fn sign(entry: &RegisterEntry, key: &SigningKey, rng: &dyn SecureRandom) -> Result<Vec<u8>, SignatureError> {
    let envelope = Envelope::seal(labels::REGISTER, &cbor::encode(entry), key, rng)?;
    Ok(cbor::encode(&envelope).to_vec())
}

/// Verifies a signed entry of `key_store_id` by `home_custodian`.
///
/// # Errors
/// [`RegisterError`].
pub fn open(
    signed: &[u8],
    key_store_id: KeyStoreId,
    home_custodian: &VerifyingKey,
) -> Result<RegisterEntry, RegisterError> {
    let envelope: Envelope = cbor::decode(signed)?;
    let (payload, _) = envelope.open(labels::REGISTER, &[*home_custodian], 1)?;
    let entry: RegisterEntry = cbor::decode(payload)?;
    if entry.key_store_id != key_store_id {
        return Err(RegisterError::OtherKeyStore);
    }
    Ok(entry)
}
