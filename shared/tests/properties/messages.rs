//! Every message of the protocol.

use core::num::NonZeroU32;

use holdfast_shared::alarm::{
    Alarm, AlarmKind, DayPast, OverdueLease, RaisedAlarm, TalliedUse, Tally, UseCount, UseHistory, User,
};
use holdfast_shared::api::{Refusal, RefusalCode};
use holdfast_shared::block::BlockOverlay;
use holdfast_shared::channel::{Ask, ChannelMessage, OverlayId, Reply, Seen};
use holdfast_shared::command::{
    Action, Command, KeyDescription, Outcome, Precondition, RenewalState, ResultContent, ResultUserData, VersionRun,
};
use holdfast_shared::ids::{BlobId, BootId, CommandId, CustodianId, KeyStoreId, LeaseId};
use holdfast_shared::labels;
use holdfast_shared::limits::{ALARM_DAYS_MAX, BUDGET_SLICE_MAX, BUDGET_USES};
use holdfast_shared::query::{
    Answer, AuditHead, BudgetCount, KeyStoreStatus, LeaseInfo, Obeyed, Query, QueryAnswer, Question, ResultState,
    VersionInfo,
};
use holdfast_shared::register::RegisterEntry;
use holdfast_shared::release::{
    ChallengeAnswer, ChallengeRequest, EarlierHead, HeldEntry, HeldShare, PROTOCOL, ReleaseAnswer, ReleaseContent,
    ReleaseRequest, ReleaseUserData, Share,
};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::sigv4::AccessKeyId;
use holdfast_shared::xks::HostName;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::parts::{
    Change, acme_order, audit_settings, budget_window, byte_vecs, bytes, certificates, client_authentication,
    command_ids, credential, holds, key_id, key_ids, measurements, public_key, quota, renewal_progress, sealed,
    sealed_result, share_set, signed, state, usage, use_budgets, use_limits, use_policy, version_state,
};

const LEASE_MS: core::ops::Range<u64> = 10_000..31 * 86_400_000;

fn store() -> impl Strategy<Value = KeyStoreId> {
    any::<[u8; 32]>().prop_map(KeyStoreId)
}

fn action() -> impl Strategy<Value = Action> {
    let material = (key_id(), usage(), any::<bool>(), public_key(), sealed());
    prop_oneof![
        (key_id(), usage()).prop_map(|(id, usage)| Action::CreateKey { id, usage }),
        key_id().prop_map(|id| Action::EnableKey { id }),
        key_id().prop_map(|id| Action::DisableKey { id }),
        Just(Action::ListKeys),
        Just(Action::CreateCredential),
        (public_key(), sealed()).prop_map(|(recipient, sealed)| Action::ImportCredential { recipient, sealed }),
        "[A-Z2-7]{20,30}".prop_map(|id| Action::RemoveCredential { access_key_id: AccessKeyId::parse(&id).unwrap() }),
        Just(Action::RequestCertificate),
        certificates(1..=6).prop_map(|chain| Action::InstallCertificate { chain }),
        key_id().prop_map(|id| Action::RotateKey { id }),
        material.prop_map(|(id, usage, legacy, recipient, sealed)| Action::ImportKey {
            id,
            usage,
            legacy,
            recipient,
            sealed
        }),
        (key_id(), any::<u32>()).prop_map(|(id, number)| Action::DestroyKeyVersion { id, number }),
        option::of(quota()).prop_map(|quota| Action::SetQuota { quota }),
        option::of(client_authentication()).prop_map(|settings| Action::SetClientAuthentication { settings }),
        option::of(audit_settings()).prop_map(|settings| Action::SetAudit { settings }),
        option::of(use_budgets()).prop_map(|budgets| Action::SetBudgets { budgets }),
        Just(Action::ShowSettings),
        Just(Action::ShowTls),
        option::of(acme_order()).prop_map(|order| Action::SetRenewal { order }),
    ]
}

fn precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        Just(Precondition::None),
        any::<u64>().prop_map(Precondition::Version),
        state().prop_map(Precondition::KeyState),
    ]
}

