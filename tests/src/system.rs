//! The whole system as separate processes in a folder of its own, brought up through the operator's tool.
//!
//! Guarantees: every port is chosen by the system and every path is short enough for a socket. The custodian's address in the
//! manifest is a proxy of the test's, which stays while the custodian comes and goes. Assumes: the caller drops it in the
//! runtime that started it.

use std::net::SocketAddr;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_devkit::nsm::{SettingsChange, change_settings};
use holdfast_devkit::up::authority::Authority;
use holdfast_devkit::up::configurations::measurements;
use holdfast_devkit::up::layout::Layout;
use holdfast_devkit::xks_client::{XksAnswer, XksClient, XksClientSettings};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::manifest::{Custodian, VerifiedManifest};
use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::aws::Endpoint;
use crate::client::Wire;
use crate::process::Process;
use crate::random::random_bytes;
use crate::tap::Tap;
use crate::wait::until;

use host::Between;

mod administrator;
mod custodian;
mod host;
mod machine;
mod tenant;

pub use administrator::{Administrator, Said};
pub use custodian::{CustodianOptions, CustodianProcess, Front};
pub use host::Host;
pub use machine::{HEARTBEAT, Image, Signer, Surroundings};
pub use tenant::{Caller, Tenant, TenantOptions, credential_of};

/// The name in the certificate.
pub const HOST_NAME: &str = "localhost";
/// The region in whose name clients sign.
pub const REGION: &str = "us-east-1";
/// A key that may do both.
pub const KEY: &str = "both";

/// What differs from the usual.
#[derive(Clone, Debug)]
pub struct Options {
    /// Keys to make, with their usage.
    pub keys: Vec<(&'static str, &'static str)>,
    /// Length of a lease.
    pub lease: &'static str,
    /// Path before `/kms/xks/v1`.
    pub path_prefix: &'static str,
    /// Whether the parent's and the enclave's sockets go through taps.
    pub taps: bool,
    /// Whether the custodian is reached through an interceptor that holds its TLS key, instead of through a tap.
    pub intercepted: bool,
    /// What stands in the custodians' configuration under `[key_encryption_key]`, if not the default.
    pub key_encryption_key: Option<String>,
    /// What stands in the custodians' configuration under `[alarms]`, if not the default.
    pub alarms: Option<String>,
    /// What stands in the parent's configuration under `[tracing]`, if anything.
    pub tracing: Option<String>,
    /// What the custodians' processes need to reach that key.
    pub environment: Vec<(&'static str, String)>,
    /// Whether the system's authority can prove host names to the enclave.
    pub provable: bool,
    /// Connections that the enclave serves at once, if not as many as usual.
    pub connections_max: Option<usize>,
    /// n: custodians, the first of which is the home custodian.
    pub custodians: usize,
    /// m: shares needed.
    pub shares_needed: u8,
    /// f: hostile custodians tolerated.
    pub hostile_tolerated: u8,
    /// Administrators besides alice.
    pub other_administrators: Vec<&'static str>,
    /// Signatures that orders need, as the tool takes them (`keys=2`).
    pub thresholds: Vec<&'static str>,
    /// Where AWS KMS keeps one more share.
    pub kms: Option<Endpoint>,
    /// The image that runs in a virtual machine, instead of the enclave's library in a local process.
    pub image: Option<Image>,
    /// What the parent's side of Nitro answers to a heartbeat.
    pub heartbeat: u8,
    /// How long the parent waits for connections to end, in milliseconds.
    pub drain_timeout_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keys: vec![(KEY, "encrypt,decrypt")],
            lease: "1h",
            path_prefix: "",
            taps: false,
            intercepted: false,
            key_encryption_key: None,
            alarms: None,
            tracing: None,
            environment: Vec::new(),
            provable: false,
            connections_max: None,
            custodians: 1,
            shares_needed: 1,
            hostile_tolerated: 0,
            other_administrators: Vec::new(),
            thresholds: Vec::new(),
            kms: None,
            image: None,
            heartbeat: HEARTBEAT,
            drain_timeout_ms: 500,
        }
    }
}

