//! Seeds of the protocol's messages: plain, signed, sealed.

use std::num::NonZeroU32;

use holdfast_shared::alarm::{Alarm, AlarmKind, OverdueLease, RaisedAlarm, TalliedUse, Tally, UseCount, User};
use holdfast_shared::api::{Refusal, RefusalCode};
use holdfast_shared::audit::{AuditMode, AuditSettings, Auditor};
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::cbor;
use holdfast_shared::channel::{Ask, ChannelMessage, Reply, Seen};
use holdfast_shared::command::{
    Action, Command, KeyDescription, Outcome, Precondition, RenewalState, ResultContent, ResultUserData, SealedResult,
    VersionRun,
};
use holdfast_shared::external_key::{KeyState, KeyUsage};
use holdfast_shared::hpke;
use holdfast_shared::ids::{BlobId, BootId, CommandId, CustodianId, LeaseId};
use holdfast_shared::keystore::{
    AcmeOrder, Body, Budget, BudgetSpan, BudgetWindow, ClientAuthentication, CredentialRecord, ExecutedCommand,
    ExternalKeyRecord, Header, KeyBudget, KeyLimit, KeyVersionRecord, Quota, RenewalAttempt, RenewalProgress,
    StandingRenewal, TlsIdentity, UseBudgets, UseLimits, UsePolicy, VersionState,
};
use holdfast_shared::labels;
use holdfast_shared::manifest::{DerCertificate, Thresholds};
use holdfast_shared::proof::ConnectionUserData;
use holdfast_shared::query::{
    Answer, AuditHead, BudgetCount, KeyStoreStatus, Query, QueryAnswer, Question, ResultState, VersionInfo,
};
use holdfast_shared::release::{
    ChallengeAnswer, ChallengeRequest, Commitment, EarlierHead, HeldEntry, HeldShare, PROTOCOL, ReleaseAnswer,
    ReleaseContent, ReleaseRequest, ReleaseUserData, Share, ShareSet,
};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::signature::Envelope;
use minicbor::Encode;

use crate::fuzz::attestation::AWS_DOCUMENT;
use crate::fuzz::doors::{asked, asked_sha256, entry, overlay_in_force};
use crate::fuzz::input::field;
use crate::fuzz::messages::MESSAGES;
use crate::fuzz::party::{self, ALICE, KEY_STORE, NOW_MS, VAULT, rng};

use super::{Seed, Seeds};

fn encoded<T: Encode<()>>(value: &T) -> Vec<u8> {
    cbor::encode(value).to_vec()
}

fn body() -> Body {
    let key = |id: &str, versions: u32| ExternalKeyRecord {
        destroy_after_ms: None,
        id: id.parse().unwrap(),
        usage: KeyUsage::ENCRYPT_DECRYPT,
        state: KeyState::Enabled,
        versions: (1..=versions).map(|number| KeyVersionRecord::new(number, Secret::take(&mut [5; 32]))).collect(),
    };
    Body {
        sharing: None,
        successor: None,
        host_name: "xks.example.com".parse().unwrap(),
        path_prefix: "/ward-7".parse().unwrap(),
        tls: TlsIdentity { private_key: SecretBytes::new(vec![6; 138]), chain: vec![DerCertificate(vec![5; 40])] },
        credentials: vec![credential()],
        external_keys: vec![key("a", 1), key("b", 3)],
        administrators: vec![ALICE.administrator()],
        thresholds: Thresholds::ONE,
        executed: vec![ExecutedCommand { command_id: CommandId([8; 16]), expires_ms: 99 }],
        quota: Some(quota()),
        client_authentication: Some(client_authentication()),
        renewal: Some(StandingRenewal {
            order: acme_order(),
            account_key: SecretBytes::new(vec![6; 138]),
            progress: renewal_progress(),
        }),
        policy: Some(use_policy()),
        limits: Some(use_limits()),
        budgets: Some(use_budgets()),
        audit: Some(audit_settings()),
    }
}

