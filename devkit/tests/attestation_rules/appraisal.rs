//! Appraisal: what a verified document must say, and what is made of it.

use holdfast_shared::attestation::inspect;

use super::*;

#[test]
fn a_good_document_yields_what_was_verified() {
    let fixture = Fixture::new();
    let other = Measurements { pcr0: [9; 48], ..accepted() };
    let sets = [other.clone(), accepted()];
    let attestation = fixture.appraise(&fixture.good(), &expectations(&sets), NOW_MS).unwrap();
    assert_eq!(attestation.module_id(), MODULE_ID);
    assert_eq!(attestation.timestamp_ms(), NOW_MS);
    assert_eq!(attestation.pcrs(), &pcrs());
    assert_eq!(attestation.measurements(), &accepted());
    assert_eq!(attestation.accepted_index(), 1);
    assert_eq!(attestation.public_key(), Some(PUBLIC_KEY));
    assert_eq!(attestation.user_data(), Some(USER_DATA));
    assert_eq!(attestation.nonce(), NONCE);
    assert_eq!(attestation.root_fingerprint(), fixture.trust.fingerprint());
    assert_eq!(attestation.clone().reappraise(&[accepted()]).unwrap().accepted_index(), 0);
    assert_eq!(attestation.reappraise(&[other]).unwrap_err(), AppraisalError::Measurements);
}

#[test]
fn each_rule_of_the_challenge() {
    let fixture = Fixture::new();
    let sets = [accepted()];
    let expected = expectations(&sets);
    for (name, nonce) in [
        ("none", None),
        ("empty", Some(&b""[..])),
        ("other", Some(b"a nonce of that challenge")),
        ("prefix", NONCE.get(..8)),
        ("longer", Some(b"a nonce of this challenge!")),
    ] {
        let outcome = fixture.appraise(&fixture.good().nonce(nonce), &expected, NOW_MS);
        assert_eq!(outcome.unwrap_err(), AppraisalError::Nonce, "{name}");
    }
    // Time to live and one minute of skew before, one minute after.
    let oldest_ms = expected.max_age_ms + MINUTE_MS;
    for (now_ms, outcome) in [
        (NOW_MS, None),
        (NOW_MS + oldest_ms, None),
        (NOW_MS + oldest_ms + 1, Some(AppraisalError::Stale)),
        (u64::MAX, Some(AppraisalError::Stale)),
        (NOW_MS - MINUTE_MS, None),
        (NOW_MS - MINUTE_MS - 1, Some(AppraisalError::Future)),
        (0, Some(AppraisalError::Future)),
    ] {
        assert_eq!(fixture.appraise(&fixture.good(), &expected, now_ms).err(), outcome, "at {now_ms}");
    }
}

#[test]
fn each_rule_of_the_measurements() {
    let fixture = Fixture::new();
    let with = |index: u8, value: Option<[u8; 48]>| {
        let mut pcrs = pcrs();
        match value {
            Some(value) => pcrs.insert(index, value),
            None => pcrs.remove(&index),
        };
        pcrs
    };
    let zero = Some([0; 48]);
    let other = Some([0xee; 48]);
    let all_zero: BTreeMap<u8, [u8; 48]> = (0..=16).map(|index| (index, [0; 48])).collect();
    let mut cases = vec![("debug".to_owned(), all_zero.clone(), AppraisalError::DebugMode)];
    for index in 0..=2 {
        cases.push((format!("no PCR {index}"), with(index, None), AppraisalError::MissingPcr(index)));
        cases.push((format!("zero PCR {index}"), with(index, zero), AppraisalError::ZeroPcr(index)));
    }
    for index in [0, 1, 2, 4, 16] {
        cases.push((format!("other PCR {index}"), with(index, other), AppraisalError::Measurements));
    }
    for index in [4, 16] {
        cases.push((format!("no PCR {index}"), with(index, None), AppraisalError::Measurements));
        cases.push((format!("zero PCR {index}"), with(index, zero), AppraisalError::Measurements));
    }
    let sets = [accepted()];
    for (name, pcrs, error) in cases {
        let outcome = fixture.appraise(&fixture.good().pcrs(&pcrs), &expectations(&sets), NOW_MS);
        assert_eq!(outcome.unwrap_err(), error, "{name}");
    }
    // Debug mode is refused even by a policy that would have it.
    let zeros =
        [Measurements { pcr0: [0; 48], pcr1: [0; 48], pcr2: [0; 48], pcr16: [0; 48], pcr4: None, ..accepted() }];
    let outcome = fixture.appraise(&fixture.good().pcrs(&all_zero), &expectations(&zeros), NOW_MS);
    assert_eq!(outcome.unwrap_err(), AppraisalError::DebugMode);
    // Parts of two sets are not a set, and no set accepts nothing.
    let halves = [Measurements { pcr0: [9; 48], ..accepted() }, Measurements { pcr1: [9; 48], ..accepted() }];
    for sets in [&halves[..], &[]] {
        let outcome = fixture.appraise(&fixture.good(), &expectations(sets), NOW_MS);
        assert_eq!(outcome.unwrap_err(), AppraisalError::Measurements);
    }
}

#[test]
fn each_rule_of_the_fields() {
    let fixture = Fixture::new();
    let sets = [accepted()];
    for (field, expected, accepted) in [
        (None, Expected::Absent, true),
        (None, Expected::Exactly(b""), false),
        (None, Expected::Present, false),
        (None, Expected::Any, true),
        (Some(&b""[..]), Expected::Absent, false),
        (Some(b""), Expected::Exactly(b""), true),
        (Some(b"x"), Expected::Absent, false),
        (Some(b"x"), Expected::Exactly(b"x"), true),
        (Some(b"x"), Expected::Exactly(b"y"), false),
        (Some(b"x"), Expected::Present, true),
        (Some(b"x"), Expected::Any, true),
    ] {
        let document = fixture.good().user_data(field);
        let outcome = fixture.appraise(&document, &Expectations { user_data: expected, ..expectations(&sets) }, NOW_MS);
        assert_eq!(outcome.err(), (!accepted).then_some(AppraisalError::UserData), "{field:?} {expected:?}");
        let document = fixture.good().public_key(field);
        let outcome =
            fixture.appraise(&document, &Expectations { public_key: expected, ..expectations(&sets) }, NOW_MS);
        assert_eq!(outcome.err(), (!accepted).then_some(AppraisalError::PublicKey), "{field:?} {expected:?}");
    }
}

#[test]
fn inspection_marks_an_emulation_and_debug_mode() {
    let fixture = Fixture::new();
    let debug = fixture.good().pcrs(&(0..16).map(|index| (index, [0; 48])).collect()).build().unwrap();
    let report = inspect(&debug, &fixture.trust, NOW_MS);
    assert!(report.verified && !report.root_is_aws);
    assert!(report.statement.unwrap().debug_mode);
    assert_eq!(report.chain.len(), 5);
}
