//! `holdfast doctor` and `holdfast explain`: what is well is found well, and each flaw of a proxy is named for what it is.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::process::{Command, Output};

use holdfast_tests::process::run;
use holdfast_tests::programs::program;
use holdfast_tests::system::{HOST_NAME as LOCALHOST, KEY as OUR_KEY, Options, REGION, System};
use holdfast_tests::xks_proxy::{Flaw, HOST_NAME, KEY, PREFIX, Resolver, XksProxy, Zone};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What is found of every proxy that listens here, for development.
const HERE: [&str; 3] = ["address-not-public", "authority-given", "port-not-443"];
/// A CAA record as it should be.
const CAA: &[&str] = &["ca.example; accounturi=https://ca.example/account/1"];

struct Visit {
    output: Output,
    report: Value,
}

impl Visit {
    fn new(arguments: &[&str]) -> Self {
        Self::of(run(Command::new(program("holdfast")).arg("doctor").arg("--json").args(arguments)))
    }

    fn of(output: Output) -> Self {
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            panic!("{error}: {complaint}")
        });
        Self { output, report }
    }

    /// What was found but for times, which depend on how busy this machine is, and what is found of every proxy here.
    fn causes(&self) -> BTreeSet<&str> {
        let findings = self.report["findings"].as_array().unwrap();
        let causes = findings.iter().filter_map(|finding| finding["cause"]["id"].as_str());
        causes.filter(|id| !HERE.contains(id) && !id.starts_with("slow-") && *id != "network-far").collect()
    }

    fn finding(&self, check: &str) -> &Value {
        let findings = self.report["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["check"] == check).unwrap_or(&Value::Null)
    }
}

/// Looks at a proxy with all that there is to know of it.
async fn visit(flaw: Flaw) -> Visit {
    let folder = TempDir::new().unwrap();
    let proxy = XksProxy::start(folder.path(), flaw).await;
    let resolver = Resolver::start(HOST_NAME, Zone::here(CAA)).await;
    let url = format!("https://{HOST_NAME}:{}{PREFIX}", proxy.address.port());
    let (ca, credential) = (proxy.ca.display().to_string(), proxy.credential.display().to_string());
    let resolver = resolver.address.to_string();
    let timeout = if flaw == Flaw::Stalls { "3s" } else { "20s" };
    let given = ["--ca", &ca, "--credential", &credential, "--resolver", &resolver, "--key", KEY, "--timeout", timeout];
    Visit::new(&[&[url.as_str()], &given[..]].concat())
}

