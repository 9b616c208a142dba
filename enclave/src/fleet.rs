//! The key stores that this enclave serves: one custody task each, following the list that the parent hands over.
//!
//! Guarantees: a key store is known by the id that its manifest hashes to, so that a manifest of the host's own making is another
//! key store and takes nothing from anyone; a manifest that does not verify is refused by name and touches no other; a key
//! store that leaves the list is wiped; who claims which host name is known before any key store is opened. A change of the
//! list costs what changed: a manifest is verified once, where it delays no request.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_client::Connect;
use holdfast_link::control::{KeyStoreState, Level, SignedManifest};
use holdfast_link::egress::open_egress;
use holdfast_link::{Address, Stream};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::sigv4::Regions;
use tokio::task::{JoinHandle, JoinSet};

use crate::custody::{Custody, Enclave, ServedStore};
use crate::kms::KmsShareClient;
use crate::report::StoreReport;
use crate::roster::{Claim, Roster};

const EGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects through the parent's egress relay.
#[derive(Clone)]
pub(crate) struct Egress(pub(crate) Address);

impl Connect for Egress {
    type Stream = Stream;

    async fn connect(&self, address: &str) -> io::Result<Stream> {
        open_egress(&self.0, address, EGRESS_TIMEOUT).await.map_err(io::Error::other)
    }
}

/// See the module.
pub(crate) struct Fleet {
    enclave: Arc<Enclave>,
    roster: Arc<Roster>,
    regions: Regions,
    egress: Address,
    /// What was found out about each manifest of the list, by the hash of its bytes: its key store, if it verifies.
    seen: BTreeMap<Hash, Option<KeyStoreId>>,
    manifests: BTreeMap<KeyStoreId, VerifiedManifest>,
    tasks: BTreeMap<KeyStoreId, (JoinHandle<()>, ServedStore)>,
}

/// SHA-256 of a signed manifest's bytes. Not the key store's id: one manifest can be signed in many ways.
type Hash = [u8; 32];

impl Fleet {
    pub(crate) fn new(enclave: Arc<Enclave>, roster: Arc<Roster>, regions: Regions, egress: Address) -> Self {
        let (seen, manifests, tasks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { enclave, roster, regions, egress, seen, manifests, tasks }
    }

    /// Follows a new list: starts what is new, stops what is gone, leaves the rest alone.
    pub(crate) async fn follow(&mut self, list: &[SignedManifest]) {
        let mut seen = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        for signed in list {
            let hash = holdfast_shared::sha256(&[signed.as_bytes()]);
            let id = match self.seen.get(&hash) {
                Some(known) => *known,
                None => self.verify(signed).await.map(|verified| {
                    let id = verified.id();
                    wanted.insert(id, verified);
                    id
                }),
            };
            if let Some(known) = id.and_then(|id| self.manifests.remove(&id)) {
                wanted.insert(known.id(), known);
            }
            seen.insert(hash, id);
        }
        // Whatever was not wanted again is left here.
        self.seen = seen;
        let gone = core::mem::replace(&mut self.manifests, wanted);
        self.stop(gone.into_keys()).await;
        self.enclave.workshop.share_among(self.manifests.len());
        self.enclave.audit.share_among(self.manifests.len());
        self.enclave.reporter.retain(|id| self.manifests.contains_key(id));
        self.roster.claim(self.manifests.iter().map(|(id, manifest)| (*id, Claim::of(manifest))).collect());
        let new: Vec<_> = self.manifests.iter().filter(|(id, _)| !self.tasks.contains_key(id)).collect();
        let new: Vec<_> = new.into_iter().map(|(_, manifest)| manifest.clone()).collect();
        for manifest in new {
            self.start(manifest);
        }
    }

    /// Verifies a manifest where that delays no request: it may have many signatures.
    async fn verify(&self, signed: &SignedManifest) -> Option<VerifiedManifest> {
        let bytes = signed.as_bytes().to_vec();
        let verified = self.enclave.workshop.work(move || VerifiedManifest::verify(&bytes)).await;
        let error = match verified {
            Ok(Ok(verified)) => return Some(verified),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.enclave.reporter.log(Level::Error, &format!("a manifest is refused: {error}"));
        None
    }

    fn start(&mut self, manifest: VerifiedManifest) {
        let id = manifest.id();
        let (roster, regions) = (Arc::clone(&self.roster), self.regions.clone());
        let clock = Arc::clone(&self.enclave.clock);
        let audit = match self.enclave.audit.of(id) {
            Ok(audit) => audit,
            Err(error) => return self.refuse(id, &error.to_string()),
        };
        let served = ServedStore::new(&manifest, roster, regions, clock, audit);
        let connector = Egress(self.egress.clone());
        if let Some(key) = manifest.manifest().kms_share.clone() {
            let (clock, credentials) = (Arc::clone(&self.enclave.clock), self.enclave.aws_credentials.clone());
            // It would fail at the first ceremony or unseal; whoever wrote the manifest should hear of it at once.
            if let Err(error) = KmsShareClient::new(connector, key, clock, credentials) {
                return self.refuse(id, &error.to_string());
            }
        }
        let custody = Custody::new(Arc::clone(&self.enclave), manifest, Egress(self.egress.clone()), served.clone());
        self.tasks.insert(id, (tokio::spawn(custody.run()), served));
    }

    /// Has each home custodian told who used keys lately: the enclave ends.
    pub(crate) fn hurry_tallies(&self) {
        for (_, served) in self.tasks.values() {
            served.tally().hurry();
        }
    }

    fn refuse(&self, id: KeyStoreId, reason: &str) {
        let reason = Some(reason.to_owned());
        let report = StoreReport { state: KeyStoreState::Refused, version: None, lease_expires_ms: None, reason };
        self.enclave.reporter.set(id, report);
    }

    /// Stops key stores: their keys and routes go before anything is waited for, and their logs are waited for side by side.
    async fn stop(&mut self, ids: impl Iterator<Item = KeyStoreId>) {
        let leaving: Vec<_> = ids.filter_map(|id| Some((id, self.tasks.remove(&id)?))).collect();
        for (_, (_, served)) in &leaving {
            served.withdraw();
            served.tally().hurry();
        }
        let mut logs = JoinSet::new();
        for (_, (_, served)) in &leaving {
            let (enclave, log) = (Arc::clone(&self.enclave), Arc::clone(served.audit()));
            logs.spawn(async move { enclave.audit.leave(&log).await });
        }
        while logs.join_next().await.is_some() {}
        for (id, (task, served)) in leaving {
            end(task).await;
            // Once more: the task may have been about to install something.
            served.withdraw();
            served.audit().rest();
            self.enclave.reporter.log_about(id, Level::Info, "no longer served");
        }
    }
}

/// Ends a task, and returns when it does nothing any more: `abort` alone lets it run on to its next pause.
async fn end(task: JoinHandle<()>) {
    task.abort();
    // Aborted, which is what was wanted, or ended before.
    let _ = task.await;
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for (task, served) in self.tasks.values() {
            task.abort();
            served.wipe();
        }
    }
}
