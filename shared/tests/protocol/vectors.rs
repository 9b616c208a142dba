//! Vectors: bytes that were written once and must always read the same. `HOLDFAST_WRITE_VECTORS=1` writes missing files;
//! an existing one is never overwritten.

use std::path::PathBuf;

use holdfast_shared::alarm::{
    Alarm, AlarmKind, DayPast, OverdueLease, RaisedAlarm, TalliedUse, Tally, UseCount, UseHistory, User,
};
use holdfast_shared::audit::{AuditMode, AuditSettings, Auditor, MaxUnwitnessed};
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::cbor::{self, Message};
use holdfast_shared::channel::{Ask, Reply, Seen};
use holdfast_shared::command::{
    Action, Command, KeyDescription, Outcome, Precondition, RenewalState, ResultUserData, VersionRun,
};
use holdfast_shared::external_key::{ExternalKeyId, KeyState, KeyUsage, LegacyProfile};
use holdfast_shared::ids::{BlobId, BootId, CommandId, CustodianId, KeyStoreId};
use holdfast_shared::keystore::{
    self, AcmeOrder, Body, Budget, BudgetSpan, BudgetWindow, ClientAuthentication, KeyBudget, KeyLimit, Place, Quota,
    RenewalAttempt, RenewalProgress, StandingRenewal, UseBudgets, UseLimits, UsePolicy, VersionState,
};
use holdfast_shared::labels;
use holdfast_shared::manifest::DerCertificate;
use holdfast_shared::query::{Answer, BudgetCount, Query, QueryAnswer, Question};
use holdfast_shared::register::RegisterEntry;
use holdfast_shared::release::{ChallengeRequest, ReleaseUserData};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::xks::HostName;
use holdfast_shared::{hpke, signature};

use crate::fixture::{self, Party, rng};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/protocol").join(name)
}

/// The vector's bytes; written from `make` when they are missing and that is asked for.
fn vector(name: &str, make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = path(name);
    if !path.exists() && std::env::var_os("HOLDFAST_WRITE_VECTORS").is_some() {
        let text: String =
            hex::encode(make()).as_bytes().chunks(96).flat_map(|l| [l, b"\n"].concat()).map(char::from).collect();
        std::fs::write(&path, text).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    hex::decode(text.split_whitespace().collect::<String>()).unwrap()
}

fn holds<T: Message + PartialEq + core::fmt::Debug>(name: &str, value: &T) {
    let bytes = vector(name, || cbor::encode(value).to_vec());
    assert_eq!(cbor::encode(value).as_slice(), bytes, "{name}: encoding");
    assert_eq!(&cbor::decode::<T>(&bytes).unwrap(), value, "{name}: decoding");
}

fn acme_order() -> AcmeOrder {
    AcmeOrder {
        directory: "https://ca.example.com/directory".to_owned(),
        directory_roots: vec![DerCertificate(vec![0x30, 0])],
        contacts: vec!["mailto:ops@example.com".to_owned()],
        until_ms: 1_800_000_000_000,
        issuing_roots: vec![DerCertificate(vec![0x30, 1, 0])],
    }
}

fn renewal_progress() -> RenewalProgress {
    RenewalProgress {
        account: Some("https://ca.example.com/account/7".to_owned()),
        attempt: Some(RenewalAttempt {
            id: [0x99; 16],
            started_ms: 1_790_000_000_000,
            key_authorization_sha256: Some([0xaa; 32]),
        }),
        failures: 2,
        again_ms: 1_790_000_600_000,
        last_failure: Some("dns: no such name".to_owned()),
    }
}

fn audit_settings() -> AuditSettings {
    AuditSettings {
        auditors: vec![Auditor { name: "internal-audit".to_owned(), encryption_key: hpke::PublicKey([0x04; 97]) }],
        administrators_read: false,
        mode: AuditMode::Strict,
        max_unwitnessed: MaxUnwitnessed { seconds: 60, records: 100_000 },
    }
}

const ID: KeyStoreId = KeyStoreId([0x11; 32]);

#[test]
fn messages_without_randomness() {
    holds("challenge-request.hex", &ChallengeRequest { protocol: 1, key_store_id: ID });
    holds(
        "release-user-data.hex",
        &ReleaseUserData {
            label: labels::ATTEST_RELEASE.to_owned(),
            key_store_id: ID,
            custodian_id: CustodianId([0x22; 32]),
            boot_id: BootId([0x33; 16]),
            audit_public_key: [0x44; 32],
        },
    );
    holds("result-user-data.hex", &ResultUserData::new(ID, CommandId([0x55; 16]), b"outcome"));
    holds(
        "register-entry.hex",
        &RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id: ID,
            version: 2,
            blob_id: BlobId([0x66; 32]),
            previous: Some(BlobId([0x77; 32])),
            recorded_ms: 1_790_000_000_000,
        },
    );
    holds(
        "block-overlay.hex",
        &BlockOverlay {
            label: labels::BLOCK.to_owned(),
            key_store_id: ID,
            epoch: 3,
            store: false,
            keys: vec![ExternalKeyId::parse("a").unwrap(), ExternalKeyId::parse("b").unwrap()],
            issued_ms: 1_790_000_000_000,
        },
    );
    holds(
        "command-create-key.hex",
        &Command {
            label: labels::COMMAND.to_owned(),
            key_store_id: ID,
            command_id: CommandId([0x88; 16]),
            issued_ms: 1_790_000_000_000,
            expires_ms: 1_790_003_600_000,
            precondition: Precondition::Version(4),
            action: Action::CreateKey {
                id: ExternalKeyId::parse("ward-7.db").unwrap(),
                usage: KeyUsage::ENCRYPT_DECRYPT,
            },
        },
    );
    holds(
        "ask-watch.hex",
        &Ask::Watch {
            seen: Seen { overlay_epoch: 1, version: 2, commands: vec![], manifest_sequence: 1, obeys: None },
            renew: true,
        },
    );
    holds("reply-refused.hex", &Reply::Refused { reason: "no".to_owned(), lease_ended: false });
}

