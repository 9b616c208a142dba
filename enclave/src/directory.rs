//! What requests see: host names, path prefixes, key stores.
//!
//! ```text
//! Directory ─ host name ─► ServedHost (TLS) ─ path prefix ─► ServedKeyStore (credentials, guard, fleet)
//!                                                              ├ Gate      lease, blocks: survives every new version
//!                                                              └ KeySlot   the keys, or nothing after a wipe
//! ```
//!
//! Guarantees: a look-up takes no lock and sees one consistent table; two owners that claim one host name get neither
//! (design, section 7), so that nobody can take over another's name by arriving later. Assumes: the caller keeps one
//! [`Gate`] and one [`KeySlot`] per key store over all its versions. Refuses: nothing silently; collisions are returned.

pub mod gate;
pub mod keys;

use std::collections::HashMap;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard as Loaded};
use holdfast_shared::ids::{BlobId, KeyStoreId};
use holdfast_shared::keystore::{ClientAuthentication, Quota};
use holdfast_shared::limits::PROOFS_PER_SECOND_AND_HOST;
use holdfast_shared::sigv4::{CredentialSet, Regions};
use holdfast_shared::xks::{HostName, PathPrefix};
use rustls::ServerConfig;

pub use gate::{Blocks, Gate, Refusal};
pub use keys::{KeyRing, KeyRingError, KeySlot};

use crate::audit::AuditLog;
use crate::clock::Clock;
pub use crate::custody::health::{CustodianHealth, FleetHealth};
use crate::tally::UseTally;
use crate::tls::expiry::CertificateInService;
use crate::tls::{ClientSettings, TlsError, TlsIdentity, server_config};
use crate::xks::{Bucket, Guard};

/// Who a key store belongs to: equal for key stores of one owner, as far as the caller can prove that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerId(pub [u8; 32]);

/// One version of one key store, as it is served.
pub struct ServedKeyStore {
    /// The key store.
    pub id: KeyStoreId,
    /// Its owner.
    pub owner: OwnerId,
    /// The host name that it is served under.
    pub host_name: HostName,
    /// The path prefix that it is served under.
    pub path_prefix: PathPrefix,
    /// The version, from 1.
    pub version: u64,
    /// The sealed key store of that version.
    pub blob_id: BlobId,
    /// The live SigV4 credentials.
    pub credentials: CredentialSet,
    /// The regions from which KMS may call.
    pub regions: Regions,
    /// Certificate and key of the host name.
    pub tls: Arc<TlsIdentity>,
    /// Which client certificates are accepted; nothing if none is asked for.
    pub client_authentication: Option<Arc<ClientAuthentication>>,
    /// Policy, quotas and budgets.
    pub guard: Arc<dyn Guard>,
    /// Lease and blocks.
    pub gate: Arc<Gate>,
    /// The keys.
    pub keys: Arc<KeySlot>,
    /// What `GetHealthStatus` says about custodians and enclaves.
    pub fleet: Arc<FleetHealth>,
    /// Where each request is recorded: the same over all versions.
    pub audit: Arc<AuditLog>,
    /// Who uses which key, for alarms: the same over all versions.
    pub tally: Arc<UseTally>,
}

impl core::fmt::Debug for ServedKeyStore {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ServedKeyStore")
            .field("id", &self.id)
            .field("host_name", &self.host_name)
            .field("path_prefix", &self.path_prefix)
            .finish_non_exhaustive()
    }
}

/// One host name and what is served under it.
#[derive(Debug)]
pub struct ServedHost {
    /// The key store whose certificate is in service.
    certified: KeyStoreId,
    identity: Arc<TlsIdentity>,
    clients: ClientSettings,
    tls: Arc<ServerConfig>,
    stores: HashMap<PathPrefix, Arc<ServedKeyStore>>,
    proofs: Arc<Bucket>,
}

impl ServedHost {
    /// The TLS configuration of this host name and no other.
    #[must_use]
    pub fn tls(&self) -> &Arc<ServerConfig> {
        &self.tls
    }

