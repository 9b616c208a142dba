//! The seam to policy, quotas and budgets.

use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::sigv4::AccessKeyId;
use holdfast_shared::xks::{Operation, RequestMetadata};

/// What a guard is asked: everything that is known of an authenticated request, no plaintext and no ciphertext.
#[derive(Debug)]
pub struct Question<'q> {
    /// The key store.
    pub key_store: KeyStoreId,
    /// The key.
    pub key: &'q ExternalKeyId,
    /// The operation.
    pub operation: Operation,
    /// `requestMetadata`, as signed by KMS.
    pub metadata: &'q RequestMetadata<'q>,
    /// Whose signature it was.
    pub access_key_id: &'q AccessKeyId,
}

/// Why a guard says no, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The policy does not allow it: 403.
    #[error("denied by policy")]
    Policy,
    /// A quota or budget is used up: 429.
    #[error("denied by quota or budget")]
    Throttled,
}

/// Decides on Encrypt and Decrypt of enabled keys, after everything else was found in order. Must not block: it runs on the
/// threads that serve connections.
pub trait Guard: Send + Sync {
    /// Says whether the request may go on, and debits it if so.
    ///
    /// # Errors
    /// Why not.
    fn permit(&self, question: &Question<'_>) -> Result<(), Denial>;
}

/// Permits everything: a key store without policy, quotas and budgets.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenGuard;

impl Guard for OpenGuard {
    fn permit(&self, _: &Question<'_>) -> Result<(), Denial> {
        Ok(())
    }
}
