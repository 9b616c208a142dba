use std::sync::LazyLock;

use holdfast_shared::keystore::{ClientAuthentication, StandingRenewal, TlsIdentity};
use holdfast_shared::manifest::Thresholds;
use holdfast_shared::xks::PathPrefix;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};

use super::*;

const NOW_MS: u64 = 1_790_000_000_000; // 2026-09-21
const DAY_MS: u64 = 24 * 3_600_000;
const HOST: &str = "xks.example.com";

/// The authority whose root the order names.
static AUTHORITY: LazyLock<(DerCertificate, Issuer<'static, KeyPair>)> = LazyLock::new(authority);

fn authority() -> (DerCertificate, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = DerCertificate(params.self_signed(&key).unwrap().der().to_vec());
    (root, Issuer::new(params, key))
}

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
        issuing_roots: vec![authority().0, AUTHORITY.0.clone()],
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
        audit: None,
        client_authentication: None,
        sharing: None,
        successor: None,
        renewal: Some(StandingRenewal { order, account_key: identity::tls_key().unwrap(), progress }),
        policy: None,
        limits: None,
        budgets: None,
    }
}

/// What an authority makes of a request for a host name: valid for 90 days around now.
fn certificate(key: &SecretBytes, host_name: &str) -> DerCertificate {
    certificate_for(key, host_name, NOW_MS - 20 * DAY_MS..NOW_MS + 70 * DAY_MS)
}

fn certificate_for(key: &SecretBytes, host_name: &str, valid: core::ops::Range<u64>) -> DerCertificate {
    signed(key, host_name, valid, &AUTHORITY.1)
}

fn moment(ms: u64) -> time::OffsetDateTime {
    (std::time::UNIX_EPOCH + Duration::from_millis(ms)).into()
}

