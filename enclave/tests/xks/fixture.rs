//! A key store in memory, a clock that stands still, and a client that signs as KMS does.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_enclave::audit::{AuditKey, AuditLog, AuditLogs, NextSegment, Readers, VersionInService};
use holdfast_enclave::clock::{Clock as _, SteppedClock};
use holdfast_enclave::directory::{
    Blocks, CustodianHealth, Directory, FleetHealth, Gate, KeyRing, KeySlot, OwnerId, ServedKeyStore,
};
use holdfast_enclave::nsm::{Nsm, NsmDevice};
use holdfast_enclave::server::{ServerContext, ServerLimits};
use holdfast_enclave::tls::TlsIdentity;
use holdfast_enclave::xks::{Denial, Guard, Permit, Question, RequestEvent, RequestObserver};
use holdfast_shared::audit::{AuditMode, AuditSettings, Auditor, Terms};
use holdfast_shared::external_key::{ExternalKey, ExternalKeyId, ExternalKeyVersion, KeyState, KeyUsage};
use holdfast_shared::hpke;
use holdfast_shared::ids::{BlobId, BootId, KeyStoreId};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::sigv4::{AccessKeyId, Credential, CredentialSet, Region, Regions};
use holdfast_shared::xks::{HostName, PathPrefix};
use ring::rand::SystemRandom;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

pub(crate) const WALL_MS: u64 = 1_700_000_000_000;
pub(crate) const LEASE_MS: u64 = 60_000;
pub(crate) const HOST: &str = "xks.example.com";
pub(crate) const PREFIX: &str = "/tenant-1";
pub(crate) const REGION: &str = "eu-central-1";
pub(crate) const ACCESS_KEY_ID: &str = "MUBSXM6K3KMXHN6RRCXI";
pub(crate) const SECRET: &str = "FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE";

/// The keys of the store: id, usage, state.
const KEYS: [(&str, KeyUsage, KeyState); 7] = [
    ("enabled", KeyUsage::ENCRYPT_DECRYPT, KeyState::Enabled),
    ("blocked", KeyUsage::ENCRYPT_DECRYPT, KeyState::Enabled),
    ("disabled", KeyUsage::ENCRYPT_DECRYPT, KeyState::Disabled),
    ("pending", KeyUsage::ENCRYPT_DECRYPT, KeyState::PendingDestruction),
    ("decrypt-only", KeyUsage::DECRYPT, KeyState::Enabled),
    ("encrypt-only", KeyUsage { encrypt: true, decrypt: false }, KeyState::Enabled),
    ("disabled-encrypt-only", KeyUsage { encrypt: true, decrypt: false }, KeyState::Disabled),
];