impl Options {
    fn static_configuration(&self, authority: &Authority) -> String {
        if let Some(connections_max) = self.connections_max {
            json!({ "regions": [REGION], "connections_max": connections_max }).to_string()
        } else if self.provable {
            let authority = STANDARD.encode(&authority.certificate_der);
            json!({ "regions": [REGION], "host_name_authorities": [authority] }).to_string()
        } else {
            static_configuration()
        }
    }
}

/// The taps between parent and enclave.
#[derive(Debug)]
pub struct Taps {
    /// Enclave to parent.
    pub control: Tap,
    /// Enclave to parent.
    pub egress: Tap,
    /// Enclave to parent.
    pub audit: Tap,
    /// Parent to enclave.
    pub ingress: Tap,
}

/// A credential of KMS's.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Its public half.
    pub access_key_id: String,
    /// Its secret half.
    pub secret_access_key: String,
}

/// See the module.
pub struct System {
    /// The emulated NSM.
    pub nsm: Option<Process>,
    /// The enclave.
    pub enclave: Option<Process>,
    /// The parent.
    pub parent: Option<Process>,
    /// The home custodian and what stands before it.
    pub custodian: CustodianProcess,
    /// The other custodians, in the manifest's order.
    pub other_custodians: Vec<CustodianProcess>,
    /// Between parent and enclave, where there are any.
    pub taps: Option<Taps>,
    /// What the enclave needs as a virtual machine, where it is one.
    pub surroundings: Option<Surroundings>,
    /// Who orders changes.
    pub administrator: Administrator,
    /// The others who may.
    pub other_administrators: Vec<Administrator>,
    /// Signs the proxy's certificate.
    pub authority: Authority,
    /// As clients sign.
    pub credential: Credential,
    /// As everything is bound to it.
    pub manifest: VerifiedManifest,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The parent's pages.
    pub ready_listen: SocketAddr,
    options: Options,
    /// Names of files and sockets.
    pub layout: Layout,
    hosts_added: usize,
    _folder: TempDir,
}

impl System {
    /// Starts everything, runs the ceremony, installs a certificate, makes the keys, and waits until the proxy serves.
    pub async fn start(options: Options) -> Self {
        let mut system = Self::enrolled(options).await;
        system.start_enclave().await;
        system.prepare().await;
        system
    }

    /// Everything but an enclave: custodians that have taken a manifest which names them all, and a parent with that manifest.
    pub async fn enrolled(options: Options) -> Self {
        let folder = tempfile::Builder::new().prefix("hf-").tempdir_in("/tmp").unwrap();
        let layout = Layout::prepare(&folder.path().join("s")).unwrap();
        let nsm = host::start_nsm(&layout).await;
        let administrator = Administrator::init(layout.path("home"), "alice");
        let others = options.other_administrators.iter();
        let others: Vec<_> =
            others.map(|name| Administrator::init(layout.path(&format!("home-{name}")), name)).collect();
        let mut custodians = start_custodians(&layout, &administrator, &options).await;
        let authority = Authority::load_or_create(&layout).unwrap();
        let configuration = options.static_configuration(&authority);
        write_static_configuration(&layout, &configuration);
        let manifest_file = administrator.create_manifest_for(
            "store",
            &custodians.iter().collect::<Vec<_>>(),
            &others,
            HOST_NAME,
            &options,
            &accepted_measurements(&layout, &configuration, options.image.as_ref()),
            &layout.path("nsm/root.pem"),
        );
        let root = layout.path("nsm/root.pem");
        for other in &others {
            other.holdfast(&["manifest", "sign", "--yes", &manifest_file.display().to_string()]).success();
        }
        if !others.is_empty() {
            administrator.add_manifest(&manifest_file, &root);
            for other in &others {
                other.add_manifest(&manifest_file, &root);
            }
        }
        administrator.enrol(&manifest_file);
        let bytes = std::fs::read(&manifest_file).unwrap();
        layout.write("parent/key-stores/store.manifest", &bytes, 0o644).unwrap();
        let manifest = VerifiedManifest::verify(&bytes).unwrap();
        let taps = options.taps.then(|| host::start_taps(&layout));
        let surroundings = match options.image.clone() {
            Some(image) => Some(Surroundings::start(&layout, image, options.heartbeat).await),
            None => None,
        };
        let nobody = Credential { access_key_id: String::new(), secret_access_key: String::new() };
        let unset = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut system = Self {
            nsm: Some(nsm),
            enclave: None,
            parent: None,
            custodian: custodians.remove(0),
            other_custodians: custodians,
            taps,
            surroundings,
            administrator,
            other_administrators: others,
            authority,
            credential: nobody,
            manifest,
            listen: unset,
            ready_listen: unset,
            options,
            layout,
            hosts_added: 0,
            _folder: folder,
        };
        host::write_parent_configuration(&system.layout, system.between(), &system.destinations(), &system.options);
        system.start_parent().await;
        system
    }

