use holdfast_shared::ids::KeyStoreId;
use holdfast_shared::keystore::{Budget, KeyLimit};
use holdfast_shared::sigv4::AccessKeyId;
use holdfast_shared::xks;

use super::*;
use crate::clock::SteppedClock;
use crate::xks::guard::DenialKind;

/// 2026-11-23T10:30:00Z, a Monday.
const MONDAY_MS: u64 = 1_795_429_800_000;

const fn quota(requests_per_second: u32, burst: u32) -> Quota {
    Quota { requests_per_second, burst }
}

/// Policies take no time.
fn guards_of(clock: Arc<SteppedClock>) -> UseGuards {
    UseGuards::new(clock, || core::time::Duration::ZERO)
}

fn key() -> ExternalKeyId {
    ExternalKeyId::parse("a").unwrap()
}

fn rules(policy: Option<&str>) -> UseRules {
    let policy =
        policy.map_or(PolicyInForce::None, |text| PolicyInForce::Valid(Box::new(Policy::parse(text).unwrap())));
    UseRules { policy, quota: None, limits: None, budgets: None, keys: vec![key()] }
}

fn ask(guard: &dyn Guard, operation: Operation, user: &str) -> Result<Permit, Denial> {
    let body = format!(
        r#"{{"requestMetadata":{{"awsPrincipalArn":"arn:aws:iam::123456789012:user/{user}","kmsOperation":"Encrypt","kmsRequestId":"1",
        "kmsKeyArn":"arn:aws:kms:us-east-2:123456789012:key/1","kmsViaService":"ebs","awsSourceVpc":"vpc-1","awsSourceVpce":"vpce-1"}},
        "plaintext":"eA==","encryptionAlgorithm":"AES_GCM"}}"#
    );
    let request = xks::parse_encrypt(body.as_bytes()).unwrap();
    guard.permit(&Question {
        key_store: KeyStoreId([1; 32]),
        key: &key(),
        operation,
        metadata: &request.metadata,
        access_key_id: &AccessKeyId::parse("AAAAABBBBBCCCCCDDDDD").unwrap(),
    })
}

fn uses(guard: &dyn Guard, user: &str, asked: usize) -> usize {
    (0..asked).filter(|_| ask(guard, Operation::Encrypt, user).is_ok()).count()
}

#[test]
fn a_policy_is_asked_with_all_that_is_known() {
    let guards = guards_of(Arc::new(SteppedClock::at(MONDAY_MS)));
    let text = r#"@id("all") permit (principal, action, resource == Holdfast::Key::"a") when {
        principal == Holdfast::Principal::"arn:aws:iam::123456789012:user/Alice" && principal has account &&
        principal.account == "123456789012" && resource.id == "a" && context.externalKeyId == "a" && context.kmsOperation == "Encrypt" &&
        context has kmsKeyArn && context.kmsKeyArn == "arn:aws:kms:us-east-2:123456789012:key/1" &&
        context has kmsRegion && context.kmsRegion == "us-east-2" && context has kmsAccount && context.kmsAccount == "123456789012" &&
        context has viaService && context.viaService == "ebs" && context has sourceVpc && context.sourceVpc == "vpc-1" &&
        context has sourceVpce && context.sourceVpce == "vpce-1" && context.accessKeyId == "AAAAABBBBBCCCCCDDDDD" &&
        context.hour == 10 && context.weekday == 1
    };"#;
    let guard = guards.guard(rules(Some(text)));
    for operation in [Operation::Encrypt, Operation::Decrypt, Operation::GetKeyMetadata] {
        assert_eq!(ask(&*guard, operation, "Alice"), Ok(Permit { rule: Some("all".into()) }));
        assert_eq!(ask(&*guard, operation, "Bob"), Err(Denial::policy(None)));
    }
}

#[test]
fn a_denial_names_the_rule_and_costs_nothing() {
    let guards = guards_of(Arc::new(SteppedClock::at(MONDAY_MS)));
    let text = r#"permit (principal, action, resource);
        @id("no-bob") forbid (principal, action, resource) when { principal has userName && principal.userName == "Bob" };"#;
    let guard = guards.guard(UseRules { quota: Some(quota(1, 2)), ..rules(Some(text)) });
    for _ in 0..5 {
        assert_eq!(ask(&*guard, Operation::Encrypt, "Bob"), Err(Denial::policy(Some("no-bob".into()))));
    }
    assert_eq!(ask(&*guard, Operation::Encrypt, "Alice"), Ok(Permit { rule: Some("policy0".into()) }));
    assert_eq!(uses(&*guard, "Alice", 5), 1, "what the policy refused was not counted");
    assert_eq!(ask(&*guard, Operation::Encrypt, "Alice"), Err(Denial::throttled("quota")));
    assert_eq!(ask(&*guard, Operation::Encrypt, "Bob").unwrap_err().kind, DenialKind::Policy, "403 before 429");
    assert!(ask(&*guard, Operation::GetKeyMetadata, "Alice").is_ok(), "metadata is never throttled");
}