fn audit_settings() -> AuditSettings {
    let auditors = vec![Auditor { name: "internal-audit".to_owned(), encryption_key: *ALICE.encryption.public_key() }];
    AuditSettings { auditors, administrators_read: false, mode: AuditMode::Strict, ..AuditSettings::default() }
}

fn use_policy() -> UsePolicy {
    UsePolicy { text: "permit(principal, action, resource);".to_owned() }
}

fn use_limits() -> UseLimits {
    let id = "ward-7.db".parse().unwrap();
    UseLimits { per_key: Some(quota()), keys: vec![KeyLimit { id, quota: quota() }], per_principal: Some(quota()) }
}

fn use_budgets() -> UseBudgets {
    let own = Budget { per_hour: Some(1_000), per_day: Some(20_000) };
    let every_key = Some(Budget { per_hour: Some(5_000), per_day: None });
    UseBudgets { every_key, keys: vec![KeyBudget { id: "ward-7.db".parse().unwrap(), budget: own }] }
}

const fn window() -> BudgetWindow {
    BudgetWindow { span: BudgetSpan::Day, number: 20_779 }
}

fn acme_order() -> AcmeOrder {
    AcmeOrder {
        directory: "https://ca.example.com/directory".to_owned(),
        directory_roots: vec![DerCertificate(vec![5; 40])],
        contacts: vec!["mailto:ops@example.com".to_owned()],
        until_ms: NOW_MS,
        issuing_roots: vec![DerCertificate(vec![6; 40])],
    }
}

fn renewal_progress() -> RenewalProgress {
    RenewalProgress {
        account: Some("https://ca.example.com/account/7".to_owned()),
        attempt: Some(RenewalAttempt { id: [9; 16], started_ms: NOW_MS, key_authorization_sha256: Some([7; 32]) }),
        failures: 2,
        again_ms: NOW_MS,
        last_failure: Some("no".to_owned()),
    }
}

fn credential() -> CredentialRecord {
    CredentialRecord {
        access_key_id: "AAAAABBBBBCCCCCDDDDD".parse().unwrap(),
        secret_access_key: SecretBytes::new(vec![b's'; 43]),
        created_ms: None,
    }
}

const fn quota() -> Quota {
    Quota { requests_per_second: 1800, burst: 100 }
}

fn client_authentication() -> ClientAuthentication {
    let authorities = vec![DerCertificate(vec![5; 40])];
    ClientAuthentication { authorities, subject_common_names: vec!["kms".to_owned()] }
}

fn command(action: Action, precondition: Precondition) -> Command {
    Command {
        label: labels::COMMAND.to_owned(),
        key_store_id: KEY_STORE,
        command_id: CommandId([1; 16]),
        issued_ms: NOW_MS,
        expires_ms: NOW_MS + 1000,
        precondition,
        action,
    }
}

fn commands() -> Vec<Command> {
    let id = || "ward-7.db".parse().unwrap();
    let (recipient, usage) = (*ALICE.encryption.public_key(), KeyUsage::DECRYPT);
    let plain = |action| command(action, Precondition::None);
    vec![
        command(Action::CreateKey { id: id(), usage }, Precondition::Version(4)),
        command(Action::EnableKey { id: id() }, Precondition::KeyState(KeyState::Disabled)),
        plain(Action::DisableKey { id: id() }),
        plain(Action::ListKeys),
        plain(Action::CreateCredential),
        plain(Action::ImportCredential { recipient, sealed: sealed_bytes() }),
        plain(Action::RemoveCredential { access_key_id: credential().access_key_id }),
        plain(Action::RequestCertificate),
        plain(Action::InstallCertificate { chain: vec![DerCertificate(vec![1; 30])] }),
        plain(Action::RotateKey { id: id() }),
        plain(Action::ImportKey { id: id(), usage, legacy: true, recipient, sealed: sealed_bytes() }),
        plain(Action::DestroyKeyVersion { id: id(), number: 2 }),
        plain(Action::SetQuota { quota: Some(quota()) }),
        plain(Action::SetClientAuthentication { settings: Some(client_authentication()) }),
        plain(Action::ShowSettings),
        plain(Action::ShowTls),
        plain(Action::SetRenewal { order: Some(acme_order()) }),
        plain(Action::SetAudit { settings: Some(audit_settings()) }),
        plain(Action::SetPolicy { policy: Some(use_policy()) }),
        plain(Action::ShowPolicy),
        plain(Action::SetLimits { limits: Some(use_limits()) }),
        plain(Action::SetBudgets { budgets: Some(use_budgets()) }),
    ]
}

