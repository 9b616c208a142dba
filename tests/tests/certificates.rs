//! Certificates from an ACME authority: the request leaves the enclave, the authority signs, a signed command installs; or enclaves
//! get them by themselves, by a standing order.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use holdfast_tests::acme::{AcmeServer, Solver};
use holdfast_tests::load::{Load, Mode};
use holdfast_tests::system::{Caller, HOST_NAME, KEY, Options, System};
use holdfast_tests::tap::{Action, Direction, Fault, Target};
use holdfast_tests::wait::until;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

fn leaf_of(chain: &Path) -> Vec<u8> {
    CertificateDer::pem_file_iter(chain).unwrap().next().unwrap().unwrap().to_vec()
}

/// The leaf that a handshake under these roots shows.
async fn leaf_in_service(caller: &Caller) -> Result<Vec<u8>, String> {
    let stream = caller.wire().connect().await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

async fn serves(caller: &Caller, leaf: &[u8]) {
    until("the new certificate is served", || async {
        (leaf_in_service(caller).await.ok()?.as_slice() == leaf).then_some(())
    })
    .await;
}

fn request_and_install(system: &System, ca: &mut AcmeServer, solver: Solver) -> Vec<u8> {
    let request = system.layout.path(&format!("tls/{solver:?}.csr"));
    let request_text = request.display().to_string();
    system.administrator.holdfast(&["tls", "csr", "--out", &request_text]).success();
    let chain = ca.lego(&request, solver);
    system.order(&["tls", "install", &chain.display().to_string()]);
    leaf_of(&chain)
}

/// A certificate with a fifth of its life left.
fn install_one_that_is_due(system: &System) -> Vec<u8> {
    const DAY: Duration = Duration::from_hours(24);
    let request = system.order(&["tls", "csr"])["pem"].as_str().unwrap().to_owned();
    let valid = (SystemTime::now() - 40 * DAY)..(SystemTime::now() + 10 * DAY);
    let chain = system.layout.path("tls/due.pem");
    std::fs::write(&chain, system.authority.sign_for(&request, HOST_NAME, valid).unwrap()).unwrap();
    system.order(&["tls", "install", &chain.display().to_string()]);
    let shown = system.order(&["tls", "show"]);
    assert_eq!(shown["certificate"]["is_due"], true, "{shown}");
    leaf_of(&chain)
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}

/// Issued by HTTP-01, verified under the authority's root, shown, and renewed by DNS-01 under load: no request fails, and the
/// connections that are open go on.
#[tokio::test(flavor = "multi_thread")]
async fn an_acme_authority_signs_and_a_renewal_disturbs_nobody() {
    let system = System::start(Options::default()).await;
    let mut ca = AcmeServer::start(&system.layout.path("acme")).await;
    let first = request_and_install(&system, &mut ca, Solver::Http01);
    let caller = Caller { roots: vec![ca.issuing_root()], ..system.caller() };
    serves(&caller, &first).await;
    caller.serving().await;
    let before = system.order(&["tls", "show"]);
    assert_eq!(before["host_name"], HOST_NAME);
    assert_eq!(before["certificate"]["sha256"], sha256_hex(&first), "{before}");
    assert!(before["certificate"]["issuer"].as_str().unwrap().contains("Pebble Intermediate CA"), "{before}");
    assert_eq!(before["certificate"]["is_due"], false, "{before}");

    let load = Load::start("a caller during the renewal", &caller, KEY, &[Mode::Http1, Mode::Http2, Mode::Fresh]);
    load.goes_on(30).await;
    let second = request_and_install(&system, &mut ca, Solver::Dns01);
    assert_ne!(first, second);
    serves(&caller, &second).await;
    load.goes_on(60).await;
    load.finish().await;
    let after = system.order(&["tls", "show"]);
    assert_eq!(after["certificate"]["sha256"], sha256_hex(&second), "{after}");
    assert_eq!(after["public_key_sha256"], before["public_key_sha256"], "the key stays");
    assert!(ca.runs());
    system.assert_no_panic();
}

/// Carries one connection to each address in turn. Pebble looks at a host name from several places, so that of its connections at
/// least one goes to each.
struct InTurn {
    address: SocketAddr,
    carried: Arc<[AtomicUsize; 2]>,
    task: JoinHandle<()>,
}

impl InTurn {
    async fn start(targets: [SocketAddr; 2]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let carried: Arc<[AtomicUsize; 2]> = Arc::default();
        let counts = Arc::clone(&carried);
        let task = tokio::spawn(async move {
            for turn in (0..2).cycle() {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut onward = TcpStream::connect(targets[turn]).await.unwrap();
                counts[turn].fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut onward).await });
            }
        });
        Self { address, carried, task }
    }
}

