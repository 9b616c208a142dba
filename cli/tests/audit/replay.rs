//! What another policy would have said.

use holdfast_cli::audit::records::Line;
use holdfast_cli::audit::replay::{EXAMPLES_MAX, GROUPS_MAX, Replay, ReplayReport};
use holdfast_cli::audit::standing::Standing;
use holdfast_guard::Policy;
use holdfast_shared::audit::{Event, LogId, Operation, Record, RequestRecord};
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::limits::METADATA_TEXT_MAX;
use holdfast_shared::xks::ErrorName;

const ALICE: &str = "arn:aws:iam::123456789012:role/payments/Alice";
const BOB: &str = "arn:aws:iam::123456789012:role/sandbox/Bob";
/// 2024-01-01T12:00:00Z, a Monday.
const NOON_MS: u64 = 1_704_110_400_000;

const POLICY: &str = r#"
    @id("payments") permit (principal, action, resource) when { principal has path && principal.path == "/payments/" };
    @id("not-at-night") forbid (principal, action, resource) when { context.hour < 6 };
"#;

fn request(principal: &str) -> RequestRecord {
    RequestRecord {
        key: Some(ExternalKeyId::parse("payments-1").unwrap()),
        kms_request_id: Some("id".to_owned()),
        kms_operation: Some("Encrypt".to_owned()),
        principal: Some(principal.to_owned()),
        ..RequestRecord::new(Operation::Encrypt, "A".repeat(20).parse().unwrap())
    }
}

fn line(index: u64, at_ms: u64, request: RequestRecord) -> Line {
    let log = LogId { key_store_id: KeyStoreId([1; 32]), boot_id: BootId([2; 16]) };
    Line { log, index, record: Record { at_ms, what: Event::Request(Box::new(request)) } }
}

fn replay(requests: impl IntoIterator<Item = (u64, RequestRecord)>) -> ReplayReport {
    let policy = Policy::parse(POLICY).unwrap();
    let mut replay = Replay::of(&policy, Standing::default());
    for (index, (at_ms, request)) in (0..).zip(requests) {
        replay.take(&line(index, at_ms, request));
    }
    replay.finish(0)
}

#[test]
fn what_a_record_says_decides_what_is_counted() {
    use ErrorName::{AccessDeniedException, InvalidCiphertextException, ThrottlingException};
    type Count = fn(&ReplayReport) -> u64;
    let error = |error| RequestRecord { error: Some(error), ..request(BOB) };
    let table: [(&str, u64, RequestRecord, Count); 10] = [
        ("answered, and would be", NOON_MS, request(ALICE), |r| r.decided),
        ("answered, and no permit holds", NOON_MS, request(BOB), |r| r.would_be_refused),
        ("answered, and a forbid holds", NOON_MS - 7 * 3_600_000, request(ALICE), |r| r.would_be_refused),
        (
            "refused, and permitted now",
            NOON_MS,
            RequestRecord { error: Some(AccessDeniedException), ..request(ALICE) },
            |r| r.would_be_permitted,
        ),
        ("refused by policy, and would be", NOON_MS, error(AccessDeniedException), |r| r.decided),
        ("throttled", NOON_MS, error(ThrottlingException), |r| r.refused_otherwise),
        ("a bad ciphertext", NOON_MS, error(InvalidCiphertextException), |r| r.refused_otherwise),
        ("health", NOON_MS, RequestRecord { operation: Operation::GetHealthStatus, ..request(ALICE) }, |r| r.not_asked),
        ("no principal", NOON_MS, RequestRecord { principal: None, ..request(ALICE) }, |r| r.undecided),
        (
            "a text that was cut",
            NOON_MS,
            RequestRecord { source_vpc: Some("v".repeat(METADATA_TEXT_MAX)), ..request(ALICE) },
            |r| r.maybe_cut,
        ),
    ];
    for (what, at_ms, request, count) in table {
        let report = replay([(at_ms, request)]);
        assert_eq!(count(&report), 1, "{what}: {report}");
        let decided = report.decided + report.undecided + report.refused_otherwise + report.not_asked;
        assert_eq!(decided, 1, "{what}: each request is counted once");
    }
}

/// As the enclave sums them up: without what differs from one to the next.
#[test]
fn refusals_that_were_summed_up_count_as_many_and_cannot_be_decided() {
    let count = |error| RequestRecord { error: Some(error), count: Some(7), ..request(ALICE) };
    let summed = RequestRecord { kms_operation: None, ..count(ErrorName::AccessDeniedException) };
    let report = replay([(NOON_MS, summed), (NOON_MS, count(ErrorName::ThrottlingException))]);
    assert_eq!((report.undecided, report.refused_otherwise, report.decided), (7, 7, 0));
    assert!(report.to_string().contains("7 requests could not be decided"), "{report}");
    let report = replay([(NOON_MS, count(ErrorName::AccessDeniedException))]);
    assert_eq!((report.decided, report.would_be_permitted, report.groups[0].requests), (7, 7, 7));
}

#[test]
fn differences_are_grouped_by_rule_and_principal_and_told_in_a_sentence() {
    let night = NOON_MS - 7 * 3_600_000;
    let then = |request| RequestRecord { rule: Some("old".to_owned()), ..request };
    let bobs = (0..12).map(|_| (NOON_MS, then(request(BOB))));
    let report = replay(bobs.chain([(night, request(ALICE)), (night, request(ALICE)), (NOON_MS, request(ALICE))]));
    assert_eq!((report.decided, report.would_be_refused), (15, 14));
    let groups: Vec<_> = report
        .groups
        .iter()
        .map(|group| (group.requests, group.rule.as_deref(), group.recorded_rule.as_deref(), group.principal.as_str()))
        .collect();
    assert_eq!(groups, [(12, None, Some("old"), BOB), (2, Some("not-at-night"), None, ALICE)]);
    assert_eq!(report.groups[0].examples.len(), EXAMPLES_MAX);
    let text = report.to_string();
    for expected in [
        "these 14 requests would have been refused:",
        "no permit holds; then decided by old",
        "a forbid holds by not-at-night; then no rule decided",
        "2024-01-01T12:00:00Z Encrypt key=payments-1 request=id",
        "15 requests decided anew",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(replay([(NOON_MS, request(ALICE))]).to_string().ends_with("1 request decided anew: no difference"));
    assert!(replay([(NOON_MS, request(BOB))]).to_string().starts_with("this 1 request would have been refused:"));
}

#[test]
fn principals_without_end_take_no_memory_without_end() {
    let many = u64::try_from(GROUPS_MAX).unwrap() + 7;
    let report = replay((0..many).map(|at| (NOON_MS, request(&format!("arn:aws:iam::123456789012:role/{at}")))));
    assert_eq!((report.groups.len(), report.in_further_groups, report.would_be_refused), (GROUPS_MAX, 7, many));
}
