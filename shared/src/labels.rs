//! Every label that separates one use of a key, a hash or a signature from another. Vectors: `tests/vectors/protocol/labels.txt`.
//!
//! A label is never reused and never changed: a new meaning gets a new label.

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*

        /// All of them, in the order of this file.
        pub const ALL: &[&str] = &[$($text),*];
    };
}

labels! {
    // --- Signatures (ES384 over label, 0x00, payload) -----------------------------------------------------------------------

    /// A manifest, signed by each of its administrators.
    MANIFEST = "holdfast manifest v1";
    /// A command, signed by administrators.
    COMMAND = "holdfast command v1";
    /// A block overlay, signed by administrators.
    BLOCK = "holdfast block v1";
    /// A query, signed by an administrator.
    QUERY = "holdfast query v1";
    /// The answer to a query, signed by a custodian.
    QUERY_ANSWER = "holdfast query answer v1";
    /// A release, signed by a custodian.
    RELEASE = "holdfast release v1";
    /// A register entry, signed by the home custodian.
    REGISTER = "holdfast register v1";
    /// A change of a release policy, signed by administrators.
    POLICY = "holdfast release policy v1";
    /// The approval of one boot's releases, signed by an administrator.
    APPROVAL = "holdfast release approval v1";

    // --- Attestation `user_data` --------------------------------------------------------------------------------------------

    /// A document made to obtain a release.
    ATTEST_RELEASE = "holdfast attest release v1";
    /// A document that vouches for a result of a command.
    ATTEST_RESULT = "holdfast attest result v1";
    /// A document that vouches for a version of a key store.
    ATTEST_VERSION = "holdfast attest version v1";
    /// A document made to have AWS KMS give a share back.
    ATTEST_KMS_SHARE = "holdfast attest kms share v1";
    /// A document that proves to anybody where a TLS connection ends.
    ATTEST_CONNECTION = "holdfast attest connection v1";

    // --- HPKE `info` and exporter contexts ------------------------------------------------------------------------------------

    /// A share on its way to its custodian.
    HPKE_SHARE = "holdfast share v1";
    /// A result on its way to an administrator.
    HPKE_RESULT = "holdfast result v1";
    /// A credential on its way from an administrator to an attested enclave.
    HPKE_IMPORT = "holdfast import v1";
    /// The raw material of an external key on its way from an administrator to an attested enclave.
    HPKE_IMPORT_KEY = "holdfast import key v1";
    /// The key of a segment of the audit log on its way to a reader.
    AUDIT_SEGMENT = "holdfast audit segment v1";
    /// Exporter context: AEAD key of the sealed channel, enclave to custodian.
    CHANNEL_ASK = "holdfast channel ask v1";
    /// Exporter context: AEAD key of the sealed channel, custodian to enclave.
    CHANNEL_REPLY = "holdfast channel reply v1";

    // --- Hashes, MACs, key derivation ---------------------------------------------------------------------------------------

    /// HKDF info of the key that seals a key store.
    SEAL = "holdfast seal v1";
    /// Commitment to a share.
    SHARE_COMMITMENT = "holdfast share commitment v1";
    /// MAC of a challenge nonce.
    CHALLENGE = "holdfast challenge v1";
    /// MAC of a lease's id.
    LEASE_ID = "holdfast lease id v1";
    /// AAD under which a custodian wraps a share for its own disk.
    WRAP_SHARE = "holdfast wrap share v1";
    /// AAD under which a custodian's key-encryption key wraps its storage key.
    WRAP_STORAGE_KEY = "holdfast wrap storage key v1";
    /// AAD of what a custodian wraps to see whether its key-encryption key works.
    WRAP_PROBE = "holdfast wrap probe v1";
    /// AAD under which a custodian wraps a lease's channel keys for its own disk.
    WRAP_LEASE = "holdfast wrap lease v1";
    /// AAD under which a custodian wraps the key of its challenges for its own disk.
    WRAP_CHALLENGE = "holdfast wrap challenge v1";
    /// HKDF salt for the root key, over NSM and kernel entropy.
    ROOT_ENTROPY = "holdfast root entropy v1";
    /// HKDF info of the seed from which the coefficients of one generation's sharing are drawn.
    SPLIT = "holdfast split v1";
    /// HKDF info of the seed from which an RSA key for one answer of AWS KMS is drawn.
    KMS_RECIPIENT = "holdfast kms recipient v1";
    /// Hash of a stranger's nonce, which becomes the nonce of a document that proves where a TLS connection ends.
    CONNECTION_NONCE = "holdfast connection nonce v1";

    // --- Audit log -------------------------------------------------------------------------------------------------------------

    /// AAD of a record of the audit log.
    AUDIT_RECORD = "holdfast audit record v1";

    // --- External keys ------------------------------------------------------------------------------------------------------

    /// HKDF info, before the salt, of the key of one message under an external key.
    EXTERNAL_KEY_MESSAGE = "holdfast external key message v1";
}
