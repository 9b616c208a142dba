use holdfast_shared::keystore::{StandingRenewal, TlsIdentity};
use holdfast_shared::manifest::Thresholds;
use holdfast_shared::xks::PathPrefix;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};

use super::*;

const NOW_MS: u64 = 1_790_000_000_000; // 2026-09-21
const DAY_MS: u64 = 24 * 3_600_000;
const HOST: &str = "xks.example.com";

fn attempt() -> RenewalAttempt {
    RenewalAttempt { id: [1; 16], started_ms: NOW_MS, key_authorization_sha256: None }
}

/// A key store with a standing order and an attempt that runs.
fn body() -> Body {
    let order = AcmeOrder {
        directory: "https://ca.test/directory".to_owned(),
        directory_roots: vec![DerCertificate(vec![0x30, 0])],
        contacts: vec![],
        until_ms: NOW_MS + 100 * DAY_MS,
    };
    let progress = RenewalProgress { attempt: Some(attempt()), ..RenewalProgress::default() };
    Body {
        host_name: HostName::parse(HOST).unwrap(),
        path_prefix: PathPrefix::parse("").unwrap(),
        tls: TlsIdentity { private_key: identity::tls_key().unwrap(), chain: vec![] },
        credentials: vec![],
        external_keys: vec![],
        administrators: vec![],
        thresholds: Thresholds::ONE,
        executed: vec![],
        quota: None,
        client_authentication: None,
        sharing: None,
        successor: None,
        renewal: Some(StandingRenewal { order, account_key: identity::tls_key().unwrap(), progress }),
    }
}

/// What an authority makes of a request for a host name: valid for 90 days around now.
fn certificate(key: &SecretBytes, host_name: &str) -> DerCertificate {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(authority, authority_key);
    let request = identity::certificate_request(key, &HostName::parse(host_name).unwrap()).unwrap();
    let mut request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
    request.params.not_before = rcgen::date_time_ymd(2026, 9, 1);
    request.params.not_after = rcgen::date_time_ymd(2026, 11, 30);
    DerCertificate(request.signed_by(&issuer).unwrap().der().to_vec())
}

fn progress(body: &Body) -> &RenewalProgress {
    &body.renewal.as_ref().unwrap().progress
}

type MakeLeaf = fn(&Body) -> DerCertificate;

#[test]
fn a_chain_is_installed_only_for_our_key_and_host_name() {
    let account = || Some("https://ca.test/account".to_owned());
    let good = |body: &Body| certificate(&body.tls.private_key, HOST);
    let other_key = |_: &Body| certificate(&identity::tls_key().unwrap(), HOST);
    let other_name = |body: &Body| certificate(&body.tls.private_key, "evil.example.com");
    let noise = |_: &Body| DerCertificate(vec![1, 2, 3]);
    let table: [(MakeLeaf, Option<&str>); 4] = [
        (good, None),
        (other_key, Some("not for this key store's TLS key")),
        (other_name, Some("does not name xks.example.com")),
        (noise, Some("not a readable X.509 certificate")),
    ];
    for (make, expected) in table {
        let mut body = body();
        let before = vec![DerCertificate(vec![7])];
        body.tls.chain.clone_from(&before);
        let chain = vec![make(&body)];
        apply(&mut body, Event::Done { account: account(), chain: chain.clone() }, NOW_MS).unwrap();
        assert_eq!(progress(&body).attempt, None);
        assert_eq!(progress(&body).account, account());
        match expected {
            None => {
                assert_eq!((body.tls.chain.clone(), progress(&body).failures), (chain, 0));
                // Two thirds of 90 days from the first of September.
                let due_ms = body.renewal.as_ref().unwrap().due_ms(&body.tls).unwrap();
                assert_eq!(due_ms, 1_793_404_800_000);
            }
            Some(words) => {
                assert_eq!((body.tls.chain.clone(), progress(&body).failures), (before, 1));
                let said = progress(&body).last_failure.clone().unwrap();
                assert!(said.contains(words), "{said}");
            }
        }
    }
}

