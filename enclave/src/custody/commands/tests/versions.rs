//! Rotation, destruction, import, and the settings beside the keys.

use holdfast_shared::audit::{AuditSettings, Auditor};
use holdfast_shared::command::{VersionRun, seal_material};
use holdfast_shared::keystore::{ExternalKeyRecord, KeyLimit, Quota, UseLimits, UsePolicy, VersionState};

use super::*;

fn rotate(name: &str) -> Action {
    Action::RotateKey { id: id(name) }
}

fn destroy(name: &str, number: u32) -> Action {
    Action::DestroyKeyVersion { id: id(name), number }
}

fn with_key() -> Desk {
    let mut desk = Desk::new();
    assert_eq!(desk.order(Action::CreateKey { id: id("a"), usage: KeyUsage::ENCRYPT_DECRYPT }), DONE);
    desk
}

fn runs(desk: &mut Desk) -> Vec<(u32, u32, VersionState)> {
    let Effect::Answered(Outcome::Keys { keys }) = desk.order(Action::ListKeys) else { panic!("no list") };
    keys[0].runs.iter().map(|VersionRun { first, last, state }| (*first, *last, *state)).collect()
}

#[test]
fn a_rotation_adds_the_next_version_of_fresh_material() {
    let mut desk = with_key();
    desk.fresh = 6;
    assert_eq!(desk.order(rotate("a")), DONE);
    let versions = &desk.body.external_keys[0].versions;
    assert_eq!(versions.iter().map(|version| version.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(versions[0].material.as_ref().unwrap().expose(), &[5; 32], "the old version stays");
    assert_eq!(versions[1].material.as_ref().unwrap().expose(), &[6; 32]);
    assert_eq!(reason(&desk.order(rotate("b"))), "there is no key b");
    assert_eq!(desk.order(Action::DisableKey { id: id("a") }), DONE);
    assert_eq!(desk.order(rotate("a")), DONE, "a disabled key may be rotated");
    desk.body.external_keys[0].state = KeyState::PendingDestruction;
    assert!(reason(&desk.order(rotate("a"))).contains("pending destruction"));
    assert_eq!(runs(&mut desk), [(1, 3, VersionState::Live)]);
}

#[test]
fn a_destroyed_version_leaves_its_number_and_nothing_else() {
    let mut desk = with_key();
    assert!(reason(&desk.order(destroy("a", 1))).starts_with("version 1 of key a is the one that encrypts"));
    for _ in 0..3 {
        assert_eq!(desk.order(rotate("a")), DONE);
    }
    assert!(reason(&desk.order(destroy("a", 4))).contains("the one that encrypts"));
    assert_eq!(desk.order(destroy("a", 2)), DONE);
    assert!(desk.body.external_keys[0].versions[1].material.is_none());
    assert_eq!(reason(&desk.order(destroy("a", 2))), "version 2 of key a is destroyed already");
    for unknown in [0, 5, u32::MAX] {
        assert_eq!(reason(&desk.order(destroy("a", unknown))), format!("key a has no version {unknown}"));
    }
    assert_eq!(reason(&desk.order(destroy("b", 1))), "there is no key b");
    let expected = [(1, 1, VersionState::Live), (2, 2, VersionState::Destroyed), (3, 4, VersionState::Live)];
    assert_eq!(runs(&mut desk), expected);
    let Effect::Answered(Outcome::Keys { keys }) = desk.order(Action::ListKeys) else { panic!("no list") };
    assert_eq!((keys[0].current_version, keys[0].versions), (4, 3));
    desk.order(rotate("a"));
    assert_eq!(desk.body.external_keys[0].versions.last().unwrap().number, 5, "no number twice");
}

#[test]
fn versions_and_numbers_have_an_end() {
    let mut desk = with_key();
    let full = (1..=1024).map(|number| KeyVersionRecord::new(number, Secret::take(&mut [1; 32]))).collect();
    desk.body.external_keys[0].versions = full;
    assert_eq!(reason(&desk.order(rotate("a"))), "key a has 1024 versions; destroy old ones first");
    assert_eq!(desk.order(destroy("a", 700)), DONE);
    assert_eq!(desk.order(rotate("a")), DONE, "what is left of a destroyed version makes room");
    let versions = &desk.body.external_keys[0].versions;
    assert_eq!((versions.len(), versions.last().unwrap().number), (1024, 1025));
    assert!(versions.iter().all(|version| version.number != 700 && version.material.is_some()));
    assert!(keystore::fits(&desk.body));
    assert_eq!(runs(&mut desk), [(1, 699, VersionState::Live), (701, 1025, VersionState::Live)]);

    desk.body.external_keys[0].versions = vec![KeyVersionRecord::new(0x00FF_FFFF, Secret::take(&mut [1; 32]))];
    assert!(reason(&desk.order(rotate("a"))).contains("used up its version numbers"));
}

#[test]
fn a_key_store_that_is_full_says_so() {
    let mut desk = with_key();
    // A body beyond the bound, made as no order could: 128 keys of 1,024 versions.
    desk.body.external_keys = (0..128)
        .map(|at| ExternalKeyRecord {
            destroy_after_ms: None,
            id: id(&format!("{at:04}")),
            usage: KeyUsage::DECRYPT,
            state: KeyState::Enabled,
            versions: (1..=1024).map(|n| KeyVersionRecord::new(n, Secret::take(&mut [1; 32]))).collect(),
        })
        .collect();
    let create = Action::CreateKey { id: id("b"), usage: KeyUsage::DECRYPT };
    assert!(reason(&desk.order(create)).starts_with("the key store is full"));
}

#[test]
fn the_list_of_the_largest_key_store_fits_into_a_result() {
    let mut desk = with_key();
    let versions = |count: u32| -> Vec<_> {
        (1..=count)
            .map(|number| {
                let mut version = KeyVersionRecord::new(number, Secret::take(&mut [1; 32]));
                if number % 2 == 0 && number < count {
                    version.destroy();
                }
                version
            })
            .collect()
    };
    for listed in [true, false] {
        desk.body.external_keys = (0..4096)
            .map(|at| ExternalKeyRecord {
                destroy_after_ms: None,
                id: id(&format!("{at:04}{}", "x".repeat(124))),
                usage: KeyUsage::DECRYPT,
                state: KeyState::Enabled,
                versions: versions(if at % 2 == 0 { 3 } else { 1 }),
            })
            .collect();
        if !listed {
            desk.body.external_keys[1].versions = versions(3);
        }
        let Effect::Answered(outcome) = desk.order(Action::ListKeys) else { panic!("no list") };
        assert_eq!(cbor::decode::<Outcome>(&cbor::encode(&outcome)).unwrap(), outcome);
        let Outcome::Keys { keys } = outcome else { panic!("no list") };
        assert_eq!(keys.iter().all(|key| !key.runs.is_empty()), listed);
        assert_eq!(keys.iter().map(|key| key.versions).sum::<u32>(), if listed { 6144 } else { 6145 });
    }
}

#[test]
fn a_keys_state_is_a_precondition_of_orders_about_a_key() {
    let mut desk = with_key();
    desk.order(rotate("a"));
    let table = [
        (rotate("a"), Some(KeyState::Enabled), None),
        (rotate("a"), Some(KeyState::Disabled), Some("key a is enabled, not disabled")),
        (destroy("a", 1), Some(KeyState::Disabled), Some("key a is enabled, not disabled")),
        (destroy("b", 1), Some(KeyState::Enabled), Some("there is no key b")),
        (destroy("a", 1), Some(KeyState::Enabled), None),
        (
            Action::SetQuota { quota: None },
            Some(KeyState::Enabled),
            Some("a key's state is a precondition of orders about a key"),
        ),
        (Action::ListKeys, Some(KeyState::Enabled), Some("a key's state is a precondition of orders about a key")),
    ];
    for (action, state, refusal) in table {
        let mut command = desk.command(action.clone());
        command.precondition = state.map_or(Precondition::None, Precondition::KeyState);
        let signed = desk.signed(&command);
        let effect = desk.at(&signed, NOW_MS);
        match refusal {
            None => assert_eq!(effect, DONE, "{action:?}"),
            Some(start) => assert!(reason(&effect).starts_with(start), "{action:?}: {effect:?}"),
        }
    }
}

#[test]
fn material_is_imported_by_the_enclave_that_it_was_encrypted_to() {
    let mut desk = Desk::new();
    let import =
        |desk: &mut Desk, name: &str, legacy: bool, recipient: &hpke::PublicKey, command_id: Option<CommandId>| {
            let command_id = command_id.unwrap_or(CommandId([desk.next + 1; 16]));
            let material = Secret::take(&mut [9; 32]);
            let sealed = seal_material(&material, desk.id(), command_id, recipient).unwrap();
            let usage = KeyUsage::ENCRYPT_DECRYPT;
            desk.order(Action::ImportKey { id: id(name), usage, legacy, recipient: *recipient, sealed })
        };
    let here = *desk.attested.public_key();
    let elsewhere = *hpke::PrivateKey::generate().unwrap().public_key();
    assert_eq!(import(&mut desk, "a", true, &elsewhere, None), Effect::Left, "another enclave's");
    assert!(desk.body.external_keys.is_empty());
    let foreign = import(&mut desk, "a", true, &here, Some(CommandId([99; 16])));
    assert!(reason(&foreign).contains("does not open"), "sealed for another command");
    assert_eq!(import(&mut desk, "a", true, &here, None), DONE);
    assert_eq!(import(&mut desk, "b", false, &here, None), DONE);
    assert_eq!(reason(&import(&mut desk, "a", false, &here, None)), "key a exists already");
    let [a, b] = &desk.body.external_keys[..] else { panic!("two keys") };
    assert_eq!(a.versions[0].material.as_ref().unwrap().expose(), &[9; 32]);
    let states = [a, b].map(|key| key.versions[0].state());
    assert_eq!(states, [VersionState::LiveWithLegacy, VersionState::Live]);

    // A credential's encryption is for another purpose, and so is other material than 32 bytes.
    let record = CredentialRecord {
        access_key_id: AccessKeyId::parse("AAAAABBBBBCCCCCDDDDD").unwrap(),
        secret_access_key: SecretBytes::new(vec![b'x'; 43]),
        created_ms: None,
    };
    let sealed = seal_credential(&record, desk.id(), CommandId([desk.next + 1; 16]), &here).unwrap();
    let action = Action::ImportKey { id: id("c"), usage: KeyUsage::DECRYPT, legacy: false, recipient: here, sealed };
    assert!(reason(&desk.order(action)).contains("does not open"));
    for (label, length) in [
        (labels::HPKE_IMPORT, 32),
        (labels::HPKE_IMPORT_KEY, 0),
        (labels::HPKE_IMPORT_KEY, 16),
        (labels::HPKE_IMPORT_KEY, 31),
        (labels::HPKE_IMPORT_KEY, 33),
    ] {
        let info = hpke::bind(label, &[desk.id().as_bytes(), CommandId([desk.next + 1; 16]).as_bytes()]);
        let (sealed, _) = hpke::seal(&here, &info, &[], &vec![1; length]).unwrap();
        let action =
            Action::ImportKey { id: id("c"), usage: KeyUsage::DECRYPT, legacy: false, recipient: here, sealed };
        assert!(reason(&desk.order(action)).contains("does not open"), "{label}, {length}");
    }
}

#[test]
fn the_profile_goes_with_the_version_that_has_it() {
    let mut desk = with_key();
    desk.body.external_keys[0].versions[0].legacy = Some(LegacyProfile::AwsSample);
    desk.order(rotate("a"));
    let expected = [(1, 1, VersionState::LiveWithLegacy), (2, 2, VersionState::Live)];
    assert_eq!(runs(&mut desk), expected);
    assert_eq!(desk.order(destroy("a", 1)), DONE);
    assert_eq!(desk.body.external_keys[0].versions[0].legacy, None);
    assert_eq!(runs(&mut desk), [(1, 1, VersionState::Destroyed), (2, 2, VersionState::Live)]);
}

#[test]
fn audit_settings_are_set_shown_and_cleared_and_name_keys_that_are_keys() {
    let mut desk = Desk::new();
    let auditor = |encryption_key| Auditor { name: "internal-audit".to_owned(), encryption_key };
    let audit = |key| Some(AuditSettings { auditors: vec![auditor(key)], ..AuditSettings::default() });
    let nobody = desk.order(Action::SetAudit { settings: audit(hpke::PublicKey([4; 97])) });
    assert!(reason(&nobody).contains("no point of the curve"));
    assert_eq!(desk.body.audit, None);
    let reader = *hpke::PrivateKey::generate().unwrap().public_key();
    assert_eq!(desk.order(Action::SetAudit { settings: audit(reader) }), DONE);
    let shown = Effect::Answered(Outcome::Settings {
        quota: None,
        client_authentication: None,
        limits: None,
        budgets: None,
        audit: audit(reader),
    });
    assert_eq!(desk.order(Action::ShowSettings), shown);
    assert_eq!(desk.order(Action::SetAudit { settings: None }), DONE);
    assert_eq!(desk.body.audit, None);
}

#[test]
fn quota_and_client_authentication_are_set_and_cleared() {
    let mut desk = Desk::new();
    let quota = Some(Quota { requests_per_second: 10, burst: 5 });
    assert_eq!(desk.order(Action::SetQuota { quota }), DONE);
    assert_eq!(desk.body.quota, quota);
    let shown = Effect::Answered(Outcome::Settings {
        quota,
        client_authentication: None,
        limits: None,
        audit: None,
        budgets: None,
    });
    assert_eq!(desk.order(Action::ShowSettings), shown);
    assert_eq!(desk.order(Action::SetQuota { quota: None }), DONE);
    assert_eq!(desk.body.quota, None);

    let authority = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap().cert.der().to_vec();
    let settings = |der: &[u8]| {
        Some(ClientAuthentication {
            authorities: vec![DerCertificate(der.to_vec())],
            subject_common_names: vec!["cks.eu-central-1.amazonaws.com".to_owned()],
        })
    };
    let noise = desk.order(Action::SetClientAuthentication { settings: settings(&[1, 2, 3]) });
    assert!(reason(&noise).contains("not a readable X.509 certificate"));
    assert_eq!(desk.body.client_authentication, None);
    assert_eq!(desk.order(Action::SetClientAuthentication { settings: settings(&authority) }), DONE);
    assert_eq!(desk.body.client_authentication, settings(&authority));
    assert_eq!(desk.order(Action::SetClientAuthentication { settings: None }), DONE);
    assert_eq!(desk.body.client_authentication, None);
}

#[test]
fn each_order_needs_the_signatures_of_its_kind() {
    let thresholds = Thresholds { keys: 2, credentials: 3, identity: 4, block: 5, unblock: 6, custody: 7 };
    let key = || id("a");
    let nobody = *hpke::PrivateKey::generate().unwrap().public_key();
    let sealed = seal_material(&Secret::take(&mut [9; 32]), KeyStoreId([1; 32]), CommandId([1; 16]), &nobody).unwrap();
    let usage = KeyUsage::DECRYPT;
    let table = [
        (Action::CreateKey { id: key(), usage }, 2),
        (Action::ImportKey { id: key(), usage, legacy: false, recipient: nobody, sealed: sealed.clone() }, 2),
        (Action::RotateKey { id: key() }, 2),
        (Action::DestroyKeyVersion { id: key(), number: 1 }, 2),
        (Action::EnableKey { id: key() }, 2),
        (Action::DisableKey { id: key() }, 2),
        (Action::SetQuota { quota: None }, 2),
        (Action::SetPolicy { policy: None }, 2),
        (Action::SetLimits { limits: None }, 2),
        (Action::SetBudgets { budgets: None }, 2),
        (Action::CreateCredential, 3),
        (Action::ImportCredential { recipient: nobody, sealed }, 3),
        (Action::InstallCertificate { chain: vec![] }, 4),
        (Action::SetClientAuthentication { settings: None }, 4),
        (Action::SetRenewal { order: None }, 4),
        (Action::SetAudit { settings: None }, 7),
        (Action::ListKeys, 1),
        (Action::RequestCertificate, 1),
        (Action::ShowSettings, 1),
        (Action::ShowPolicy, 1),
        (Action::ShowTls, 1),
    ];
    for (action, expected) in table {
        assert_eq!(action.threshold(&thresholds), expected, "{action:?}");
    }
}

#[test]
fn a_policy_is_set_where_it_is_valid_and_shown() {
    let mut desk = Desk::new();
    let policy = |text: &str| Some(UsePolicy { text: text.to_owned() });
    let good = policy("permit (principal, action, resource);");
    let shown = |policy| Effect::Answered(Outcome::Policy { policy, version: 3 });
    assert_eq!(desk.order(Action::ShowPolicy), shown(None));
    assert_eq!(desk.order(Action::SetPolicy { policy: good.clone() }), DONE);
    assert_eq!(desk.body.policy, good);
    for (text, place) in [
        ("permit (principal, action, resource) when { principal.acount == \"1\" };", "line 1, column 45"),
        ("// nothing", "there is no policy"),
        ("permit (principal, action,", "unexpected end of input"),
    ] {
        let refused = desk.order(Action::SetPolicy { policy: policy(text) });
        assert!(
            reason(&refused).starts_with("the policy is not valid: ") && reason(&refused).contains(place),
            "{refused:?}"
        );
        assert_eq!(desk.body.policy, good, "nothing changed");
    }
    assert_eq!(desk.order(Action::ShowPolicy), shown(good));
    assert_eq!(desk.order(Action::SetPolicy { policy: None }), DONE);
    assert_eq!(desk.body.policy, None);
}

#[test]
fn limits_name_keys_that_are_there() {
    let mut desk = Desk::new();
    desk.order(Action::CreateKey { id: id("a"), usage: KeyUsage::ENCRYPT_DECRYPT });
    let quota = Quota { requests_per_second: 10, burst: 5 };
    let limits = |key: &str| {
        let keys = vec![KeyLimit { id: id(key), quota }];
        Some(UseLimits { per_key: None, keys, per_principal: Some(quota) })
    };
    assert_eq!(desk.order(Action::SetLimits { limits: limits("a") }), DONE);
    let shown =
        Outcome::Settings { quota: None, client_authentication: None, limits: limits("a"), audit: None, budgets: None };
    assert_eq!(desk.order(Action::ShowSettings), Effect::Answered(shown));
    assert_eq!(reason(&desk.order(Action::SetLimits { limits: limits("b") })), "there is no key b");
    assert_eq!(desk.body.limits, limits("a"));
    assert_eq!(desk.order(Action::SetLimits { limits: None }), DONE);
    assert_eq!(desk.body.limits, None);
}
