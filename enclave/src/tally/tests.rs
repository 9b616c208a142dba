use holdfast_shared::alarm::{Tally, User};
use holdfast_shared::cbor;
use holdfast_shared::limits::{TALLY_TEXT_MAX, TALLY_TEXTS_MAX, TALLY_USES_MAX};
use holdfast_shared::sigv4::AccessKeyId;
use holdfast_shared::xks::ErrorName;

use super::*;

fn record(operation: Operation, principal: &str) -> RequestRecord {
    RequestRecord {
        key: Some("a".parse().unwrap()),
        kms_request_id: Some("1".to_owned()),
        principal: Some(principal.to_owned()),
        via_service: Some("s3.eu-central-1.amazonaws.com".to_owned()),
        error: Some(ErrorName::AccessDeniedException),
        ..RequestRecord::new(operation, AccessKeyId::parse(&"A".repeat(20)).unwrap())
    }
}

fn refuse(tally: &UseTally, principal: &str) {
    tally.refused(&record(Operation::Decrypt, principal));
}

/// Takes what there is, and makes sure that the home custodian would.
fn taken(tally: &UseTally) -> Tally {
    let (uses, others) = tally.take();
    let taken = Tally { uses, others, ..Tally::default() };
    assert_eq!(cbor::decode::<Tally>(&cbor::encode(&taken)).unwrap(), taken);
    assert_eq!(tally.take(), (Vec::new(), UseCount::default()));
    taken
}

fn refused(tally: &Tally) -> Vec<(&str, u32)> {
    tally.uses.iter().map(|tallied| (tallied.user.principal.as_deref().unwrap(), tallied.count.refused)).collect()
}

#[test]
fn a_refusal_counts_where_the_body_named_a_user_of_a_key() {
    let base = record(Operation::GetKeyMetadata, "arn:aws:sts::111122223333:assumed-role/app/i-0abc");
    let tally = UseTally::default();
    tally.refused(&RequestRecord { key: None, ..base.clone() });
    tally.refused(&RequestRecord { kms_request_id: None, ..base.clone() });
    for fault in [ErrorName::InternalException, ErrorName::DependencyTimeoutException, ErrorName::ThrottlingException] {
        tally.refused(&RequestRecord { error: Some(fault), ..base.clone() });
    }
    assert_eq!(tally.take(), (Vec::new(), UseCount::default()));
    tally.refused(&base);
    tally.refused(&RequestRecord { source_vpc: Some("vpc-1".to_owned()), ..base.clone() });
    tally.refused(&RequestRecord { principal: None, via_service: None, ..base });
    let taken = taken(&tally);
    let user = |principal: Option<&str>, service: Option<&str>, vpc: Option<&str>| User {
        key: "a".parse().unwrap(),
        principal: principal.map(str::to_owned),
        service: service.map(str::to_owned),
        vpc: vpc.map(str::to_owned),
    };
    let (role, s3) = (Some("arn:aws:sts::111122223333:assumed-role/app"), Some("s3.eu-central-1.amazonaws.com"));
    let users: Vec<_> = taken.uses.iter().map(|tallied| tallied.user.clone()).collect();
    assert_eq!(users, [user(None, None, None), user(role, s3, None), user(role, s3, Some("vpc-1"))]);
    assert!(taken.uses.iter().all(|tallied| tallied.count == ONE_REFUSED));
    assert_eq!(taken.others, UseCount::default());
}

#[test]
fn sessions_of_a_role_are_one_user_and_what_is_taken_is_gone() {
    let tally = UseTally::default();
    for session in 0..100 {
        refuse(&tally, &format!("arn:aws:sts::1:assumed-role/app/{session}"));
    }
    assert_eq!(refused(&taken(&tally)), [("arn:aws:sts::1:assumed-role/app", 100)]);
    refuse(&tally, "arn:aws:sts::1:assumed-role/app/0");
    assert_eq!(refused(&taken(&tally)), [("arn:aws:sts::1:assumed-role/app", 1)]);
}

#[test]
fn those_beyond_the_bounds_are_counted_together() {
    let tally = UseTally::default();
    // Unsorted, and each twice.
    for number in (0..TALLY_USES_MAX + 3).rev().chain(0..TALLY_USES_MAX + 3) {
        refuse(&tally, &format!("{number:03}"));
    }
    let many = taken(&tally);
    assert_eq!((many.uses.len(), many.others), (TALLY_USES_MAX, UseCount { used: 0, refused: 6 }));
    assert!(many.uses.iter().all(|tallied| tallied.count.refused == 2));

    // Long texts are cut, and there is room for so many of them.
    for number in 0..TALLY_USES_MAX {
        refuse(&tally, &format!("{number:03}{}", "é".repeat(TALLY_TEXT_MAX)));
    }
    let long = taken(&tally);
    assert!(long.uses.iter().all(|tallied| tallied.user.principal.as_ref().unwrap().len() == TALLY_TEXT_MAX - 1));
    let text_len: usize = long.uses.iter().map(|tallied| tallied.user.text_len()).sum();
    assert!(text_len <= TALLY_TEXTS_MAX && text_len + TALLY_TEXT_MAX + 100 > TALLY_TEXTS_MAX, "{text_len}");
    assert_eq!(long.uses.len() + usize::try_from(long.others.refused).unwrap(), TALLY_USES_MAX);
}

#[test]
fn nobody_is_named_where_it_is_printed() {
    let tally = UseTally::default();
    refuse(&tally, "somebody");
    assert_eq!(format!("{tally:?}"), "UseTally { .. }");
}
