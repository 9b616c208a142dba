//! Secret byte strings, and computations with them.
//!
//! Guarantees: zeroized on drop, compared in constant time, printed by no formatter; what [`with_swept_stack`] runs leaves nothing on
//! the stack. Refuses: `Clone`, `Display`, and a
//! `Debug` that shows anything but the type.
//!
//! A secret is not cloned in passing, nor printed:
//!
//! ```compile_fail
//! # use holdfast_shared::secrets::Secret;
//! fn copy(secret: &Secret<32>) -> Secret<32> {
//!     secret.clone()
//! }
//! ```
//!
//! ```compile_fail
//! # use holdfast_shared::secrets::SecretBytes;
//! fn show(secret: &SecretBytes) -> String {
//!     secret.to_string()
//! }
//! ```

use core::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret of exactly `N` bytes, kept on the heap so that moving it leaves no copies on the stack.
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Takes over `bytes`; the caller's array is zeroized.
    pub fn take(bytes: &mut [u8; N]) -> Self {
        let mut own = Box::new([0; N]);
        own.copy_from_slice(bytes);
        bytes.zeroize();
        Self(own)
    }

    /// Makes a secret in place: `fill` writes the bytes into the final heap memory, and the stack that it used is overwritten.
    ///
    /// # Errors
    /// Whatever `fill` returns; the memory is zeroized then.
    pub fn fill_with<E>(fill: impl FnOnce(&mut [u8; N]) -> Result<(), E>) -> Result<Self, E> {
        let mut secret = Self(Box::new([0; N]));
        with_swept_stack(|| fill(&mut secret.0))?;
        Ok(secret)
    }

    /// The bytes. Named so that each use stands out in review.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// A second copy of the secret: a deliberate act with a name, instead of `Clone`.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<const N: usize> ZeroizeOnDrop for Secret<N> {}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret<{N}>(..)")
    }
}

/// A secret of variable length (a SigV4 secret access key, a PKCS #8 key). Never grows in place, so no freed copy is left.
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes over `bytes` without copying.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes. Named so that each use stands out in review.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// A second copy of the secret: a deliberate act with a name, instead of `Clone`.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for SecretBytes {}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretBytes {}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

/// Bytes that are wiped on drop, whatever they are: a message's plaintext, or text that may hold one. Unlike a [`SecretBytes`] they are
/// used as any bytes are. A [`zeroize::Zeroizing`] would write them one by one, which for a request of 16 KiB takes longer than to
/// encrypt it.
#[derive(Default)]
pub struct WipedBytes(Vec<u8>);

impl WipedBytes {
    /// Takes over `bytes` without copying.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl core::ops::Deref for WipedBytes {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl core::ops::DerefMut for WipedBytes {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl AsRef<[u8]> for WipedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for WipedBytes {
    fn drop(&mut self) {
        // All that was allocated: a vector that was cut has bytes behind its end.
        self.0.clear();
        self.0.resize(self.0.capacity(), 0);
        // So that the compiler does not leave out what nobody reads.
        zeroize::optimization_barrier(self.0.as_slice());
    }
}

impl ZeroizeOnDrop for WipedBytes {}

impl fmt::Debug for WipedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WipedBytes(..)")
    }
}

/// Whether two texts are the same, in a time that depends on their lengths alone.
#[must_use]
pub fn is_equal(left: &[u8], right: &[u8]) -> bool {
    let ((left_words, left_rest), (right_words, right_rest)) = (left.as_chunks::<8>(), right.as_chunks::<8>());
    if left.len() != right.len() {
        return false;
    }
    let words = left_words.iter().zip(right_words).map(|(a, b)| u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b));
    let difference = words.fold(0, core::ops::BitOr::bitor);
    (difference.ct_eq(&0) & left_rest.ct_eq(right_rest)).into()
}

/// Machine words of stack that [`with_swept_stack`] overwrites: 32 KiB, several times what AES-GCM, HKDF and P-384 take, even when
/// nothing is optimised.
const SWEPT_WORDS: usize = 4096;
/// Those that [`with_swept_cipher`] overwrites: 8 KiB, twice what AES-GCM and HKDF take (`tests/stack_depth.rs`), and twice as much where
/// nothing is optimised.
const CIPHER_WORDS: usize = if cfg!(debug_assertions) { 2048 } else { 1024 };

/// Runs `work`, and overwrites the stack that it used.
///
/// Cryptographic libraries keep key schedules and scalars in local variables, and not all of them zeroize these; a thread that sleeps
/// afterwards keeps them until it is needed again. So whatever handles a long-lived key does so in here. What `work` returns must have
/// its secrets on the heap: it is moved out of the swept part as it is.
pub fn with_swept_stack<T>(work: impl FnOnce() -> T) -> T {
    let result = run(work);
    sweep::<SWEPT_WORDS>();
    result
}

/// As [`with_swept_stack`], for one message under AES-GCM and HKDF, which take little: to overwrite more would take as long as they do.
pub(crate) fn with_swept_cipher<T>(work: impl FnOnce() -> T) -> T {
    let result = run(work);
    sweep::<CIPHER_WORDS>();
    result
}

/// Neither is inlined: then both begin at the same depth of the stack, and the second covers what the first used.
#[inline(never)]
fn run<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn sweep<const WORDS: usize>() {
    let mut words = [0_u64; WORDS];
    words.zeroize();
    core::hint::black_box(&words);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_byte() {
        let fixed = Secret::take(&mut [0xAB; 4]);
        let variable = SecretBytes::new(vec![0xAB; 4]);
        assert_eq!(format!("{fixed:?}"), "Secret<4>(..)");
        assert_eq!(format!("{variable:?}"), "SecretBytes(..)");
    }

    #[test]
    fn equal_is_every_byte() {
        for len in 0..40_u8 {
            let bytes: Vec<u8> = (0..len).collect();
            assert!(is_equal(&bytes, &bytes.clone()));
            assert!(!is_equal(&bytes, &[bytes.as_slice(), &[0]].concat()));
            for at in 0..bytes.len() {
                let mut other = bytes.clone();
                other[at] ^= 0x80;
                assert!(!is_equal(&bytes, &other) && !is_equal(&other, &bytes), "{len} {at}");
            }
        }
    }

    #[test]
    fn taking_a_secret_clears_the_source() {
        let mut source = [7; 16];
        let secret = Secret::take(&mut source);
        assert_eq!(source, [0; 16]);
        assert_eq!(secret.expose(), &[7; 16]);
    }

    #[test]
    fn equality_is_by_value() {
        assert_eq!(Secret::take(&mut [1, 2]), Secret::take(&mut [1, 2]));
        assert_ne!(Secret::take(&mut [1, 2]), Secret::take(&mut [1, 3]));
        assert_ne!(SecretBytes::new(vec![1]), SecretBytes::new(vec![1, 2]));
    }
}
