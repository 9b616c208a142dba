use holdfast_shared::xks::Operation;

use super::*;
use crate::request::Attributes;
use crate::{Ground, Policy};

/// 2026-11-23T10:30:00Z, a Monday.
const MONDAY_MS: u64 = 1_795_429_800_000;
const HOUR_MS: u64 = 3_600_000;
const USER: &str = "arn:aws:iam::123456789012:user/Alice";
const STRANGER: &str = "arn:aws:iam::999999999999:role/Elsewhere";

/// A call as KMS makes it: the XKS operation, `kmsOperation`, and whether the KMS key's ARN comes with it (specification,
/// "`GetKeyMetadata`", "Encrypt", "Decrypt"; version 0.0.12 of its history for `DescribeKey`).
const CALLS: [(Operation, &str, bool); 8] = [
    (Operation::Encrypt, "Encrypt", true),
    (Operation::Encrypt, "GenerateDataKey", true),
    (Operation::Encrypt, "GenerateDataKeyWithoutPlaintext", true),
    (Operation::Encrypt, "ReEncrypt", true),
    (Operation::Decrypt, "Decrypt", true),
    (Operation::Decrypt, "ReEncrypt", true),
    (Operation::GetKeyMetadata, "DescribeKey", true),
    (Operation::GetKeyMetadata, "CreateKey", false),
];

fn attributes<'a>(
    (operation, kms_operation, has_arn): (Operation, &'a str, bool),
    kms_key_arn: &'a str,
) -> Attributes<'a> {
    Attributes {
        operation,
        external_key_id: "payments-1",
        principal: USER,
        kms_operation,
        kms_key_arn: has_arn.then_some(kms_key_arn),
        via_service: None,
        source_vpc: None,
        source_vpce: None,
        access_key_id: "AAAAABBBBBCCCCCDDDDD",
        time_ms: MONDAY_MS,
    }
}

const HOME: &str = "arn:aws:kms:eu-central-1:123456789012:key/1";
const AWAY: &str = "arn:aws:kms:us-east-1:123456789012:key/1";
const OTHERS: &str = "arn:aws:kms:eu-central-1:999999999999:key/1";

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn policy(preset: Preset, settings: &PresetSettings) -> Policy {
    let policy = Policy::parse(&preset.text(settings).unwrap()).unwrap();
    assert_eq!(policy.warnings(), []);
    policy
}

