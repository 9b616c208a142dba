//! A new root key: drawn, split, and deposited before anything is sealed under it.
//!
//! Guarantees: root key and split seed come from the NSM's and the kernel's entropy together; shares leave encrypted to their
//! custodians; when this is done, so many custodians keep a share, home among them, that the key store opens even if the version is
//! written by as few as may write one. Splits are derived, so that who was away gets its share later, and only if the split is the very
//! one that the sealed body names. The home custodian takes its share first: of two enclaves that draw at once, its compare-and-set on
//! the version, which names the set, lets one through.

use std::time::Duration;

use holdfast_client::Connect;
use holdfast_shared::hpke;
use holdfast_shared::ids::CustodianId;
use holdfast_shared::keystore::Sharing;
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::quorum::Quorum;
use holdfast_shared::release::{Share, ShareSet, seal_share};
use holdfast_shared::sharing::{self, Plan, Split};

use super::CustodyError;
use super::coordinator::Coordinator;
use super::unseal::{Root, Unsealed};
use crate::entropy;

/// How long custodians have to take their shares.
const DEPOSIT_WAIT: Duration = Duration::from_secs(20);

/// How often custodians that know less than others are asked what they know.
const INFORM_INTERVAL: Duration = Duration::from_secs(2);

/// A share, encrypted to its custodian.
type Encrypted = (CustodianId, hpke::Sealed);

/// How a root key is split among the custodians of a manifest.
fn plan(manifest: &VerifiedManifest, generation: u32) -> Plan {
    let contents = manifest.manifest();
    let at_kms = usize::from(contents.kms_share.is_some());
    Plan {
        key_store_id: manifest.id(),
        generation,
        shares_needed: contents.shares_needed,
        shares: contents.custodians.len().saturating_add(at_kms),
    }
}

fn encrypt(
    shares: &[Share],
    manifest: &VerifiedManifest,
    wanted: impl Fn(CustodianId) -> bool,
) -> Result<Vec<Encrypted>, CustodyError> {
    let custodians = manifest.manifest().custodians.iter();
    let placed = custodians.zip(shares).filter(|(custodian, _)| wanted(custodian.id()));
    placed
        .map(|(custodian, share)| {
            let sealed = seal_share(share, manifest.id(), custodian.id(), &custodian.encryption_key)?;
            Ok((custodian.id(), sealed))
        })
        .collect()
}

/// The shares of the root key in use for those without one.
///
/// # Errors
/// When the split is not the one that the custodians with shares were given.
pub(super) fn shares_again(
    unsealed: &Unsealed,
    manifest: &VerifiedManifest,
    without: &[CustodianId],
) -> Result<Vec<Encrypted>, CustodyError> {
    let set = unsealed.root().set();
    let Some(seed) = unsealed.seed() else { return Ok(Vec::new()) };
    let Split { set: mut derived, shares } =
        sharing::split(unsealed.root().key(), seed, &plan(manifest, set.generation))?;
    derived.kms_ciphertext.clone_from(&set.kms_ciphertext);
    if derived != *set {
        return Err(CustodyError::OtherShares);
    }
    encrypt(&shares, manifest, |id| without.contains(&id))
}

/// A root key that enough custodians hold shares of, and that nothing is sealed under yet.
pub(super) struct Shared {
    pub(super) root: Root,
    pub(super) sharing: Sharing,
}

impl<C: Connect + Clone + 'static> Coordinator<C> {
    /// Draws a root key and deposits its shares. Durable at enough custodians when this returns.
    pub(super) async fn share_new_root(
        &self,
        manifest: &VerifiedManifest,
        generation: u32,
    ) -> Result<Shared, CustodyError> {
        let wipes = *self.ledger.wipes().borrow();
        let quorum = Quorum::of(manifest.manifest());
        let needed = quorum.write().max(quorum.deposits());
        self.check_connected(manifest, needed)?;
        let nsm = &self.ledger.enclave.nsm;
        let key = entropy::secret(nsm, "root key").await?;
        let seed = entropy::secret(nsm, "split seed").await?;
        let plan = plan(manifest, generation);
        let splitting = move || sharing::split(&key, &seed, &plan).map(|split| (key, seed, split));
        let (key, seed, mut split) = self.ledger.enclave.workshop.work(splitting).await??;
        self.encrypt_for_kms(manifest, &mut split).await?;
        let encrypting = {
            let manifest = manifest.clone();
            move || encrypt(&split.shares, &manifest, |_| true).map(|encrypted| (encrypted, split))
        };
        let (mut encrypted, split) = self.ledger.enclave.workshop.work(encrypting).await??;
        let sharing = Sharing { seed, set: split.set.clone() };
        let shared = Shared { root: Root::drawn(key, &split), sharing };
        let set = shared.root.set().clone();
        let home = manifest.home_custodian().ok_or(CustodyError::OtherAnswer)?.id();
        encrypted.sort_by_key(|(id, _)| *id != home);
        let depositing = async {
            for (id, share) in encrypted {
                self.ledger.give(id, set.clone(), share);
                if id == home {
                    self.is_deposited(&set, home, 1).await?;
                }
            }
            self.is_deposited(&set, home, needed).await
        };
        let informing = async {
            loop {
                self.ledger.inform(manifest);
                tokio::time::sleep(INFORM_INTERVAL).await;
            }
        };
        let depositing = async {
            tokio::select! {
                deposited = depositing => deposited,
                never = informing => never,
            }
        };
        let deposited = tokio::time::timeout(DEPOSIT_WAIT, depositing).await;
        let outcome = deposited.unwrap_or_else(|_| {
            let have = self.ledger.with_share(&set).len();
            Err(CustodyError::FewCustodians { what: "took their shares of a new root key", have, needed })
        });
        if let Err(error) = outcome {
            self.ledger.give_none();
            return Err(error);
        }
        self.ledger.keep_drawn(shared.root.duplicate(), wipes);
        Ok(shared)
    }

    /// Returns when so many custodians, home among them, hold a share of the set.
    async fn is_deposited(&self, set: &ShareSet, home: CustodianId, needed: usize) -> Result<(), CustodyError> {
        let mut changes = self.ledger.changes();
        loop {
            changes.borrow_and_update();
            let holders = self.ledger.with_share(set);
            if holders.contains(&home) && holders.len() >= needed {
                return Ok(());
            }
            if !holders.contains(&home) && !self.ledger.is_given(home) {
                return Err(CustodyError::Refused("another enclave was first to deposit a root key".to_owned()));
            }
            if changes.changed().await.is_err() {
                return Err(CustodyError::Wiped);
            }
        }
    }

    /// Whether so many custodians answer that what is begun can be ended.
    pub(super) fn check_connected(&self, manifest: &VerifiedManifest, needed: usize) -> Result<(), CustodyError> {
        let have = self.ledger.connected(manifest);
        if have < needed {
            return Err(CustodyError::FewCustodians { what: "answer; changes wait", have, needed });
        }
        Ok(())
    }
}