#[test]
fn orders_about_keys_quotas_and_clients() {
    let key = || ExternalKeyId::parse("ward-7.db").unwrap();
    let authorities = vec![DerCertificate(vec![0xAA; 40])];
    let subject_common_names = vec!["cks.eu-central-1.amazonaws.com".to_owned()];
    let policy = Some(UsePolicy { text: "permit(principal, action, resource);".to_owned() });
    let quota = Quota { requests_per_second: 10, burst: 20 };
    let limits = UseLimits {
        per_key: Some(quota),
        keys: vec![KeyLimit { id: key(), quota: Quota { requests_per_second: 1, burst: 2 } }],
        per_principal: None,
    };
    let actions = [
        ("command-rotate-key.hex", Action::RotateKey { id: key() }),
        (
            "command-import-key.hex",
            Action::ImportKey {
                id: key(),
                usage: KeyUsage::ENCRYPT_DECRYPT,
                legacy: true,
                recipient: hpke::PublicKey([0x04; 97]),
                sealed: hpke::Sealed { encapsulated_key: [0x05; 97], ciphertext: vec![0x06; 48] },
            },
        ),
        ("command-destroy-key-version.hex", Action::DestroyKeyVersion { id: key(), number: 3 }),
        ("command-set-quota.hex", Action::SetQuota { quota: Some(Quota { requests_per_second: 1800, burst: 500 }) }),
        ("command-show-settings.hex", Action::ShowSettings),
        ("command-show-tls.hex", Action::ShowTls),
        ("command-set-audit.hex", Action::SetAudit { settings: Some(audit_settings()) }),
        ("command-clear-audit.hex", Action::SetAudit { settings: None }),
        ("command-set-renewal.hex", Action::SetRenewal { order: Some(acme_order()) }),
        ("command-set-renewal-off.hex", Action::SetRenewal { order: None }),
        ("command-clear-quota.hex", Action::SetQuota { quota: None }),
        ("command-set-policy.hex", Action::SetPolicy { policy: policy.clone() }),
        ("command-clear-policy.hex", Action::SetPolicy { policy: None }),
        ("command-show-policy.hex", Action::ShowPolicy),
        ("command-set-limits.hex", Action::SetLimits { limits: Some(limits) }),
        ("command-clear-limits.hex", Action::SetLimits { limits: None }),
        (
            "command-set-client-authentication.hex",
            Action::SetClientAuthentication {
                settings: Some(ClientAuthentication { authorities, subject_common_names }),
            },
        ),
    ];
    for (name, action) in actions {
        let command = Command {
            label: labels::COMMAND.to_owned(),
            key_store_id: ID,
            command_id: CommandId([0x88; 16]),
            issued_ms: 1_790_000_000_000,
            expires_ms: 1_790_003_600_000,
            precondition: Precondition::None,
            action,
        };
        holds(name, &command);
    }
    holds("outcome-policy.hex", &Outcome::Policy { policy, version: 7 });
    holds(
        "outcome-tls.hex",
        &Outcome::Tls {
            host_name: HostName::parse("xks.example.com").unwrap(),
            public_key_sha256: [0x88; 32],
            chain: vec![DerCertificate(vec![0x30, 0])],
            renewal: None,
        },
    );
    holds(
        "outcome-tls-renewal.hex",
        &Outcome::Tls {
            host_name: HostName::parse("xks.example.com").unwrap(),
            public_key_sha256: [0x88; 32],
            chain: Vec::new(),
            renewal: Some(Box::new(RenewalState { order: acme_order(), progress: renewal_progress() })),
        },
    );
    holds(
        "outcome-keys.hex",
        &Outcome::Keys {
            keys: vec![KeyDescription {
                destroy_after_ms: None,
                id: key(),
                usage: KeyUsage::DECRYPT,
                state: KeyState::Enabled,
                current_version: 5,
                versions: 3,
                runs: vec![
                    VersionRun { first: 1, last: 1, state: VersionState::LiveWithLegacy },
                    VersionRun { first: 2, last: 3, state: VersionState::Destroyed },
                    VersionRun { first: 4, last: 5, state: VersionState::Live },
                ],
            }],
        },
    );
}

