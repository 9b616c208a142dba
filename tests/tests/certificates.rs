//! Certificates from an ACME authority: the request leaves the enclave, the authority signs, a signed command installs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;

use holdfast_tests::acme::{AcmeOptions, AcmeServer, Solver};
use holdfast_tests::load::{Load, Mode};
use holdfast_tests::system::{Caller, HOST_NAME, KEY, Options, System};
use holdfast_tests::wait::until;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

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

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}

/// Issued by HTTP-01, verified under the authority's root, shown, and renewed by DNS-01 under load: no request fails, and the
/// connections that are open go on.
#[tokio::test(flavor = "multi_thread")]
async fn an_acme_authority_signs_and_a_renewal_disturbs_nobody() {
    let system = System::start(Options::default()).await;
    let mut ca = AcmeServer::start(&system.layout.path("acme"), AcmeOptions::default()).await;
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