/// A guard that does what the test says, just before the key is used.
#[derive(Default)]
pub(crate) struct TestGuard {
    pub(crate) denial: Mutex<Option<Denial>>,
    pub(crate) hook: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Guard for TestGuard {
    fn permit(&self, question: &Question<'_>) -> Result<Permit, Denial> {
        assert_eq!(question.access_key_id.as_str(), ACCESS_KEY_ID);
        if let Some(hook) = &*self.hook.lock().unwrap() {
            hook();
        }
        self.denial.lock().unwrap().clone().map_or_else(|| Ok(Permit::default()), Err)
    }
}

/// Keeps every event.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<RequestEvent>>);

impl RequestObserver for Recorder {
    fn observe(&self, event: RequestEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// A certificate authority for tests.
pub(crate) struct Ca {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub(crate) root: CertificateDer<'static>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: rcgen::Issuer::new(params, key), root }
    }

    /// A certificate for `key`, in DER.
    pub(crate) fn sign(&self, params: &rcgen::CertificateParams, key: &rcgen::KeyPair) -> Vec<u8> {
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    pub(crate) fn identity(&self, host: &str, installed_ms: u64) -> Arc<TlsIdentity> {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let pkcs8 = SecretBytes::new(key.serialize_der());
        Arc::new(TlsIdentity::new(vec![leaf.der().to_vec()], &pkcs8, installed_ms).unwrap())
    }
}

/// What a test tells the NSM to do before it answers.
type Hook = Box<dyn Fn() -> Option<ErrorCode> + Send>;

/// An NSM whose documents are the three fields, unsigned.
#[derive(Clone, Default)]
pub(crate) struct TestDevice(pub(crate) Arc<Mutex<Option<Hook>>>);

impl NsmDevice for TestDevice {
    fn process_request(&mut self, request: Request) -> Response {
        let refusal = self.0.lock().unwrap().as_ref().and_then(|hook| hook());
        match (refusal, request) {
            (None, Request::Attestation { nonce, user_data, public_key }) => {
                let fields = [nonce, user_data, public_key].map(|field| field.map(serde_bytes::ByteBuf::into_vec));
                Response::Attestation { document: serde_json::to_vec(&fields).unwrap() }
            }
            (refusal, _) => Response::Error(refusal.unwrap_or(ErrorCode::InvalidOperation)),
        }
    }
}

/// Everything that one test needs.
pub(crate) struct World {
    pub(crate) clock: Arc<SteppedClock>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) keys: Arc<KeySlot>,
    pub(crate) guard: Arc<TestGuard>,
    pub(crate) observer: Arc<Recorder>,
    pub(crate) ca: Ca,
    pub(crate) device: TestDevice,
    pub(crate) audit: Audit,
    pub(crate) reader: hpke::PrivateKey,
    nsm: Nsm,
}

pub(crate) fn key_id(id: &str) -> ExternalKeyId {
    ExternalKeyId::parse(id).unwrap()
}

fn external_key(id: &str, usage: KeyUsage, state: KeyState) -> ExternalKey {
    let version = |number: u8| {
        let material = Secret::take(&mut [number; 32]);
        ExternalKeyVersion::new(u32::from(number), material).unwrap()
    };
    ExternalKey::new(key_id(id), usage, state, vec![version(1), version(2)]).unwrap()
}

pub(crate) fn key_ring() -> KeyRing {
    let keys = KEYS.iter().map(|(id, usage, state)| external_key(id, *usage, *state)).collect();
    KeyRing::new(keys, &SystemRandom::new()).unwrap()
}

pub(crate) fn credentials() -> CredentialSet {
    let secret = SecretBytes::new(SECRET.into());
    let credential = Credential::new(AccessKeyId::parse(ACCESS_KEY_ID).unwrap(), secret).unwrap();
    CredentialSet::new(vec![credential], &Secret::take(&mut [0xD0; 32])).unwrap()
}

/// A key store on its own gate and slot, for tests of the directory.
pub(crate) fn key_store(id: u8, owner: u8, host: &str, prefix: &str, tls: &Arc<TlsIdentity>) -> ServedKeyStore {
    ServedKeyStore {
        id: KeyStoreId([id; 32]),
        owner: OwnerId([owner; 32]),
        host_name: HostName::parse(host).unwrap(),
        path_prefix: PathPrefix::parse(prefix).unwrap(),
        version: 7,
        blob_id: BlobId([0xB7; 32]),
        credentials: credentials(),
        regions: Regions::Only(vec![Region::parse(REGION).unwrap()]),
        tls: Arc::clone(tls),
        client_authentication: None,
        guard: Arc::new(TestGuard::default()),
        gate: Arc::new(Gate::new()),
        keys: Arc::new(KeySlot::new()),
        fleet: Arc::new(FleetHealth::new(Vec::new())),
        audit: audit_log(KeyStoreId([id; 32]), &hpke::PrivateKey::generate().unwrap(), AuditMode::Relaxed).log,
        tally: Arc::default(),
    }
}

/// A log that is open for one reader, on a clock of its own. Nobody stores or witnesses it but the test.
pub(crate) struct Audit {
    pub(crate) clock: Arc<SteppedClock>,
    pub(crate) logs: AuditLogs,
    pub(crate) log: Arc<AuditLog>,
}

fn audit_log(id: KeyStoreId, reader: &hpke::PrivateKey, mode: AuditMode) -> Audit {
    let clock = Arc::new(SteppedClock::at(WALL_MS));
    let logs = AuditLogs::new(AuditKey::generate().unwrap(), BootId([9; 16]), clock.clone());
    let log = logs.of(id).unwrap();
    let auditors = vec![Auditor { name: "auditor".to_owned(), encryption_key: *reader.public_key() }];
    let settings = AuditSettings { auditors, administrators_read: false, mode, ..AuditSettings::default() };
    let (readers, terms) = (Readers::of(Some(&settings), &[]), Terms::of(Some(&settings)));
    let next = NextSegment::seal(Secret::take(&mut [0xA0; 32]), (&log.id(), 0), readers, terms).unwrap();
    let blob_id = BlobId([0xB7; 32]);
    let version = VersionInService { version: 7, blob_id, executed: Vec::new(), settings: Some(settings) };
    log.enter(&version, Some(next), Vec::new, Vec::new).unwrap();
    Audit { clock, logs, log }
}

impl World {
    /// One key store that serves, with the key `blocked` blocked.
    pub(crate) fn new() -> Self {
        Self::with_audit(AuditMode::Relaxed)
    }

    pub(crate) fn with_audit(mode: AuditMode) -> Self {
        Self::with(mode, None)
    }