fn description() -> impl Strategy<Value = KeyDescription> {
    let run = (0..3_u32, 0..3_u32, version_state());
    (key_id(), usage(), state(), any::<(u32, u32)>(), vec(run, 0..4)).prop_map(|(id, usage, state, counts, runs)| {
        let mut next = 1;
        let runs = runs.into_iter().map(|(gap, more, state)| {
            let first = next + gap;
            next = first + more + 1;
            VersionRun { first, last: first + more, state }
        });
        KeyDescription {
            id,
            usage,
            state,
            current_version: counts.0,
            versions: counts.1,
            runs: runs.collect(),
            destroy_after_ms: None,
        }
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        any::<()>().prop_map(|()| Outcome::Done),
        any::<String>().prop_map(|reason| Outcome::Refused { reason }),
        vec(description(), 0..4).prop_map(|keys| Outcome::Keys { keys }),
        credential().prop_map(|credential| Outcome::Credential { credential }),
        bytes(60).prop_map(|der| Outcome::CertificateRequest { der }),
        (
            option::of(quota()),
            option::of(client_authentication()),
            option::of(use_limits()),
            option::of(audit_settings()),
            option::of(use_budgets())
        )
            .prop_map(|(quota, client_authentication, limits, audit, budgets)| Outcome::Settings {
                quota,
                client_authentication,
                limits,
                audit,
                budgets
            }),
        (option::of(use_policy()), any::<u64>()).prop_map(|(policy, version)| Outcome::Policy { policy, version }),
        (any::<[u8; 32]>(), certificates(0..=6), option::of((acme_order(), renewal_progress()))).prop_map(
            |(public_key_sha256, chain, renewal)| Outcome::Tls {
                host_name: HostName::parse("xks.example.com").unwrap(),
                public_key_sha256,
                chain,
                renewal: renewal.map(|(order, progress)| Box::new(RenewalState { order, progress })),
            }
        ),
    ]
}

fn use_count() -> impl Strategy<Value = UseCount> {
    any::<(u32, u32)>().prop_map(|(used, refused)| UseCount { used, refused })
}

fn tally() -> impl Strategy<Value = Tally> {
    let user = (key_id(), any::<[Option<String>; 3]>()).prop_map(|(key, [principal, service, vpc])| User {
        key,
        principal,
        service,
        vpc,
    });
    let tallied = prop::collection::btree_map(user, use_count(), 0..4);
    let overdue = prop::collection::btree_map(any::<[u8; 32]>(), any::<u64>(), 0..3);
    (any::<[u64; 3]>(), tallied, use_count(), overdue).prop_map(
        |([number, at_ms, since_ms], tallied, others, overdue)| Tally {
            number,
            at_ms,
            since_ms,
            uses: tallied.into_iter().map(|(user, count)| TalliedUse { user, count }).collect(),
            others,
            overdue: overdue
                .into_iter()
                .map(|(id, left_ms)| OverdueLease { custodian_id: CustodianId(id), left_ms })
                .collect(),
        },
    )
}

fn alarm_kind() -> impl Strategy<Value = AlarmKind> {
    prop::sample::select(&AlarmKind::ALL)
}

fn alarm() -> impl Strategy<Value = Alarm> {
    (alarm_kind(), option::of(key_id()), any::<(String, String)>()).prop_map(|(kind, key, (who, text))| Alarm {
        kind,
        key,
        who,
        text,
    })
}

fn raised_alarms() -> impl Strategy<Value = Vec<RaisedAlarm>> {
    let raised = (any::<(u64, Option<[u8; 16]>, bool)>(), alarm());
    prop::collection::btree_map(any::<u64>(), raised, 0..4).prop_map(|alarms| {
        let newest_first = alarms.into_iter().rev().map(|(id, ((at_ms, boot, is_delivered), alarm))| RaisedAlarm {
            id,
            at_ms,
            boot_id: boot.map(BootId),
            alarm,
            is_delivered,
        });
        newest_first.collect()
    })
}

fn use_history() -> impl Strategy<Value = UseHistory> {
    let past = prop::collection::btree_map(any::<u32>(), any::<(u32, u32)>(), 0..=ALARM_DAYS_MAX);
    (any::<(u64, [u32; 4])>(), past).prop_map(|((first_ms, [hour, in_hour, in_day, busiest_today]), past)| {
        let past = past.into_iter().map(|(day, (busiest_hour, uses))| DayPast { day, busiest_hour, uses });
        UseHistory { first_ms, hour, in_hour, in_day, busiest_today, past: past.collect() }
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    let results = || vec(sealed_result(), 0..3);
    let blob_id = || any::<[u8; 32]>().prop_map(BlobId);
    prop_oneof![
        (any::<(u64, u64, bool)>(), command_ids()).prop_map(|((overlay_epoch, version, renew), commands)| Ask::Watch {
            seen: Seen { overlay_epoch, version, commands, manifest_sequence: 1, obeys: None },
            renew
        }),
        blob_id().prop_map(|blob_id| Ask::Fetch { blob_id }),
        (share_set(), sealed()).prop_map(|(set, share)| Ask::Deposit { set, share }),
        (1..u64::MAX, blob_id(), bytes(60), results()).prop_map(|(version, previous, blob, results)| Ask::Publish {
            version,
            previous: (version > 1).then_some(previous),
            evidence: blob.clone(),
            blob,
            results
        }),
        results().prop_map(|results| Ask::Report { results }),
        (bytes(60), bytes(60), bytes(60)).prop_map(|(register, blob, evidence)| Ask::Copy { register, blob, evidence }),
        (any::<u64>(), blob_id()).prop_map(|(version, blob_id)| Ask::Commit { version, blob_id }),
        any::<u32>().prop_map(|generation| Ask::Retire { generation }),
        bytes(60).prop_map(|checkpoint| Ask::Witness { checkpoint }),
        (key_id(), budget_window(), BUDGET_USES, 1..=BUDGET_SLICE_MAX)
            .prop_map(|(key, window, limit, want)| Ask::Debit { key, window, limit, want }),
        tally().prop_map(Ask::Tally),
    ]
}

fn held_entry() -> impl Strategy<Value = HeldEntry> {
    (bytes(60), any::<bool>()).prop_map(|(signed, is_committed)| HeldEntry { signed, is_committed })
}

fn reply() -> impl Strategy<Value = Reply> {
    let news = (option::of(LEASE_MS), signed(), option::of(held_entry()), byte_vecs(), 1..u32::MAX);
    prop_oneof![
        news.prop_map(|(lease_ms, overlay, register, commands, enclaves)| Reply::News {
            successors: commands.iter().take(3).cloned().collect(),
            lease_ms,
            overlay,
            register,
            commands,
            enclaves: NonZeroU32::new(enclaves).unwrap()
        }),
        (bytes(60), bytes(60)).prop_map(|(blob, evidence)| Reply::Blob { blob, evidence }),
        any::<()>().prop_map(|()| Reply::Copied),
        any::<()>().prop_map(|()| Reply::Committed),
        any::<()>().prop_map(|()| Reply::Retired),
        any::<()>().prop_map(|()| Reply::Witnessed),
        (0..=BUDGET_SLICE_MAX, any::<u32>())
            .prop_map(|(granted, counted)| Reply::Debited { granted, counted: counted.max(granted) }),
        vec(alarm_kind(), 0..8).prop_map(|raised| Reply::Tallied { raised }),
        any::<()>().prop_map(|()| Reply::Deposited),
        bytes(60).prop_map(|register| Reply::Published { register }),
        option::of(held_entry()).prop_map(|register| Reply::Conflict { register }),
        any::<()>().prop_map(|()| Reply::Reported),
        any::<(String, bool)>().prop_map(|(reason, lease_ended)| Reply::Refused { reason, lease_ended }),
    ]
}

fn lease_info() -> impl Strategy<Value = LeaseInfo> {
    (any::<([u8; 16], [u8; 16], String, [u64; 3], Option<([u8; 32], [u64; 2])>)>(), measurements(), bytes(60)).prop_map(
        |((lease, boot, module_id, [granted_ms, expires_ms, seen_ms], obeys), measurements, document)| LeaseInfo {
            lease_id: LeaseId(lease),
            boot_id: BootId(boot),
            module_id,
            measurements,
            granted_ms,
            expires_ms,
            seen_ms,
            document,
            obeys: obeys.map(|(sha256, [epoch, heard_ms])| Obeyed { overlay: OverlayId { epoch, sha256 }, heard_ms }),
        },
    )
}

fn audit_heads() -> impl Strategy<Value = Vec<AuditHead>> {
    let head = (bytes(60), any::<[u8; 32]>(), bytes(60), any::<u64>(), signed());
    prop::collection::btree_map(any::<[u8; 16]>(), head, 0..3).prop_map(|heads| {
        let head = |(boot, (checkpoint, audit_public_key, evidence, received_ms, contradiction))| AuditHead {
            boot_id: BootId(boot),
            checkpoint,
            audit_public_key,
            evidence,
            received_ms,
            contradiction,
        };
        heads.into_iter().map(head).collect()
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    let version = any::<(u64, [u8; 32], u64)>().prop_map(|(version, blob, recorded_ms)| VersionInfo {
        version,
        blob_id: BlobId(blob),
        recorded_ms,
    });
    let status = (any::<([u64; 3], bool, bool)>(), option::of(version), vec(lease_info(), 0..3), command_ids());
    prop_oneof![
        Just(Answer::Result(ResultState::Unknown)),
        Just(Answer::Result(ResultState::Pending)),
        sealed_result().prop_map(|result| Answer::Result(ResultState::Ready(result))),
        signed().prop_map(|overlay| Answer::Overlay { overlay }),
        audit_heads().prop_map(Answer::AuditHeads),
        prop::collection::btree_map((key_id(), budget_window()), any::<u32>(), 0..4).prop_map(|counts| {
            let count = |((key, window), counted)| BudgetCount { key, window, counted };
            Answer::Budgets(counts.into_iter().map(count).collect())
        }),
        raised_alarms().prop_map(Answer::Alarms),
        status.prop_map(
            |(([now_ms, overlay_epoch, policy_epoch], holds_share, emulated_root), version, leases, pending)| {
                Answer::Status(KeyStoreStatus {
                    now_ms,
                    holds_share,
                    version,
                    overlay_epoch,
                    policy_epoch,
                    emulated_root,
                    leases,
                    pending,
                    generations: vec![1, 2],
                    manifest_sequence: 1,
                    is_committed: true,
                    waiting_releases: 0,
                })
            }
        ),
    ]
}

fn question() -> impl Strategy<Value = Question> {
    prop_oneof![
        any::<[u8; 16]>().prop_map(|id| Question::Result(CommandId(id))),
        Just(Question::Overlay),
        Just(Question::Status),
        Just(Question::Budgets),
        option::of(any::<[u8; 16]>().prop_map(BootId)).prop_map(Question::AuditHeads),
        any::<u64>().prop_map(Question::Alarms),
    ]
}

fn release() -> impl Strategy<Value = ReleaseContent> {
    let share = (1..=u8::MAX, any::<[u8; 32]>(), share_set())
        .prop_map(|(index, mut value, set)| HeldShare { share: Share { index, value: Secret::take(&mut value) }, set });
    let head = (bytes(60), any::<[u8; 32]>())
        .prop_map(|(checkpoint, audit_public_key)| EarlierHead { checkpoint, audit_public_key });
    let signed = (signed(), option::of(held_entry()), byte_vecs());
    (any::<[u8; 16]>(), LEASE_MS, option::of(share), vec(head, 0..3), signed).prop_map(
        |(lease, lease_ms, share, audit_heads, (overlay, register, successors))| ReleaseContent {
            lease_id: LeaseId(lease),
            lease_ms,
            shares: share.into_iter().collect(),
            overlay,
            register,
            successors: successors.into_iter().take(3).collect(),
            audit_heads,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn commands(
        store in store(),
        id: [u8; 16],
        times in (0..u64::MAX / 2, 0..31 * 86_400_000_u64),
        precondition in precondition(),
        action in action(),
        change: Change,
    ) {
        let command = Command {
            label: labels::COMMAND.to_owned(),
            key_store_id: store,
            command_id: CommandId(id),
            issued_ms: times.0,
            expires_ms: times.0 + times.1,
            precondition,
            action,
        };
        holds(&command, change)?;
    }

    #[test]
    fn outcomes_and_results(outcome in outcome(), sealed in sealed_result(), document in bytes(60), store in store(), change: Change) {
        holds(&outcome, change)?;
        let encoded = holdfast_shared::cbor::encode(&outcome);
        holds(&ResultUserData::new(store, sealed.command_id, &encoded), change)?;
        holds(&ResultContent { outcome: SecretBytes::new(encoded.to_vec()), document }, change)?;
        holds(&sealed, change)?;
    }

    #[test]
    fn channel(ask in ask(), reply in reply(), lease: [u8; 16], counter: u64, nonce: [u8; 12], ciphertext in bytes(60), change: Change) {
        holds(&ask, change)?;
        holds(&reply, change)?;
        holds(&ChannelMessage { protocol: PROTOCOL, lease_id: LeaseId(lease), counter, nonce, ciphertext }, change)?;
    }

    #[test]
    fn queries(store in store(), nonce: [u8; 16], issued_ms: u64, question in question(), answer in answer(), change: Change) {
        let query = Query {
            label: labels::QUERY.to_owned(),
            key_store_id: store,
            custodian_id: CustodianId(store.0),
            nonce,
            issued_ms,
            question,
        };
        holds(&query, change)?;
        holds(&QueryAnswer { query_sha256: store.0, answer }, change)?;
    }

    #[test]
    fn what_is_remembered_and_raised(tally in tally(), alarm in alarm(), history in use_history(), change: Change) {
        holds(&tally, change)?;
        holds(&alarm, change)?;
        holds(&history, change)?;
    }

    #[test]
    fn releases(store in store(), content in release(), sealed in sealed(), document in bytes(60), epoch: u64, change: Change) {
        holds(&content, change)?;
        for held in &content.shares {
            holds(&held.share, change)?;
        }
        holds(&ReleaseAnswer { policy_epoch: epoch, sealed }, change)?;
        holds(&ChallengeRequest { protocol: PROTOCOL, key_store_id: store }, change)?;
        holds(&ChallengeAnswer { nonce: store.0 }, change)?;
        holds(&ReleaseRequest { protocol: PROTOCOL, key_store_id: store, document }, change)?;
        let user_data = ReleaseUserData {
            label: labels::ATTEST_RELEASE.to_owned(),
            key_store_id: store,
            custodian_id: CustodianId(store.0),
            boot_id: BootId(content.lease_id.0),
            audit_public_key: store.0,
        };
        holds(&user_data, change)?;
    }

    #[test]
    fn overlays_entries_and_refusals(
        store in store(),
        blocked: bool,
        epoch in 1..u64::MAX,
        keys in key_ids(8),
        reason in "[ -~]{0,511}",
        change: Change,
    ) {
        let (label, key_store_id) = (labels::BLOCK.to_owned(), store);
        holds(&BlockOverlay { label, key_store_id, epoch, store: blocked, keys, issued_ms: epoch }, change)?;
        let entry = RegisterEntry {
            label: labels::REGISTER.to_owned(),
            key_store_id,
            version: epoch,
            blob_id: BlobId(store.0),
            previous: (epoch > 1).then_some(BlobId(store.0)),
            recorded_ms: epoch,
        };
        holds(&entry, change)?;
        holds(&Refusal { code: RefusalCode::Conflict, reason }, change)?;
    }
}
