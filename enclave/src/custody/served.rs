//! One key store as requests see it, kept in step with its custody.
//!
//! Guarantees: gate and key slot are the same over all versions, so that a block or a lease's end reaches every connection at
//! once; after a wipe, host name, certificate and credentials stay, so that KMS gets a proper error, and nothing else does. A policy of
//! use that this image does not understand permits nothing.

use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use der::Decode;
use holdfast_guard::Policy;
use holdfast_shared::audit::{Event, PreviousHead};
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::external_key::{ExternalKey, ExternalKeyVersion, KeyState};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::keystore::{Body, CredentialRecord, ExternalKeyRecord};
use holdfast_shared::manifest::VerifiedManifest;
use holdfast_shared::quorum::Quorum;
use holdfast_shared::register::RegisterEntry;
use holdfast_shared::secrets::Secret;
use holdfast_shared::sigv4::{Credential, CredentialSet, Regions};
use ring::rand::{SecureRandom, SystemRandom};

use super::CustodyError;
use super::health::FleetHealth;
use crate::audit::{AuditLog, NextSegment, VersionInService};
use crate::clock::Clock;
use crate::directory::{Blocks, Gate, KeyRing, KeySlot, ServedKeyStore};
use crate::roster::{Challenge, Claim, Roster};
use crate::tally::UseTally;
use crate::tls::{TlsIdentity, challenge_config};
use crate::xks::{Budgets, PolicyInForce, UseGuards, UseRules, thread_time};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ServedStore(Arc<Parts>);

struct Parts {
    id: KeyStoreId,
    roster: Arc<Roster>,
    claim: Claim,
    regions: Regions,
    guards: UseGuards,
    clock: Arc<dyn Clock>,
    gate: Arc<Gate>,
    keys: Arc<KeySlot>,
    fleet: Arc<FleetHealth>,
    audit: Arc<AuditLog>,
    tally: Arc<UseTally>,
    has_certificate: AtomicBool,
    /// The certificate in service, so that a new version with the same one keeps its TLS sessions.
    tls: Mutex<Option<InService>>,
}

/// A version that can be served, and is not yet.
pub(crate) struct Prepared {
    ring: KeyRing,
    audited: VersionInService,
    /// Nothing without a certificate.
    store: Option<ServedKeyStore>,
    /// What the manifest in force claims.
    claim: Claim,
    /// Whether the certificate proves the host name.
    is_proven: bool,
    /// What an authority is shown that is asked to look at the host name.
    challenge: Option<Challenge>,
    caveat: Option<&'static str>,
}

impl Prepared {
    /// What is not as it should be, for those who watch over it.
    pub(crate) const fn caveat(&self) -> Option<&'static str> {
        self.caveat
    }
}

/// The version is served all the same, so that an order can mend it. No word of the policy: it names principals, and this is for logs.
const UNREADABLE_POLICY: &str =
    "the policy of use is not valid in this image: every use of a key is refused until `holdfast policy set` mends it";

/// A certificate chain and the identity made of it.
type InService = (Vec<Vec<u8>>, Arc<TlsIdentity>);

impl ServedStore {
    pub(crate) fn new(
        manifest: &VerifiedManifest,
        roster: Arc<Roster>,
        regions: Regions,
        clock: Arc<dyn Clock>,
        audit: Arc<AuditLog>,
    ) -> Self {
        let fleet = FleetHealth::new(Vec::new());
        let quorum = Quorum::of(manifest.manifest());
        fleet.keep(&manifest.manifest().custodians, quorum.answers());
        Self(Arc::new(Parts {
            id: manifest.id(),
            roster,
            claim: Claim::of(manifest),
            regions,
            guards: UseGuards::new(Arc::clone(&clock), thread_time),
            clock,
            gate: Arc::new(Gate::new()),
            keys: Arc::new(KeySlot::new()),
            fleet: Arc::new(fleet),
            audit,
            tally: Arc::default(),
            has_certificate: AtomicBool::new(false),
            tls: Mutex::default(),
        }))
    }

    /// What `GetHealthStatus` says about the custodian and the fleet.
    pub(crate) fn health(&self) -> &FleetHealth {
        &self.0.fleet
    }

    /// Where requests and changes are recorded.
    pub(crate) fn audit(&self) -> &Arc<AuditLog> {
        &self.0.audit
    }

    /// Who uses which key, and which alarms were raised.
    pub(crate) fn tally(&self) -> &UseTally {
        &self.0.tally
    }

    /// What is left of the uses that were debited for the newest version.
    pub(crate) fn budgets(&self) -> Arc<Budgets> {
        self.0.guards.budgets()
    }

