//! What an enclave attests of a version, as far as a custodian reads it.
//!
//! Guarantees: the document has the shape of an attestation document and says of itself that it was made for exactly this version.
//! Whether an NSM signed it, and what was measured, is for whoever verifies the history: the enclave that brings it proved itself
//! when it obtained its lease.

use holdfast_shared::attestation::ParsedDocument;
use holdfast_shared::cbor;
use holdfast_shared::provenance::VersionUserData;
use holdfast_shared::register::RegisterEntry;

/// Reads the document that vouches for the version of `entry`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(evidence: &[u8], entry: &RegisterEntry) -> Result<VersionUserData, &'static str> {
    let parsed =
        ParsedDocument::parse(evidence).map_err(|_| "the version's evidence is not an attestation document")?;
    let user_data: VersionUserData = parsed
        .claimed_user_data()
        .and_then(|user_data| cbor::decode(user_data).ok())
        .ok_or("the version's evidence was not made for a version of a key store")?;
    let named = (user_data.key_store_id, user_data.version, user_data.blob_id, user_data.previous);
    if named != (entry.key_store_id, entry.version, entry.blob_id, entry.previous) {
        return Err("the version's evidence was made for another version");
    }
    Ok(user_data)
}