impl Drop for InTurn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A file with one certificate.
fn pem_file(system: &System, name: &str, der: &[u8]) -> PathBuf {
    let path = system.layout.path(name);
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    std::fs::write(&path, format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")).unwrap();
    path
}

/// A standing order, signed and carried out.
fn set_auto(system: &System, directory: &str, roots: &Path, issuing_root: &[u8]) {
    let issuer = pem_file(system, "tls/issuer.pem", issuing_root).display().to_string();
    let until = holdfast_cli::moment::format_ms(holdfast_cli::moment::now_ms() + 86_400_000);
    let contact = "mailto:ops@example.com";
    let roots = roots.display().to_string();
    let fixed = ["tls", "auto", "--directory", directory, "--directory-ca", &roots, "--contact", contact];
    system.order(&[&fixed[..], &["--issuer-ca", &issuer, "--until", &until]].concat());
}

async fn shown(system: &System, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    until(what, || async { Some(system.order(&["tls", "show"])).filter(|shown| is_so(shown)) }).await
}

/// Two enclaves behind one address: one of them orders, the authority looks at both, both serve what came of it, and nobody who
/// calls them notices. Afterwards the certificate is not due for long, and nothing more happens.
#[tokio::test(flavor = "multi_thread")]
async fn a_standing_order_renews_and_any_enclave_answers_the_challenge() {
    let mut system = System::start(Options::default()).await;
    let mut host = system.add_host().await;
    host.caller(&system).serving().await;
    let first = install_one_that_is_due(&system);
    let callers = [system.caller(), host.caller(&system)];
    for caller in &callers {
        serves(caller, &first).await;
    }
    let ca = AcmeServer::start(&system.layout.path("acme")).await;
    let in_turn = InTurn::start([system.listen, host.listen]).await;
    ca.tls.retarget(Target::Tcp(in_turn.address));
    system.allow_now(&ca.address());
    host.allow_now(&ca.address());
    let roots = vec![system.authority.certificate_der.clone(), ca.issuing_root()];
    let callers = callers.map(|caller| Caller { roots: roots.clone(), ..caller });
    let modes = [Mode::Http1, Mode::Http2, Mode::Fresh];
    let loads = callers.each_ref().map(|caller| Load::start("a caller during the renewal", caller, KEY, &modes));
    set_auto(&system, &ca.directory(), &ca.roots, &ca.issuing_root());

    let after = shown(&system, "the certificate is renewed", |shown| {
        shown["certificate"]["sha256"] != sha256_hex(&first) && !shown["certificate"].is_null()
    })
    .await;
    let order = &after["standing_order"];
    assert!(order["account"].as_str().unwrap().starts_with(&format!("https://{}/", ca.address())), "{after}");
    assert_eq!((&order["failures"], &order["is_running"]), (&Value::from(0), &Value::from(false)), "{after}");
    assert_eq!(after["certificate"]["is_due"], false, "{after}");
    for (caller, load) in callers.iter().zip(loads) {
        let caller = Caller { roots: vec![ca.issuing_root()], ..caller.clone() };
        until("the renewed certificate is served", || async { leaf_in_service(&caller).await.ok() }).await;
        load.goes_on(20).await;
        load.finish().await;
    }
    for carried in in_turn.carried.iter() {
        assert!(carried.load(Ordering::SeqCst) > 0, "the authority looked at one enclave only");
    }
    // One of them ordered; the claim of the other, if there was one, lost the race.
    let log = ca.log();
    assert_eq!(log.matches("Issued certificate serial").count(), 1, "{log}");
    system.assert_no_panic();
}

/// Every second connection ends at a later byte: in the handshake, in a request, in an answer.
fn every_second_breaks_off() -> Vec<Fault> {
    let fault = |number: usize| Fault {
        connection: Some(2 * number),
        direction: if number.is_multiple_of(2) { Direction::ToServer } else { Direction::ToClient },
        offset: 250 * number,
        action: Action::Drop,
    };
    (0..12).map(fault).collect()
}

/// A key store without a certificate: a directory under another root is told nothing and named; the right one is asked over
/// connections that break off; withdrawn, the order does nothing more, and the certificate stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_certificate_comes_by_standing_order_over_a_bad_line() {
    let mut system = System::enrolled(Options::default()).await;
    system.start_enclave().await;
    let ca = AcmeServer::start(&system.layout.path("acme")).await;
    let line = ca.line().await;
    system.allow_now(&format!("localhost:{}", line.address().port()));
    ca.tls.retarget(Target::Tcp(system.listen));
    let credential = system.order(&["credential", "show", "--show-secret"]);
    assert!(credential["access_key_id"].is_string());

    let directory = format!("https://localhost:{}/dir", line.address().port());
    let wrong = system.layout.path("tls/wrong.pem");
    let other = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
    std::fs::write(&wrong, other.pem()).unwrap();
    set_auto(&system, &directory, &wrong, &ca.issuing_root());
    let failed = shown(&system, "the failure is shown", |shown| shown["standing_order"]["failures"] == 1).await;
    let reason = failed["standing_order"]["last_failure"].as_str().unwrap();
    assert!(reason.contains("TLS failed"), "{reason}");
    assert!(failed["certificate"].is_null() && failed["standing_order"]["account"].is_null(), "{failed}");
    system.logged("parent", "the certificate was not renewed").await;

    // A chain that leads to another root than the order names is not served.
    set_auto(&system, &directory, &ca.roots, other.der());
    let failed = shown(&system, "the refusal is shown", |shown| shown["standing_order"]["failures"] == 1).await;
    let reason = failed["standing_order"]["last_failure"].as_str().unwrap();
    assert!(reason.contains("does not lead to an issuing root"), "{reason}");
    assert!(failed["certificate"].is_null(), "{failed}");

    // Nobody answers at first; then each second connection breaks off.
    line.close(true);
    set_auto(&system, &directory, &ca.roots, &ca.issuing_root());
    shown(&system, "an attempt runs", |shown| shown["standing_order"]["is_running"] == true).await;
    line.set_plan(every_second_breaks_off());
    line.close(false);
    let got = shown(&system, "the first certificate is there", |shown| !shown["certificate"].is_null()).await;
    assert_eq!(got["standing_order"]["failures"], 0, "{got}");
    let caller = Caller { roots: vec![ca.issuing_root()], ..system.caller() };
    until("it is served", || async { leaf_in_service(&caller).await.ok() }).await;

    system.order(&["tls", "auto", "--off"]);
    let off = system.order(&["tls", "show"]);
    assert!(off["standing_order"].is_null());
    assert_eq!(off["certificate"]["sha256"], got["certificate"]["sha256"]);
    system.assert_no_panic();
}
