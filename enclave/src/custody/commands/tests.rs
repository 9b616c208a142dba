//! Each rule of carrying out a command, as a table.

use der::{Decode, Encode};
use holdfast_shared::attestation::Measurements;
use holdfast_shared::command::seal_credential;
use holdfast_shared::external_key::KeyUsage;
use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::keystore::{RenewalAttempt, TlsIdentity};
use holdfast_shared::manifest::{self, Custodian, DerCertificate, Manifest, ReleasePolicy, Thresholds};
use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::signature::SigningKey;
use holdfast_shared::sigv4::AccessKeyId;
use holdfast_shared::xks::{HostName, PathPrefix};
use holdfast_shared::{cbor, labels};
use ring::rand::SystemRandom;

use super::*;

mod destruction;
mod succession;
mod versions;

const NOW_MS: u64 = 1_000_000;

struct Desk {
    signing: SigningKey,
    manifest: VerifiedManifest,
    overlay_epoch: u64,
    attested: hpke::PrivateKey,
    body: Body,
    next: u8,
    fresh: u8,
}

impl Desk {
    fn new() -> Self {
        let signing = signing_key();
        let encryption = hpke::PrivateKey::generate().unwrap();
        let administrator = Administrator {
            name: "alice".to_owned(),
            signing_key: signing.verifying_key().unwrap(),
            encryption_key: *encryption.public_key(),
        };
        let body = Body {
            sharing: None,
            successor: None,
            host_name: HostName::parse("xks.example.com").unwrap(),
            path_prefix: PathPrefix::parse("").unwrap(),
            tls: TlsIdentity { private_key: identity::tls_key().unwrap(), chain: vec![] },
            credentials: vec![],
            external_keys: vec![],
            administrators: vec![administrator.clone()],
            thresholds: Thresholds::ONE,
            executed: vec![],
            quota: None,
            audit: None,
            client_authentication: None,
            renewal: None,
            policy: None,
            limits: None,
            budgets: None,
        };
        let manifest = manifest_of(&administrator, &signing);
        let attested = hpke::PrivateKey::generate().unwrap();
        Self { signing, manifest, overlay_epoch: 0, attested, body, next: 0, fresh: 5 }
    }

    const fn id(&self) -> KeyStoreId {
        self.manifest.id()
    }

    fn command(&mut self, action: Action) -> Command {
        self.next += 1;
        Command {
            label: labels::COMMAND.to_owned(),
            key_store_id: self.id(),
            command_id: CommandId([self.next; 16]),
            issued_ms: NOW_MS,
            expires_ms: NOW_MS + 1000,
            precondition: Precondition::None,
            action,
        }
    }

    fn signed(&self, command: &Command) -> Vec<u8> {
        cbor::encode(&command::sign(command, &self.signing, &SystemRandom::new()).unwrap()).to_vec()
    }

    fn at(&mut self, signed: &[u8], now_ms: u64) -> Effect {
        let situation = Situation {
            manifest: &self.manifest,
            overlay_epoch: self.overlay_epoch,
            now_ms,
            version: 3,
            attested_key: &self.attested,
            fresh: Secret::take(&mut [self.fresh; 32]),
        };
        carry_out(signed, &mut self.body, situation).unwrap().effect
    }

    fn order(&mut self, action: Action) -> Effect {
        let command = self.command(action);
        let signed = self.signed(&command);
        self.at(&signed, NOW_MS)
    }
}

/// A manifest of one administrator and three custodians.
fn manifest_of(administrator: &Administrator, signing: &SigningKey) -> VerifiedManifest {
    let pcr = [7; 48];
    let image = Measurements { pcr0: pcr, pcr1: pcr, pcr2: pcr, pcr16: pcr, pcr3: None, pcr4: None, pcr8: None };
    let custodian = |name: &str| Custodian {
        name: name.to_owned(),
        signing_key: signing_key().verifying_key().unwrap(),
        encryption_key: *hpke::PrivateKey::generate().unwrap().public_key(),
        address: "vault.example.com:8443".to_owned(),
        tls_roots: vec![DerCertificate(vec![1])],
    };
    let manifest = Manifest {
        label: labels::MANIFEST.to_owned(),
        nonce: [9; 16],
        name: "ward 7".to_owned(),
        administrators: vec![administrator.clone()],
        thresholds: Thresholds::ONE,
        custodians: ["vault-1", "vault-2", "vault-3"].map(custodian).to_vec(),
        shares_needed: 2,
        hostile_tolerated: 0,
        host_name: HostName::parse("xks.example.com").unwrap(),
        path_prefix: PathPrefix::parse("").unwrap(),
        release_policy: ReleasePolicy::first([3; 32], vec![image], 60_000),
        succession: None,
        kms_share: None,
    };
    let signed = manifest::sign(&manifest, signing, &SystemRandom::new()).unwrap();
    VerifiedManifest::verify(&cbor::encode(&signed)).unwrap()
}