    /// Every custodian, in the manifest's order.
    pub fn custodians(&self) -> impl Iterator<Item = &CustodianProcess> {
        std::iter::once(&self.custodian).chain(&self.other_custodians)
    }

    /// A custodian by its place in the manifest, from 0.
    pub fn custodian_mut(&mut self, index: usize) -> &mut CustodianProcess {
        match index.checked_sub(1) {
            None => &mut self.custodian,
            Some(index) => &mut self.other_custodians[index],
        }
    }

    /// One more custodian, of whom no manifest knows yet; parents may reach it.
    pub async fn add_custodian(&mut self) -> usize {
        let number = self.other_custodians.len() + 2;
        let custodian = start_custodian(&self.layout, &self.administrator, &self.options, number).await;
        self.allow_now(&custodian.address());
        self.other_custodians.push(custodian);
        number - 1
    }

    fn destinations(&self) -> Vec<String> {
        let kms = self.kms().map(|kms| kms.address.clone());
        self.custodians().map(CustodianProcess::address).chain(kms).collect()
    }

    const fn between(&self) -> Between {
        match (&self.surroundings, &self.taps) {
            (Some(_), _) => Between::Vsock,
            (None, Some(_)) => Between::Taps,
            (None, None) => Between::Sockets,
        }
    }

    const fn kms(&self) -> Option<&Endpoint> {
        self.options.kms.as_ref()
    }

    /// Everything that needs the enclave, once there is one: credential, certificate, keys. Waits until the proxy serves.
    pub async fn prepare(&mut self) {
        let shown = self.order(&["credential", "show", "--show-secret"]);
        let text = |field: &str| shown[field].as_str().unwrap().to_owned();
        self.credential =
            Credential { access_key_id: text("access_key_id"), secret_access_key: text("secret_access_key") };
        self.install_certificate();
        for (id, usage) in self.options.keys.clone() {
            self.order(&["key", "create", id, "--usage", usage]);
        }
        self.serving().await;
        self.caller().has(&self.options.keys).await;
    }

    fn install_certificate(&self) {
        let (request, chain) = (self.layout.path("tls/csr.pem"), self.layout.path("tls/chain.pem"));
        self.administrator.holdfast(&["tls", "csr", "--out", &request.display().to_string()]).success();
        let signed = self.authority.sign(&std::fs::read_to_string(&request).unwrap(), HOST_NAME).unwrap();
        std::fs::write(&chain, signed).unwrap();
        self.administrator.holdfast(&["tls", "install", &chain.display().to_string()]).success();
    }

    /// An order of the administrator, carried out. Returns what the tool printed with `--json`.
    pub fn order(&self, arguments: &[&str]) -> Value {
        self.administrator.holdfast(&[arguments, &["--json"]].concat()).json()
    }

    /// The key store's id.
    #[must_use]
    pub fn key_store_id(&self) -> KeyStoreId {
        self.manifest.id()
    }

    /// The custodian, as the manifest names it.
    #[must_use]
    pub fn home_custodian(&self) -> Custodian {
        self.manifest.home_custodian().unwrap().clone()
    }

    /// A client with the first credential.
    #[must_use]
    pub fn client(&self) -> XksClient {
        self.client_with(&self.credential, REGION)
    }

    /// A client with any credential and region.
    #[must_use]
    pub fn client_with(&self, credential: &Credential, region: &str) -> XksClient {
        XksClient::new(XksClientSettings {
            address: self.listen.to_string(),
            host_name: HOST_NAME.to_owned(),
            port: self.listen.port(),
            roots: vec![self.authority.certificate_der.clone()],
            path_prefix: self.options.path_prefix.to_owned(),
            access_key_id: credential.access_key_id.clone(),
            secret_access_key: credential.secret_access_key.clone(),
            region: region.to_owned(),
        })
        .unwrap()
    }

