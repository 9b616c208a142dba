//! The log and CloudTrail, held against each other.

use std::rc::Rc;

use holdfast_cli::audit::cloudtrail::{Call, CloudTrail, Met, View};
use holdfast_cli::audit::findings;
use holdfast_cli::audit::reconcile::{FINDINGS_MAX, Kind, Reconcile, ReconcileReport, Terms};
use holdfast_cli::audit::records::{Line, Unopened};
use holdfast_cli::audit::standing::Standing;
use holdfast_shared::audit::{Event, LogId, Operation, Record, RequestRecord};
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::ids::{BootId, KeyStoreId};
use holdfast_shared::xks::ErrorName;

const MINUTE: u64 = 60_000;
const ROLE: &str = "arn:aws:iam::123456789012:role/payments/Alice";
const KEY: &str = "arn:aws:kms:us-east-1:123456789012:key/1";

fn record() -> RequestRecord {
    RequestRecord {
        key: Some(ExternalKeyId::parse("both").unwrap()),
        kms_request_id: Some("call".to_owned()),
        kms_operation: Some("GenerateDataKey".to_owned()),
        principal: Some(ROLE.to_owned()),
        kms_key_arn: Some(KEY.to_owned()),
        ..RequestRecord::new(Operation::Encrypt, "A".repeat(20).parse().unwrap())
    }
}

fn view() -> View {
    View {
        name: "GenerateDataKey".to_owned(),
        region: "us-east-1".to_owned(),
        error: None,
        callers: vec![ROLE.to_owned()],
        account: Some("123456789012".to_owned()),
        key_arns: vec![KEY.to_owned()],
        external_key: Some("both".to_owned()),
        custom_key_store: Some("cks-1".to_owned()),
    }
}

/// One record and one call at minute 60 of files that reach from minute 0 to 120; what is `None` is not there.
struct Case {
    record: Option<RequestRecord>,
    record_at: u64,
    view: Option<View>,
    event_at: u64,
    /// How often the record stands in the log.
    times: u64,
    terms: Terms,
    is_whole: bool,
    /// Events of other regions, from when to when.
    elsewhere: Option<(&'static str, u64, u64)>,
    unopened: Unopened,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            record: Some(record()),
            record_at: 60 * MINUTE,
            view: Some(view()),
            event_at: 60 * MINUTE,
            terms: Terms { since_ms: 0, until_ms: u64::MAX, window_ms: 15 * MINUTE, custom_key_stores: Vec::new() },
            times: 1,
            is_whole: true,
            elsewhere: None,
            unopened: Unopened::default(),
        }
    }
}

impl Case {
    fn report(self) -> ReconcileReport {
        let mut trail = CloudTrail::default();
        trail.files = 1;
        trail.coverage.insert("us-east-1".to_owned(), (0, 120 * MINUTE));
        if let Some((region, from, to)) = self.elsewhere {
            trail.coverage.insert(region.to_owned(), (from * MINUTE, to * MINUTE));
        }
        if let Some(view) = self.view {
            let call = Call { at_ms: self.event_at, views: vec![Rc::new(view)], met: Met::Nowhere, answers: 0 };
            trail.calls.insert("call".into(), call);
        }
        let mut standing = Standing::default();
        if !self.is_whole {
            standing.findings.push(findings::Finding {
                kind: findings::Kind::Dropped,
                boot_id: BootId([2; 16]),
                from: None,
                to: None,
                missing_at_most: None,
                what: "gone".to_owned(),
            });
        }
        let mut reconcile = Reconcile::with(trail, self.terms, standing);
        let log = LogId { key_store_id: KeyStoreId([1; 32]), boot_id: BootId([2; 16]) };
        let begin = Record { at_ms: 10 * MINUTE, what: Event::Uncounted { refused_unauthenticated: 0 } };
        reconcile.take(&Line { log, index: 2, record: begin });
        for index in (3..).take(usize::try_from(self.times).unwrap()) {
            let Some(request) = self.record.clone() else { break };
            let record = Record { at_ms: self.record_at, what: Event::Request(Box::new(request)) };
            reconcile.take(&Line { log, index, record });
        }
        reconcile.finish(&self.unopened)
    }
}