async fn each_is_named(table: &[(Flaw, &[&str])]) {
    for (flaw, expected) in table {
        let visit = visit(*flaw).await;
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        assert_eq!(visit.causes(), expected, "{flaw:?}: {:#}", visit.report);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_proxy_has_nothing_but_where_it_stands() {
    let visit = visit(Flaw::None).await;
    assert!(visit.causes().is_empty(), "{:#}", visit.report);
    let all = visit.report["findings"].as_array().unwrap();
    let here: Vec<_> = all.iter().filter(|finding| finding["grade"] == "refused").collect();
    assert!(here.iter().all(|finding| finding["cause"]["id"].as_str().unwrap().starts_with("slow-")), "{here:?}");
    for check in
        ["alpn", "health", "clock", "encrypt", "decrypt", "other aad", "sizes", "unsigned", "unknown key", "caa"]
    {
        assert_eq!(visit.finding(check)["grade"], "fine", "{check}: {:#}", visit.report);
    }
    assert!(visit.report["latency"]["warm_ms"].is_number());
    let expected = if visit.report["verdict"] == "warning" { 3 } else { 1 };
    assert_eq!(visit.output.status.code(), Some(expected), "{:#}", visit.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_this_system_is_not_one_of_kms() {
    let folder = TempDir::new().unwrap();
    let proxy = XksProxy::start(folder.path(), Flaw::None).await;
    let resolver = Resolver::start(HOST_NAME, Zone::here(CAA)).await;
    let url = format!("https://{HOST_NAME}:{}{PREFIX}", proxy.address.port());
    let mut command = Command::new(program("holdfast"));
    // What stands there is what the operating system trusts.
    command.env("SSL_CERT_FILE", &proxy.ca).env_remove("SSL_CERT_DIR");
    let credential = proxy.credential.display().to_string();
    let resolver = resolver.address.to_string();
    command.args(["doctor", "--json", &url, "--credential", &credential, "--resolver", &resolver, "--timeout", "20s"]);
    let visit = Visit::of(run(&mut command));
    assert_eq!(visit.finding("certificate authority")["cause"]["id"], "authority-not-kms", "{:#}", visit.report);
    assert_eq!(visit.finding("certificate authority")["grade"], "refused");
    assert_eq!(visit.finding("port")["grade"], "refused", "this is no development");
    assert_eq!(visit.finding("health")["grade"], "fine", "{:#}", visit.report);
    assert_eq!(visit.finding("keys")["grade"], "skipped", "none was named");
    assert_eq!(visit.output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_tls_is_named() {
    each_is_named(&[
        (Flaw::Expired, &["certificate-expired"]),
        (Flaw::NotYet, &["certificate-not-yet"]),
        (Flaw::Soon, &["certificate-soon"]),
        (Flaw::EndsFirst, &["certificate-unusable"]),
        (Flaw::OtherName, &["certificate-name"]),
        (Flaw::UnknownAuthority, &["certificate-incomplete"]),
        (Flaw::SelfSigned, &["certificate-self-signed"]),
        (Flaw::OtherSuite, &["tls-no-suite"]),
        (Flaw::Http2Only, &["http11-missing", "tls-refused"]),
        (Flaw::AsksForCertificate, &["tls-client-certificate"]),
        (Flaw::NoTls, &["tls-not-spoken"]),
        (Flaw::Hangs, &["tls-closed"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_answers_is_named() {
    each_is_named(&[
        (Flaw::NotHttp, &["not-http"]),
        (Flaw::Closes, &["closed"]),
        (Flaw::Stalls, &["timed-out"]),
        (Flaw::OtherPath, &["path-not-found"]),
        (Flaw::Redirects, &["redirect", "error-status"]),
        (Flaw::Oversized, &["oversized"]),
        (Flaw::OtherStatus, &["status-unexpected"]),
        (Flaw::NotJson, &["not-json"]),
        (Flaw::OtherType, &["content-type"]),
        (Flaw::MissingField, &["field-invalid"]),
        (Flaw::Unavailable, &["ekm-unavailable"]),
        (Flaw::Degraded, &["ekm-degraded"]),
        (Flaw::OtherClock, &["clock-skew"]),
        (Flaw::OtherSecret, &["signature-refused"]),
        (Flaw::Fails, &["internal-error"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_should_be_refused_and_is_not_is_named() {
    each_is_named(&[
        (Flaw::TakesUnsigned, &["unsigned-accepted"]),
        (Flaw::TakesAnySignature, &["signature-not-checked", "old-accepted"]),
        (Flaw::IgnoresBody, &["signature-not-checked"]),
        (Flaw::TakesOld, &["old-accepted"]),
        (Flaw::OtherRefusal, &["error-status"]),
        (Flaw::OtherUnknownKey, &["error-status"]),
        (Flaw::LongMessage, &["error-message"]),
        (Flaw::TakesGet, &["get-accepted"]),
    ])
    .await;
    let visit = visit(Flaw::TakesUnsigned).await;
    assert_eq!((visit.output.status.code(), &visit.report["verdict"]), (Some(1), &json!("danger")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_keys_and_messages_is_named() {
    each_is_named(&[
        (Flaw::Disabled, &["key-disabled"]),
        (Flaw::Short, &["key-spec"]),
        (Flaw::EncryptOnly, &["key-usage"]),
        (Flaw::TagAppended, &["encryption-field"]),
        (Flaw::NoIntegrity, &["cdiv-missing"]),
        (Flaw::OtherIntegrity, &["cdiv-wrong"]),
        (Flaw::OtherPlaintext, &["plaintext-differs"]),
        (Flaw::IgnoresAad, &["aad-not-bound"]),
        (Flaw::IgnoresMetadata, &["metadata-not-bound"]),
        (Flaw::OtherInvalid, &["error-status"]),
        (Flaw::SmallBodies, &["size-not-supported"]),
    ])
    .await;
    let visit = visit(Flaw::IgnoresTag).await;
    assert!(visit.causes().contains("tag-not-checked"), "{:#}", visit.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_named() {
    let visit = visit(Flaw::Slow).await;
    assert!(visit.causes().is_empty(), "{:#}", visit.report);
    assert_eq!(visit.finding("further requests")["cause"]["id"], "slow-proxy", "{:#}", visit.report);
    assert_eq!(visit.finding("further requests")["cause"]["connection_error_code"], "XKS_PROXY_TIMED_OUT");
    assert_eq!(visit.output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dns_and_the_way_there_are_looked_at() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("https://{HOST_NAME}:{}", closed.port());
    let nowhere = Zone { address: None, ..Zone::here(&[]) };
    let table: [(Zone, &[&str], &str); 6] = [
        (Zone::here(CAA), &["address-not-public", "tcp-refused"], "fine"),
        (Zone::here(&["ca.example"]), &["address-not-public", "caa-without-account", "tcp-refused"], "warning"),
        (Zone::here(&[]), &["address-not-public", "caa-missing", "tcp-refused"], "warning"),
        (nowhere, &["name-unresolved"], "skipped"),
        (Zone { caa: CAA, ..nowhere }, &["name-unresolved"], "skipped"),
        (Zone { address: Some(Ipv6Addr::LOCALHOST.into()), ..Zone::here(CAA) }, &["no-ipv4", "tcp-refused"], "fine"),
    ];
    for (zone, expected, authorization) in table {
        let resolver = Resolver::start(HOST_NAME, zone).await;
        let visit = Visit::new(&[&url, "--resolver", &resolver.address.to_string()]);
        let found =
            visit.report["findings"].as_array().unwrap().iter().filter_map(|finding| finding["cause"]["id"].as_str());
        assert_eq!(found.filter(|id| *id != "port-not-443").collect::<Vec<_>>(), expected, "{zone:?}");
        assert_eq!(visit.finding("caa")["grade"], authorization, "{zone:?}");
        assert_eq!(visit.output.status.code(), Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_dns_that_was_cut_is_asked_for_over_tcp() {
    let resolver = Resolver::start(HOST_NAME, Zone { is_cut: true, ..Zone::here(CAA) }).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("https://{HOST_NAME}:{}", closed.port());
    let visit = Visit::new(&[&url, "--resolver", &resolver.address.to_string()]);
    assert_eq!(visit.finding("dns")["seen"], "127.0.0.1", "{:#}", visit.report);
    let shown = visit.finding("caa")["seen"].as_str().unwrap();
    assert!(shown.contains("accounturi=https://ca.example/account/1"), "{shown}");
}

fn resolution(address: SocketAddr) -> String {
    format!("{LOCALHOST}:{}:{}", address.port(), address.ip())
}

#[tokio::test(flavor = "multi_thread")]
async fn holdfast_itself_passes_with_its_attestation() {
    let system = System::start(Options { path_prefix: PREFIX, ..Options::default() }).await;
    let credential = system.layout.path("doctor.json");
    let text = json!({
        "AccessKeyId": system.credential.access_key_id,
        "RawSecretAccessKey": system.credential.secret_access_key,
    });
    std::fs::write(&credential, text.to_string()).unwrap();
    std::fs::set_permissions(&credential, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let path = |name: &str| system.layout.path(name).display().to_string();
    let (url, at) = (format!("https://{LOCALHOST}:{}{PREFIX}", system.listen.port()), resolution(system.listen));
    let (credential, id) = (credential.display().to_string(), system.key_store_id().to_string());
    let (ca, root, measurements) = (path("tls/ca.pem"), path("nsm/root.pem"), path("measurements.json"));
    let given = ["--credential", &credential, "--key", OUR_KEY, "--region", REGION, "--resolve", &at, "--ca", &ca];
    let attestation = ["--key-store", &id, "--measurements", &measurements, "--trust-root", &root, "--timeout", "20s"];
    let visit = Visit::new(&[&[url.as_str()], &given[..], &attestation].concat());
    let causes: BTreeSet<_> = visit.causes().into_iter().filter(|id| *id != "certificate-common-name").collect();
    assert_eq!(causes, BTreeSet::from(["host-not-fqdn"]), "{:#}", visit.report);
    assert_eq!(visit.finding("attestation")["grade"], "fine", "{:#}", visit.report);
    system.assert_no_panic();
}

#[test]
fn a_wrong_command_line_is_told_from_a_finding() {
    let code = |arguments: &[&str]| run(Command::new(program("holdfast")).args(arguments)).status.code();
    assert_eq!(code(&["doctor", "http://xks.example.com"]), Some(2));
    assert_eq!(code(&["doctor", "https://xks.example.com", "--credential", "/nonexistent"]), Some(2));
    assert_eq!(code(&["doctor", "https://xks.example.com", "--resolve", "other.example.com:443:127.0.0.1"]), Some(2));
}

#[test]
fn messages_of_kms_are_explained() {
    let said = |message: &str| run(Command::new(program("holdfast")).args(["explain", "--json", message]));
    let known = said("XKS_PROXY_INVALID_TLS_CONFIGURATION");
    let shown: Value = serde_json::from_slice(&known.stdout).unwrap();
    assert_eq!(
        (known.status.code(), &shown["entries"][0]["causes"][0]["id"]),
        (Some(0), &json!("certificate-expired"))
    );
    assert_eq!(said("nothing that KMS says").status.code(), Some(1));
}