    /// The key store under `prefix`.
    #[must_use]
    pub fn store(&self, prefix: &PathPrefix) -> Option<&Arc<ServedKeyStore>> {
        self.stores.get(prefix)
    }

    /// The key store with this id, or the only one if none is named.
    pub(crate) fn named(&self, id: Option<KeyStoreId>) -> Result<&Arc<ServedKeyStore>, Unnamed> {
        match id {
            Some(id) => self.stores.values().find(|store| store.id == id).ok_or(Unnamed::Unknown),
            None if self.stores.len() > 1 => Err(Unnamed::Several),
            None => self.stores.values().next().ok_or(Unnamed::Unknown),
        }
    }

    /// SHA-256 of the public key in the certificate that [`ServedHost::tls`] serves.
    pub(crate) fn tls_public_key_sha256(&self) -> [u8; 32] {
        self.identity.public_key_sha256()
    }

    /// What strangers may still ask of the NSM under this host name: the same over all tables that have the name.
    pub(crate) fn proofs(&self) -> &Bucket {
        &self.proofs
    }
}

/// Why no key store was found by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unnamed {
    /// There is none.
    Unknown,
    /// None was named, and there are several.
    Several,
}

/// Key stores that were left out because they claim the same name. Worth an alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The name that is claimed twice.
    pub host_name: HostName,
    /// The prefix, if one owner claims it twice; nothing if several owners claim the host name.
    pub path_prefix: Option<PathPrefix>,
    /// Everyone who claims it.
    pub stores: Vec<KeyStoreId>,
}

/// Documents that strangers may ask for under one host name.
const PROOFS_OF_HOST: Quota =
    Quota { requests_per_second: PROOFS_PER_SECOND_AND_HOST, burst: PROOFS_PER_SECOND_AND_HOST };

type Hosts = HashMap<HostName, Arc<ServedHost>>;
/// Configurations that speak `acme-tls/1` alone.
pub(crate) type Challenges = HashMap<HostName, Arc<ServerConfig>>;

/// The table of everything served. Reading takes no lock; replacing is rare.
pub struct Directory {
    hosts: ArcSwap<Hosts>,
    /// What a certificate authority's look at a host name is answered with. They need no certificate in service.
    challenges: ArcSwap<Challenges>,
    clock: Arc<dyn Clock>,
}

impl core::fmt::Debug for Directory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Directory").field("hosts", &self.hosts.load().len()).finish_non_exhaustive()
    }
}