fn signing_key() -> SigningKey {
    let rng = SystemRandom::new();
    SigningKey::from_pkcs8(&SigningKey::generate(&rng).unwrap(), &rng).unwrap()
}

fn id(text: &str) -> ExternalKeyId {
    ExternalKeyId::parse(text).unwrap()
}

fn reason(effect: &Effect) -> &str {
    match effect {
        Effect::Answered(Outcome::Refused { reason }) => reason,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

const DONE: Effect = Effect::Changed(Outcome::Done);

#[test]
fn the_life_of_a_key() {
    let mut desk = Desk::new();
    let create = |name: &str| Action::CreateKey { id: id(name), usage: KeyUsage::ENCRYPT_DECRYPT };
    assert_eq!(desk.order(create("b")), DONE);
    assert_eq!(desk.order(create("a")), DONE);
    assert!(desk.body.external_keys.is_sorted_by(|x, y| x.id < y.id));
    assert_eq!(reason(&desk.order(create("a"))), "key a exists already");
    assert_eq!(reason(&desk.order(Action::EnableKey { id: id("a") })), "key a is enabled already");
    assert_eq!(desk.order(Action::DisableKey { id: id("a") }), DONE);
    assert_eq!(desk.body.external_keys[0].state, KeyState::Disabled);
    assert_eq!(desk.order(Action::EnableKey { id: id("a") }), DONE);
    assert_eq!(reason(&desk.order(Action::DisableKey { id: id("c") })), "there is no key c");
    let Effect::Answered(Outcome::Keys { keys }) = desk.order(Action::ListKeys) else { panic!("no list") };
    assert_eq!(keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(desk.body.executed.len(), 4, "two creations, one disabling, one enabling");
}

#[test]
fn a_command_is_carried_out_once_in_time_and_in_the_expected_state() {
    let mut desk = Desk::new();
    desk.order(Action::CreateKey { id: id("a"), usage: KeyUsage::DECRYPT });
    let command = desk.command(Action::DisableKey { id: id("a") });
    let signed = desk.signed(&command);
    assert!(reason(&desk.at(&signed, NOW_MS + 1000)).contains("by attested time: issue it again"));
    assert_eq!(desk.at(&signed, NOW_MS), DONE);
    desk.order(Action::EnableKey { id: id("a") });
    assert_eq!(desk.at(&signed, NOW_MS), Effect::Left, "a replay does nothing");
    assert_eq!(desk.body.external_keys[0].state, KeyState::Enabled);

    let table = [
        (Precondition::Version(3), Ok(())),
        (Precondition::Version(2), Err("the key store is at version 3, not 2")),
        (Precondition::KeyState(KeyState::Disabled), Err("key a is enabled, not disabled")),
    ];
    for (precondition, expected) in table {
        let mut command = desk.command(Action::DisableKey { id: id("a") });
        command.precondition = precondition;
        let signed = desk.signed(&command);
        let effect = desk.at(&signed, NOW_MS);
        match expected {
            Ok(()) => {
                assert_eq!(effect, DONE);
                desk.order(Action::EnableKey { id: id("a") });
            }
            Err(start) => assert!(reason(&effect).starts_with(start), "{precondition:?}: {effect:?}"),
        }
    }
}

#[test]
fn an_expired_memory_is_dropped_only_when_its_command_could_not_be_replayed() {
    let mut desk = Desk::new();
    let command = desk.command(Action::CreateKey { id: id("a"), usage: KeyUsage::DECRYPT });
    let signed = desk.signed(&command);
    assert_eq!(desk.at(&signed, NOW_MS), DONE);
    let mut late = desk.command(Action::CreateKey { id: id("b"), usage: KeyUsage::DECRYPT });
    (late.issued_ms, late.expires_ms) = (NOW_MS + 2000, NOW_MS + 3000);
    let late = desk.signed(&late);
    assert_eq!(desk.at(&late, NOW_MS + 2000), DONE);
    assert_eq!(desk.body.executed.len(), 1, "the first is forgotten");
    assert!(reason(&desk.at(&signed, NOW_MS + 2000)).starts_with("the command expired"));
}

#[test]
fn a_command_from_the_future_is_refused_and_not_remembered() {
    let mut desk = Desk::new();
    let life_ms = limits::COMMAND_LIFE_MAX_MS;
    for (expires_ms, is_obeyed) in [(NOW_MS + life_ms + 1, false), (u64::MAX, false), (NOW_MS + life_ms, true)] {
        let mut command = desk.command(Action::SetQuota { quota: None });
        (command.issued_ms, command.expires_ms) = (expires_ms - 1, expires_ms);
        let signed = desk.signed(&command);
        let effect = desk.at(&signed, NOW_MS);
        if is_obeyed {
            assert_eq!(effect, DONE);
        } else {
            assert!(reason(&effect).starts_with("the command expires more than 31 days from now"), "{effect:?}");
        }
        assert_eq!(desk.body.executed.len(), usize::from(is_obeyed), "{expires_ms}");
    }
}

#[test]
fn only_enough_known_administrators_are_obeyed() {
    let mut desk = Desk::new();
    desk.body.thresholds.keys = 2;
    assert_eq!(desk.order(Action::CreateKey { id: id("a"), usage: KeyUsage::DECRYPT }), Effect::Waiting);
    assert!(desk.body.external_keys.is_empty() && desk.body.executed.is_empty());
    let stranger = Desk::new();
    let command = desk.command(Action::ListKeys);
    let foreign = stranger.signed(&command);
    let mut elsewhere = command.clone();
    elsewhere.key_store_id = KeyStoreId([8; 32]);
    let elsewhere = desk.signed(&elsewhere);
    for (what, signed) in [("a stranger's", foreign), ("another key store's", elsewhere), ("noise", vec![0; 40])] {
        let situation = Situation {
            manifest: &desk.manifest,
            overlay_epoch: 0,
            now_ms: NOW_MS,
            version: 3,
            attested_key: &desk.attested,
            fresh: Secret::take(&mut [5; 32]),
        };
        assert!(carry_out(&signed, &mut desk.body, situation).is_err(), "{what}");
    }
}

#[test]
fn credentials_are_made_imported_and_removed() {
    let mut desk = Desk::new();
    let Effect::Changed(Outcome::Credential { credential }) = desk.order(Action::CreateCredential) else {
        panic!("no credential")
    };
    assert_eq!(credential.secret_access_key, desk.body.credentials[0].secret_access_key);
    assert_eq!(
        (credential.created_ms, desk.body.credentials[0].created_ms),
        (None, Some(NOW_MS)),
        "dated where it lies"
    );
    let first = credential.access_key_id;

    let import = |desk: &mut Desk, recipient: &hpke::PublicKey| {
        let record = CredentialRecord {
            access_key_id: AccessKeyId::parse("AAAAABBBBBCCCCCDDDDD").unwrap(),
            secret_access_key: SecretBytes::new(vec![b'x'; 43]),
            created_ms: Some(1),
        };
        let command_id = CommandId([desk.next + 1; 16]);
        let sealed = seal_credential(&record, desk.id(), command_id, recipient).unwrap();
        desk.order(Action::ImportCredential { recipient: *recipient, sealed })
    };
    let elsewhere = *hpke::PrivateKey::generate().unwrap().public_key();
    assert_eq!(import(&mut desk, &elsewhere), Effect::Left, "another enclave's");
    let here = *desk.attested.public_key();
    assert_eq!(import(&mut desk, &here), DONE);
    assert_eq!(desk.body.credentials[1].created_ms, Some(NOW_MS), "by the enclave's clock");
    assert!(reason(&import(&mut desk, &here)).starts_with("there is a credential"));
    assert_eq!(desk.order(Action::RemoveCredential { access_key_id: first.clone() }), DONE);
    assert!(reason(&desk.order(Action::RemoveCredential { access_key_id: first })).starts_with("there is no"));
    for _ in desk.body.credentials.len()..limits::CREDENTIALS_MAX {
        assert!(matches!(desk.order(Action::CreateCredential), Effect::Changed(_)));
    }
    assert!(reason(&desk.order(Action::CreateCredential)).contains("8 credentials"));
}

#[test]
fn a_foreign_certificate_is_refused() {
    let mut desk = Desk::new();
    assert!(matches!(desk.order(Action::RequestCertificate), Effect::Answered(Outcome::CertificateRequest { .. })));
    let noise = Action::InstallCertificate { chain: vec![DerCertificate(vec![0; 8])] };
    assert!(reason(&desk.order(noise)).contains("not a readable X.509 certificate"));
    assert!(desk.body.tls.chain.is_empty());
}

/// A standing order with an attempt that runs, after two that failed.
fn standing_renewal() -> StandingRenewal {
    let root = rcgen::CertificateParams::default().self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let order = AcmeOrder {
        directory: "https://ca.test/dir".to_owned(),
        directory_roots: vec![DerCertificate(root.der().to_vec())],
        contacts: vec![],
        until_ms: u64::MAX,
        issuing_roots: vec![DerCertificate(root.der().to_vec())],
    };
    let attempt = RenewalAttempt { id: [1; 16], started_ms: NOW_MS, key_authorization_sha256: Some([2; 32]) };
    let progress = RenewalProgress {
        account: Some("https://ca.test/account".to_owned()),
        attempt: Some(attempt),
        failures: 2,
        again_ms: NOW_MS,
        last_failure: Some("no".to_owned()),
    };
    StandingRenewal { order, account_key: identity::tls_key().unwrap(), progress }
}

/// That attempt is over, and nothing is known of it but the account.
fn assert_begun_anew(body: &Body) {
    let account = Some("https://ca.test/account".to_owned());
    let progress = &body.renewal.as_ref().unwrap().progress;
    assert_eq!(*progress, RenewalProgress { account, ..RenewalProgress::default() });
}

#[test]
fn an_attempt_that_runs_does_not_replace_what_administrators_install() {
    let mut desk = Desk::new();
    desk.body.renewal = Some(standing_renewal());
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(rcgen::CertificateParams::default(), authority_key);
    let request = identity::certificate_request(&desk.body.tls.private_key, &desk.body.host_name).unwrap();
    let mut request = rcgen::CertificateSigningRequestParams::from_der(&request.into()).unwrap();
    request.params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    let chain = vec![DerCertificate(request.signed_by(&issuer).unwrap().der().to_vec())];
    assert_eq!(desk.order(Action::InstallCertificate { chain: chain.clone() }), DONE);
    assert_eq!(desk.body.tls.chain, chain);
    assert_begun_anew(&desk.body);
}

#[test]
fn a_standing_order_counts_until_it_is_replaced_or_withdrawn() {
    let mut desk = Desk::new();
    let root = rcgen::CertificateParams::default().self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let order = |directory: &str, until_ms: u64| AcmeOrder {
        directory: directory.to_owned(),
        directory_roots: vec![DerCertificate(root.der().to_vec())],
        contacts: vec![],
        until_ms,
        issuing_roots: vec![DerCertificate(root.der().to_vec())],
    };
    let set = |order: AcmeOrder| Action::SetRenewal { order: Some(order) };
    let (one, other) = ("https://one.test/dir", "https://other.test/dir");
    for until_ms in [NOW_MS, NOW_MS + limits::RENEWAL_ORDER_LIFE_MAX_MS + 1] {
        assert!(reason(&desk.order(set(order(one, until_ms)))).contains("must end in the future"), "{until_ms}");
    }
    let noise = vec![DerCertificate(vec![1])];
    for bad in [
        AcmeOrder { directory_roots: noise.clone(), ..order(one, NOW_MS + 1) },
        AcmeOrder { issuing_roots: noise, ..order(one, NOW_MS + 1) },
    ] {
        assert!(reason(&desk.order(set(bad))).contains("not a readable X.509 certificate"));
    }
    assert_eq!(desk.body.renewal, None);
    assert!(reason(&desk.order(Action::SetRenewal { order: None })).contains("no standing order"));

    let account = Some("https://one.test/account".to_owned());
    let key = |desk: &Desk| desk.body.renewal.as_ref().unwrap().account_key.expose().to_vec();
    assert_eq!(desk.order(set(order(one, NOW_MS + 1))), DONE);
    let first = key(&desk);
    let progress = &mut desk.body.renewal.as_mut().unwrap().progress;
    (progress.account, progress.failures, progress.again_ms) = (account.clone(), 3, u64::MAX);
    assert_eq!(desk.order(set(order(one, NOW_MS + 2))), DONE);
    let renewal = desk.body.renewal.as_ref().unwrap();
    assert_eq!((&renewal.progress.account, renewal.progress.failures, renewal.progress.again_ms), (&account, 0, 0));
    assert!(key(&desk) == first, "CAA records may name the account");
    assert_eq!(desk.order(set(order(other, NOW_MS + 2))), DONE);
    assert!(key(&desk) != first && desk.body.renewal.as_ref().unwrap().progress.account.is_none());
    assert_eq!(desk.order(Action::SetRenewal { order: None }), DONE);
    assert_eq!(desk.body.renewal, None);
}

#[test]
fn the_tls_identity_is_shown_without_its_key() {
    let mut desk = Desk::new();
    let certificate = DerCertificate(vec![0x30, 0]);
    desk.body.tls.chain = vec![certificate.clone()];
    let Effect::Answered(Outcome::Tls { host_name, public_key_sha256, chain, renewal: None }) =
        desk.order(Action::ShowTls)
    else {
        panic!("not shown");
    };
    assert_eq!((host_name, chain), (desk.body.host_name.clone(), vec![certificate]));
    let Effect::Answered(Outcome::CertificateRequest { der }) = desk.order(Action::RequestCertificate) else {
        panic!("no request");
    };
    let request = x509_cert::request::CertReq::from_der(&der).unwrap();
    let spki = request.info.public_key.to_der().unwrap();
    assert_eq!(public_key_sha256, holdfast_shared::sha256(&[&spki]), "the key for which certificates are requested");
}
