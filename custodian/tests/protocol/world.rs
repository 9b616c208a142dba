//! A custodian with a stepped clock, an administrator, and enclaves whose documents an emulated chain signs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_custodian::clock::{Clock, SystemClock};
use holdfast_custodian::config::Config;
use holdfast_custodian::init::{self, PublicRecord};
use holdfast_custodian::service::{Custodian, ServiceError};
use holdfast_custodian::store::ReleaseRecord;
use holdfast_devkit::nsm::{DocumentBuilder, EmulatedChain, EmulatedRoot};
use holdfast_shared::attestation::Measurements;
use holdfast_shared::block::{self, BlockOverlay};
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, Reply};
use holdfast_shared::command::{self, Action, Command, Precondition, SealedResult};
use holdfast_shared::hpke;
use holdfast_shared::ids::{BootId, CommandId, CustodianId, KeyStoreId};
use holdfast_shared::keystore::{self, Body, Place, SealedKeyStore, TlsIdentity};
use holdfast_shared::labels;
use holdfast_shared::manifest::{
    self, Administrator, Custodian as CustodianEntry, DerCertificate, Manifest, ManifestId, ReleasePolicy, Succession,
    Thresholds,
};
use holdfast_shared::policy::{self, PolicyUpdate, ReleaseApproval};
use holdfast_shared::provenance::{VersionUserData, share_set_sha256};
use holdfast_shared::query::{self, Answer, Query, Question};
use holdfast_shared::register::{self, RegisterEntry};
use holdfast_shared::release::{
    self, ChallengeAnswer, ChallengeRequest, Commitment, PROTOCOL, ReleaseBinding, ReleaseRequest, ReleaseUserData,
    Share, ShareSet,
};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::signature::SigningKey;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;

use crate::enclave::Enclave;

pub(crate) const MODULE_ID: &str = "i-0123456789abcdef0-enc0123456789abcdef";
pub(crate) const LEASE_MS: u64 = 600_000;

/// Of the audit key of all enclaves here.
pub(crate) const AUDIT_SEED: [u8; 32] = [9; 32];

fn audit_public_key() -> [u8; 32] {
    let key = Ed25519KeyPair::from_seed_unchecked(&AUDIT_SEED).unwrap();
    key.public_key().as_ref().try_into().unwrap()
}

pub(crate) fn rng() -> SystemRandom {
    SystemRandom::new()
}

/// A clock that moves only when told.
pub(crate) struct StepClock(AtomicU64);

impl Clock for StepClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl StepClock {
    pub(crate) fn step(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

fn shared(clock: &Arc<StepClock>) -> Arc<dyn Clock> {
    clock.clone()
}

/// An administrator's keys.
pub(crate) struct Person {
    pub(crate) signing_key: SigningKey,
    pub(crate) encryption_key: hpke::PrivateKey,
    pub(crate) entry: Administrator,
}

impl Person {
    pub(crate) fn new(name: &str) -> Self {
        let signing_key = SigningKey::from_pkcs8(&SigningKey::generate(&rng()).unwrap(), &rng()).unwrap();
        let encryption_key = hpke::PrivateKey::generate().unwrap();
        let entry = Administrator {
            name: name.to_owned(),
            signing_key: signing_key.verifying_key().unwrap(),
            encryption_key: *encryption_key.public_key(),
        };
        Self { signing_key, encryption_key, entry }
    }
}

pub(crate) fn accepted() -> Measurements {
    let pcr = |byte| [byte; 48];
    Measurements { pcr0: pcr(1), pcr1: pcr(2), pcr2: pcr(3), pcr16: pcr(16), pcr3: None, pcr4: None, pcr8: None }
}

pub(crate) fn pcrs() -> BTreeMap<u8, [u8; 48]> {
    let set = accepted();
    BTreeMap::from([
        (0, set.pcr0),
        (1, set.pcr1),
        (2, set.pcr2),
        (3, [0; 48]),
        (4, [4; 48]),
        (8, [0; 48]),
        (16, set.pcr16),
    ])
}

pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) clock: Arc<StepClock>,
    pub(crate) root: EmulatedRoot,
    pub(crate) chain: EmulatedChain,
    pub(crate) alice: Person,
    pub(crate) bob: Person,
    pub(crate) record: PublicRecord,
    pub(crate) custodian: Arc<Custodian>,
    pub(crate) manifest: Manifest,
    pub(crate) key_store_id: KeyStoreId,
}

