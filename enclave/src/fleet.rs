//! The key stores that this enclave serves: one custody task each, following the list that the parent hands over.
//!
//! Guarantees: a key store is known by the id that its manifest hashes to, so that a manifest of the host's own making is another
//! key store and takes nothing from anyone; a manifest that does not verify is refused by name and touches no other; a key
//! store that leaves the list is wiped.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_client::{Connect, CustodianClient};
use holdfast_link::control::{KeyStoreState, Level, SignedManifest};
use holdfast_link::egress::open_egress;
use holdfast_link::{Address, Stream};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::sigv4::Regions;
use tokio::task::JoinHandle;

use crate::custody::{Custody, Enclave, ServedStore};
use crate::report::StoreReport;
use crate::roster::Roster;
use crate::tls::AttestedTime;

const EGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects through the parent's egress relay.
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
    tasks: BTreeMap<KeyStoreId, (JoinHandle<()>, ServedStore)>,
}

impl Fleet {
    pub(crate) fn new(enclave: Arc<Enclave>, roster: Arc<Roster>, regions: Regions, egress: Address) -> Self {
        Self { enclave, roster, regions, egress, tasks: BTreeMap::new() }
    }

    /// Follows a new list: starts what is new, stops what is gone, leaves the rest alone.
    pub(crate) async fn follow(&mut self, manifests: &[SignedManifest]) {
        let mut wanted = BTreeMap::new();
        for manifest in manifests {
            match VerifiedManifest::verify(manifest.as_bytes()) {
                Ok(verified) => {
                    wanted.insert(verified.id(), verified);
                }
                Err(error) => self.enclave.reporter.log(Level::Error, &format!("a manifest is refused: {error}")),
            }
        }
        let gone: Vec<_> = self.tasks.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in gone {
            self.stop(id).await;
        }
        self.enclave.reporter.retain(|id| wanted.contains_key(id));
        for (id, manifest) in wanted {
            if !self.tasks.contains_key(&id) {
                self.start(manifest);
            }
        }
    }

    fn start(&mut self, manifest: VerifiedManifest) {
        let id = manifest.id();
        let contents = manifest.manifest();
        let (Some(custodian), 1, 1) =
            (contents.custodians.first().cloned(), contents.custodians.len(), contents.shares_needed)
        else {
            return self.refuse(id, "this version serves key stores with exactly one custodian");
        };
        let time = Arc::new(AttestedTime(Arc::clone(&self.enclave.clock)));
        let client = match CustodianClient::with_time(Egress(self.egress.clone()), &custodian, time) {
            Ok(client) => Arc::new(client),
            Err(error) => return self.refuse(id, &error.to_string()),
        };
        let served = ServedStore::new(id, Arc::clone(&self.roster), self.regions.clone(), &custodian);
        let custody = Custody::new(Arc::clone(&self.enclave), manifest, client, custodian, served.clone());
        self.tasks.insert(id, (tokio::spawn(custody.run()), served));
    }

    fn refuse(&self, id: KeyStoreId, reason: &str) {
        let reason = Some(reason.to_owned());
        let report = StoreReport { state: KeyStoreState::Refused, version: None, lease_expires_ms: None, reason };
        self.enclave.reporter.set(id, report);
    }

    async fn stop(&mut self, id: KeyStoreId) {
        if let Some((task, served)) = self.tasks.remove(&id) {
            // Closed at once; and again once the task has ended, which may have been about to install something.
            served.withdraw();
            end(task).await;
            served.withdraw();
            self.enclave.reporter.log(Level::Info, &format!("key store {id}: no longer served"));
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