#[test]
fn what_a_budget_refuses_costs_nothing() {
    let clock = Arc::new(SteppedClock::at(MONDAY_MS));
    let guards = guards_of(clock);
    let budgets = UseBudgets { every_key: Some(Budget { per_hour: Some(300), per_day: None }), keys: Vec::new() };
    let guard = guards.guard(UseRules { quota: Some(quota(1, 4)), budgets: Some(budgets), ..rules(None) });
    for _ in 0..10 {
        assert_eq!(ask(&*guard, Operation::Decrypt, "Alice"), Err(Denial::throttled("budget-hour")));
    }
    for (_, purse) in guards.budgets().purses() {
        let want = purse.want(MONDAY_MS).unwrap();
        purse.credit(want.window, want.uses);
    }
    assert_eq!(uses(&*guard, "Alice", 10), 3, "a slice, and nothing of the quota went before");
    assert!(ask(&*guard, Operation::GetKeyMetadata, "Alice").is_ok(), "metadata is no use");
}

#[test]
fn limits_outlive_versions_and_policies() {
    let clock = Arc::new(SteppedClock::at(MONDAY_MS));
    let guards = guards_of(clock.clone());
    let limits = UseLimits {
        per_key: None,
        keys: vec![KeyLimit { id: key(), quota: quota(1, 3) }],
        per_principal: Some(quota(1, 2)),
    };
    let with = |policy| UseRules { limits: Some(limits.clone()), ..rules(policy) };
    let first = guards.guard(with(None));
    assert_eq!(uses(&*first, "Alice", 5), 2);
    let next = guards.guard(with(Some("permit (principal, action, resource);")));
    assert_eq!((uses(&*next, "Alice", 5), uses(&*next, "Bob", 5)), (0, 1));
    assert_eq!(ask(&*next, Operation::Decrypt, "Carol"), Err(Denial::throttled("limit-per-key")));
    let none = guards.guard(rules(None));
    assert_eq!(uses(&*none, "Alice", 100), 100);
    clock.advance_ms(1_000);
    assert_eq!(uses(&*first, "Alice", 5), 1, "requests that still hold an old version spend its buckets");
    let others = guards_of(clock).guard(with(None));
    assert_eq!(uses(&*others, "Alice", 5), 2, "another key store's buckets are full");
}

#[test]
fn a_costly_policy_throttles_its_own_key_store_and_no_other() {
    thread_local! {
        static TAKEN: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
    }
    // Between one look and the next, 100 ms pass.
    let meter: Meter = || {
        TAKEN.set(TAKEN.get() + 100);
        core::time::Duration::from_millis(TAKEN.get())
    };
    let clock = Arc::new(SteppedClock::at(MONDAY_MS));
    let guards = UseGuards::new(clock.clone(), meter);
    let guard = guards.guard(rules(Some("permit (principal, action, resource);")));
    let passed = (0..10).filter(|n| ask(&*guard, Operation::GetKeyMetadata, &format!("Alice{n}")).is_ok()).count();
    assert!((1..10).contains(&passed), "{passed}");
    let again = (0..10).filter(|n| ask(&*guard, Operation::GetKeyMetadata, &format!("Alice{n}")).is_ok()).count();
    assert_eq!(again, passed, "what was decided takes no time");
    assert_eq!(ask(&*guard, Operation::Decrypt, "Bob"), Err(Denial::throttled("policy-time")));
    let next = guards.guard(rules(Some("permit (principal, action, resource);")));
    assert_eq!(
        ask(&*next, Operation::Decrypt, "Bob"),
        Err(Denial::throttled("policy-time")),
        "a new version begins no new time"
    );
    let other = UseGuards::new(clock.clone(), meter);
    assert!(
        ask(&*other.guard(rules(Some("permit (principal, action, resource);"))), Operation::Decrypt, "Bob").is_ok()
    );
    clock.advance_ms(1_000);
    assert!(ask(&*guard, Operation::Decrypt, "Bob").is_ok());
}

#[test]
fn a_policy_that_is_not_understood_permits_nothing() {
    let guards = guards_of(Arc::new(SteppedClock::at(MONDAY_MS)));
    let guard = guards.guard(UseRules { policy: PolicyInForce::Unreadable, quota: Some(quota(1, 2)), ..rules(None) });
    for operation in [Operation::Encrypt, Operation::Decrypt, Operation::GetKeyMetadata] {
        assert_eq!(ask(&*guard, operation, "Alice"), Err(Denial::policy(Some(UNREADABLE.into()))));
    }
    assert!(Policy::parse(&format!("@id(\"{UNREADABLE}\") permit (principal, action, resource);")).is_err());
}