fn signed(
    key: &SecretBytes,
    host_name: &str,
    valid: core::ops::Range<u64>,
    issuer: &Issuer<'_, KeyPair>,
) -> DerCertificate {
    let request = identity::certificate_request(key, &HostName::parse(host_name).unwrap()).unwrap();
    let mut request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
    (request.params.not_before, request.params.not_after) = (moment(valid.start), moment(valid.end));
    DerCertificate(request.signed_by(issuer).unwrap().der().to_vec())
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
    // Whoever answers as the directory can sign our request too, for as long as it likes.
    let own_authority =
        |body: &Body| signed(&body.tls.private_key, HOST, NOW_MS - 1000..NOW_MS + 9999 * DAY_MS, &authority().1);
    let table: [(MakeLeaf, Option<&str>); 5] = [
        (good, None),
        (other_key, Some("not for this key store's TLS key")),
        (other_name, Some("does not name xks.example.com")),
        (own_authority, Some("does not lead to an issuing root of the order")),
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
                // Two thirds of 90 days that began 20 days ago.
                let due_ms = body.renewal.as_ref().unwrap().due_ms(&body.tls).unwrap();
                assert_eq!(due_ms, NOW_MS + 40 * DAY_MS);
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

/// A directory that gives what is due at once must not make versions without an end.
#[test]
fn a_chain_that_is_soon_due_again_is_a_failure_with_its_pause() {
    const HOUR_MS: u64 = 3_600_000;
    for (valid, is_taken) in [
        (NOW_MS - 20 * HOUR_MS..NOW_MS + 10 * HOUR_MS, false),
        (NOW_MS - 3 * HOUR_MS..NOW_MS + 3 * HOUR_MS - 3000, false),
        (NOW_MS - 3 * HOUR_MS..NOW_MS + 3 * HOUR_MS, true),
    ] {
        let mut body = body();
        let chain = vec![certificate_for(&body.tls.private_key, HOST, valid.clone())];
        apply(&mut body, Event::Done { account: None, chain }, NOW_MS).unwrap();
        assert_eq!(body.tls.chain.len(), usize::from(is_taken), "{valid:?}");
        let due_ms = body.renewal.as_ref().unwrap().due_ms(&body.tls).unwrap();
        let least = if is_taken { HOUR_MS } else { *RENEWAL_PAUSE_MS.start() };
        assert_eq!((due_ms - NOW_MS, progress(&body).failures), (least, u32::from(!is_taken)), "{valid:?}");
    }
}

#[test]
fn what_does_not_fit_is_a_failure_with_its_pause() {
    let mut body = body();
    let full = keystore_with_room(&mut body, 400);
    let chain = vec![certificate(&body.tls.private_key, HOST)];
    assert!(chain[0].0.len() > 300, "or the test shows nothing");
    apply(&mut body, Event::Done { account: None, chain: vec![chain; 4].concat() }, NOW_MS).unwrap();
    assert!(body.tls.chain.is_empty() && keystore::fits(&body), "{full}");
    assert_eq!(progress(&body).last_failure.as_deref(), Some("the key store is full"));
    assert_eq!(body.renewal.as_ref().unwrap().due_ms(&body.tls), Some(NOW_MS + RENEWAL_PAUSE_MS.start()));

    let account = format!("https://ca.test/{}", "a".repeat(450));
    body.renewal.as_mut().unwrap().progress =
        RenewalProgress { attempt: Some(attempt()), ..RenewalProgress::default() };
    apply(&mut body, Event::Challenge { account, key_authorization_sha256: [9; 32] }, NOW_MS).unwrap();
    assert_eq!((progress(&body).attempt, &progress(&body).account), (None, &None));
}

/// Fills a body with something large, up to so many bytes.
fn keystore_with_room(body: &mut Body, room: usize) -> usize {
    let mut filled = 4 * 1024 * 1024 - 1024;
    loop {
        let authorities = vec![DerCertificate(vec![1; filled])];
        body.client_authentication = Some(ClientAuthentication { authorities, subject_common_names: vec![] });
        if keystore::fits(body) {
            break;
        }
        filled -= 16;
    }
    body.client_authentication.as_mut().unwrap().authorities[0].0.truncate(filled - room);
    filled
}

#[test]
fn an_attempt_that_was_given_up_counts_as_failed_and_has_its_pause() {
    let mut body = body();
    let end_ms = attempt().ends_ms();
    assert!(matches!(claimed(&mut body, [2; 16], end_ms), Claim::GivenUp(_)));
    assert_eq!((progress(&body).attempt, progress(&body).failures), (None, 1));
    let due_ms = body.renewal.as_ref().unwrap().due_ms(&body.tls).unwrap();
    assert_eq!(due_ms, end_ms + RENEWAL_PAUSE_MS.start());
    assert!(matches!(claimed(&mut body, [2; 16], due_ms), Claim::Ours));
    let ours = RenewalAttempt { id: [2; 16], started_ms: due_ms, key_authorization_sha256: None };
    assert_eq!((progress(&body).attempt, progress(&body).failures), (Some(ours), 1));
    body.renewal = None;
    assert!(matches!(claimed(&mut body, [2; 16], due_ms), Claim::None));
}

#[tokio::test]
async fn an_attempt_ends_when_the_key_store_does_not_say_any_more_that_it_is_made() {
    let plan = RenewalPlan { attempt: Some(attempt()), due_ms: None, until_ms: NOW_MS + 1 };
    let other = RenewalAttempt { id: [2; 16], ..attempt() };
    let table = [
        (Some(plan), NOW_MS, true),
        (None, NOW_MS, false),
        (Some(RenewalPlan { attempt: None, ..plan }), NOW_MS, false),
        (Some(RenewalPlan { attempt: Some(other), ..plan }), NOW_MS, false),
        (Some(plan), NOW_MS + 1, false),
    ];
    for (plan, wall_ms, goes_on) in table {
        // During a pause after a problem with publishing too.
        for is_pausing in [false, true] {
            let (_events_in, events) = mpsc::channel(2);
            let task = tokio::spawn(std::future::pending());
            let running = Some(Running { task, events, published: None });
            let mut renewal = Renewal { claimed: Some([1; 16]), running, pending: None, again_ms: 7 };
            renewal.keep_to(plan, wall_ms, is_pausing);
            assert_eq!((renewal.running.is_some(), renewal.again_ms), (goes_on, 7), "{plan:?} {wall_ms} {is_pausing}");
            assert_eq!(renewal.claimed.is_some(), goes_on);
        }
    }
    // A claim whose answer was lost may come into the key store a moment later.
    let before = RenewalPlan { attempt: None, ..plan };
    for is_pausing in [true, false] {
        let mut renewal = Renewal { claimed: Some([1; 16]), ..Renewal::default() };
        renewal.keep_to(Some(before), NOW_MS, is_pausing);
        assert_eq!(renewal.claimed.is_some(), is_pausing);
    }
}