#[test]
fn what_agrees_is_reconciled() {
    let refused = |error| Some(RequestRecord { error: Some(error), ..record() });
    let failed = || Some(View { error: Some("KMSInvalidStateException".to_owned()), ..view() });
    let re_encrypt = |operation| RequestRecord { operation, kms_operation: Some("ReEncrypt".to_owned()), ..record() };
    let table = [
        ("one call", Case::default()),
        (
            "refused, and failed",
            Case { record: refused(ErrorName::InvalidCiphertextException), view: failed(), ..Case::default() },
        ),
        ("answered, and KMS did not wait", Case { view: failed(), ..Case::default() }),
        (
            "the session of the role",
            Case {
                view: Some(View {
                    callers: vec!["arn:aws:sts::123456789012:assumed-role/Alice/session".to_owned()],
                    ..view()
                }),
                ..Case::default()
            },
        ),
        (
            "a caller of another account, of whom the account is known",
            Case { view: Some(View { callers: Vec::new(), ..view() }), ..Case::default() },
        ),
        (
            "nobody known as the caller",
            Case { view: Some(View { callers: Vec::new(), account: None, ..view() }), ..Case::default() },
        ),
        (
            "the key's ARN as the specification writes it",
            Case {
                record: Some(RequestRecord { kms_key_arn: Some(KEY.replace(":key/", ":/key/")), ..record() }),
                ..Case::default()
            },
        ),
        (
            "the second half of ReEncrypt, with the other key",
            Case {
                record: Some(RequestRecord {
                    key: Some(ExternalKeyId::parse("other").unwrap()),
                    ..re_encrypt(Operation::Decrypt)
                }),
                view: Some(View { name: "ReEncrypt".to_owned(), ..view() }),
                ..Case::default()
            },
        ),
        (
            "an operation that nobody knew",
            Case {
                record: Some(RequestRecord { kms_operation: Some("BulkEncrypt".to_owned()), ..record() }),
                view: Some(View { name: "BulkEncrypt".to_owned(), ..view() }),
                ..Case::default()
            },
        ),
        ("neither side has anything", Case { record: None, view: None, ..Case::default() }),
        ("asked once more, since the first answer did not come in time", Case { times: 2, ..Case::default() }),
        (
            "both halves of ReEncrypt, twice each",
            Case {
                record: Some(re_encrypt(Operation::Decrypt)),
                view: Some(View { name: "ReEncrypt".to_owned(), ..view() }),
                times: 4,
                ..Case::default()
            },
        ),
        (
            "refused again and again",
            Case { record: refused(ErrorName::ThrottlingException), view: failed(), times: 9, ..Case::default() },
        ),
    ];
    for (what, case) in table {
        let report = case.report();
        assert!(report.reconciled, "{what}: {report}");
    }
}