impl World {
    /// A custodian that has enrolled one key store.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same with a changed manifest.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Manifest)) -> Self {
        let mut world = Self::unenrolled().await;
        change(&mut world.manifest);
        world.key_store_id = KeyStoreId(holdfast_shared::sha256(&[&cbor::encode(&world.manifest)]));
        world.custodian.enrol(world.signed_manifest()).await.unwrap();
        world
    }

    /// A custodian that knows no key store.
    pub(crate) async fn unenrolled() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(StepClock(AtomicU64::new(SystemClock.now_ms())));
        let root = EmulatedRoot::generate().unwrap();
        fs::write(directory.path().join("root.pem"), root.pem()).unwrap();
        let chain = EmulatedChain::standard(&root, MODULE_ID, clock.now_ms()).unwrap();
        let (alice, bob) = (Person::new("alice"), Person::new("bob"));
        let config = config(directory.path(), &alice, true);
        let record = init::init(&config, clock.as_ref()).await.unwrap();
        let custodian = Custodian::open(&config, shared(&clock)).await.unwrap();
        let manifest = manifest_for(&record, &root, vec![alice.entry.clone(), bob.entry.clone()]);
        let key_store_id = KeyStoreId(holdfast_shared::sha256(&[&cbor::encode(&manifest)]));
        Self { directory, clock, root, chain, alice, bob, record, custodian, manifest, key_store_id }
    }

    pub(crate) fn signed_manifest(&self) -> Vec<u8> {
        let mut envelope = manifest::sign(&self.manifest, &self.alice.signing_key, &rng()).unwrap();
        if self.manifest.administrators.len() > 1 {
            envelope.add_signature(labels::MANIFEST, &self.bob.signing_key, &rng()).unwrap();
        }
        cbor::encode(&envelope).to_vec()
    }

    /// Ends the custodian without ceremony and starts it again from its disk.
    pub(crate) async fn restart(&mut self, emulated_root: bool) {
        let config = config(self.directory.path(), &self.alice, emulated_root);
        self.custodian = Custodian::open(&config, shared(&self.clock)).await.unwrap();
    }

    pub(crate) fn id(&self) -> CustodianId {
        self.record.id()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub(crate) fn challenge_for(&self, key_store_id: KeyStoreId) -> Result<[u8; 32], ServiceError> {
        let request = cbor::encode(&ChallengeRequest { protocol: PROTOCOL, key_store_id });
        let answer = self.custodian.challenge(&request)?;
        Ok(cbor::decode::<ChallengeAnswer>(&answer).unwrap().nonce)
    }

    pub(crate) fn challenge(&self) -> [u8; 32] {
        self.challenge_for(self.key_store_id).unwrap()
    }

    pub(crate) fn user_data(&self) -> ReleaseUserData {
        ReleaseUserData {
            label: labels::ATTEST_RELEASE.to_owned(),
            key_store_id: self.key_store_id,
            custodian_id: self.id(),
            boot_id: BootId(random()),
            audit_public_key: audit_public_key(),
        }
    }

    /// A good document for these values; tests replace what they want.
    pub(crate) fn document(&self, nonce: &[u8; 32], user_data: &[u8], key: &hpke::PublicKey) -> DocumentBuilder {
        DocumentBuilder::new(&self.chain, MODULE_ID, self.now_ms())
            .pcrs(&pcrs())
            .nonce(Some(nonce))
            .user_data(Some(user_data))
            .public_key(Some(&key.0))
    }

    pub(crate) async fn release(&self, document: Vec<u8>) -> Result<Vec<u8>, ServiceError> {
        let request = ReleaseRequest { protocol: PROTOCOL, key_store_id: self.key_store_id, document };
        loop {
            match self.custodian.release(&cbor::encode(&request)).await {
                // A test asks faster than any fleet.
                Err(ServiceError::TooMany(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                answered => return answered,
            }
        }
    }

    /// A good enclave obtains a release.
    pub(crate) async fn obtain(&self) -> Enclave {
        self.try_obtain(BootId(random())).await.unwrap()
    }

    /// A boot asks for a release.
    pub(crate) async fn try_obtain(&self, boot_id: BootId) -> Result<Enclave, ServiceError> {
        let nonce = self.challenge();
        let key = hpke::PrivateKey::generate().unwrap();
        let user_data = cbor::encode(&ReleaseUserData { boot_id, ..self.user_data() }).to_vec();
        let document = self.document(&nonce, &user_data, key.public_key()).build().unwrap();
        let answer = self.release(document.clone()).await?;
        let binding = ReleaseBinding {
            custodian_id: self.id(),
            key_store_id: self.key_store_id,
            nonce: &nonce,
            user_data: &user_data,
        };
        let (content, policy_epoch, keys) = release::open(&answer, &binding, &self.record.signing_key, &key).unwrap();
        Ok(Enclave { content, policy_epoch, keys, counter: 0, document })
    }

    pub(crate) async fn records(&self) -> Vec<ReleaseRecord> {
        let stored = self.custodian.store().records(self.key_store_id, None, 1000).await.unwrap();
        stored.into_iter().map(|stored| stored.record).collect()
    }

    /// The ceremony of one custodian: the share is the root key.
    pub(crate) fn shares(&self, root_key: u8) -> (ShareSet, hpke::Sealed) {
        self.shares_of(1, root_key)
    }

    /// The same for a later root key.
    pub(crate) fn shares_of(&self, generation: u32, root_key: u8) -> (ShareSet, hpke::Sealed) {
        let set = ShareSet { generation, ..self.set(&[root_key]) };
        (set, self.seal_share(1, root_key))
    }

    /// A set of the first generation with a share for each custodian of the manifest.
    pub(crate) fn set(&self, bytes: &[u8]) -> ShareSet {
        let commitment = |(index, byte): (u8, &u8)| Commitment(share(index, *byte).commitment());
        ShareSet {
            generation: 1,
            shares_needed: self.manifest.shares_needed,
            commitments: (1..).zip(bytes).map(commitment).collect(),
            kms_ciphertext: None,
        }
    }

    pub(crate) fn seal_share(&self, index: u8, byte: u8) -> hpke::Sealed {
        let share = share(index, byte);
        release::seal_share(&share, self.key_store_id, self.id(), &self.record.encryption_key).unwrap()
    }

    /// Names the first manifest.
    pub(crate) fn first(&self) -> ManifestId {
        ManifestId::first(self.key_store_id)
    }

    /// What an enclave attests of a version under a set of shares and a manifest.
    pub(crate) fn evidence(&self, blob: &SealedKeyStore, set: &ShareSet, manifest: ManifestId) -> Vec<u8> {
        let header = keystore::header(&blob.bytes).unwrap();
        let user_data = VersionUserData {
            label: labels::ATTEST_VERSION.to_owned(),
            key_store_id: self.key_store_id,
            version: header.version,
            blob_id: blob.id,
            previous: header.previous,
            share_set_sha256: share_set_sha256(set),
            manifest,
            commands: Vec::new(),
        };
        self.evidence_of(&user_data)
    }

    pub(crate) fn evidence_of(&self, user_data: &VersionUserData) -> Vec<u8> {
        let document = DocumentBuilder::new(&self.chain, MODULE_ID, self.now_ms()).pcrs(&pcrs());
        document.nonce(None).public_key(None).user_data(Some(&cbor::encode(user_data))).build().unwrap()
    }

    /// To publish a version under the root key of [`World::found`].
    pub(crate) fn publish(&self, blob: &SealedKeyStore, results: Vec<SealedResult>) -> Ask {
        let header = keystore::header(&blob.bytes).unwrap();
        let evidence = self.evidence(blob, &self.set(&[7]), self.first());
        Ask::Publish { version: header.version, previous: header.previous, blob: blob.bytes.clone(), results, evidence }
    }

    /// An administrators' update of the release policy.
    pub(crate) fn update(&self, policy: ReleasePolicy) -> PolicyUpdate {
        PolicyUpdate {
            label: labels::POLICY.to_owned(),
            key_store_id: self.key_store_id,
            policy,
            issued_ms: self.now_ms(),
        }
    }

    /// Puts another release policy in force.
    pub(crate) async fn change_policy(&self, policy: &ReleasePolicy) {
        let update = policy::sign(&self.update(policy.clone()), &self.alice.signing_key, &rng()).unwrap();
        self.custodian.change_policy(cbor::encode(&update).to_vec()).await.unwrap();
    }

    /// A person's approval of a boot.
    pub(crate) fn approval(&self, boot_id: BootId, expires_ms: u64, person: &Person) -> Vec<u8> {
        let label = labels::APPROVAL.to_owned();
        let approval = ReleaseApproval { label, key_store_id: self.key_store_id, boot_id, expires_ms };
        policy::approve(&approval, &person.signing_key, &rng()).unwrap()
    }

    /// The first successor of the manifest, signed by these.
    pub(crate) fn successor(&self, change: impl FnOnce(&mut Manifest), people: &[&Person]) -> (Manifest, Vec<u8>) {
        self.succeed(&self.manifest, change, people)
    }

    /// A successor of a manifest, signed by these.
    pub(crate) fn succeed(
        &self,
        before: &Manifest,
        change: impl FnOnce(&mut Manifest),
        people: &[&Person],
    ) -> (Manifest, Vec<u8>) {
        let mut next = before.clone();
        next.succession = Some(Succession {
            key_store_id: self.key_store_id,
            sequence: before.succession.map_or(1, |succession| succession.sequence) + 1,
            predecessor: holdfast_shared::sha256(&[&cbor::encode(before)]),
            overlay_epoch: 0,
        });
        change(&mut next);
        let mut envelope = manifest::sign(&next, &people[0].signing_key, &rng()).unwrap();
        for person in &people[1..] {
            envelope.add_signature(labels::MANIFEST, &person.signing_key, &rng()).unwrap();
        }
        (next, cbor::encode(&envelope).to_vec())
    }

    /// Ceremony and version 1.
    pub(crate) async fn found(&self) -> (Enclave, SealedKeyStore) {
        let mut enclave = self.obtain().await;
        let (set, share) = self.shares(7);
        assert_eq!(enclave.ask(self, &Ask::Deposit { set, share }).await.unwrap(), Reply::Deposited);
        let blob = self.blob(1, None);
        let reply = enclave.publish(self, &blob, 1, None).await;
        assert!(matches!(reply, Reply::Published { .. }), "{reply:?}");
        (enclave, blob)
    }

    /// A sealed key store under the root key of [`World::found`].
    pub(crate) fn blob(&self, version: u64, previous: Option<&SealedKeyStore>) -> SealedKeyStore {
        let place =
            Place { key_store_id: self.key_store_id, version, previous: previous.map(|blob| blob.id), generation: 1 };
        self.blob_at(&place)
    }

    pub(crate) fn blob_at(&self, place: &Place) -> SealedKeyStore {
        let body = Body {
            sharing: None,
            successor: None,
            host_name: self.manifest.host_name.clone(),
            path_prefix: self.manifest.path_prefix.clone(),
            tls: TlsIdentity { private_key: SecretBytes::new(vec![5; 40]), chain: Vec::new() },
            credentials: Vec::new(),
            external_keys: Vec::new(),
            administrators: self.manifest.administrators.clone(),
            thresholds: self.manifest.thresholds,
            executed: Vec::new(),
            quota: None,
            audit: None,
            client_authentication: None,
            renewal: None,
            policy: None,
            limits: None,
            budgets: None,
        };
        keystore::seal(&Secret::take(&mut [7; 32]), place, &body, &rng()).unwrap()
    }

    pub(crate) fn entry(&self, signed: &[u8]) -> RegisterEntry {
        register::open(signed, self.key_store_id, &self.record.signing_key).unwrap()
    }

    pub(crate) fn command(&self, action: Action) -> Command {
        let now_ms = self.now_ms();
        Command {
            label: labels::COMMAND.to_owned(),
            key_store_id: self.key_store_id,
            command_id: CommandId(random()),
            issued_ms: now_ms,
            expires_ms: now_ms + 3_600_000,
            precondition: Precondition::None,
            action,
        }
    }

    /// Queues a command and returns its id and bytes.
    pub(crate) async fn order(&self, action: Action) -> (CommandId, Vec<u8>) {
        let command = self.command(action);
        let envelope = command::sign(&command, &self.alice.signing_key, &rng()).unwrap();
        let bytes = cbor::encode(&envelope).to_vec();
        self.custodian.command(bytes.clone()).await.unwrap();
        (command.command_id, bytes)
    }

    pub(crate) fn overlay(&self, epoch: u64, store: bool) -> BlockOverlay {
        BlockOverlay {
            label: labels::BLOCK.to_owned(),
            key_store_id: self.key_store_id,
            epoch,
            store,
            keys: Vec::new(),
            issued_ms: self.now_ms(),
        }
    }

    pub(crate) fn signed_overlay(&self, overlay: &BlockOverlay) -> Vec<u8> {
        cbor::encode(&block::sign(overlay, &self.alice.signing_key, &rng()).unwrap()).to_vec()
    }

    pub(crate) async fn ask(&self, question: Question) -> Answer {
        let query = self.query(question);
        let signed = query::sign(&query, &self.alice.signing_key, &rng()).unwrap();
        let answer = self.custodian.query(signed).await.unwrap();
        query::open_answer(&answer, &query, &self.record.signing_key).unwrap()
    }

    pub(crate) fn query(&self, question: Question) -> Query {
        Query {
            label: labels::QUERY.to_owned(),
            key_store_id: self.key_store_id,
            custodian_id: self.id(),
            nonce: random(),
            issued_ms: self.now_ms(),
            question,
        }
    }
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    ring::rand::SecureRandom::fill(&rng(), &mut bytes).unwrap();
    bytes
}

fn config(directory: &Path, administrator: &Person, emulated_root: bool) -> Config {
    let root = if emulated_root { "emulated_root = \"root.pem\"\n" } else { "" };
    let text = format!(
        "name = \"vault-1\"\nlisten = \"127.0.0.1:0\"\naddress = \"localhost:7443\"\nstate = \"state\"\n\
         administrators = [\"{}\"]\n{root}",
        administrator.entry.id()
    );
    Config::parse(&directory.join("custodian.toml"), &text).unwrap()
}

/// A manifest with one custodian.
pub(crate) fn manifest_for(record: &PublicRecord, root: &EmulatedRoot, administrators: Vec<Administrator>) -> Manifest {
    Manifest {
        label: labels::MANIFEST.to_owned(),
        nonce: random(),
        name: "orders".to_owned(),
        administrators,
        thresholds: Thresholds::ONE,
        custodians: vec![custodian_entry(record)],
        shares_needed: 1,
        hostile_tolerated: 0,
        host_name: "kms.example.com".parse().unwrap(),
        path_prefix: "/orders".parse().unwrap(),
        release_policy: ReleasePolicy::first(root.trust_root().unwrap().fingerprint(), vec![accepted()], LEASE_MS),
        succession: None,
        kms_share: None,
    }
}

/// Names a manifest.
pub(crate) fn manifest_id(manifest: &Manifest) -> ManifestId {
    let sequence = manifest.succession.map_or(1, |succession| succession.sequence);
    ManifestId { sequence, digest: holdfast_shared::sha256(&[&cbor::encode(manifest)]) }
}

pub(crate) fn custodian_entry(record: &PublicRecord) -> CustodianEntry {
    let der = |pem: &String| DerCertificate(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec());
    CustodianEntry {
        name: record.name.clone(),
        signing_key: record.signing_key,
        encryption_key: record.encryption_key,
        address: record.address.clone(),
        tls_roots: record.tls_roots.iter().map(der).collect(),
    }
}

pub(crate) fn share(index: u8, byte: u8) -> Share {
    Share { index, value: Secret::take(&mut [byte; 32]) }
}

/// Why an enclave is refused whose lease goes on.
pub(crate) fn refused(reply: Reply) -> String {
    match reply {
        Reply::Refused { reason, lease_ended: false } => reason,
        other => panic!("should be refused: {other:?}"),
    }
}

/// What a refusal says.
pub(crate) fn denied<T: std::fmt::Debug>(result: Result<T, ServiceError>) -> String {
    match result {
        Err(ServiceError::Denied(reason)) => reason,
        other => panic!("should be denied: {other:?}"),
    }
}
