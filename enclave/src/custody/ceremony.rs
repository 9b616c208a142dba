//! The ceremony: a root key is drawn in attested memory, its shares deposited, and the first version published.
//!
//! Guarantees: it begins only when enough custodians answered that there is no version, home among them, and as many are there as
//! must keep what comes of it; version 1 comes last, so that a crash half-way leaves shares that the next enclave's replace; of two
//! enclaves, the one whose shares the home custodian keeps publishes, and the other begins again with a release.

use holdfast_client::Connect;
use holdfast_shared::command::{Outcome, ceremony_id};
use holdfast_shared::keystore::{Body, Place, SuccessorInForce, TlsIdentity};
use holdfast_shared::manifest::VerifiedManifest;
use ring::rand::{SecureRandom, SystemRandom};

use super::coordinator::{Coordinator, Step};
use super::ledger::Order;
use super::publish::{Draft, sealed_result};
use super::rotate::Shared;
use super::{CustodyError, commands, identity};
use crate::entropy;

/// Generation of a ceremony's root key.
const FIRST_GENERATION: u32 = 1;
/// Longest pause of one that lost a ceremony to another, in milliseconds.
const PAUSE_MAX_MS: u16 = 2_000;

impl<C: Connect + Clone + 'static> Coordinator<C> {
    /// Draws the root key, and makes and publishes version 1: a TLS key, a SigV4 credential for the first administrator, no external
    /// keys.
    pub(super) async fn hold_ceremony(&mut self) -> Result<Step, CustodyError> {
        self.ledger.home()?;
        self.ledger.in_ceremony("drawing and depositing the root key");
        let manifest = self.ledger.believed_manifest();
        match self.try_ceremony(&manifest).await {
            Ok(true) => Ok(Step::Again),
            Ok(false) => {
                self.give_way().await;
                Err(CustodyError::Refused("another enclave published the first version".to_owned()))
            }
            Err(error) => {
                if let CustodyError::Refused(_) = error {
                    self.give_way().await;
                }
                Err(error)
            }
        }
    }

    async fn try_ceremony(&mut self, manifest: &VerifiedManifest) -> Result<bool, CustodyError> {
        let Shared { root, sharing } = self.share_new_root(manifest, FIRST_GENERATION).await?;
        let contents = manifest.manifest();
        let nsm = &self.ledger.enclave.nsm;
        let now_ms = self.ledger.enclave.clock.wall_ms();
        let credential = identity::credential(&entropy::secret(nsm, "secret access key").await?, now_ms)?;
        let outcome = Outcome::Credential { credential: commands::issued(&credential) };
        let body = Body {
            host_name: contents.host_name.clone(),
            path_prefix: contents.path_prefix.clone(),
            tls: TlsIdentity { private_key: identity::tls_key()?, chain: Vec::new() },
            credentials: vec![credential],
            external_keys: Vec::new(),
            administrators: contents.administrators.clone(),
            thresholds: contents.thresholds,
            executed: Vec::new(),
            quota: None,
            audit: None,
            client_authentication: None,
            renewal: None,
            policy: None,
            limits: None,
            budgets: None,
            sharing: Some(sharing),
            successor: (manifest.sequence() > 1)
                .then(|| SuccessorInForce { manifest: manifest.manifest_id(), since_version: 1 }),
        };
        let administrator = contents.administrators.first().ok_or(CustodyError::OtherAnswer)?;
        let key_store_id = manifest.id();
        let result = sealed_result(nsm, key_store_id, ceremony_id(key_store_id), administrator, &outcome).await?;
        let place = Place { key_store_id, version: 1, previous: None, generation: root.set().generation };
        self.publish(Draft { root, body, place, results: vec![result], commands: Vec::new() }).await
    }

    /// Another enclave was faster: it is let finish, and the custodian is asked what came of it.
    async fn give_way(&self) {
        let mut random = [0; 2];
        // Without randomness the pause is none.
        let _ = SystemRandom::new().fill(&mut random);
        let pause_ms = u16::from_le_bytes(random).checked_rem(PAUSE_MAX_MS).unwrap_or(0);
        tokio::time::sleep(std::time::Duration::from_millis(pause_ms.into())).await;
        if let Ok((home, _)) = self.ledger.home() {
            self.ledger.order(home, Order::ReleaseAgain);
        }
    }
}