#[test]
fn pauses_grow_and_an_authority_can_lengthen_them() {
    let mut body = body();
    let mut now_ms = NOW_MS;
    let minutes = [5, 10, 20, 40, 80, 160, 320, 360, 360];
    for (failures, expected) in minutes.into_iter().enumerate() {
        let event = Event::Failed { account: None, reason: "no\u{1b}[2J".to_owned(), retry_after_ms: 0 };
        apply(&mut body, event, now_ms).unwrap();
        assert_eq!(progress(&body).again_ms - now_ms, expected * 60_000, "{failures}");
        assert_eq!(body.renewal.as_ref().unwrap().due_ms(&body.tls), Some(progress(&body).again_ms));
        now_ms = progress(&body).again_ms;
    }
    assert_eq!(progress(&body).last_failure.as_deref(), Some("no?[2J"));
    let event = Event::Failed { account: None, reason: "x".repeat(1000), retry_after_ms: DAY_MS };
    apply(&mut body, event, now_ms).unwrap();
    assert_eq!(progress(&body).again_ms - now_ms, DAY_MS);
    assert_eq!(progress(&body).last_failure.as_deref().map(str::len), Some(ACME_FAILURE_MAX));
    assert_eq!(pause_ms(u32::MAX), *RENEWAL_PAUSE_MS.end());
}

#[test]
fn a_challenge_stands_in_the_key_store_until_its_attempt_is_over() {
    let mut body = body();
    let account = "https://ca.test/account".to_owned();
    apply(&mut body, Event::Challenge { account, key_authorization_sha256: [9; 32] }, NOW_MS);
    assert_eq!(progress(&body).attempt.unwrap().key_authorization_sha256, Some([9; 32]));
    // Others leave it to whoever began, for ten minutes.
    assert_eq!(body.renewal.as_ref().unwrap().due_ms(&body.tls), Some(NOW_MS + RENEWAL_ATTEMPT_MS));
    apply(&mut body, Event::Failed { account: None, reason: "no".to_owned(), retry_after_ms: 0 }, NOW_MS);
    assert_eq!(progress(&body).attempt, None);
    assert!(progress(&body).account.is_some(), "the account is known still");
}

#[test]
fn nothing_is_done_after_the_order_has_ended() {
    let mut body = body();
    let end_ms = body.renewal.as_ref().unwrap().order.until_ms;
    let chain = vec![certificate(&body.tls.private_key, HOST)];
    apply(&mut body, Event::Done { account: None, chain }, end_ms).unwrap();
    assert!(body.tls.chain.is_empty());
    let renewal = body.renewal.as_mut().unwrap();
    renewal.progress = RenewalProgress { again_ms: end_ms - 1, ..RenewalProgress::default() };
    assert_eq!(renewal.due_ms(&body.tls), Some(end_ms - 1));
    renewal.progress.again_ms = end_ms;
    assert_eq!(renewal.due_ms(&body.tls), None);
    body.renewal = None;
    let late = Event::Done { account: None, chain: vec![certificate(&body.tls.private_key, HOST)] };
    assert!(apply(&mut body, late, NOW_MS).is_none() && body.tls.chain.is_empty(), "withdrawn");
}

#[test]
fn chains_in_pem_are_bounded() {
    let pem = |size: usize| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(vec![0x30; size]);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    for (text, expected) in [
        (pem(100), Some(1)),
        (pem(100).repeat(CERTIFICATE_CHAIN_MAX), Some(CERTIFICATE_CHAIN_MAX)),
        (pem(100).repeat(CERTIFICATE_CHAIN_MAX + 1), None),
        (pem(CERTIFICATE_DER_MAX + 1), None),
        (String::new(), None),
        ("noise".to_owned(), None),
    ] {
        assert_eq!(read_chain(&Bytes::from(text.clone())).map(|chain| chain.len()), expected, "{}", text.len());
    }
}
