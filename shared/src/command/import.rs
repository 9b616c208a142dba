//! Imported secrets: on their way from an administrator to an attested enclave, for one command.
//!
//! Guarantees: each kind has its own label, so that what was encrypted as a credential never opens as a key; each is bound to key
//! store and command, so that it cannot be taken from one command into another.

use super::CommandError;
use crate::cbor;
use crate::hpke::{self, HpkeError};
use crate::ids::{CommandId, KeyStoreId};
use crate::keystore::CredentialRecord;
use crate::labels;
use crate::secrets::Secret;

/// Encrypts a credential to an attested enclave's key, for one command.
///
/// # Errors
/// [`CommandError`] when the credential breaks a rule or the key is no point of the curve.
pub fn seal_credential(
    credential: &CredentialRecord,
    key_store_id: KeyStoreId,
    command_id: CommandId,
    recipient: &hpke::PublicKey,
) -> Result<hpke::Sealed, CommandError> {
    let plaintext = cbor::encode(credential);
    cbor::decode::<CredentialRecord>(&plaintext)?;
    Ok(hpke::seal(recipient, &import_info(key_store_id, command_id), &[], &plaintext)?.0)
}

/// Enclave: opens an imported credential.
///
/// # Errors
/// [`CommandError`].
pub fn open_credential(
    sealed: &hpke::Sealed,
    key_store_id: KeyStoreId,
    command_id: CommandId,
    key: &hpke::PrivateKey,
) -> Result<CredentialRecord, CommandError> {
    let (plaintext, _) = hpke::open(key, &import_info(key_store_id, command_id), &[], sealed)?;
    Ok(cbor::decode(&plaintext)?)
}

fn import_info(key_store_id: KeyStoreId, command_id: CommandId) -> Vec<u8> {
    hpke::bind(labels::HPKE_IMPORT, &[key_store_id.as_bytes(), command_id.as_bytes()])
}

/// Encrypts the raw material of an external key to an attested enclave's key, for one command.
///
/// # Errors
/// [`CommandError`] when the key is no point of the curve.
pub fn seal_material(
    material: &Secret<32>,
    key_store_id: KeyStoreId,
    command_id: CommandId,
    recipient: &hpke::PublicKey,
) -> Result<hpke::Sealed, CommandError> {
    Ok(hpke::seal(recipient, &material_info(key_store_id, command_id), &[], material.expose())?.0)
}

/// Enclave: opens imported material.
///
/// # Errors
/// [`CommandError`], also when it does not have 32 bytes.
pub fn open_material(
    sealed: &hpke::Sealed,
    key_store_id: KeyStoreId,
    command_id: CommandId,
    key: &hpke::PrivateKey,
) -> Result<Secret<32>, CommandError> {
    let (plaintext, _) = hpke::open(key, &material_info(key_store_id, command_id), &[], sealed)?;
    Secret::fill_with(|material| {
        if plaintext.len() != material.len() {
            return Err(CommandError::Hpke(HpkeError::OpenFailed));
        }
        material.copy_from_slice(&plaintext);
        Ok(())
    })
}

fn material_info(key_store_id: KeyStoreId, command_id: CommandId) -> Vec<u8> {
    hpke::bind(labels::HPKE_IMPORT_KEY, &[key_store_id.as_bytes(), command_id.as_bytes()])
}
