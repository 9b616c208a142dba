//! The RSA key to which KMS encrypts one answer.
//!
//! Guarantees: each key is fresh, of 2048 bits, drawn from the NSM's and the kernel's randomness together, and zeroized; it opens
//! at most one message, because opening consumes it. So nobody can ask it twice: what RUSTSEC-2023-0071 needs many answers of
//! one key for has one here (ADR 0020). Making and using it happens on a thread for blocking work. Refuses: a content key of
//! another length, content whose padding is wrong. All failures are one error.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};
use holdfast_shared::cms::{CmsError, EnvelopedData};
use holdfast_shared::labels;
use holdfast_shared::secrets::{Secret, SecretBytes, with_swept_stack};
use ring::hmac;
use rsa::pkcs8::EncodePublicKey;
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::{Oaep, RsaPrivateKey};
use sha2::Sha256;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::entropy::{self, EntropyError};
use crate::nsm::Nsm;

/// The one size that KMS takes from a Nitro Enclave (AWS Nitro Enclaves SDK, `RecipientRequest`).
const BITS: usize = 2048;

/// Why there is no key, or why it opens nothing.
#[derive(Debug, thiserror::Error)]
pub enum RecipientError {
    /// No randomness.
    #[error("{0}")]
    Entropy(String),
    /// No key.
    #[error("no RSA key could be made")]
    Key,
    /// Not a message of KMS.
    #[error(transparent)]
    Cms(#[from] CmsError),
    /// Not for this key, or changed on the way.
    #[error("KMS's answer does not open with the key that it was asked to encrypt to")]
    Closed,
}

impl From<EntropyError> for RecipientError {
    fn from(error: EntropyError) -> Self {
        Self::Entropy(error.to_string())
    }
}

/// See the module.
pub(crate) struct RecipientKey {
    private: RsaPrivateKey,
    rng: SeededRng,
    public: Vec<u8>,
}

impl RecipientKey {
    pub(crate) async fn generate(nsm: &Nsm) -> Result<Self, RecipientError> {
        let seed = entropy::secret(nsm, labels::KMS_RECIPIENT).await?;
        off_the_path(move || {
            let mut rng = SeededRng { seed, counter: 0 };
            let private = RsaPrivateKey::new(&mut rng, BITS).map_err(|_| RecipientError::Key)?;
            Self::of(private, rng)
        })
        .await
    }

    fn of(private: RsaPrivateKey, rng: SeededRng) -> Result<Self, RecipientError> {
        let public = private.to_public_key().to_public_key_der().map_err(|_| RecipientError::Key)?.into_vec();
        Ok(Self { private, rng, public })
    }

    /// `SubjectPublicKeyInfo`, as the document carries it.
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// What was encrypted to this key.
    pub(crate) async fn open(self, message: Vec<u8>) -> Result<SecretBytes, RecipientError> {
        off_the_path(move || self.open_here(&EnvelopedData::parse(&message)?)).await
    }

    fn open_here(mut self, message: &EnvelopedData<'_>) -> Result<SecretBytes, RecipientError> {
        let closed = |_| RecipientError::Closed;
        let key = self
            .private
            .decrypt_blinded(&mut self.rng, Oaep::<Sha256>::new(), message.encrypted_key())
            .map(Zeroizing::new)
            .map_err(closed)?;
        let cipher =
            cbc::Decryptor::<aes::Aes256>::new_from_slices(&key, message.iv()).map_err(|_| RecipientError::Closed)?;
        let mut content = Zeroizing::new(message.content().to_vec());
        let plaintext = cipher.decrypt_padded::<Pkcs7>(&mut content).map_err(|_| RecipientError::Closed)?;
        Ok(SecretBytes::new(plaintext.to_vec()))
    }
}

/// One piece at a time in an enclave: key stores that start together, with a share at KMS each, leave the processors to requests.
static BENCH: Semaphore = Semaphore::const_new(1);

async fn off_the_path<T, F>(work: F) -> Result<T, RecipientError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, RecipientError> + Send + 'static,
{
    let turn = BENCH.acquire().await.map_err(|_| RecipientError::Key)?;
    let in_turn = move || {
        let done = with_swept_stack(work);
        drop(turn);
        done
    };
    tokio::task::spawn_blocking(in_turn).await.unwrap_or(Err(RecipientError::Key))
}

/// HMAC-SHA-256 of a counter under a seed that is used for nothing else.
struct SeededRng {
    seed: Secret<32>,
    counter: u64,
}

impl SeededRng {
    fn block(&mut self) -> Zeroizing<[u8; 32]> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.seed.expose());
        let mut block = Zeroizing::new([0; 32]);
        block.copy_from_slice(hmac::sign(&key, &self.counter.to_be_bytes()).as_ref());
        self.counter = self.counter.wrapping_add(1);
        block
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    fn fill(&mut self, out: &mut [u8]) {
        for piece in out.chunks_mut(32) {
            for (to, from) in piece.iter_mut().zip(self.block().iter()) {
                *to = *from;
            }
        }
    }
}

impl TryRng for SeededRng {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_le_bytes(self.array()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_le_bytes(self.array()))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        self.fill(out);
        Ok(())
    }
}

impl TryCryptoRng for SeededRng {}

#[cfg(test)]
mod tests;
