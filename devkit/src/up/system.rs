//! The steps of `up`, in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_cli::commands::credential::{self, secret_text};
use holdfast_cli::commands::manifest::{self as manifests, Settings as ManifestSettings};
use holdfast_cli::commands::status::{LeaseLine, StatusReport, status};
use holdfast_cli::commands::{key, tls};
use holdfast_cli::home::{self, Home, KeyStore};
use holdfast_cli::moment::{format_duration, format_ms, now_ms};
use holdfast_cli::session::{Session, SessionError, Wait};
use holdfast_shared::api::RefusalCode;
use holdfast_shared::ids::AdministratorId;
use holdfast_shared::manifest::Thresholds;
use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::xks::{HostName, PathPrefix};
use serde::Deserialize;

use super::UpError;
use super::authority::Authority;
use super::configurations::{self, measured_content, measurements, static_configuration};
use super::kms::{self, KmsOffer};
use super::layout::Layout;
use super::offer::{Offer, curl_here, reachable};
use super::processes::{Processes, beside};
use super::proof::{accepts_credential, round_trip};
use super::report::{Steps, say};
use super::settings::{Remembered, UpSettings};
use crate::xks_client::{XksClient, XksClientError, XksClientSettings};

/// How long a process may take to come up.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long an enclave may take to carry out one order, on a slow machine.
const ORDER_PATIENCE: Duration = Duration::from_secs(90);
/// Where flags and choices of the first run are kept.
const REMEMBERED: &str = "up.json";

const WAIT: Wait<'static> = Wait { timeout: ORDER_PATIENCE, progress: &|line| say(&format!("      {line}\n")) };

/// What the steps share.
struct Stage<'a> {
    settings: &'a UpSettings,
    layout: &'a Layout,
    processes: &'a Processes,
    steps: &'a Steps,
    home: Home,
}

/// Brings everything up and proves that it works.
///
/// # Errors
/// [`UpError`].
pub async fn bring_up(
    settings: &UpSettings,
    layout: &Layout,
    processes: &Processes,
    steps: &Steps,
) -> Result<Offer, UpError> {
    // All of them before any is started.
    for (program, package) in [("holdfast-custodian", "holdfast-custodian"), ("holdfast-parent", "holdfast-parent")] {
        beside(program, package)?;
    }
    let home = Home::at(layout.path("home"));
    let stage = Stage { settings, layout, processes, steps, home };
    let remembered = stage.remember()?;
    let started_ms = now_ms();
    stage.start_nsm().await?;
    let administrator = stage.administrator()?;
    stage.start_custodian(&remembered, administrator).await?;
    let store = stage.manifest(&remembered)?;
    let session = Session::about(&stage.home, store).map_err(at("the manifest"))?;
    stage.enrol(&session).await?;
    let listen = stage.start_parent_and_enclave(&remembered, &session).await?;
    let issued = stage.ceremony(&session).await?;
    stage.lease(&session, started_ms).await?;
    let authority = stage.certificate(&session, &remembered).await?;
    let keys = stage.keys(&session).await?;
    let place = Place { listen, authority: &authority, remembered: &remembered };
    let (access_key_id, secret_access_key) = stage.credential(&session, issued, &place).await?;
    let client = place.client(&access_key_id, &secret_access_key)?;
    let mut offer = Offer {
        uri_endpoint: format!("https://{}:{}", remembered.host_name, listen.port()),
        uri_path: session.store().manifest.manifest().path_prefix.uri_path(),
        listen,
        host_name: remembered.host_name.clone(),
        region: remembered.regions.first().cloned().unwrap_or_default(),
        access_key_id,
        secret_access_key,
        ca_file: authority.certificate_file.clone(),
        example_key: settings.example_key().map(|wanted| wanted.id.to_string()),
        keys,
        key_store_id: session.store().manifest.id().to_string(),
        home: stage.home.path().to_owned(),
        measurements: layout.path("measurements.json"),
        trust_root: layout.path("nsm/root.pem"),
        kms: None,
        curl: curl_here(),
        encrypt_request: layout.path("encrypt-request.json"),
    };
    stage.prove(client, &offer).await?;
    if let Some(listen) = settings.kms {
        offer.kms = Some(stage.kms(listen, &offer).await?);
    }
    offer.write(layout)?;
    Ok(offer)
}

