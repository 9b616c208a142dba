//! The ceremony's last step at a custodian: it takes its share.
//!
//! Guarantees: a share is the one that its own set commits to, at this custodian's place
//! in the manifest, with as many shares as the manifest says; it is wrapped before it touches the disk, and the attestation
//! document of the enclave that made it stays beside it as the record of where the root key came from. The same set again is
//! acknowledged again; another set replaces it until version 1 is held here, so that a ceremony that broke off can be
//! repeated, and is a conflict from then on.

use std::sync::Arc;

use holdfast_shared::cbor::{self, Message};
use holdfast_shared::channel::Reply;
use holdfast_shared::hpke;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::labels;
use holdfast_shared::release::{self, Commitment, Share, ShareSet};
use holdfast_shared::secrets::SecretBytes;

use super::channel::refused;
use super::lease::Lease;
use super::{Custodian, KeyStore, ServiceError};
use crate::store::{Deposited, NewShare, Origin};

/// The generation of a ceremony's root key.
const FIRST_GENERATION: u32 = 1;

/// A share set as the database keeps it.
#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
struct StoredShareSet(#[n(0)] ShareSet);

impl Message for StoredShareSet {
    const MAX: usize = 1024;
    const NAME: &'static str = "stored share set";

    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

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
        let opened = self.blocking(move |custodian| custodian.take_share(&key_store, &set, &sealed)).await?;
        let (share_set, generation, share) = match opened {
            Ok(taken) => taken,
            Err(ServiceError::Denied(reason)) => return Ok(refused(lease, reason)),
            Err(error) => return Err(error),
        };
        let wrapped = self.kek.wrap(&self.share_aad(id, generation), share.expose()).await?;
        let share = NewShare {
            key_store_id: id,
            generation,
            share_set,
            wrapped,
            document: lease.document.clone(),
            may_start_late: false,
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
        key_store: &KeyStore,
        set: &ShareSet,
        sealed: &hpke::Sealed,
    ) -> Result<(Vec<u8>, u32, SecretBytes), ServiceError> {
        check_set(key_store, set).map_err(|reason| ServiceError::Denied(reason.to_owned()))?;
        let share = release::open_share(sealed, key_store.id(), self.id, &self.encryption_key)
            .map_err(|error| ServiceError::Denied(format!("the share: {error}")))?;
        check_share(key_store.index, set, &share).map_err(|reason| ServiceError::Denied(reason.to_owned()))?;
        let share = SecretBytes::new(cbor::encode(&share).to_vec());
        Ok((cbor::encode(&StoredShareSet(set.clone())).to_vec(), set.generation, share))
    }

    pub(super) fn share_aad(&self, key_store_id: KeyStoreId, generation: u32) -> Vec<u8> {
        hpke::bind(labels::WRAP_SHARE, &[key_store_id.as_bytes(), self.id.as_bytes(), &generation.to_be_bytes()])
    }
}

/// Reads a share set as the database keeps it.
pub(super) fn decode_share_set(bytes: &[u8]) -> Result<ShareSet, ServiceError> {
    cbor::decode::<StoredShareSet>(bytes)
        .map(|stored| stored.0)
        .map_err(|_| ServiceError::Internal("the stored share set is damaged".to_owned()))
}

fn check_set(key_store: &KeyStore, set: &ShareSet) -> Result<(), &'static str> {
    let manifest = key_store.manifest.manifest();
    if set.generation != FIRST_GENERATION {
        Err("the share set: a ceremony makes generation 1")
    } else if set.shares_needed != manifest.shares_needed {
        Err("the share set: needs another number of shares than the manifest says")
    } else if set.commitments.len() != manifest.custodians.len() {
        Err("the share set: commits to another number of shares than the manifest has custodians")
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
