//! Randomness for keys that outlive a boot: the NSM's and the kernel's together.
//!
//! Guarantees: what comes out is unpredictable as long as either source is.

use holdfast_shared::hpke::bind;
use holdfast_shared::labels;
use holdfast_shared::secrets::Secret;
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::nsm::{Nsm, NsmError};

/// Bytes that the NSM must contribute.
const NSM_BYTES: usize = 32;

/// Why there is no randomness.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntropyError {
    /// The NSM gave none.
    #[error("no randomness: {0}")]
    Nsm(#[from] NsmError),
    /// The NSM gave too little.
    #[error("no randomness: the NSM gave {0} bytes, 32 are needed")]
    TooLittle(usize),
    /// The kernel gave none.
    #[error("no randomness from the kernel")]
    Kernel,
}

/// 32 random bytes, for `purpose`.
///
/// # Errors
/// [`EntropyError`] when either source fails: one alone is not accepted.
pub(crate) async fn secret(nsm: &Nsm, purpose: &str) -> Result<Secret<32>, EntropyError> {
    let from_nsm = nsm.random().await?;
    if from_nsm.len() < NSM_BYTES {
        return Err(EntropyError::TooLittle(from_nsm.len()));
    }
    let mut from_kernel = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(from_kernel.as_mut_slice()).map_err(|_| EntropyError::Kernel)?;
    let mut both = Zeroizing::new(Vec::with_capacity(from_nsm.len() + from_kernel.len()));
    both.extend_from_slice(&from_nsm);
    both.extend_from_slice(from_kernel.as_slice());
    let info = bind(purpose, &[]);
    Secret::fill_with(|out| {
        Salt::new(HKDF_SHA256, labels::ROOT_ENTROPY.as_bytes())
            .extract(&both)
            .expand(&[&info], HKDF_SHA256)
            .and_then(|okm| okm.fill(out))
            .map_err(|_| EntropyError::Kernel)
    })
}