/// Where the proxy is served.
struct Place<'a> {
    listen: SocketAddr,
    authority: &'a Authority,
    remembered: &'a Remembered,
}

impl Place<'_> {
    fn client(&self, access_key_id: &str, secret_access_key: &str) -> Result<XksClient, XksClientError> {
        XksClient::new(XksClientSettings {
            address: reachable(self.listen).to_string(),
            host_name: self.remembered.host_name.clone(),
            port: self.listen.port(),
            roots: vec![self.authority.certificate_der.clone()],
            path_prefix: self.remembered.path_prefix.clone(),
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.to_owned(),
            region: self.remembered.regions.first().cloned().unwrap_or_default(),
        })
    }
}

fn at(step: &'static str) -> impl FnOnce(SessionError) -> UpError {
    move |source| UpError::Session { step, source }
}

impl Stage<'_> {
    fn remember(&self) -> Result<Remembered, UpError> {
        if let Some(bytes) = self.layout.read(REMEMBERED)? {
            let path = self.layout.path(REMEMBERED);
            let remembered: Remembered =
                serde_json::from_slice(&bytes).map_err(|error| UpError::File { path, reason: error.to_string() })?;
            remembered.check(self.settings)?;
            return Ok(remembered);
        }
        let remembered = Remembered::first(self.settings, free_port()?);
        self.keep(&remembered)?;
        Ok(remembered)
    }

    fn keep(&self, remembered: &Remembered) -> Result<(), UpError> {
        let text = serde_json::json!(remembered).to_string();
        self.layout.write(REMEMBERED, text.as_bytes(), 0o600)?;
        Ok(())
    }

    async fn start_nsm(&self) -> Result<(), UpError> {
        let socket = self.layout.socket("nsm");
        let mut command = Command::new(beside("holdfast-dev", "holdfast-devkit")?);
        command.arg("nsm").arg("--socket").arg(&socket).arg("--state").arg(self.layout.path("nsm"));
        command.arg("--control-socket").arg(self.layout.socket("nsm-control"));
        for index in [0, 1, 2] {
            command.arg("--pcr-content").arg(format!("{index}={}", measured_content(index)));
        }
        self.processes.start("the NSM emulator", command, self.layout.log("nsm"))?;
        until("the NSM emulator", || async { tokio::net::UnixStream::connect(&socket).await.is_ok() }).await?;
        let root = home::read_trust_root(&self.layout.path("nsm/root.pem"))?;
        self.steps.done(
            "NSM emulator is up",
            &[
                format!("root SHA-256 {}", hex::encode(root.fingerprint())),
                "EMULATED: it proves nothing about hardware, and nothing here protects keys from this machine"
                    .to_owned(),
            ],
        );
        Ok(())
    }

    fn administrator(&self) -> Result<AdministratorId, UpError> {
        let administrator = match self.home.administrator() {
            Ok(keys) => keys.administrator,
            Err(home::HomeError::NoAdministrator { .. }) => self.home.create_administrator("developer")?,
            Err(error) => return Err(error.into()),
        };
        let details = [format!("id {}", administrator.id())];
        self.steps.done(&format!("administrator {} has keys", administrator.name), &details);
        Ok(administrator.id())
    }

    async fn start_custodian(&self, remembered: &Remembered, administrator: AdministratorId) -> Result<(), UpError> {
        let program = beside("holdfast-custodian", "holdfast-custodian")?;
        let config = configurations::write_custodian(self.layout, remembered.custodian_port, administrator)?;
        let log = self.layout.log("custodian");
        let command = |verb: &str| {
            let mut command = Command::new(&program);
            command.arg(verb).arg("--config").arg(&config);
            command
        };
        if !self.custodian_record().exists() {
            Processes::run("holdfast-custodian init", command("init"), log.clone())?;
        }
        // Of an earlier run.
        let ports = self.layout.path(configurations::CUSTODIAN_PORTS);
        let _ = std::fs::remove_file(&ports);
        self.processes.start("the custodian", command("serve"), log)?;
        let address = configurations::custodian_address(remembered.custodian_port);
        // A connection would not tell it from whoever else has taken the port.
        until("the custodian", || async { ports.exists() }).await?;
        let custodian = manifests::read_custodian(&self.custodian_record())?;
        self.steps.done(&format!("custodian is up at {address}"), &[format!("id {}", custodian.id())]);
        Ok(())
    }

    fn custodian_record(&self) -> std::path::PathBuf {
        self.layout.path("custodian/state/custodian.json")
    }

    fn manifest(&self, remembered: &Remembered) -> Result<KeyStore, UpError> {
        let configuration = static_configuration(remembered);
        self.layout.write("parent/static.json", configuration.as_bytes(), 0o644)?;
        let accepted = measurements(&configuration);
        let text = serde_json::to_string_pretty(&accepted).unwrap_or_default();
        self.layout.write("measurements.json", text.as_bytes(), 0o644)?;
        let known = self.home.key_stores()?.into_iter().next();
        let (store, title) = if let Some(store) = known {
            (store, "manifest of an earlier run")
        } else {
            let invalid = |flag: &str, error: &dyn core::fmt::Display| UpError::File {
                path: self.layout.path(REMEMBERED),
                reason: format!("{flag}: {error}"),
            };
            let settings = ManifestSettings {
                name: "local".to_owned(),
                administrators: Vec::new(),
                custodians: vec![manifests::read_custodian(&self.custodian_record())?],
                shares_needed: 1,
                hostile_tolerated: 0,
                kms_share: None,
                host_name: HostName::parse(&remembered.host_name).map_err(|error| invalid("host_name", &error))?,
                path_prefix: PathPrefix::parse(&remembered.path_prefix)
                    .map_err(|error| invalid("path_prefix", &error))?,
                measurements: vec![accepted],
                emulated_root: Some(self.layout.path("nsm/root.pem")),
                lease_ms: remembered.lease_ms,
                thresholds: Thresholds::ONE,
            };
            (manifests::create(&self.home, &settings)?, "manifest made and signed")
        };
        self.steps.done(title, &[format!("key store id (SHA-256 of the manifest) {}", store.manifest.id())]);
        Ok(store)
    }

    async fn enrol(&self, session: &Session) -> Result<(), UpError> {
        match session.enrol().await {
            Ok(()) => {}
            // Enrolled by an earlier run.
            Err(SessionError::Client(error))
                if error.refusal().is_some_and(|refusal| refusal.code == RefusalCode::Conflict) => {}
            Err(error) => return Err(at("the custodian does not take the manifest")(error)),
        }
        self.layout.write("parent/key-stores/local.manifest", session.store().manifest.signed_bytes(), 0o644)?;
        Ok(())
    }

    async fn start_parent_and_enclave(
        &self,
        remembered: &Remembered,
        session: &Session,
    ) -> Result<SocketAddr, UpError> {
        let config = configurations::write_parent(self.layout, self.settings.listen, remembered.custodian_port)?;
        let ports = self.layout.path("parent/ports.json");
        // Of an earlier run.
        let _ = std::fs::remove_file(&ports);
        let mut parent = Command::new(beside("holdfast-parent", "holdfast-parent")?);
        parent.arg("--config").arg(config);
        self.processes.start("the parent", parent, self.layout.log("parent"))?;
        until("the parent", || async { ports.exists() }).await?;
        let listen = self.parent_address()?;

        let mut enclave = Command::new(beside("holdfast-dev", "holdfast-devkit")?);
        enclave.arg("enclave").arg("--nsm-socket").arg(self.layout.socket("nsm"));
        for name in ["control", "egress", "audit", "ingress"] {
            enclave.arg(format!("--{name}")).arg(self.layout.socket_address(name));
        }
        self.processes.start("the enclave", enclave, self.layout.log("enclave"))?;
        let details =
            [format!("the parent relays {listen} to the enclave and the enclave to {}", session.custodian().address)];
        self.steps.done("parent and enclave are started", &details);
        Ok(listen)
    }

    fn parent_address(&self) -> Result<SocketAddr, UpError> {
        #[derive(Deserialize)]
        struct Ports {
            listen: SocketAddr,
        }
        let bytes = self.layout.read("parent/ports.json")?.unwrap_or_default();
        serde_json::from_slice::<Ports>(&bytes)
            .map(|ports| ports.listen)
            .map_err(|error| UpError::File { path: self.layout.path("parent/ports.json"), reason: error.to_string() })
    }

    async fn ceremony(&self, session: &Session) -> Result<credential::Issued, UpError> {
        let issued = credential::show(session, None, WAIT).await.map_err(at("the ceremony"))?;
        let details = [
            "the root key was born in the enclave; its share went to the custodian, encrypted to it".to_owned(),
            format!("its result, the first credential: {}", issued.evidence.summary()),
        ];
        self.steps.done("ceremony is complete, and its attestation verified", &details);
        Ok(issued)
    }

    async fn lease(&self, session: &Session, started_ms: u64) -> Result<(), UpError> {
        let (report, lease) = self.wait_for_lease(session, started_ms).await?;
        let mut details = vec![
            format!(
                "lease of {}, ends {}",
                format_duration(lease.expires_ms.saturating_sub(lease.granted_ms)),
                format_ms(lease.expires_ms)
            ),
            format!("boot {}", lease.boot_id),
        ];
        if let Some(evidence) = &lease.evidence {
            details
                .push(format!("attestation verified here, not only at the custodian: module {}", evidence.module_id));
            let set = &evidence.measurements;
            for (index, value) in [(0, set.pcr0), (1, set.pcr1), (2, set.pcr2), (16, set.pcr16)] {
                details.push(format!("PCR {index:<2} {}", hex::encode(value)));
            }
            details.push("PCR 0, 1, 2 and 16 are those of the manifest; 16 measures parent/static.json".to_owned());
            details.push(format!("root {} (EMULATED)", evidence.trust_root_sha256));
        }
        let version = report.version.map_or(0, |version| version.version);
        self.steps.done(&format!("enclave holds a lease; the key store is at version {version}"), &details);
        Ok(())
    }

    /// The lease of the enclave that this run started.
    async fn wait_for_lease(&self, session: &Session, started_ms: u64) -> Result<(StatusReport, LeaseLine), UpError> {
        let started = Instant::now();
        loop {
            let report = status(session).await.map_err(at("the custodian's status"))?;
            let newest = report.leases.iter().max_by_key(|lease| lease.granted_ms).cloned();
            if let Some(lease) = newest
                && lease.granted_ms >= started_ms
                && report.version.is_some()
            {
                return match lease.evidence_error {
                    None => Ok((report, lease)),
                    Some(reason) => Err(UpError::File { path: self.layout.log("custodian"), reason }),
                };
            }
            if started.elapsed() > ORDER_PATIENCE {
                return Err(UpError::NotUp {
                    name: "the enclave (it has no lease)",
                    seconds: ORDER_PATIENCE.as_secs(),
                });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn certificate(&self, session: &Session, remembered: &Remembered) -> Result<Authority, UpError> {
        const CHAIN: &str = "tls/chain.pem";
        let authority = Authority::load_or_create(self.layout)?;
        if self.layout.read(CHAIN)?.is_some() {
            return Ok(authority);
        }
        let request = tls::request(session, WAIT).await.map_err(at("the certificate request"))?;
        self.layout.write("tls/csr.pem", request.pem.as_bytes(), 0o644)?;
        let chain = authority.sign(&request.pem, &remembered.host_name)?;
        let parsed = tls::parse_chain(chain.as_bytes())
            .map_err(|error| UpError::File { path: self.layout.path(CHAIN), reason: error.to_string() })?;
        tls::install(session, parsed, WAIT).await.map_err(at("the certificate"))?;
        // Written last: its presence says that the certificate is installed.
        self.layout.write(CHAIN, chain.as_bytes(), 0o644)?;
        let details = [
            format!("the TLS key was made in the enclave; its request: {}", request.evidence.summary()),
            format!(
                "signed for {} by the development authority {}",
                remembered.host_name,
                authority.certificate_file.display()
            ),
        ];
        self.steps.done("certificate is installed by signed command", &details);
        Ok(authority)
    }

    async fn keys(&self, session: &Session) -> Result<Vec<String>, UpError> {
        let known = key::list(session, WAIT).await.map_err(at("the list of keys"))?;
        let mut there: BTreeMap<_, _> =
            known.keys.into_iter().map(|line| (line.id, (line.usage, line.state))).collect();
        let mut details = Vec::new();
        for wanted in &self.settings.key {
            let (id, usage) = (wanted.id.to_string(), key::usage_names(wanted.usage));
            if let Some((found, state)) = there.get(&id) {
                let (found, wanted) = (key::usage_text(found), key::usage_text(&usage));
                if found != wanted {
                    return Err(UpError::KeyUsage { id, found, wanted });
                }
                details.push(format!("{id} is there: {found}, {state}"));
                continue;
            }
            let done =
                key::create(session, wanted.id.clone(), wanted.usage, WAIT).await.map_err(at("creating a key"))?;
            details.push(done.done);
            there.insert(id, (usage, "enabled"));
        }
        self.steps.done("keys, made in the enclave by signed command", &details);
        Ok(self.settings.key.iter().map(|wanted| wanted.id.to_string()).collect())
    }

    /// The imported credential where one is given, otherwise that of the ceremony.
    async fn credential(
        &self,
        session: &Session,
        issued: credential::Issued,
        place: &Place<'_>,
    ) -> Result<(String, String), UpError> {
        let (Some(id), Some(secret)) = (&self.settings.access_key_id, &self.settings.secret_access_key) else {
            let secret = secret_text(&issued.credential.secret_access_key).to_owned();
            return Ok((issued.credential.access_key_id.to_string(), secret));
        };
        // By an earlier run, perhaps.
        if !accepts_credential(&place.client(id.as_str(), secret)?).await? {
            let secret = SecretBytes::new(secret.clone().into_bytes());
            credential::import(session, id.clone(), secret, WAIT).await.map_err(at("importing the credential"))?;

            let details = ["it was encrypted to the key in the lease's attestation document".to_owned()];
            self.steps.done(&format!("credential {id} is imported by signed command"), &details);
        }
        Ok((id.to_string(), secret.clone()))
    }

    /// AWS KMS in front of the proxy.
    async fn kms(&self, listen: SocketAddr, offer: &Offer) -> Result<KmsOffer, UpError> {
        let started = kms::Started::start(self.layout, self.processes, listen, offer)?;
        until("KMS", || async { started.is_ready() }).await?;
        let wanted = self.settings.key.iter().filter(|wanted| wanted.usage.encrypt && wanted.usage.decrypt);
        let keys: Vec<String> = wanted.map(|wanted| wanted.id.to_string()).collect();
        let (kms, lines) = started.set_up(offer, &keys).await?;
        self.steps.done(&format!("AWS KMS, emulated, is up at {}", kms.endpoint_url), &lines);
        Ok(kms)
    }

    async fn prove(&self, client: XksClient, offer: &Offer) -> Result<(), UpError> {
        // Encrypting needs a key that may do both; the others are for the developer's own client.
        let Some(wanted) = self.settings.example_key() else {
            let health = super::proof::wait_until_served(&client).await?;
            let details = [format!("GetHealthStatus: {}; no key may both encrypt and decrypt", health.status)];
            self.steps.done("the proxy answers", &details);
            return Ok(());
        };
        let proof = round_trip(client, wanted.id.as_str(), self.layout).await?;
        let tls = [
            format!("the enclave showed a certificate for {} under {}", offer.host_name, offer.ca_file.display()),
            format!("certificate SHA-256 {}; the parent only carried the bytes", proof.certificate_sha256),
        ];
        self.steps.done("TLS ends in the enclave", &tls);
        self.steps.done("signed round trip through the parent", &proof.lines);
        if let Some(earlier) = proof.earlier {
            self.steps.done(
                &earlier,
                &["no ceremony took place: the root key came back from the custodian's share".to_owned()],
            );
        }
        Ok(())
    }
}

/// Waits until `is_so`, at most [`START_PATIENCE`].
async fn until<F: Future<Output = bool>>(name: &'static str, is_so: impl Fn() -> F) -> Result<(), UpError> {
    let started = Instant::now();
    while !is_so().await {
        if started.elapsed() > START_PATIENCE {
            return Err(UpError::NotUp { name, seconds: START_PATIENCE.as_secs() });
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    Ok(())
}

/// A port that is free now. It is remembered, since the manifest names it.
fn free_port() -> Result<u16, UpError> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    std::net::TcpListener::bind(address)
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| UpError::Listen { address, source })
}