#[test]
fn orders_about_budgets_and_debits() {
    let own = Budget { per_hour: Some(1_000), per_day: Some(20_000) };
    let every_key = Some(Budget { per_hour: Some(5_000), per_day: None });
    let budgets =
        UseBudgets { every_key, keys: vec![KeyBudget { id: ExternalKeyId::parse("ward-7.db").unwrap(), budget: own }] };
    for (name, budgets) in [("command-set-budgets.hex", Some(budgets.clone())), ("command-clear-budgets.hex", None)] {
        let command = Command {
            label: labels::COMMAND.to_owned(),
            key_store_id: ID,
            command_id: CommandId([0x88; 16]),
            issued_ms: 1_790_000_000_000,
            expires_ms: 1_790_003_600_000,
            precondition: Precondition::None,
            action: Action::SetBudgets { budgets },
        };
        holds(name, &command);
    }
    let settings =
        Outcome::Settings { quota: None, client_authentication: None, limits: None, audit: None, budgets: None };
    holds("outcome-settings.hex", &settings);
    let settings = Outcome::Settings {
        quota: None,
        client_authentication: None,
        limits: None,
        audit: None,
        budgets: Some(budgets),
    };
    holds("outcome-settings-budgets.hex", &settings);
    let window = BudgetWindow { span: BudgetSpan::Day, number: 20_779 };
    let key = ExternalKeyId::parse("ward-7.db").unwrap();
    holds("ask-debit.hex", &Ask::Debit { key: key.clone(), window, limit: 20_000, want: 200 });
    holds("reply-debited.hex", &Reply::Debited { granted: 200, counted: 16_000 });
    let counts = vec![BudgetCount { key, window, counted: 16_000 }];
    holds("answer-budgets.hex", &QueryAnswer { query_sha256: [0x99; 32], answer: Answer::Budgets(counts) });
}

