//! The share in the keeping of AWS KMS: encrypted before anybody takes a share of a new root key, asked for when nothing but it is
//! missing.
//!
//! Guarantees: KMS is asked only about a set of which the manifest's custodians gave all shares but one; what it gives counts only
//! if it is the share that the set commits to, is kept where the others are until a version is in service, goes with them at a
//! wipe, and is not kept after one that came meanwhile; asking is charged to the key store's allowance. While a version is served KMS is
//! not asked, and nothing ends when it cannot be reached. Assumes: the other shares are as many as must be hostile together before
//! KMS's is of use to anyone. Refuses: to deposit shares of a root key before KMS has encrypted its own.

use holdfast_client::Connect;
use holdfast_link::control::Level;
use holdfast_shared::manifest::{KmsShare, VerifiedManifest};
use holdfast_shared::release::{HeldShare, Share, ShareSet};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::sharing::{self, Split};

use super::CustodyError;
use super::coordinator::Coordinator;
use crate::kms::{KmsContext, KmsShareClient};

/// What asking costs of the allowance, in bytes of a blob: an RSA key is made for each answer, so two a second in the long run.
const ASKING: usize = 1024 * 1024;

impl<C: Connect + Clone + 'static> Coordinator<C> {
    /// Has KMS encrypt its share of a new root key, if the manifest gives it one; the set carries the ciphertext from then on.
    pub(super) async fn encrypt_for_kms(
        &self,
        manifest: &VerifiedManifest,
        split: &mut Split,
    ) -> Result<(), CustodyError> {
        let Some(key) = &manifest.manifest().kms_share else { return Ok(()) };
        // Its place is after the custodians'.
        let share = split.shares.last().ok_or(CustodyError::WrongKmsShare)?;
        let context = KmsContext { key_store_id: manifest.id(), generation: split.set.generation };
        let plaintext = SecretBytes::new(share.value.expose().to_vec());
        split.set.kms_ciphertext = Some(self.kms(key)?.encrypt(&plaintext, &context).await?);
        Ok(())
    }

    /// Asks KMS for its share of a generation's root key, if only that one is missing.
    pub(super) async fn ask_kms(&self, generation: u32) -> Result<(), CustodyError> {
        let wipes = *self.ledger.wipes().borrow();
        let manifest = self.ledger.manifest();
        let Some(key) = &manifest.manifest().kms_share else { return Ok(()) };
        let mut outcome = Ok(());
        // More than one: custodians contradict each other, and KMS tells which of the sets is one.
        for set in self.ledger.sets_without_kms(generation) {
            match self.share_of_kms(key, &set).await {
                Ok(share) => {
                    self.ledger
                        .log(Level::Info, &format!("AWS KMS gave its share of root key generation {generation}"));
                    return self.ledger.keep_kms_share(HeldShare { set, share }, wipes);
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    async fn share_of_kms(&self, key: &KmsShare, set: &ShareSet) -> Result<Share, CustodyError> {
        self.ledger.charge(ASKING);
        let ciphertext = set.kms_ciphertext.as_deref().ok_or(CustodyError::WrongKmsShare)?;
        let context = KmsContext { key_store_id: self.ledger.id(), generation: set.generation };
        let given = self.kms(key)?.decrypt(ciphertext, &context, &self.ledger.enclave.nsm).await?;
        committed(&given, set)
    }

    fn kms(&self, key: &KmsShare) -> Result<KmsShareClient<C>, CustodyError> {
        let enclave = &self.ledger.enclave;
        let (clock, credentials) = (enclave.clock.clone(), enclave.aws_credentials.clone());
        Ok(KmsShareClient::new(self.connector(), key.clone(), clock, credentials)?)
    }
}

/// What KMS gave, as the last share of a set.
///
/// # Errors
/// When it is not the one that the set commits to: whoever saw the request can answer it with anything.
fn committed(given: &SecretBytes, set: &ShareSet) -> Result<Share, CustodyError> {
    let wrong = CustodyError::WrongKmsShare;
    let Ok(index) = u8::try_from(set.commitments.len()) else { return Err(wrong) };
    let Some(bytes) = given.expose().first_chunk::<32>().filter(|_| given.expose().len() == 32) else {
        return Err(wrong);
    };
    let value = Secret::fill_with(|own| {
        own.copy_from_slice(bytes);
        Ok::<_, core::convert::Infallible>(())
    });
    let Ok(value) = value;
    let share = Share { index, value };
    if sharing::check(&share, set).is_ok() { Ok(share) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::ids::KeyStoreId;
    use holdfast_shared::sharing::{Plan, SharingError};

    use super::*;

    /// A root key of which one custodian keeps one share and KMS the other.
    fn split() -> Split {
        let plan = Plan { key_store_id: KeyStoreId([7; 32]), generation: 1, shares_needed: 2, shares: 2 };
        let split = sharing::split(&Secret::take(&mut [0xa5; 32]), &Secret::take(&mut [1; 32]), &plan).unwrap();
        Split { set: ShareSet { kms_ciphertext: Some(vec![1]), ..split.set }, shares: split.shares }
    }

    #[test]
    fn what_kms_gives_is_a_share_only_if_it_is_the_one_committed_to() {
        let Split { set, shares } = split();
        let bytes = |share: &Share| share.value.expose().to_vec();
        let kms = bytes(&shares[1]);
        let mut changed = kms.clone();
        changed[31] ^= 1;
        let table = [
            (kms.clone(), true),
            (changed, false),
            (bytes(&shares[0]), false),
            (kms[..31].to_vec(), false),
            ([kms.as_slice(), &[0]].concat(), false),
            (Vec::new(), false),
        ];
        for (given, expected) in table {
            let taken = committed(&SecretBytes::new(given.clone()), &set);
            assert_eq!(taken.is_ok(), expected, "{given:02x?}");
            assert!(taken.is_ok_and(|share| share.index == 2) || !expected);
        }
    }

    #[test]
    fn neither_the_custodian_nor_kms_has_the_root_key() {
        let Split { set, shares } = split();
        let root = [0xa5; 32];
        for share in &shares {
            assert_ne!(share.value.expose(), &root, "place {}", share.index);
            let alone = sharing::combine(&set, &[share, share]);
            assert_eq!(alone.unwrap_err(), SharingError::TooFew { have: 1, need: 2 });
        }
        assert_eq!(sharing::combine(&set, &[&shares[0], &shares[1]]).unwrap().expose(), &root);
    }
}