    /// A client that can misbehave.
    #[must_use]
    pub fn wire(&self) -> Wire {
        Wire {
            address: self.listen,
            server_name: HOST_NAME.to_owned(),
            roots: vec![self.authority.certificate_der.clone()],
            versions: rustls::ALL_VERSIONS.to_vec(),
            http2: false,
        }
    }

    /// Waits until `GetHealthStatus` is answered with 200.
    pub async fn serving(&self) -> XksAnswer {
        until("the proxy serves", || async {
            self.client().health().await.ok().filter(|answer| answer.status == StatusCode::OK)
        })
        .await
    }

    /// Waits until the enclave says through the parent that the key store is in `state`, for a reason that contains `reason`.
    pub async fn reports(&self, state: &str, reason: &str) -> String {
        host::reports(self.ready_listen, self.key_store_id(), state, reason).await
    }

    /// The parent's status page.
    pub async fn parent_status(&self) -> Value {
        host::status_page(self.ready_listen).await
    }

    /// What the parent tells Prometheus.
    pub async fn parent_metrics(&self) -> String {
        host::page(self.ready_listen, "/metrics").await
    }

    /// Encrypts random bytes and decrypts them again.
    pub async fn round_trip(&self, key: &str) -> Encrypted {
        let encrypted = self.encrypt(key).await;
        self.decrypt(&encrypted).await;
        encrypted
    }

    /// Encrypts random bytes, with a key that there is or that was just made.
    pub async fn encrypt(&self, key: &str) -> Encrypted {
        let plaintext = random_bytes::<32>();
        let answer = until(&format!("key {key} is served"), || async {
            let answer = self.client().encrypt(key, &plaintext, Some(AAD)).await.unwrap();
            (answer.text("errorName") != Some("KeyNotFoundException")).then_some(answer)
        })
        .await;
        assert_eq!(answer.status, StatusCode::OK, "Encrypt: {}", answer.body);
        Encrypted { key: key.to_owned(), plaintext: plaintext.to_vec(), body: answer.body }
    }