#[test]
fn tallies_and_alarms() {
    let key = || ExternalKeyId::parse("ward-7.db").unwrap();
    let role = "arn:aws:sts::111122223333:assumed-role/app";
    let user = |principal: Option<&str>, service: Option<&str>, vpc: Option<&str>| User {
        key: key(),
        principal: principal.map(str::to_owned),
        service: service.map(str::to_owned),
        vpc: vpc.map(str::to_owned),
    };
    let by_service = user(Some(role), Some("s3.eu-central-1.amazonaws.com"), None);
    let tallied = vec![
        TalliedUse { user: user(None, None, None), count: UseCount { used: 1, refused: 0 } },
        TalliedUse { user: user(Some(role), None, Some("vpc-0123abcd")), count: UseCount { used: 0, refused: 3 } },
        TalliedUse { user: by_service, count: UseCount { used: 300, refused: 2 } },
    ];
    let overdue = vec![OverdueLease { custodian_id: CustodianId([0x22; 32]), left_ms: 61_000 }];
    let tally = Tally {
        number: 7,
        at_ms: 1_790_000_000_000,
        since_ms: 1_789_999_990_000,
        uses: tallied,
        others: UseCount { used: 7, refused: 1 },
        overdue,
    };
    holds("ask-tally.hex", &Ask::Tally(tally));
    holds("ask-tally-empty.hex", &Ask::Tally(Tally { at_ms: 1_790_000_000_000, ..Tally::default() }));
    holds("reply-tallied.hex", &Reply::Tallied { raised: AlarmKind::ALL.to_vec() });
    let query = Query {
        label: labels::QUERY.to_owned(),
        key_store_id: ID,
        custodian_id: CustodianId([0x22; 32]),
        nonce: [0x44; 16],
        issued_ms: 1_790_000_000_000,
        question: Question::Alarms(17),
    };
    holds("query-alarms.hex", &query);
    let unusual = Alarm {
        kind: AlarmKind::UnusualRate,
        key: Some(key()),
        who: role.to_owned(),
        text: "used 300 times in this hour".to_owned(),
    };
    let burst = Alarm { kind: AlarmKind::RefusedBurst, key: None, who: String::new(), text: "60 refused".to_owned() };
    let (at_ms, boot_id) = (1_790_000_000_000, Some(BootId([0x33; 16])));
    let alarms = vec![
        RaisedAlarm { id: 16, at_ms, boot_id, alarm: unusual.clone(), is_delivered: true },
        RaisedAlarm { id: 9, at_ms, boot_id: None, alarm: burst, is_delivered: false },
    ];
    holds("answer-alarms.hex", &QueryAnswer { query_sha256: [0x99; 32], answer: Answer::Alarms(alarms) });
    // As custodians keep them in their databases.
    holds("alarm.hex", &unusual);
    let past =
        vec![DayPast { day: 20_716, busiest_hour: 30, uses: 400 }, DayPast { day: 20_717, busiest_hour: 31, uses: 9 }];
    let history =
        UseHistory { first_ms: 1_789_000_000_000, hour: 497_222, in_hour: 5, in_day: 70, busiest_today: 40, past };
    holds("use-history.hex", &history);
}

#[test]
fn versions_are_listed_upwards_each_once() {
    let decoded = |runs: &[(u32, u32)]| {
        let state = VersionState::Live;
        let runs = runs.iter().map(|&(first, last)| VersionRun { first, last, state }).collect();
        let id = ExternalKeyId::parse("a").unwrap();
        let (usage, state) = (KeyUsage::DECRYPT, KeyState::Enabled);
        let keys =
            vec![KeyDescription { id, usage, state, current_version: 9, versions: 9, runs, destroy_after_ms: None }];
        cbor::decode::<Outcome>(&cbor::encode(&Outcome::Keys { keys })).is_ok()
    };
    for (runs, expected) in [
        (&[][..], true),
        (&[(1, 1)][..], true),
        (&[(1, 3), (4, 4), (9, 9)][..], true),
        (&[(3, 1)][..], false),
        (&[(1, 3), (3, 4)][..], false),
        (&[(4, 4), (1, 3)][..], false),
    ] {
        assert_eq!(decoded(runs), expected, "{runs:?}");
    }
}