fn sealed_bytes() -> hpke::Sealed {
    hpke::Sealed { encapsulated_key: [4; 97], ciphertext: vec![2; 20] }
}

fn overlay() -> BlockOverlay {
    BlockOverlay {
        epoch: 6,
        store: false,
        keys: vec!["a".parse().unwrap(), "b".parse().unwrap()],
        ..overlay_in_force()
    }
}

fn header(version: u64) -> Header {
    Header {
        label: labels::SEAL.to_owned(),
        key_store_id: KEY_STORE,
        version,
        previous: (version > 1).then_some(BlobId([3; 32])),
        generation: 1,
        salt: [2; 32],
    }
}

fn sealed_result() -> SealedResult {
    SealedResult { command_id: CommandId([1; 16]), recipient: ALICE.administrator().id(), sealed: sealed_bytes() }
}

fn share_set() -> ShareSet {
    ShareSet { generation: 1, shares_needed: 1, commitments: vec![Commitment([1; 32])], kms_ciphertext: None }
}

fn share() -> Share {
    Share { index: 1, value: Secret::take(&mut [4; 32]) }
}

fn release() -> ReleaseContent {
    ReleaseContent {
        lease_id: LeaseId([1; 16]),
        lease_ms: 60_000,
        shares: vec![HeldShare { share: share(), set: share_set() }],
        overlay: Some(vec![1; 10]),
        register: None,
        audit_heads: vec![EarlierHead { checkpoint: b"head\n".to_vec(), audit_public_key: [6; 32] }],
        successors: vec![vec![1; 5].into()],
    }
}

fn tally() -> Tally {
    let tallied = |principal: Option<&str>, count| TalliedUse {
        user: User {
            key: "a".parse().unwrap(),
            principal: principal.map(str::to_owned),
            service: Some("s3".to_owned()),
            vpc: principal.map(|_| "vpc-1".to_owned()),
        },
        count,
    };
    Tally {
        number: 7,
        at_ms: NOW_MS,
        since_ms: NOW_MS - 10_000,
        uses: vec![
            tallied(None, UseCount { used: 1, refused: 0 }),
            tallied(Some("arn:aws:iam::1:user/ann"), UseCount { used: 0, refused: 2 }),
        ],
        others: UseCount { used: 3, refused: 0 },
        overdue: vec![OverdueLease { custodian_id: CustodianId([2; 32]), left_ms: 5 }],
    }
}

fn raised(id: u64) -> RaisedAlarm {
    let alarm = Alarm {
        kind: AlarmKind::UnusualRate,
        key: Some("a".parse().unwrap()),
        who: "ann".to_owned(),
        text: "often".to_owned(),
    };
    RaisedAlarm { id, at_ms: NOW_MS, boot_id: Some(BootId([4; 16])), alarm, is_delivered: false }
}

fn asks() -> Vec<Ask> {
    vec![
        Ask::Watch {
            seen: Seen {
                overlay_epoch: 1,
                version: 2,
                commands: vec![CommandId([1; 16])],
                manifest_sequence: 1,
                obeys: None,
            },
            renew: true,
        },
        Ask::Fetch { blob_id: BlobId([1; 32]) },
        Ask::Deposit { set: share_set(), share: sealed_bytes() },
        Ask::Publish {
            version: 2,
            previous: Some(BlobId([1; 32])),
            blob: vec![1; 30],
            results: vec![sealed_result()],
            evidence: vec![1; 9],
        },
        Ask::Report { results: vec![sealed_result()] },
        Ask::Copy { register: vec![1; 20], blob: vec![1; 30], evidence: vec![1; 9] },
        Ask::Commit { version: 2, blob_id: BlobId([1; 32]) },
        Ask::Retire { generation: 2 },
        Ask::Witness { checkpoint: b"note\n".to_vec() },
        Ask::Debit { key: "a".parse().unwrap(), window: window(), limit: 1_000, want: 10 },
        Ask::Tally(tally()),
    ]
}

