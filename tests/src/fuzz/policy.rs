//! Text that wants to be a policy of use.

use std::collections::HashSet;

use holdfast_guard::{Attributes, Ground, Policy};
use holdfast_shared::limits::{USE_POLICIES_MAX, USE_POLICY_MAX, USE_POLICY_NAME_MAX};
use holdfast_shared::xks::Operation;

use super::Verdict;

/// Callers of each kind.
const PRINCIPALS: [&str; 7] = [
    "arn:aws:iam::123456789012:user/Alice",
    "arn:aws:iam::123456789012:role/payments/Writer",
    "arn:aws:sts::123456789012:assumed-role/Writer/session",
    "arn:aws:iam::123456789012:root",
    "ec2.amazonaws.com",
    "AWS Internal",
    "\u{0}*\"",
];

/// A policy set: it is refused with printable reasons, or it decides, alike each time, by rules that it names; a `forbid` at its end
/// denies everything.
#[must_use]
pub fn use_policy(data: &[u8]) -> Verdict {
    let Ok(text) = core::str::from_utf8(data) else { return Verdict::Refused };
    let policy = match Policy::parse(text) {
        Ok(policy) => policy,
        Err(invalid) => {
            let summary = invalid.summary();
            assert!(!invalid.problems.is_empty() && !summary.is_empty() && summary.len() <= 512);
            assert!(summary.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{summary:?}");
            return Verdict::Refused;
        }
    };
    let names = policy.names();
    assert!(text.len() <= USE_POLICY_MAX && (1..=USE_POLICIES_MAX).contains(&names.len()));
    assert!(names.iter().all(|name| (1..=USE_POLICY_NAME_MAX).contains(&name.len())));
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "two policies have one name");
    let closed = Policy::parse(&format!("{text}\nforbid(principal, action, resource);"));
    for request in requests() {
        let decision = policy.decide(&request);
        assert_eq!(policy.decide(&request), decision, "a decision is a function of the request");
        assert_eq!(decision.ground == Ground::NothingPermits, decision.rule.is_none());
        assert!(decision.rule.iter().all(|rule| names.contains(rule)));
        if let Ok(closed) = &closed {
            assert!(!closed.decide(&request).is_permitted(), "a forbid that always holds denies");
        }
    }
    Verdict::Accepted
}

fn requests() -> impl Iterator<Item = Attributes<'static>> {
    let kinds = [
        (Operation::Encrypt, "GenerateDataKey", Some("arn:aws:kms:eu-central-1:123456789012:key/1")),
        (Operation::Decrypt, "Decrypt", Some("arn:aws:kms:eu-central-1:123456789012:/key/1")),
        (Operation::GetKeyMetadata, "CreateKey", None),
    ];
    PRINCIPALS.into_iter().flat_map(move |principal| {
        kinds.into_iter().map(move |(operation, kms_operation, kms_key_arn)| Attributes {
            operation,
            external_key_id: "payments-1",
            principal,
            kms_operation,
            kms_key_arn,
            via_service: kms_key_arn.map(|_| "ebs"),
            source_vpc: None,
            source_vpce: None,
            access_key_id: "AAAAABBBBBCCCCCDDDDD",
            time_ms: 1_795_429_800_000,
        })
    })
}