impl Directory {
    /// An empty directory, whose TLS configurations will tell time by `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { hosts: ArcSwap::default(), challenges: ArcSwap::default(), clock }
    }

    /// Serves exactly `stores` from now on. Connections that are open find the new table with their next request.
    ///
    /// Of several certificates for one host name, the one installed last is used. A host asks for client certificates if
    /// any key store under it does, and takes what any of them takes; each request is then held against its own key
    /// store's setting. A host keeps its TLS sessions while neither its certificate nor these settings change.
    ///
    /// # Errors
    /// If a TLS configuration cannot be made; the directory is unchanged then.
    pub fn replace(&self, stores: Vec<Arc<ServedKeyStore>>) -> Result<Vec<Collision>, TlsError> {
        let mut by_host: BTreeMap<HostName, Vec<Arc<ServedKeyStore>>> = BTreeMap::new();
        for store in stores {
            by_host.entry(store.host_name.clone()).or_default().push(store);
        }
        let mut collisions = Vec::new();
        let mut hosts = Hosts::new();
        let previous = self.hosts.load();
        for (host_name, stores) in by_host {
            let stores = without_collisions(&host_name, stores, &mut collisions);
            let newest = stores.iter().max_by_key(|store| (store.tls.installed_ms(), store.id));
            let Some((certified, identity)) = newest.map(|store| (store.id, Arc::clone(&store.tls))) else {
                continue;
            };
            let clients = ClientSettings::of(stores.iter().filter_map(|store| store.client_authentication.as_ref()));
            let tls = match previous.get(&host_name) {
                Some(host) if Arc::ptr_eq(&host.identity, &identity) && host.clients == clients => {
                    Arc::clone(&host.tls)
                }
                _ => server_config(&identity, &clients, &self.clock)?,
            };
            let stores = stores.into_iter().map(|store| (store.path_prefix.clone(), store)).collect();
            let proofs = previous
                .get(&host_name)
                .map_or_else(|| Arc::new(Bucket::new(PROOFS_OF_HOST)), |host| Arc::clone(&host.proofs));
            hosts.insert(host_name, Arc::new(ServedHost { certified, identity, clients, tls, stores, proofs }));
        }
        self.hosts.store(Arc::new(hosts));
        Ok(collisions)
    }

    /// Answers these challenges from now on, and no others.
    pub(crate) fn replace_challenges(&self, challenges: Challenges) {
        self.challenges.store(Arc::new(challenges));
    }

    /// What a look at `host_name` is answered with, while a challenge is pending.
    pub(crate) fn challenge(&self, host_name: &HostName) -> Option<Arc<ServerConfig>> {
        self.challenges.load().get(host_name).cloned()
    }

    /// The certificates in service.
    pub(crate) fn certificates(&self) -> Vec<CertificateInService> {
        let hosts = self.hosts.load();
        let certificate = |(host_name, host): (&HostName, &Arc<ServedHost>)| CertificateInService {
            host_name: host_name.clone(),
            key_store: host.certified,
            not_after_ms: host.identity.not_after_ms(),
        };
        hosts.iter().map(certificate).collect()
    }

    /// The key stores that are served, in the order of their ids.
    pub(crate) fn stores(&self) -> Vec<Arc<ServedKeyStore>> {
        let hosts = self.hosts.load();
        let mut stores: Vec<_> = hosts.values().flat_map(|host| host.stores.values().cloned()).collect();
        stores.sort_by_key(|store| store.id);
        stores
    }

    /// What is served under `host_name`.
    #[must_use]
    pub fn host(&self, host_name: &HostName) -> Option<Arc<ServedHost>> {
        self.hosts.load().get(host_name).cloned()
    }

    /// The key store under `host_name` and `prefix`.
    #[must_use]
    pub fn store(&self, host_name: &HostName, prefix: &PathPrefix) -> Option<Arc<ServedKeyStore>> {
        let hosts: Loaded<Arc<Hosts>> = self.hosts.load();
        hosts.get(host_name)?.store(prefix).cloned()
    }
}

/// Drops everything that is claimed by more than one owner, and every prefix that is claimed twice by one.
fn without_collisions(
    host_name: &HostName,
    stores: Vec<Arc<ServedKeyStore>>,
    collisions: &mut Vec<Collision>,
) -> Vec<Arc<ServedKeyStore>> {
    let mut owners = stores.iter().map(|store| store.owner);
    let first = owners.next();
    if owners.any(|owner| Some(owner) != first) {
        let stores = stores.iter().map(|store| store.id).collect();
        collisions.push(Collision { host_name: host_name.clone(), path_prefix: None, stores });
        return Vec::new();
    }
    let mut by_prefix: BTreeMap<PathPrefix, Vec<Arc<ServedKeyStore>>> = BTreeMap::new();
    for store in stores {
        match by_prefix.entry(store.path_prefix.clone()) {
            Entry::Vacant(entry) => drop(entry.insert(vec![store])),
            Entry::Occupied(mut entry) => entry.get_mut().push(store),
        }
    }
    let mut unique = Vec::new();
    for (path_prefix, mut stores) in by_prefix {
        match stores.pop() {
            Some(store) if stores.is_empty() => unique.push(store),
            last => {
                let stores = stores.iter().chain(&last).map(|store| store.id).collect();
                collisions.push(Collision { host_name: host_name.clone(), path_prefix: Some(path_prefix), stores });
            }
        }
    }
    unique
}