fn replies() -> Vec<Reply> {
    let some = || Some(vec![1; 20]);
    let held = || HeldEntry { signed: vec![1; 20], is_committed: true };
    vec![
        Reply::News {
            lease_ms: Some(60_000),
            overlay: some(),
            register: Some(held()),
            commands: vec![vec![1; 5].into()],
            enclaves: NonZeroU32::MIN,
            successors: vec![vec![1; 5].into()],
        },
        Reply::Blob { blob: vec![1; 30], evidence: vec![1; 9] },
        Reply::Copied,
        Reply::Committed,
        Reply::Retired,
        Reply::Witnessed,
        Reply::Deposited,
        Reply::Published { register: vec![1; 20] },
        Reply::Conflict { register: Some(held()) },
        Reply::Reported,
        Reply::Refused { reason: "no".to_owned(), lease_ended: true },
        Reply::Debited { granted: 10, counted: 800 },
        Reply::Tallied { raised: vec![AlarmKind::FirstSeen, AlarmKind::UnusualRate] },
    ]
}

fn outcomes() -> Vec<Outcome> {
    let description = KeyDescription {
        id: "a".parse().unwrap(),
        usage: KeyUsage::DECRYPT,
        state: KeyState::PendingDestruction,
        current_version: 2,
        versions: 2,
        runs: vec![
            VersionRun { first: 1, last: 1, state: VersionState::Destroyed },
            VersionRun { first: 2, last: 2, state: VersionState::Live },
        ],
        destroy_after_ms: Some(NOW_MS),
    };
    vec![
        Outcome::Done,
        Outcome::Refused { reason: "no".to_owned() },
        Outcome::Keys { keys: vec![description] },
        Outcome::Credential { credential: credential() },
        Outcome::CertificateRequest { der: vec![1; 20] },
        Outcome::Settings {
            quota: Some(quota()),
            client_authentication: Some(client_authentication()),
            limits: Some(use_limits()),
            budgets: Some(use_budgets()),
            audit: Some(audit_settings()),
        },
        Outcome::Tls {
            host_name: "xks.example.com".parse().unwrap(),
            public_key_sha256: [7; 32],
            chain: vec![DerCertificate(vec![1; 30])],
            renewal: Some(Box::new(RenewalState { order: acme_order(), progress: renewal_progress() })),
        },
        Outcome::Policy { policy: Some(use_policy()), version: 7 },
    ]
}

fn result_content() -> ResultContent {
    ResultContent { outcome: SecretBytes::new(encoded(&Outcome::Done)), document: vec![1; 30] }
}

fn answers() -> Vec<QueryAnswer> {
    let status = KeyStoreStatus {
        now_ms: NOW_MS,
        holds_share: true,
        version: Some(VersionInfo { version: 1, blob_id: BlobId([1; 32]), recorded_ms: NOW_MS }),
        overlay_epoch: 1,
        policy_epoch: 1,
        emulated_root: false,
        leases: Vec::new(),
        pending: vec![CommandId([1; 16])],
        generations: vec![1],
        manifest_sequence: 1,
        is_committed: true,
        waiting_releases: 0,
    };
    [
        Answer::Result(ResultState::Unknown),
        Answer::Result(ResultState::Ready(sealed_result())),
        Answer::Overlay { overlay: Some(vec![1; 20]) },
        Answer::Status(status),
        Answer::AuditHeads(vec![AuditHead {
            boot_id: BootId([4; 16]),
            checkpoint: b"note\n".to_vec(),
            audit_public_key: [5; 32],
            evidence: vec![1; 20],
            received_ms: NOW_MS,
            contradiction: None,
        }]),
        Answer::Budgets(vec![BudgetCount { key: "a".parse().unwrap(), window: window(), counted: 800 }]),
        Answer::Alarms(vec![raised(8), raised(7)]),
    ]
    .map(|answer| QueryAnswer { query_sha256: asked_sha256(), answer })
    .into()
}

