//! One more tenant of a running system: an owner, a key store, a custodian, a host name; taken on and sent away while others are
//! served.

use std::net::SocketAddr;
use std::path::PathBuf;

use holdfast_devkit::up::authority::Authority;
use holdfast_devkit::up::layout::Layout;
use holdfast_devkit::xks_client::{XksClient, XksClientSettings};
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::manifest::VerifiedManifest;
use http::StatusCode;
use rustix::process::Signal;
use serde_json::Value;

use super::{Administrator, Credential, CustodianOptions, CustodianProcess, KEY, Options, REGION, System};
use crate::client::Wire;
use crate::process::Process;
use crate::wait::until;

/// Where a client of KMS's goes, and how it signs.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where to connect.
    pub address: SocketAddr,
    /// The name in the handshake and in `Host`.
    pub host_name: String,
    /// Path before `/kms/xks/v1`.
    pub path_prefix: String,
    /// The roots to trust, in DER.
    pub roots: Vec<Vec<u8>>,
    /// How to sign.
    pub credential: Credential,
}

impl Caller {
    /// A client.
    #[must_use]
    pub fn client(&self) -> XksClient {
        XksClient::new(XksClientSettings {
            address: self.address.to_string(),
            host_name: self.host_name.clone(),
            port: self.address.port(),
            roots: self.roots.clone(),
            path_prefix: self.path_prefix.clone(),
            access_key_id: self.credential.access_key_id.clone(),
            secret_access_key: self.credential.secret_access_key.clone(),
            region: REGION.to_owned(),
        })
        .unwrap()
    }

    /// A client that can misbehave.
    #[must_use]
    pub fn wire(&self) -> Wire {
        Wire {
            address: self.address,
            server_name: self.host_name.clone(),
            roots: self.roots.clone(),
            versions: rustls::ALL_VERSIONS.to_vec(),
            http2: false,
        }
    }

    /// Waits until `GetHealthStatus` is answered with 200.
    pub async fn serving(&self) {
        let what = format!("{}{} serves", self.host_name, self.path_prefix);
        until(&what, || async {
            self.client().health().await.ok().filter(|answer| answer.status == StatusCode::OK).map(drop)
        })
        .await;
    }

    /// Waits until keys that were made are there: what their orders brought about may be known a moment before it is served.
    pub(super) async fn has(&self, keys: &[(&str, &str)]) {
        for (key, _) in keys {
            until(&format!("key {key} is served"), || async {
                self.client().metadata(key).await.ok().filter(|answer| answer.status == StatusCode::OK).map(drop)
            })
            .await;
        }
    }
}

/// What differs from the usual tenant.
#[derive(Clone, Debug)]
pub struct TenantOptions {
    /// A name that no other tenant of the system has.
    pub name: &'static str,
    /// The name that KMS calls.
    pub host_name: String,
    /// Path before `/kms/xks/v1`.
    pub path_prefix: String,
    /// Keys to make, with their usage.
    pub keys: Vec<(&'static str, &'static str)>,
    /// Length of a lease.
    pub lease: &'static str,
    /// Whose key store it is; without any, somebody's who has no other.
    pub administrator: Option<Administrator>,
    /// Whether the custodian of its own is reached through an interceptor that holds its TLS key.
    pub intercepted: bool,
    /// Whether it uses the custodian of the first tenant, another owner's, instead of one of its own.
    pub shares_custodian: bool,
    /// Whether the certificate comes from an authority of the tenant's own instead of the system's.
    pub own_authority: bool,
}

impl TenantOptions {
    /// A tenant with a host name of its own.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            host_name: format!("{name}.test"),
            path_prefix: String::new(),
            keys: vec![(KEY, "encrypt,decrypt")],
            lease: "1h",
            administrator: None,
            intercepted: false,
            shares_custodian: false,
            own_authority: true,
        }
    }

    /// The same under a path prefix.
    #[must_use]
    pub fn under(mut self, path_prefix: &str) -> Self {
        path_prefix.clone_into(&mut self.path_prefix);
        self
    }

    /// The same with another host name.
    #[must_use]
    pub fn at(mut self, host_name: &str) -> Self {
        host_name.clone_into(&mut self.host_name);
        self
    }
}