    /// With a guard other than the test's.
    pub(crate) fn with(mode: AuditMode, other: Option<Arc<dyn Guard>>) -> Self {
        let clock = Arc::new(SteppedClock::at(WALL_MS));
        let ca = Ca::new();
        let guard = Arc::new(TestGuard::default());
        let custodian = CustodianHealth::named("id of home".to_owned(), "home");
        custodian.set_lease(LEASE_MS);
        custodian.answered(clock.monotonic_ms());
        let fleet = Arc::new(FleetHealth::new(vec![custodian]));
        let usual = key_store(1, 1, HOST, PREFIX, &ca.identity(HOST, 1));
        let reader = hpke::PrivateKey::generate().unwrap();
        let audit = audit_log(usual.id, &reader, mode);
        let of_store = other.unwrap_or_else(|| guard.clone());
        let store = ServedKeyStore { guard: of_store, fleet, audit: Arc::clone(&audit.log), ..usual };
        let (gate, keys) = (Arc::clone(&store.gate), Arc::clone(&store.keys));
        gate.set_lease_expiry(LEASE_MS);
        assert!(gate.apply(Blocks { epoch: 1, store: false, keys: HashSet::from([key_id("blocked")]) }));
        keys.install(key_ring());
        let directory = Arc::new(Directory::new(clock.clone()));
        assert_eq!(directory.replace(vec![Arc::new(store)]).unwrap(), []);
        let device = TestDevice::default();
        let nsm = Nsm::start(Box::new(device.clone())).unwrap();
        let observer = Arc::default();
        Self { clock, directory, gate, keys, guard, observer, ca, device, audit, reader, nsm }
    }

    pub(crate) fn store(&self) -> Arc<ServedKeyStore> {
        self.directory.store(&HOST.parse().unwrap(), &PREFIX.parse().unwrap()).unwrap()
    }

    pub(crate) fn context(&self) -> Arc<ServerContext> {
        self.context_with(ServerLimits::default())
    }

    pub(crate) fn context_with(&self, limits: ServerLimits) -> Arc<ServerContext> {
        let mut context =
            ServerContext::with_limits(Arc::clone(&self.directory), self.clock.clone(), &self.nsm, limits);
        context.observer = self.observer.clone();
        Arc::new(context)
    }

    pub(crate) fn block_store(&self) {
        assert!(self.gate.apply(Blocks { epoch: self.gate.epoch() + 1, store: true, keys: HashSet::new() }));
    }
}

/// A request that is not sent yet.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) body: String,
    pub(crate) secret: String,
    pub(crate) wall_ms: u64,
    /// Sent and signed.
    pub(crate) signed_headers: Vec<(&'static str, String)>,
    /// Sent and not signed.
    pub(crate) other_headers: Vec<(&'static str, String)>,
}

impl Call {
    /// A well-formed call to `…/kms/xks/v1/TARGET`.
    pub(crate) fn new(target: &str, body: &Value) -> Self {
        Self {
            method: "POST",
            host: HOST.to_owned(),
            path: format!("{PREFIX}/kms/xks/v1/{target}"),
            body: body.to_string(),
            secret: SECRET.to_owned(),
            wall_ms: WALL_MS,
            signed_headers: vec![("content-type", "application/json".to_owned())],
            other_headers: Vec::new(),
        }
    }

    /// Signs with AWS's own signer.
    pub(crate) fn signed(&self) -> http::Request<String> {
        let identity = aws_credential_types::Credentials::new(ACCESS_KEY_ID, &self.secret, None, None, "test").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(REGION)
            .name("kms-xks-proxy")
            .time(UNIX_EPOCH + Duration::from_millis(self.wall_ms))
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let uri = format!("https://{}{}", self.host, self.path);
        let headers = self.signed_headers.iter().map(|(name, value)| (*name, value.as_str()));
        let body = SignableBody::Bytes(self.body.as_bytes());
        let request = SignableRequest::new(self.method, &uri, headers, body).unwrap();
        let (instructions, _) = sign(request, &params).unwrap().into_parts();
        let mut request =
            http::Request::builder().method(self.method).uri(self.path.as_str()).header("host", &self.host);
        for (name, value) in self.signed_headers.iter().chain(&self.other_headers) {
            request = request.header(*name, value);
        }
        for (name, value) in instructions.headers() {
            request = request.header(name, value);
        }
        request.body(self.body.clone()).unwrap()
    }
}

/// `requestMetadata` with everything in it.
pub(crate) fn metadata() -> Value {
    json!({
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kmsOperation": "Encrypt",
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    })
}

pub(crate) fn encrypt_body(plaintext: &[u8], aad: &[u8]) -> Value {
    json!({
        "requestMetadata": metadata(),
        "plaintext": STANDARD.encode(plaintext),
        "additionalAuthenticatedData": STANDARD.encode(aad),
        "encryptionAlgorithm": "AES_GCM",
        "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
    })
}

/// The body of the Decrypt that undoes an Encrypt.
pub(crate) fn decrypt_body(encrypted: &Value, aad: &[u8]) -> Value {
    json!({
        "requestMetadata": metadata(),
        "ciphertext": encrypted["ciphertext"],
        "ciphertextMetadata": encrypted["ciphertextMetadata"],
        "initializationVector": encrypted["initializationVector"],
        "authenticationTag": encrypted["authenticationTag"],
        "additionalAuthenticatedData": STANDARD.encode(aad),
        "encryptionAlgorithm": "AES_GCM",
    })
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

/// A well-formed health request.
pub(crate) fn health() -> Call {
    Call::new("health", &json!({ "requestMetadata": { "kmsOperation": "o", "kmsRequestId": "r" } }))
}