pub(super) fn messages(seeds: &mut Seeds) {
    let mut add = |selector: u8, number: usize, bytes: Vec<u8>| {
        let name = format!("{}-{number}", char::from(selector).escape_unicode()).replace(['\\', '{', '}'], "");
        seeds.add("cbor_messages", &name, [vec![selector], bytes].concat());
    };
    asks().iter().enumerate().for_each(|(number, ask)| add(b'a', number, encoded(ask)));
    replies().iter().enumerate().for_each(|(number, reply)| add(b'y', number, encoded(reply)));
    commands().iter().enumerate().for_each(|(number, command)| add(b'c', number, encoded(command)));
    outcomes().iter().enumerate().for_each(|(number, outcome)| add(b'o', number, encoded(outcome)));
    answers().iter().enumerate().for_each(|(number, answer)| add(b'w', number, encoded(answer)));
    add(b'b', 0, encoded(&overlay()));
    add(b'd', 0, encoded(&client_authentication()));
    add(b'e', 0, encoded(&Envelope::seal("label", b"payload", &ALICE.signing, &rng()).unwrap()));
    add(b'f', 0, encoded(&Refusal { code: RefusalCode::Denied, reason: "no".to_owned() }));
    add(b'h', 0, encoded(&header(1)));
    add(b'h', 1, encoded(&header(2)));
    add(b'i', 0, encoded(&ChallengeRequest { protocol: PROTOCOL, key_store_id: KEY_STORE }));
    add(b'j', 0, encoded(&ChallengeAnswer { nonce: [1; 32] }));
    add(b'k', 0, encoded(&body()));
    add(
        b'k',
        1,
        encoded(&Body {
            quota: None,
            client_authentication: None,
            external_keys: Vec::new(),
            renewal: None,
            audit: None,
            ..body()
        }),
    );
    add(b'l', 0, encoded(&release_request()));
    add(b'm', 0, encoded(&party::manifest([3; 32])));
    add(b'n', 0, encoded(&ReleaseAnswer { policy_epoch: 1, sealed: sealed_bytes() }));
    add(b'p', 0, encoded(&result_content()));
    add(b'q', 0, encoded(&asked()));
    add(b'q', 2, encoded(&Query { question: Question::AuditHeads(Some(BootId([4; 16]))), ..asked() }));
    add(b'q', 3, encoded(&Query { question: Question::Budgets, ..asked() }));
    add(b'q', 4, encoded(&Query { question: Question::Alarms(8), ..asked() }));
    add(b'q', 1, encoded(&Query { question: Question::Result(CommandId([1; 16])), ..asked() }));
    add(b'r', 0, encoded(&entry(1, b"", None)));
    add(b'r', 1, encoded(&entry(2, b"", Some(BlobId([1; 32])))));
    add(b's', 0, encoded(&share()));
    add(b't', 0, encoded(&release()));
    add(b'u', 0, release_user_data());
    add(b'U', 0, connection_user_data());
    add(b'v', 0, encoded(&ResultUserData::new(KEY_STORE, CommandId([1; 16]), b"outcome")));
    let ciphertext = vec![1; 30];
    let lease_id = LeaseId([1; 16]);
    add(b'x', 0, encoded(&ChannelMessage { protocol: PROTOCOL, lease_id, counter: 1, nonce: [1; 12], ciphertext }));
    add(b'z', 0, encoded(&sealed_result()));
    add(b'C', 0, encoded(&credential()));
    add(b'Q', 0, encoded(&quota()));
    seeds.refuse("cbor_messages", "trailing", [b"Q".as_slice(), &encoded(&quota()), &[0]].concat());
    seeds.refuse("cbor_messages", "longer-number", b"Q\x82\x18\x01\x01");
    seeds.refuse("cbor_messages", "unknown-field", b"Q\x83\x01\x01\x01");
    seeds.refuse("cbor_messages", "indefinite", b"Q\x9f\x01\x01\xff");
    for (selector, name) in MESSAGES {
        let led = |seed: &Seed| seed.target == "cbor_messages" && seed.bytes.first() == Some(selector);
        assert!(seeds.0.iter().any(led), "no seed leads to a {name}");
    }
}