/// See the module.
pub struct Tenant {
    /// Who orders changes.
    pub administrator: Administrator,
    /// The custodian, if it has one of its own.
    pub custodian: Option<CustodianProcess>,
    /// As everything is bound to it.
    pub manifest: VerifiedManifest,
    /// How its clients call.
    pub caller: Caller,
    authority: Option<Authority>,
    options: TenantOptions,
    folder: Layout,
    signed: Vec<u8>,
    place: PathBuf,
}

impl Tenant {
    /// An order of the administrator, carried out. Returns what the tool printed with `--json`.
    pub fn order(&self, arguments: &[&str]) -> Value {
        let id = self.key_store_id().to_string();
        let arguments = [arguments, &["--key-store", &id, "--json"]].concat();
        self.administrator.holdfast(&arguments).json()
    }

    /// The same for an order that prints nothing.
    pub fn carry_out(&self, arguments: &[&str]) {
        let id = self.key_store_id().to_string();
        self.administrator.holdfast(&[arguments, &["--key-store", &id]].concat()).success();
    }

    /// The key store's id.
    #[must_use]
    pub fn key_store_id(&self) -> KeyStoreId {
        self.manifest.id()
    }

    /// Puts the manifest where the parent finds it.
    pub fn enlist(&self) {
        let temporary = self.place.with_extension("tmp");
        std::fs::write(&temporary, &self.signed).unwrap();
        std::fs::rename(temporary, &self.place).unwrap();
    }

    /// Takes the manifest away from the parent.
    pub fn remove(&self) {
        std::fs::remove_file(&self.place).unwrap();
    }

    /// The first credential, in the tool's words.
    pub fn take_credential(&mut self) {
        let shown = self.order(&["credential", "show", "--show-secret"]);
        self.caller.credential = credential_of(&shown);
    }

    /// A certificate for the TLS key, signed anew and installed.
    pub fn install_certificate(&self, system: &System) {
        let (request, chain) = (self.folder.path("tls/csr.pem"), self.folder.path("tls/chain.pem"));
        // The tool writes a new file only.
        let _ = std::fs::remove_file(&request);
        self.carry_out(&["tls", "csr", "--out", &request.display().to_string()]);
        let authority = self.authority.as_ref().unwrap_or(&system.authority);
        let signed = authority.sign(&std::fs::read_to_string(&request).unwrap(), &self.options.host_name).unwrap();
        std::fs::write(&chain, signed).unwrap();
        self.carry_out(&["tls", "install", &chain.display().to_string()]);
    }

    /// Everything that needs the enclave, up to the first answered request.
    pub async fn prepare(&mut self, system: &System) {
        self.prepare_quietly(system);
        self.caller.serving().await;
        self.caller.has(&self.options.keys).await;
    }

    /// The same without waiting until it serves, which it may never do.
    pub fn prepare_quietly(&mut self, system: &System) {
        self.take_credential();
        self.install_certificate(system);
        for (id, usage) in self.options.keys.clone() {
            self.order(&["key", "create", id, "--usage", usage]);
        }
    }
}

/// A credential as the tool prints it.
#[must_use]
pub fn credential_of(shown: &Value) -> Credential {
    let text = |field: &str| shown[field].as_str().unwrap_or_else(|| panic!("no {field} in {shown}")).to_owned();
    Credential { access_key_id: text("access_key_id"), secret_access_key: text("secret_access_key") }
}