    /// Makes of a version what can be served. This is the heavy part; nothing changes yet.
    ///
    /// # Errors
    /// When the version cannot be served: among other reasons, one that names another host or path than the manifest. Whoever
    /// runs the custodian can make any version, and the manifest is what the parent's operator has seen.
    pub(crate) fn prepare(
        &self,
        body: Body,
        entry: &RegisterEntry,
        manifest: &VerifiedManifest,
        now_ms: u64,
    ) -> Result<Prepared, CustodyError> {
        let failed = |error: &dyn core::fmt::Display| CustodyError::Unservable(error.to_string());
        let claim = self.claim_under(manifest);
        if body.host_name != claim.host_name || body.path_prefix != claim.path_prefix {
            return Err(failed(&"the key store names another host or path prefix than its manifest"));
        }
        let challenge = self.challenge(&body);
        let audited = VersionInService {
            version: entry.version,
            blob_id: entry.blob_id,
            executed: body.executed.iter().map(|command| command.command_id).collect(),
            settings: body.audit,
        };
        let policy = body.policy.as_ref().map_or(PolicyInForce::None, |policy| {
            Policy::parse(&policy.text)
                .map_or(PolicyInForce::Unreadable, |policy| PolicyInForce::Valid(Box::new(policy)))
        });
        let caveat = matches!(policy, PolicyInForce::Unreadable).then_some(UNREADABLE_POLICY);
        // No other key is used, and each purse costs debits.
        let enabled = body.external_keys.iter().filter(|key| key.state == KeyState::Enabled);
        let ids = enabled.map(|key| key.id.clone()).collect();
        let rules = UseRules { policy, quota: body.quota, limits: body.limits, budgets: body.budgets, keys: ids };
        let guard = self.0.guards.guard(rules);
        let random = SystemRandom::new();
        let kept = body.external_keys.into_iter().filter(|key| key.state != KeyState::Destroyed);
        let keys = kept.map(external_key).collect::<Result<Vec<_>, _>>()?;
        let ring = KeyRing::new(keys, &random).map_err(|error| failed(&error))?;
        let credentials = credentials(body.credentials, &random)?;
        let chain: Vec<Vec<u8>> = body.tls.chain.into_iter().map(|certificate| certificate.0).collect();
        if chain.is_empty() {
            return Ok(Prepared { ring, audited, store: None, claim, is_proven: false, challenge, caveat });
        }
        let is_proven = self.0.roster.authorities().prove(&chain, &claim.host_name, now_ms);
        let tls = self.tls_identity(chain, &body.tls.private_key)?;
        let store = ServedKeyStore {
            id: self.0.id,
            owner: claim.owner,
            host_name: body.host_name,
            path_prefix: body.path_prefix,
            version: entry.version,
            blob_id: entry.blob_id,
            credentials,
            regions: self.0.regions.clone(),
            tls,
            client_authentication: body.client_authentication.map(Arc::new),
            guard,
            gate: Arc::clone(&self.0.gate),
            keys: Arc::clone(&self.0.keys),
            fleet: Arc::clone(&self.0.fleet),
            audit: Arc::clone(&self.0.audit),
            tally: Arc::clone(&self.0.tally),
        };
        Ok(Prepared { ring, audited, store: Some(store), claim, is_proven, challenge, caveat })
    }

    /// What a manifest claims. Its owner are the administrators of the first: each of them signed it, while a successor may name
    /// others who signed nothing.
    fn claim_under(&self, manifest: &VerifiedManifest) -> Claim {
        Claim { owner: self.0.claim.owner, ..Claim::of(manifest) }
    }

    /// Puts the version's audit settings in force and records that it comes into service, before it does. `previous` and `standing` say
    /// how the log begins.
    ///
    /// # Errors
    /// When that cannot be recorded.
    pub(crate) fn record(
        &self,
        prepared: &Prepared,
        next: Option<NextSegment>,
        previous: impl FnOnce() -> Vec<PreviousHead>,
        standing: impl FnOnce() -> Vec<Event>,
    ) -> Result<(), CustodyError> {
        Ok(self.0.audit.enter(&prepared.audited, next, previous, standing)?)
    }

    /// Serves a version: its keys at once, its host name and credentials as soon as it has a certificate.
    ///
    /// # Errors
    /// When no TLS configuration can be made of it.
    pub(crate) fn install(&self, prepared: Prepared) -> Result<(), CustodyError> {
        let Prepared { ring, store, claim, is_proven, challenge, .. } = prepared;
        self.0.has_certificate.store(store.is_some(), Ordering::SeqCst);
        match store {
            Some(store) => {
                self.0
                    .roster
                    .put(store, &claim, is_proven)
                    .map_err(|error| CustodyError::Unservable(error.to_string()))?;
            }
            None => self.0.roster.remove(self.0.id),
        }
        self.0.roster.challenge(self.0.id, challenge);
        self.0.keys.install(ring);
        Ok(())
    }