#[test]
fn each_side_alone_is_named() {
    let refused = || Some(RequestRecord { error: Some(ErrorName::AccessDeniedException), ..record() });
    let window = |since, until| Terms { since_ms: since * MINUTE, until_ms: until * MINUTE, ..Case::default().terms };
    let elsewhere = |arn: &str| Some(RequestRecord { kms_key_arn: Some(arn.to_owned()), ..record() });
    let beside = |from, to| Unopened { records: 1, spans: vec![(from * MINUTE, to * MINUTE)] };
    let other_store = || Terms { custom_key_stores: vec!["cks-2".to_owned()], ..Case::default().terms };
    let table = [
        ("no record", Case { record: None, ..Case::default() }, vec![Kind::Impostor]),
        ("every record is a refusal", Case { record: refused(), ..Case::default() }, vec![Kind::Impostor]),
        ("no event", Case { view: None, ..Case::default() }, vec![Kind::UnknownCall]),
        (
            "no event, in a region without files",
            Case { record: elsewhere("arn:aws:kms:mars-1:123456789012:key/1"), view: None, ..Case::default() },
            vec![Kind::UnknownCall],
        ),
        (
            "no record of an event of another key store",
            Case { record: None, terms: other_store(), ..Case::default() },
            vec![],
        ),
        ("no event of a refusal", Case { record: refused(), view: None, ..Case::default() }, vec![]),
        (
            "no record of a failure",
            Case {
                record: None,
                view: Some(View { error: Some("AccessDenied".to_owned()), ..view() }),
                ..Case::default()
            },
            vec![],
        ),
        (
            "no record of DescribeKey",
            Case { record: None, view: Some(View { name: "DescribeKey".to_owned(), ..view() }), ..Case::default() },
            vec![],
        ),
        ("no event, at the end of the files", Case { view: None, record_at: 106 * MINUTE, ..Case::default() }, vec![]),
        (
            "no event, at the beginning of the files",
            Case { view: None, record_at: 14 * MINUTE, ..Case::default() },
            vec![],
        ),
        ("no event, after the files", Case { view: None, record_at: 500 * MINUTE, ..Case::default() }, vec![]),
        ("no record, before the log", Case { record: None, event_at: 9 * MINUTE, ..Case::default() }, vec![]),
        (
            "no record, long after the last one",
            Case { record: None, event_at: 500 * MINUTE, ..Case::default() },
            vec![Kind::Impostor],
        ),
        (
            "no event, in a region in which little happens",
            Case {
                record: elsewhere("arn:aws:kms:eu-north-1:123456789012:key/1"),
                view: None,
                elsewhere: Some(("eu-north-1", 59, 61)),
                ..Case::default()
            },
            vec![Kind::UnknownCall],
        ),
        (
            "no event, of a key without a readable ARN",
            Case { record: elsewhere("x"), view: None, elsewhere: Some(("eu-north-1", 59, 61)), ..Case::default() },
            vec![Kind::UnknownCall],
        ),
        (
            "no record, while records do not open",
            Case { record: None, unopened: beside(59, 61), ..Case::default() },
            vec![],
        ),
        (
            "no record, after the records that do not open",
            Case { record: None, unopened: beside(50, 59), ..Case::default() },
            vec![Kind::Impostor],
        ),
        (
            "no record, before the records that do not open",
            Case { record: None, unopened: beside(61, 62), ..Case::default() },
            vec![Kind::Impostor],
        ),
        (
            "every record is a refusal, while records do not open",
            Case { record: refused(), unopened: beside(59, 61), ..Case::default() },
            vec![Kind::Impostor],
        ),
        ("a request id that was used again", Case { times: 4, ..Case::default() }, vec![Kind::Repeated; 2]),
        ("no record, before --since", Case { record: None, terms: window(61, 90), ..Case::default() }, vec![]),
        ("no record, after --until", Case { record: None, terms: window(0, 60), ..Case::default() }, vec![]),
        ("no event, before --since", Case { view: None, terms: window(61, 90), ..Case::default() }, vec![]),
    ];
    for (what, case, expected) in table {
        let report = case.report();
        assert_eq!(
            report.findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(),
            expected,
            "{what}: {report}"
        );
        assert!(report.findings.iter().all(|finding| finding.critical == (finding.kind == Kind::Impostor)), "{what}");
        assert_eq!(report.totals.values().sum::<u64>(), u64::try_from(expected.len()).unwrap(), "{what}");
    }
}

/// Where keys are used in two regions, one that no file reaches excuses nothing either.
#[test]
fn an_unreadable_arn_is_judged_by_any_region_in_which_keys_are_used() {
    let mut trail = CloudTrail::default();
    trail.files = 1;
    for (number, region, reach) in [(0, "us-east-1", (0, 120 * MINUTE)), (1, "eu-north-1", (59 * MINUTE, 61 * MINUTE))]
    {
        trail.coverage.insert(region.to_owned(), reach);
        let view = View { region: region.to_owned(), error: Some("AccessDenied".to_owned()), ..view() };
        let call = Call { at_ms: 60 * MINUTE, views: vec![Rc::new(view)], met: Met::Nowhere, answers: 0 };
        trail.calls.insert(format!("other-{number}").into(), call);
    }
    let log = LogId { key_store_id: KeyStoreId([1; 32]), boot_id: BootId([2; 16]) };
    let mut reconcile = Reconcile::with(trail, Case::default().terms, Standing::default());
    for (index, arn) in [(3, "x"), (4, "arn:aws:kms:eu-north-1:123456789012:key/1")] {
        let request = RequestRecord { kms_key_arn: Some(arn.to_owned()), ..record() };
        let record = Record { at_ms: 60 * MINUTE, what: Event::Request(Box::new(request)) };
        reconcile.take(&Line { log, index, record });
    }
    let report = reconcile.finish(&Unopened::default());
    let found: Vec<_> = report.findings.iter().map(|finding| (finding.kind, finding.index)).collect();
    assert_eq!((found, report.not_compared.records_at_the_edge), (vec![(Kind::UnknownCall, Some(3))], 1));
}