    /// Decrypts what was encrypted, and compares.
    pub async fn decrypt(&self, encrypted: &Encrypted) {
        let answer = self.client().decrypt(&encrypted.key, &encrypted.body, Some(AAD)).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "Decrypt: {}", answer.body);
        assert_eq!(answer.bytes("plaintext").as_deref(), Some(encrypted.plaintext.as_slice()));
    }

    /// Changes the emulated NSM's settings. Measurements count for enclaves that start later.
    pub fn change_nsm(&self, change: &SettingsChange) {
        change_settings(&self.layout.socket("nsm-control"), change).unwrap();
    }

    /// Starts the NSM's emulator again.
    pub async fn start_nsm(&mut self) {
        self.nsm = Some(host::start_nsm(&self.layout).await);
    }

    /// SIGKILL for the enclave. Returns once the parent knows.
    pub async fn kill_enclave(&mut self) {
        if let Some(enclave) = self.enclave.take() {
            enclave.kill();
        }
        if self.parent.is_some() {
            host::forgets_the_enclave(self.ready_listen).await;
        }
    }

    /// Starts an enclave in place of the one before, which is killed if it still runs.
    pub async fn start_enclave(&mut self) {
        self.kill_enclave().await;
        self.enclave = Some(match &self.surroundings {
            Some(surroundings) => surroundings.boot(&self.layout),
            None => host::start_enclave(&self.layout, self.taps.is_some()),
        });
    }

    /// Starts a parent in place of the one before, if there was one.
    pub async fn start_parent(&mut self) {
        drop(self.parent.take());
        let started = host::start_parent(&self.layout).await;
        (self.parent, self.listen, self.ready_listen) = (Some(started.process), started.listen, started.ready_listen);
    }

    /// Hands another static configuration to enclaves that start after the next start of the parent.
    pub fn write_static_configuration(&self, text: &str) {
        write_static_configuration(&self.layout, text);
    }

    /// Adds a destination to the parent's list, as a host may; it counts from the parent's next start.
    pub fn allow_destination(&self, address: &str) {
        let path = self.layout.path("parent/parent.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, text.replace("allow = [", &format!("allow = [\"{address}\", "))).unwrap();
    }

    /// Everything that every process logged so far.
    #[must_use]
    pub fn logs(&self) -> Vec<(String, String)> {
        let added = (1..=self.hosts_added).map(|number| self.layout.path(&format!("h/{number}/logs")));
        std::iter::once(self.layout.path("logs")).chain(added).flat_map(|folder| host::logs(&folder)).collect()
    }

    /// Waits until a process (`parent`, `custodian`, …) has logged this.
    pub async fn logged(&self, process: &str, text: &str) {
        self.logged_after(process, 0, &[text]).await;
    }

    /// How much a process has logged so far.
    #[must_use]
    pub fn log_length(&self, process: &str) -> usize {
        std::fs::metadata(self.layout.log(process)).map_or(0, |file| usize::try_from(file.len()).unwrap())
    }

    /// Waits until a process has logged a line with all these words, after so many bytes. Returns the line.
    pub async fn logged_after(&self, process: &str, start: usize, words: &[&str]) -> String {
        let log = self.layout.log(process);
        until(&format!("{process} logs {words:?}"), || async {
            let text = std::fs::read(&log).ok()?;
            let text = String::from_utf8_lossy(text.get(start..)?).into_owned();
            text.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        })
        .await
    }

    /// Fails if any process has panicked.
    pub fn assert_no_panic(&self) {
        for (path, log) in self.logs() {
            assert!(!log.contains("panicked"), "{path}:\n{log}");
        }
    }

    /// The tap before the custodian.
    #[must_use]
    pub fn custodian_tap(&self) -> &Tap {
        match &self.custodian.front {
            Front::Tap(tap) => tap,
            Front::Interceptor(_) => panic!("this system has an interceptor before its custodian"),
        }
    }

    /// Path of the emulated NSM's socket.
    #[must_use]
    pub fn nsm_socket(&self) -> PathBuf {
        self.layout.socket("nsm")
    }
}

/// AAD of every message of [`System::encrypt`].
pub const AAD: &[u8] = b"project=nile";

/// What an `Encrypt` answered, and to what.
#[derive(Clone, Debug)]
pub struct Encrypted {
    /// With which key.
    pub key: String,
    /// What was encrypted.
    pub plaintext: Vec<u8>,
    /// The answer.
    pub body: Value,
}

/// The static configuration of every system.
#[must_use]
pub fn static_configuration() -> String {
    json!({ "regions": [REGION] }).to_string()
}

fn write_static_configuration(layout: &Layout, text: &str) {
    layout.write("parent/static.json", text.as_bytes(), 0o644).unwrap();
}

/// A file with the measurements that the image shows, or the local enclave.
fn accepted_measurements(layout: &Layout, configuration: &str, image: Option<&Image>) -> PathBuf {
    let accepted = image.map_or_else(|| measurements(configuration), |image| image.measured_with(configuration));
    layout.write("measurements.json", &serde_json::to_vec(&accepted).unwrap(), 0o644).unwrap()
}

async fn start_custodians(layout: &Layout, administrator: &Administrator, options: &Options) -> Vec<CustodianProcess> {
    let mut custodians = Vec::new();
    for number in 1..=options.custodians {
        custodians.push(start_custodian(layout, administrator, options, number).await);
    }
    custodians
}

async fn start_custodian(
    layout: &Layout,
    administrator: &Administrator,
    options: &Options,
    number: usize,
) -> CustodianProcess {
    let name = if number == 1 { "custodian".to_owned() } else { format!("custodian-{number}") };
    let told = CustodianOptions {
        administrators: vec![administrator.id()],
        emulated_root: Some(layout.path("nsm/root.pem")),
        intercepted: options.intercepted,
        key_encryption_key: options.key_encryption_key.clone(),
        alarms: options.alarms.clone(),
        environment: options.environment.clone(),
    };
    CustodianProcess::init(&layout.path(&name), &layout.log(&name), told).await
}
