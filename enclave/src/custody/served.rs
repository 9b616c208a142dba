//! One key store as requests see it, kept in step with its custody.
//!
//! Guarantees: gate and key slot are the same over all versions, so that a block or a lease's end reaches every connection at
//! once; after a wipe, host name, certificate and credentials stay, so that KMS gets a proper error, and nothing else does.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::external_key::{ExternalKey, ExternalKeyVersion};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::keystore::{Body, CredentialRecord, ExternalKeyRecord};
use holdfast_shared::manifest::{Administrator, Custodian};
use holdfast_shared::secrets::Secret;
use holdfast_shared::sigv4::{Credential, CredentialSet, Regions};
use holdfast_shared::xks::{EkmHealth, EkmStatus};
use ring::rand::{SecureRandom, SystemRandom};

use super::CustodyError;
use crate::directory::{Blocks, Gate, KeyRing, KeySlot, OwnerId, ServedKeyStore};
use crate::roster::Roster;
use crate::tls::TlsIdentity;
use crate::xks::OpenGuard;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ServedStore(Arc<Parts>);

struct Parts {
    id: KeyStoreId,
    roster: Arc<Roster>,
    regions: Regions,
    gate: Arc<Gate>,
    keys: Arc<KeySlot>,
    fleet: Arc<ArcSwap<Vec<EkmHealth>>>,
    custodian: String,
    has_certificate: AtomicBool,
    /// The certificate in service, so that a new version with the same one keeps its TLS sessions.
    tls: Mutex<Option<InService>>,
}

/// A certificate chain and the identity made of it.
type InService = (Vec<Vec<u8>>, Arc<TlsIdentity>);

impl ServedStore {
    pub(crate) fn new(id: KeyStoreId, roster: Arc<Roster>, regions: Regions, custodian: &Custodian) -> Self {
        let served = Self(Arc::new(Parts {
            id,
            roster,
            regions,
            gate: Arc::new(Gate::new()),
            keys: Arc::new(KeySlot::new()),
            fleet: Arc::default(),
            custodian: custodian.name.clone(),
            has_certificate: AtomicBool::new(false),
            tls: Mutex::default(),
        }));
        served.set_custodian_health(EkmStatus::Degraded);
        served
    }

    /// What `GetHealthStatus` says about the custodian.
    pub(crate) fn set_custodian_health(&self, health_status: EkmStatus) {
        let model = format!("Holdfast custodian {}", env!("CARGO_PKG_VERSION"));
        let entry = EkmHealth { id: self.0.custodian.clone(), model, health_status };
        self.0.fleet.store(Arc::new(vec![entry]));
    }

    /// Serves a version: its keys at once, its host name and credentials as soon as it has a certificate.
    pub(crate) fn install(&self, body: Body, now_ms: u64) -> Result<(), CustodyError> {
        let failed = |error: &dyn core::fmt::Display| CustodyError::Served(error.to_string());
        let random = SystemRandom::new();
        let owner = owner(&body.administrators);
        let keys = body.external_keys.into_iter().map(external_key).collect::<Result<Vec<_>, _>>()?;
        let ring = KeyRing::new(keys, &random).map_err(|error| failed(&error))?;
        let credentials = credentials(body.credentials, &random)?;
        let chain: Vec<Vec<u8>> = body.tls.chain.into_iter().map(|certificate| certificate.0).collect();
        if !chain.is_empty() {
            let tls = self.tls_identity(chain, &body.tls.private_key, now_ms)?;
            let store = ServedKeyStore {
                id: self.0.id,
                owner,
                host_name: body.host_name,
                path_prefix: body.path_prefix,
                credentials,
                regions: self.0.regions.clone(),
                tls,
                client_authentication: body.client_authentication.map(Arc::new),
                guard: Arc::new(OpenGuard),
                gate: Arc::clone(&self.0.gate),
                keys: Arc::clone(&self.0.keys),
                fleet: Arc::clone(&self.0.fleet),
                proxies: NonZeroU32::MIN,
            };
            self.0.roster.put(store).map_err(|error| failed(&error))?;
            self.0.has_certificate.store(true, Ordering::SeqCst);
        }
        self.0.keys.install(ring);
        Ok(())
    }

