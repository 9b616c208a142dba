//! The key that signs a boot's checkpoints.
//!
//! Guarantees: drawn anew in each boot, never written anywhere; its public half stands in every release document, so that the
//! attestation vouches for each checkpoint.

use holdfast_shared::secrets::with_swept_stack;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

/// There is no randomness, or no key could be made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no key for the audit log: no randomness from the kernel")]
pub struct NoAuditKey;

/// See the module.
pub struct AuditKey {
    pair: Ed25519KeyPair,
    public_key: [u8; 32],
}

impl core::fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("AuditKey")
    }
}

impl AuditKey {
    /// Draws one.
    ///
    /// # Errors
    /// [`NoAuditKey`].
    pub fn generate() -> Result<Self, NoAuditKey> {
        // The document has the private key, and *ring* does not overwrite it.
        let pair = with_swept_stack(|| {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).ok()?;
            Ed25519KeyPair::from_pkcs8(document.as_ref()).ok()
        });
        let pair = pair.ok_or(NoAuditKey)?;
        let public_key = pair.public_key().as_ref().try_into().map_err(|_| NoAuditKey)?;
        Ok(Self { pair, public_key })
    }

    /// What checkpoints are verified with.
    #[must_use]
    pub const fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    pub(super) const fn pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }
}