/// The rule that decides each call, in the order of [`CALLS`]; "" where it is denied.
fn decided(policy: &Policy, arn: &str, change: impl Fn(&mut Attributes<'_>)) -> Vec<String> {
    let decide = |call| {
        let mut attributes = attributes(call, arn);
        change(&mut attributes);
        let decision = policy.decide(&attributes);
        if !decision.is_permitted() {
            assert_eq!((decision.ground, decision.rule), (Ground::NothingPermits, None));
            return String::new();
        }
        decision.rule.unwrap().to_string()
    };
    CALLS.into_iter().map(decide).collect()
}

fn rules(used: &str, described: &str, created: &str) -> Vec<String> {
    [&[used; 6][..], &[described, created]].concat().into_iter().map(str::to_owned).collect()
}

#[test]
fn region_pin_lets_keys_of_its_regions_be_used_and_keys_be_made() {
    let settings = PresetSettings { regions: texts(&["eu-west-1", "eu-central-1"]), ..PresetSettings::default() };
    let policy = policy(Preset::RegionPin, &settings);
    assert_eq!(decided(&policy, HOME, |_| ()), rules("region-pin", "region-pin", "region-pin-create-key"));
    assert_eq!(decided(&policy, AWAY, |_| ()), rules("", "", "region-pin-create-key"));
    assert_eq!(decided(&policy, "no ARN", |_| ()), rules("", "", "region-pin-create-key"));
}

#[test]
fn account_only_takes_the_accounts_callers_and_services_for_the_accounts_keys() {
    let settings = PresetSettings { accounts: texts(&["123456789012"]), ..PresetSettings::default() };
    let policy = policy(Preset::AccountOnly, &settings);
    assert_eq!(decided(&policy, HOME, |_| ()), rules("account-only", "account-only", "account-only-create-key"));
    assert_eq!(decided(&policy, OTHERS, |_| ()), rules("", "", "account-only-create-key"), "another account's KMS key");
    let stranger = |attributes: &mut Attributes<'_>| attributes.principal = STRANGER;
    assert_eq!(decided(&policy, HOME, stranger), rules("", "", ""), "another account's caller");
    for service in ["ec2.amazonaws.com", "AWS Internal"] {
        let rule = "account-only-services";
        assert_eq!(decided(&policy, HOME, |attributes| attributes.principal = service), rules(rule, rule, ""));
        assert_eq!(decided(&policy, OTHERS, |attributes| attributes.principal = service), rules("", "", ""));
    }
}

#[test]
fn services_lets_keys_be_used_through_them_only() {
    let settings = PresetSettings { services: texts(&["ebs", "ec2"]), ..PresetSettings::default() };
    let policy = policy(Preset::Services, &settings);
    let metadata = "services-metadata";
    for (via, rule) in [
        ("ebs", "services-ebs"),
        ("ec2.eu-central-1.amazonaws.com", "services-ec2"),
        ("ec2.cn-north-1.amazonaws.com.cn", "services-ec2"),
        ("s3.eu-central-1.amazonaws.com", ""),
        ("ec2.evil.example", ""),
        ("xec2.eu-central-1.amazonaws.com", ""),
    ] {
        let via = |attributes: &mut Attributes<'_>| attributes.via_service = Some(via);
        assert_eq!(decided(&policy, HOME, via), rules(rule, metadata, metadata));
    }
    assert_eq!(decided(&policy, HOME, |_| ()), rules("", metadata, metadata), "nobody's service");
    let itself = |attributes: &mut Attributes<'_>| attributes.principal = "ec2.amazonaws.com";
    assert_eq!(decided(&policy, HOME, itself), rules("services-ec2", metadata, metadata));
}

#[test]
fn business_hours_end_when_they_say() {
    let settings = PresetSettings { hours: Some((8, 18)), ..PresetSettings::default() };
    let policy = policy(Preset::BusinessHours, &settings);
    let (open, metadata) = ("business-hours", "business-hours-metadata");
    let midnight = MONDAY_MS - MONDAY_MS % (24 * HOUR_MS);
    for (hours, permitted) in [
        (7, false),
        (8, true),
        (17, true),
        (18, false),
        (4 * 24 + 17, true),
        (5 * 24 + 12, false),
        (6 * 24 + 12, false),
        (7 * 24 + 12, true),
    ] {
        let at = |attributes: &mut Attributes<'_>| attributes.time_ms = midnight + hours * HOUR_MS;
        // Both policies permit metadata while it is open; the first in the text is named.
        let expected = if permitted { rules(open, open, open) } else { rules("", metadata, metadata) };
        assert_eq!(decided(&policy, HOME, at), expected, "{hours}");
    }
}

#[test]
fn what_is_given_twice_is_taken_once() {
    let settings = |services: &[&str]| PresetSettings { services: texts(services), ..PresetSettings::default() };
    let once = Preset::Services.text(&settings(&["s3", "ebs"])).unwrap();
    assert_eq!(Preset::Services.text(&settings(&["s3", "ebs", "s3"])).unwrap(), once);
    policy(Preset::Services, &settings(&["s3", "s3"]));
}

#[test]
fn settings_must_fit() {
    let none = PresetSettings::default();
    let region = |text: &str| PresetSettings { regions: texts(&[text]), ..none.clone() };
    for preset in Preset::ALL {
        assert_eq!(Preset::named(preset.name()), Some(preset));
        assert!(matches!(preset.text(&none), Err(PresetError::Missing { .. })));
        if preset != Preset::RegionPin {
            assert!(preset.text(&region("eu-central-1")).is_err());
        }
    }
    for text in ["", "EU", "eu\"", "eu central", "\\", &"a".repeat(33)] {
        assert!(matches!(Preset::RegionPin.text(&region(text)), Err(PresetError::Malformed { .. })), "{text}");
        let services = PresetSettings { services: texts(&["ebs", text]), ..none.clone() };
        assert!(Preset::Services.text(&services).is_err());
        let accounts = PresetSettings { accounts: texts(&[text]), ..none.clone() };
        assert!(Preset::AccountOnly.text(&accounts).is_err());
    }
    for hours in [(8, 8), (18, 8), (0, 25)] {
        let settings = PresetSettings { hours: Some(hours), ..none.clone() };
        assert!(Preset::BusinessHours.text(&settings).is_err());
    }
    assert!(Preset::BusinessHours.text(&PresetSettings { hours: Some((0, 24)), ..none }).is_ok());
}