    fn tls_identity(
        &self,
        chain: Vec<Vec<u8>>,
        key: &holdfast_shared::secrets::SecretBytes,
        now_ms: u64,
    ) -> Result<Arc<TlsIdentity>, CustodyError> {
        let mut current = self.0.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((served, identity)) = current.as_ref()
            && *served == chain
        {
            return Ok(Arc::clone(identity));
        }
        let identity = TlsIdentity::new(chain.clone(), key, now_ms)
            .map(Arc::new)
            .map_err(|error| CustodyError::Served(error.to_string()))?;
        *current = Some((chain, Arc::clone(&identity)));
        Ok(identity)
    }

    pub(crate) fn has_certificate(&self) -> bool {
        self.0.has_certificate.load(Ordering::SeqCst)
    }

    pub(crate) fn set_lease(&self, expires_ms: u64) {
        self.0.gate.set_lease_expiry(expires_ms);
    }

    /// Nothing that serves may go on for longer than this; what ends sooner ends when it did.
    pub(crate) fn shorten_lease(&self, expires_ms: u64) {
        self.set_lease(self.lease_expires_ms().map_or(expires_ms, |current_ms| current_ms.min(expires_ms)));
    }

    /// The lease is over, whatever was left of it.
    pub(crate) fn end_lease(&self) {
        self.0.gate.set_lease_expiry(0);
    }

    pub(crate) fn lease_expires_ms(&self) -> Option<u64> {
        Some(self.0.gate.lease_expiry_ms()).filter(|expires_ms| *expires_ms > 0)
    }

    /// Puts an overlay in force: the next look at the gate sees it.
    pub(crate) fn block(&self, overlay: &BlockOverlay) {
        let keys: HashSet<_> = overlay.keys.iter().cloned().collect();
        self.0.gate.apply(Blocks { epoch: overlay.epoch, store: overlay.store, keys });
    }

    /// Drops the keys.
    pub(crate) fn wipe(&self) {
        self.0.keys.wipe();
    }

    #[cfg(test)]
    pub(super) fn holds_keys(&self) -> bool {
        self.0.keys.load().is_some()
    }

    #[cfg(test)]
    pub(super) fn may_use_keys(&self, now_ms: u64) -> bool {
        self.holds_keys() && self.0.gate.check(now_ms, None).is_ok()
    }

    /// Drops the keys and everything else.
    pub(crate) fn withdraw(&self) {
        self.end_lease();
        self.wipe();
        self.0.roster.remove(self.0.id);
    }
}

/// Key stores belong to one owner when the same administrators order their changes: each of them signed both manifests.
fn owner(administrators: &[Administrator]) -> OwnerId {
    let mut ids: Vec<_> = administrators.iter().map(Administrator::id).collect();
    ids.sort_unstable();
    let parts: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
    OwnerId(holdfast_shared::sha256(&parts))
}

fn external_key(record: ExternalKeyRecord) -> Result<ExternalKey, CustodyError> {
    let failed = |error: &dyn core::fmt::Display| CustodyError::Served(error.to_string());
    let versions = record
        .versions
        .into_iter()
        .filter_map(|version| version.material.map(|material| (version.number, material)))
        .map(|(number, material)| ExternalKeyVersion::new(number, material).map_err(|error| failed(&error)))
        .collect::<Result<Vec<_>, _>>()?;
    ExternalKey::new(record.id, record.usage, record.state, versions).map_err(|error| failed(&error))
}

fn credentials(records: Vec<CredentialRecord>, rng: &dyn SecureRandom) -> Result<CredentialSet, CustodyError> {
    let failed = |error: &dyn core::fmt::Display| CustodyError::Served(error.to_string());
    let dummy = Secret::fill_with(|bytes| rng.fill(bytes)).map_err(|error| failed(&error))?;
    let credentials = records
        .into_iter()
        .map(|record| Credential::new(record.access_key_id, record.secret_access_key).map_err(|error| failed(&error)))
        .collect::<Result<Vec<_>, _>>()?;
    CredentialSet::new(credentials, &dummy).map_err(|error| failed(&error))
}