#[test]
fn refusals_that_were_summed_up_count_as_many() {
    let summed = RequestRecord {
        error: Some(ErrorName::AccessDeniedException),
        kms_request_id: None,
        count: Some(7),
        ..record()
    };
    let report = Case { record: Some(summed), view: None, ..Case::default() }.report();
    assert_eq!(report.not_compared.records_without_id, 7);
}

#[test]
fn nothing_compared_or_a_log_that_was_changed_is_not_reconciled() {
    let report = Case { view: None, record_at: 110 * MINUTE, ..Case::default() }.report();
    assert!(!report.reconciled && report.to_string().contains("nothing could be compared"), "{report}");
    let report = Case { is_whole: false, ..Case::default() }.report();
    assert!(!report.reconciled && report.to_string().ends_with("the log is not as it was signed"), "{report}");
}

#[test]
fn what_the_two_say_differently_is_named() {
    let named = |name: &str| Some(View { name: name.to_owned(), ..view() });
    let table = [
        ("KMS operation", Case { view: named("Decrypt"), ..Case::default() }),
        (
            "operation",
            Case { record: Some(RequestRecord { operation: Operation::Decrypt, ..record() }), ..Case::default() },
        ),
        (
            "principal",
            Case { view: Some(View { callers: vec![ROLE.replace("Alice", "Bob")], ..view() }), ..Case::default() },
        ),
        (
            "principal",
            Case {
                view: Some(View { callers: Vec::new(), account: Some("999999999999".to_owned()), ..view() }),
                ..Case::default()
            },
        ),
        ("KMS key", Case { view: Some(View { key_arns: vec![format!("{KEY}2")], ..view() }), ..Case::default() }),
        ("region", Case { view: Some(View { region: "eu-central-1".to_owned(), ..view() }), ..Case::default() }),
        (
            "external key",
            Case { view: Some(View { external_key: Some("other".to_owned()), ..view() }), ..Case::default() },
        ),
        (
            "key store",
            Case {
                terms: Terms { custom_key_stores: vec!["cks-2".to_owned()], ..Case::default().terms },
                ..Case::default()
            },
        ),
        ("time", Case { event_at: 71 * MINUTE, ..Case::default() }),
    ];
    for (what, case) in table {
        let report = case.report();
        let [finding] = &report.findings[..] else { panic!("{what}: {report}") };
        assert_eq!(finding.kind, Kind::Mismatch, "{what}");
        assert!(
            finding.what.starts_with(&format!("{what}: ")) && !finding.what.contains(';'),
            "{what}: {}",
            finding.what
        );
        assert_eq!(finding.index, Some(3));
    }
}

#[test]
fn findings_are_bounded_and_all_are_counted() {
    let mut trail = CloudTrail::default();
    trail.files = 1;
    let many = FINDINGS_MAX + 5;
    for number in 0..many {
        let call = Call { at_ms: 60 * MINUTE, views: vec![Rc::new(view())], met: Met::Nowhere, answers: 0 };
        trail.calls.insert(format!("{number}").into(), call);
    }
    let report = Reconcile::with(trail, Case::default().terms, Standing::default()).finish(&Unopened::default());
    assert_eq!((report.findings.len(), report.totals[&Kind::Impostor]), (FINDINGS_MAX, u64::try_from(many).unwrap()));
    assert!(report.to_string().contains("5 further findings are not shown"));
}