/// What a document that was made for a release says.
pub(super) fn release_user_data() -> Vec<u8> {
    encoded(&ReleaseUserData {
        label: labels::ATTEST_RELEASE.to_owned(),
        key_store_id: KEY_STORE,
        custodian_id: VAULT.custodian().id(),
        boot_id: BootId([1; 16]),
        audit_public_key: [1; 32],
    })
}

/// What a document that was made for a stranger says.
fn connection_user_data() -> Vec<u8> {
    encoded(&ConnectionUserData {
        label: labels::ATTEST_CONNECTION.to_owned(),
        key_store_id: KEY_STORE,
        version: 1,
        blob_id: BlobId([2; 32]),
        tls_public_key_sha256: [3; 32],
    })
}

fn release_request() -> ReleaseRequest {
    ReleaseRequest { protocol: PROTOCOL, key_store_id: KEY_STORE, document: AWS_DOCUMENT.to_vec() }
}

pub(super) fn signed(seeds: &mut Seeds) {
    let payloads = [
        (b'm', labels::MANIFEST, &ALICE, encoded(&party::manifest([3; 32]))),
        (b'c', labels::COMMAND, &ALICE, encoded(&commands()[0])),
        (b'b', labels::BLOCK, &ALICE, encoded(&overlay())),
        (b'r', labels::REGISTER, &VAULT, encoded(&entry(1, b"", None))),
        (b'q', labels::QUERY, &ALICE, encoded(&asked())),
        (b'a', labels::QUERY_ANSWER, &VAULT, encoded(&answers()[3])),
    ];
    for (kind, label, signer, payload) in payloads {
        let name = char::from(kind).to_string();
        seeds.add("signed_messages", &format!("{name}-payload"), [&[kind, b's'], payload.as_slice()].concat());
        let envelope = encoded(&Envelope::seal(label, &payload, &signer.signing, &rng()).unwrap());
        seeds.add("signed_messages", &format!("{name}-arrived"), [&[kind, b'r'], envelope.as_slice()].concat());
        seeds.refuse("signed_messages", &format!("{name}-by-another"), [&[kind, b'o'], payload.as_slice()].concat());
    }
}

pub(super) fn sealed(seeds: &mut Seeds) {
    let mut add = |target, name: &str, parts: &[&[u8]]| seeds.add(target, name, parts.concat());
    for (number, ask) in asks().iter().enumerate() {
        add("sealed_channel", &format!("ask-{number}"), &[b"sa", &encoded(ask)]);
    }
    for (number, reply) in replies().iter().enumerate() {
        add("sealed_channel", &format!("reply-{number}"), &[b"sy", &encoded(reply)]);
    }
    add("sealed_key_store", "first", &[b"s", &field(&encoded(&header(1))), &encoded(&body())]);
    add("sealed_key_store", "second", &[b"s", &field(&encoded(&header(2))), &encoded(&body())]);
    add("release_messages", "content", &[b"s", &encoded(&release())]);
    add("release_messages", "answer", &[b"e", &encoded(&ReleaseAnswer { policy_epoch: 1, sealed: sealed_bytes() })]);
    add("release_messages", "request", &[b"q", &encoded(&release_request())]);
    add("hpke_payloads", "share", &[b"ss", &encoded(&share())]);
    add("hpke_payloads", "result", &[b"rs", &encoded(&result_content())]);
    add("hpke_payloads", "credential", &[b"cs", &encoded(&credential())]);
    add("hpke_payloads", "material", &[b"ks", &[7; 32]]);
}