impl System {
    /// How clients of the first tenant call.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            address: self.listen,
            host_name: super::HOST_NAME.to_owned(),
            path_prefix: self.options.path_prefix.to_owned(),
            roots: vec![self.authority.certificate_der.clone()],
            credential: self.credential.clone(),
        }
    }

    /// Makes a tenant. The parent knows nothing of its key store yet. A shared custodian is restarted.
    pub async fn new_tenant(&mut self, options: TenantOptions) -> Tenant {
        let folder = Layout::prepare(&self.layout.path(&format!("t/{}", options.name))).unwrap();
        let administrator = match &options.administrator {
            Some(administrator) => administrator.clone(),
            None => Administrator::init(folder.path("home"), options.name),
        };
        let root = self.layout.path("nsm/root.pem");
        let mut own = None;
        let at = if options.shares_custodian {
            self.custodian.admit(administrator.id()).await;
            &self.custodian
        } else {
            let custodian_options = CustodianOptions {
                administrators: vec![administrator.id()],
                emulated_root: Some(root.clone()),
                intercepted: options.intercepted,
                key_encryption_key: None,
                alarms: None,
                environment: Vec::new(),
            };
            let log = self.layout.log(&format!("custodian-{}", options.name));
            &*own.insert(CustodianProcess::init(&folder.path("custodian"), &log, custodian_options).await)
        };
        let shape = Options {
            lease: options.lease,
            path_prefix: Box::leak(options.path_prefix.clone().into_boxed_str()),
            ..Options::default()
        };
        let measurements = self.layout.path("measurements.json");
        let file = administrator.create_manifest(options.name, at, &options.host_name, &shape, &measurements, &root);
        administrator.holdfast(&["manifest", "enrol", &file.display().to_string()]).success();
        let address = at.address();
        self.allow_now(&address);
        let signed = std::fs::read(&file).unwrap();
        let authority = options.own_authority.then(|| Authority::load_or_create(&folder).unwrap());
        let root = authority.as_ref().unwrap_or(&self.authority).certificate_der.clone();
        let caller = Caller {
            address: self.listen,
            host_name: options.host_name.clone(),
            path_prefix: options.path_prefix.clone(),
            roots: vec![root],
            credential: Credential { access_key_id: String::new(), secret_access_key: String::new() },
        };
        let place = self.layout.path(&format!("parent/key-stores/{}.manifest", options.name));
        let manifest = VerifiedManifest::verify(&signed).unwrap();
        Tenant { administrator, custodian: own, manifest, caller, authority, options, folder, signed, place }
    }

    /// Takes on a tenant while the system runs, and waits until it is served.
    pub async fn add_tenant(&mut self, options: TenantOptions) -> Tenant {
        let mut tenant = self.new_tenant(options).await;
        tenant.enlist();
        tenant.prepare(self).await;
        tenant
    }

    /// Adds a destination to the parent's list while it runs.
    pub fn allow_now(&mut self, address: &str) {
        allow_now(&self.layout, self.parent.as_mut(), address);
    }

    /// What the parent's status page says about a key store.
    pub async fn reported(&self, id: KeyStoreId) -> Option<(String, String)> {
        let status = self.parent_status().await;
        let stores = status["enclave"]["status"]["detail"].as_array().cloned().unwrap_or_default();
        let store = stores.into_iter().find(|store| store["key_store_id"] == Value::String(id.to_string()))?;
        let text = |field: &str| store[field].as_str().unwrap_or_default().to_owned();
        Some((text("state"), text("reason")))
    }

    /// Waits until the parent's status page says that a key store is in `state`, for a reason that contains `reason`.
    pub async fn reports_of(&self, id: KeyStoreId, state: &str, reason: &str) -> String {
        until(&format!("{id} is reported as {state} ({reason:?})"), || async {
            let (said, why) = self.reported(id).await?;
            (said == state && why.contains(reason)).then_some(why)
        })
        .await
    }
}

/// Adds a destination to a parent's list while it runs.
pub(super) fn allow_now(layout: &Layout, parent: Option<&mut Process>, address: &str) {
    let path = layout.path("parent/parent.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let entry = format!("\"{address}\"");
    if !text.contains(&entry) {
        std::fs::write(&path, text.replace("allow = [", &format!("allow = [{entry}, "))).unwrap();
        if let Some(parent) = parent {
            parent.signal(Signal::HUP);
        }
    }
}
