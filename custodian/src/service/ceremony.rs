//! A custodian takes a share: of the ceremony, of a new root key, or one that it missed.
//!
//! Guarantees: a share is the one that its own set commits to, at this custodian's place in the manifest in force or in the staged
//! one, with as many shares as that manifest says; it is wrapped before it touches the disk, and the attestation document of the
//! enclave that made it stays beside it as the record of where the root key came from. The same set again is acknowledged again;
//! until a version sealed under its generation is held here, shares of other sets stay beside it, so that a ceremony or a rotation
//! that broke off can be repeated and of two that run at once none harms the other; from then on they are a conflict. Generations come one after the other; only a custodian that a successor
//! manifest brings in starts with a later one.

use std::sync::Arc;

use holdfast_shared::cbor;
use holdfast_shared::channel::Reply;
use holdfast_shared::hpke;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::labels;
use holdfast_shared::manifest::Manifest;
use holdfast_shared::release::{self, Commitment, Share, ShareSet};
use holdfast_shared::secrets::SecretBytes;

use super::channel::refused;
use super::lease::Lease;
use super::membership::Membership;
use super::{Custodian, ServiceError};
use crate::store::{Deposited, NewShare, Origin};

impl Custodian {
    /// Keeps a share.
    pub(super) async fn deposit(
        self: &Arc<Self>,
        lease: &Lease,
        set: ShareSet,
        sealed: hpke::Sealed,
        origin: Origin,
    ) -> Result<Reply, ServiceError> {
        let key_store = Arc::clone(&lease.key_store);
        let id = key_store.id();
        let membership = self.membership(&key_store).await?;
        let may_start_late = membership.manifest().sequence() > 1;
        let generation = set.generation;
        let opened = self
            .blocking(move |custodian| {
                let share = custodian.take_share(id, &membership, &set, &sealed)?;
                Ok::<_, &'static str>((cbor::encode(&set).to_vec(), share))
            })
            .await?;
        let (share_set, share) = match opened {
            Ok(taken) => taken,
            Err(reason) => return Ok(refused(lease, reason)),
        };
        let wrapped = self.kek.wrap(&self.share_aad(id, generation), share.expose()).await?;
        let share = NewShare {
            key_store_id: id,
            generation,
            share_set,
            wrapped,
            document: lease.document.clone(),
            may_start_late,
        };
        match self.store.deposit(&share, origin).await? {
            Deposited::Kept => {
                tracing::info!(key_store_id = %id, boot_id = %lease.boot_id, generation, "keeps a share");
                Ok(Reply::Deposited)
            }
            Deposited::Conflict => {
                tracing::warn!(key_store_id = %id, boot_id = %lease.boot_id, "refused a second, different share");
                let register = self.store.register(id).await?.map(super::versions::held);
                Ok(Reply::Conflict { register })
            }
        }
    }

    fn take_share(
        &self,
        id: KeyStoreId,
        membership: &Membership,
        set: &ShareSet,
        sealed: &hpke::Sealed,
    ) -> Result<SecretBytes, &'static str> {
        let share = release::open_share(sealed, id, self.id, &self.encryption_key)
            .map_err(|_| "the share: does not open under this custodian's key")?;
        // Before a successor is in force, its shares come under the staged one. The first complaint is the one that matters.
        let mut complaint = None;
        for place in membership.places() {
            let Some(index) = place.index else { continue };
            match check_set(place.manifest.manifest(), set).and_then(|()| check_share(index, set, &share)) {
                Ok(()) => return Ok(SecretBytes::new(cbor::encode(&share).to_vec())),
                Err(reason) => complaint = complaint.or(Some(reason)),
            }
        }
        Err(complaint.unwrap_or("this custodian was removed from the manifest and takes no share"))
    }

    pub(super) fn share_aad(&self, key_store_id: KeyStoreId, generation: u32) -> Vec<u8> {
        hpke::bind(labels::WRAP_SHARE, &[key_store_id.as_bytes(), self.id.as_bytes(), &generation.to_be_bytes()])
    }
}

fn check_set(manifest: &Manifest, set: &ShareSet) -> Result<(), &'static str> {
    let kms = usize::from(manifest.kms_share.is_some());
    if set.shares_needed != manifest.shares_needed {
        Err("the share set: needs another number of shares than the manifest says")
    } else if set.commitments.len() != manifest.custodians.len().saturating_add(kms) {
        Err("the share set: commits to another number of shares than the manifest has keepers")
    } else if set.kms_ciphertext.is_some() != manifest.kms_share.is_some() {
        Err("the share set: has a share at AWS KMS where the manifest has none, or none where it has one")
    } else {
        Ok(())
    }
}

fn check_share(index: u8, set: &ShareSet, share: &Share) -> Result<(), &'static str> {
    if share.index != index {
        return Err("the share: is for another place in the manifest");
    }
    let place = usize::from(index).checked_sub(1);
    let committed = place.and_then(|place| set.commitments.get(place));
    if committed == Some(&Commitment(share.commitment())) {
        Ok(())
    } else {
        Err("the share: is not the one that its set commits to")
    }
}

#[cfg(test)]
mod tests {
    use holdfast_shared::secrets::Secret;

    use super::*;

    fn share(index: u8, byte: u8) -> Share {
        Share { index, value: Secret::take(&mut [byte; 32]) }
    }

    #[test]
    fn a_share_must_be_the_one_committed_to_at_this_place() {
        let commitments = vec![Commitment(share(1, 1).commitment()), Commitment(share(2, 2).commitment())];
        let set = ShareSet { generation: 1, shares_needed: 2, commitments, kms_ciphertext: None };
        let table = [
            (1, share(1, 1), true),
            (2, share(2, 2), true),
            (1, share(2, 2), false),
            (1, share(1, 2), false),
            (2, share(2, 1), false),
            (3, share(3, 3), false),
            (0, share(0, 0), false),
        ];
        for (index, share, accepted) in table {
            assert_eq!(check_share(index, &set, &share).is_ok(), accepted, "{index}");
        }
    }
}
