//! The seam to policy, quotas, limits and budgets.

use std::sync::Arc;

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

/// That a request may go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permit {
    /// The policy that permits it; nothing where there is none.
    pub rule: Option<Arc<str>>,
}

/// Why a guard says no, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenialKind {
    /// The policy does not allow it: 403.
    Policy,
    /// A quota, limit or budget is used up: 429.
    Throttled,
}

/// That a request may not go on. The wire tells the kind; the rule is for records alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub kind: DenialKind,
    /// The policy that forbids it or could not be evaluated, or the limit that is reached; nothing where no policy permits it.
    pub rule: Option<Arc<str>>,
}

impl Denial {
    /// By policy.
    #[must_use]
    pub const fn policy(rule: Option<Arc<str>>) -> Self {
        Self { kind: DenialKind::Policy, rule }
    }

    /// By this quota, limit or budget.
    #[must_use]
    pub fn throttled(rule: &str) -> Self {
        Self { kind: DenialKind::Throttled, rule: Some(Arc::from(rule)) }
    }
}

/// Decides on the use of enabled keys (Encrypt, Decrypt) after everything else was found in order, and on whether somebody may hear
/// of a key (`GetKeyMetadata`). Must not block: it runs on the threads that serve connections.
pub trait Guard: Send + Sync {
    /// Says whether the request may go on, and debits it if so. A request that is denied is debited nowhere.
    ///
    /// # Errors
    /// Why not.
    fn permit(&self, question: &Question<'_>) -> Result<Permit, Denial>;
}

/// Permits everything: a key store without policy, quotas and budgets.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenGuard;

impl Guard for OpenGuard {
    fn permit(&self, _: &Question<'_>) -> Result<Permit, Denial> {
        Ok(Permit::default())
    }
}