    /// The challenge that is pending, if one is. Where it cannot be answered, the key store is served all the same, and the validation
    /// fails.
    fn challenge(&self, body: &Body) -> Option<Challenge> {
        let attempt = body.renewal.as_ref()?.progress.attempt?;
        let tls = challenge_config(&body.host_name, &attempt.key_authorization_sha256?, &self.0.clock).ok()?;
        Some(Challenge { host_name: body.host_name.clone(), tls })
    }

    fn tls_identity(
        &self,
        chain: Vec<Vec<u8>>,
        key: &holdfast_shared::secrets::SecretBytes,
    ) -> Result<Arc<TlsIdentity>, CustodyError> {
        let mut current = self.0.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((served, identity)) = current.as_ref()
            && *served == chain
        {
            return Ok(Arc::clone(identity));
        }
        // Of several for one host name, every enclave serves the same after every start: the one that is valid since last.
        let identity = TlsIdentity::new(chain.clone(), key, valid_since_ms(&chain))
            .map(Arc::new)
            .map_err(|error| CustodyError::Unservable(error.to_string()))?;
        *current = Some((chain, Arc::clone(&identity)));
        Ok(identity)
    }

    pub(crate) fn has_certificate(&self) -> bool {
        self.0.has_certificate.load(Ordering::SeqCst)
    }

    /// Nothing is answered with 200 from then on, monotonic.
    pub(crate) fn set_gate(&self, expires_ms: u64) {
        self.0.gate.set_lease_expiry(expires_ms);
    }

    pub(crate) fn lease_expires_ms(&self) -> Option<u64> {
        Some(self.0.gate.lease_expiry_ms()).filter(|expires_ms| *expires_ms > 0)
    }

    #[cfg(test)]
    pub(crate) fn blocks_key(&self, key: &holdfast_shared::external_key::ExternalKeyId) -> bool {
        self.0.gate.blocks_key(key)
    }

    /// Puts an overlay in force, as the change of this number: the next look at the gate sees it.
    pub(crate) fn block(&self, overlay: &BlockOverlay, change: u64) {
        let keys: HashSet<_> = overlay.keys.iter().cloned().collect();
        self.0.gate.apply(Blocks { epoch: change, store: overlay.store, keys });
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
        self.set_gate(0);
        self.wipe();
        self.0.roster.remove(self.0.id);
    }
}

/// When the first certificate began to be valid; 0 if it cannot be read.
fn valid_since_ms(chain: &[Vec<u8>]) -> u64 {
    let leaf = chain.first().and_then(|leaf| x509_cert::Certificate::from_der(leaf).ok());
    let since = leaf.map(|leaf| leaf.tbs_certificate().validity().not_before.to_unix_duration());
    since.and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or(0)
}

fn external_key(record: ExternalKeyRecord) -> Result<ExternalKey, CustodyError> {
    let failed = |error: &dyn core::fmt::Display| CustodyError::Unservable(error.to_string());
    let versions = record
        .versions
        .into_iter()
        .filter_map(|version| version.material.map(|material| (version.number, material, version.legacy)))
        .map(|(number, material, legacy)| {
            ExternalKeyVersion::new(number, material)
                .map(|version| version.with_legacy(legacy))
                .map_err(|error| failed(&error))
        })
        .collect::<Result<Vec<_>, _>>()?;
    ExternalKey::new(record.id, record.usage, record.state, versions).map_err(|error| failed(&error))
}

fn credentials(records: Vec<CredentialRecord>, rng: &dyn SecureRandom) -> Result<CredentialSet, CustodyError> {
    let failed = |error: &dyn core::fmt::Display| CustodyError::Unservable(error.to_string());
    let dummy = Secret::fill_with(|bytes| rng.fill(bytes)).map_err(|error| failed(&error))?;
    let credentials = records
        .into_iter()
        .map(|CredentialRecord { access_key_id, secret_access_key, created_ms }| {
            let credential = Credential::new(access_key_id, secret_access_key).map_err(|error| failed(&error))?;
            Ok(credential.created(created_ms))
        })
        .collect::<Result<Vec<_>, CustodyError>>()?;
    CredentialSet::new(credentials, &dummy).map_err(|error| failed(&error))
}
