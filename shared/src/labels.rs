//! Every label that separates one use of a key, a hash or a signature from another. Vectors: `tests/vectors/labels.txt`.
//!
//! A label is never reused and never changed: a new meaning gets a new label.

// --- Signatures (ES384 over label, 0x00, payload) -----------------------------------------------------------------------

/// A manifest, signed by each of its administrators.
pub const MANIFEST: &str = "holdfast manifest v1";
/// A command, signed by administrators.
pub const COMMAND: &str = "holdfast command v1";
/// A block overlay, signed by administrators.
pub const BLOCK: &str = "holdfast block v1";
/// A query, signed by an administrator.
pub const QUERY: &str = "holdfast query v1";
/// The answer to a query, signed by a custodian.
pub const QUERY_ANSWER: &str = "holdfast query answer v1";
/// A release, signed by a custodian.
pub const RELEASE: &str = "holdfast release v1";
/// A register entry, signed by the home custodian.
pub const REGISTER: &str = "holdfast register v1";

// --- Attestation `user_data` --------------------------------------------------------------------------------------------

/// A document made to obtain a release.
pub const ATTEST_RELEASE: &str = "holdfast attest release v1";
/// A document that vouches for a result of a command.
pub const ATTEST_RESULT: &str = "holdfast attest result v1";

// --- HPKE `info` and exporter contexts ------------------------------------------------------------------------------------

/// A share on its way to its custodian.
pub const HPKE_SHARE: &str = "holdfast share v1";
/// A result on its way to an administrator.
pub const HPKE_RESULT: &str = "holdfast result v1";
/// A credential on its way from an administrator to an attested enclave.
pub const HPKE_IMPORT: &str = "holdfast import v1";
/// Exporter context: AEAD key of the sealed channel, enclave to custodian.
pub const CHANNEL_ASK: &str = "holdfast channel ask v1";
/// Exporter context: AEAD key of the sealed channel, custodian to enclave.
pub const CHANNEL_REPLY: &str = "holdfast channel reply v1";

// --- Hashes, MACs, key derivation ---------------------------------------------------------------------------------------

/// HKDF info of the key that seals a key store.
pub const SEAL: &str = "holdfast seal v1";
/// Commitment to a share.
pub const SHARE_COMMITMENT: &str = "holdfast share commitment v1";
/// MAC of a challenge nonce.
pub const CHALLENGE: &str = "holdfast challenge v1";
/// AAD under which a custodian wraps a share for its own disk.
pub const WRAP_SHARE: &str = "holdfast wrap share v1";
/// AAD under which a custodian wraps a lease's channel keys for its own disk.
pub const WRAP_LEASE: &str = "holdfast wrap lease v1";
/// AAD under which a custodian wraps the key of its challenges for its own disk.
pub const WRAP_CHALLENGE: &str = "holdfast wrap challenge v1";
/// HKDF salt for the root key, over NSM and kernel entropy.
pub const ROOT_ENTROPY: &str = "holdfast root entropy v1";

// --- External keys ------------------------------------------------------------------------------------------------------

/// HKDF info, before the salt, of the key of one message under an external key.
pub const EXTERNAL_KEY_MESSAGE: &str = "holdfast external key message v1";
