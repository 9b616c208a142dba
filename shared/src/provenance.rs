//! Where a version comes from: what an enclave attests of each version that it makes.
//!
//! Guarantees: a document with [`VersionUserData`] was asked for by the enclave that sealed exactly this blob, after exactly this
//! predecessor, carrying out these commands, under a root key shared by exactly this set. Signed register entries and these
//! documents together are a chain from the ceremony on that can be checked without anybody's help. Assumes: the document is
//! verified as section 6 of the design says, at its own time.

use crate::cbor::message;
use crate::ids::{BlobId, CommandId, KeyStoreId};
use crate::labels;
use crate::limits;
use crate::manifest::ManifestId;
use crate::release::ShareSet;

/// What a document that vouches for a version says in `user_data`.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct VersionUserData {
    /// [`labels::ATTEST_VERSION`].
    #[n(0)]
    pub label: String,
    /// The key store.
    #[n(1)]
    pub key_store_id: KeyStoreId,
    /// The version, from 1.
    #[n(2)]
    pub version: u64,
    /// Its blob.
    #[n(3)]
    pub blob_id: BlobId,
    /// The blob before it; absent for version 1.
    #[n(4)]
    pub previous: Option<BlobId>,
    /// SHA-256 of the set of shares of the root key under which it is sealed ([`share_set_sha256`]).
    #[cbor(n(5), with = "minicbor::bytes")]
    pub share_set_sha256: [u8; 32],
    /// The manifest under which it was made.
    #[n(6)]
    pub manifest: ManifestId,
    /// The commands that made it; none for the ceremony and for what an enclave does by itself.
    #[n(7)]
    pub commands: Vec<CommandId>,
}

message!(VersionUserData, limits::ATTESTATION_FIELD_MAX, "version user_data", |user_data| {
    if user_data.label != labels::ATTEST_VERSION {
        Err("was made for another purpose")
    } else if user_data.version == 0 || (user_data.version == 1) != user_data.previous.is_none() {
        Err("version 1 alone has no predecessor")
    } else if user_data.manifest.sequence == 0 {
        Err("the first manifest has sequence 1")
    } else {
        Ok(())
    }
});

/// SHA-256 of a set of shares, as [`VersionUserData`] carries it.
#[must_use]
pub fn share_set_sha256(set: &ShareSet) -> [u8; 32] {
    crate::sha256(&[&crate::cbor::encode(set)])
}