/// Seals the changed fixture once; what was written then must still open as that.
fn still_opens(name: &str, change: fn(&mut Body)) {
    let place = Place { key_store_id: ID, version: 1, previous: None, generation: 1 };
    let root = || Secret::take(&mut [0x99; 32]);
    let make = || {
        let mut body = fixture::body(Party::new().administrator("alice"));
        change(&mut body);
        body
    };
    let bytes = vector(name, || keystore::seal(&root(), &place, &make(), &rng()).unwrap().bytes);
    let entry = RegisterEntry {
        label: labels::REGISTER.to_owned(),
        key_store_id: ID,
        version: 1,
        blob_id: keystore::blob_id(&bytes),
        previous: None,
        recorded_ms: 0,
    };
    let opened = keystore::open(&root(), &entry, &bytes).unwrap();
    let mut expected = make();
    expected.administrators.clone_from(&opened.body.administrators);
    assert_eq!(opened.body, expected, "{name}");
}

#[test]
fn a_sealed_key_store_written_once_still_opens() {
    still_opens("sealed-key-store.hex", |_| {});
    still_opens("sealed-key-store-2.hex", |body| {
        body.external_keys[0].versions[0].legacy = Some(LegacyProfile::AwsSample);
        body.external_keys[1].versions[1].destroy();
        body.quota = Some(Quota { requests_per_second: 1800, burst: 500 });
        body.client_authentication = Some(ClientAuthentication {
            authorities: vec![DerCertificate(vec![0xAA; 40])],
            subject_common_names: vec!["cks.eu-central-1.amazonaws.com".to_owned()],
        });
    });
    still_opens("sealed-key-store-5.hex", |body| {
        let every_key = Some(Budget { per_hour: None, per_day: Some(20_000) });
        body.budgets = Some(UseBudgets { every_key, keys: Vec::new() });
    });
    still_opens("sealed-key-store-4.hex", |body| body.audit = Some(audit_settings()));
    still_opens("sealed-key-store-3.hex", |body| {
        body.renewal = Some(StandingRenewal {
            order: acme_order(),
            account_key: SecretBytes::new(vec![0xBB; 138]),
            progress: renewal_progress(),
        });
    });
}

#[test]
fn an_hpke_message_and_a_signature_written_once_still_hold() {
    let key = hpke::PrivateKey::from_bytes(&Secret::take(&mut [0x0A; 48])).unwrap();
    let sealed = vector("hpke-message.hex", || {
        let (sealed, _) = hpke::seal(key.public_key(), b"info", b"aad", b"a secret of the vector").unwrap();
        [sealed.encapsulated_key.as_slice(), &sealed.ciphertext].concat()
    });
    let (encapsulated_key, ciphertext) = sealed.split_at(hpke::ENCAPSULATED_KEY_LEN);
    let sealed =
        hpke::Sealed { encapsulated_key: encapsulated_key.try_into().unwrap(), ciphertext: ciphertext.to_vec() };
    assert_eq!(hpke::open(&key, b"info", b"aad", &sealed).unwrap().0.as_slice(), b"a secret of the vector");

    let signed = vector("signature.hex", || {
        let party = Party::new();
        let signature = party.signing.sign(labels::COMMAND, b"payload of the vector", &rng()).unwrap();
        [party.signing.verifying_key().unwrap().0.as_slice(), &signature].concat()
    });
    let (key, signature) = signed.split_at(signature::PUBLIC_KEY_LEN);
    let key = signature::VerifyingKey(key.try_into().unwrap());
    let signature = signature.try_into().unwrap();
    key.verify(labels::COMMAND, b"payload of the vector", &signature).unwrap();
    assert!(key.verify(labels::QUERY, b"payload of the vector", &signature).is_err());
}

#[test]
fn labels_never_change() {
    let text = std::fs::read_to_string(path("labels.txt")).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), labels::ALL);
    let distinct: std::collections::BTreeSet<_> = labels::ALL.iter().collect();
    assert_eq!(distinct.len(), labels::ALL.len(), "no two uses share a label");
}
