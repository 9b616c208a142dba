//! The public proof: what strangers ask for, and what a build says of its image.

use holdfast_shared::attestation::ImageMeasurements;
use holdfast_shared::limits::{IMAGE_MEASUREMENTS_MAX, NAME_MAX};
use holdfast_shared::proof::{PATH, ProofQuery};

use super::Verdict;
use super::json::{self, Value};

/// The query of a request for a proof.
pub fn proof_query(data: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(data) else { return Verdict::Refused };
    let parsed = ProofQuery::parse(text);
    assert_eq!(parsed.is_ok(), is_proof_query(text), "two readers disagree");
    let Ok(query) = parsed else { return Verdict::Refused };
    let printed = query.path_and_query();
    let again = printed.strip_prefix(PATH).and_then(|rest| rest.strip_prefix('?')).unwrap();
    assert_eq!(ProofQuery::parse(again), Ok(query));
    // The one other spelling has the two parameters the other way round.
    let mut parts: Vec<_> = again.split('&').collect();
    parts.reverse();
    assert!(text == again || text == parts.join("&"), "{text}");
    let uri: http::Uri = printed.parse().unwrap();
    assert_eq!((uri.path(), uri.query()), (PATH, Some(again)));
    Verdict::Accepted
}

/// By names and values, in any order.
fn is_proof_query(text: &str) -> bool {
    let is_digits = |value: &str| value.len() == 64 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut names: Vec<_> = Vec::new();
    for parameter in text.split('&') {
        let Some((name, value)) = parameter.split_once('=') else { return false };
        if !is_digits(value) {
            return false;
        }
        names.push(name);
    }
    names.sort_unstable();
    names == ["nonce"] || names == ["key_store", "nonce"]
}

/// `measurements.json`.
pub fn image_measurements(data: &[u8]) -> Verdict {
    let Ok(image) = ImageMeasurements::parse(data) else { return Verdict::Refused };
    assert!(data.len() <= IMAGE_MEASUREMENTS_MAX);
    let written = serde_json::to_vec(&image).unwrap();
    assert_eq!(ImageMeasurements::parse(&written).unwrap(), image);
    let Ok(Value::Object(members)) = json::read(data) else { panic!("the second reader sees no object") };
    let mut names: Vec<_> = members.iter().map(|(name, _)| name.as_deref().unwrap()).collect();
    names.sort_unstable();
    let mut expected = vec!["command_line", "format", "image", "kernel", "pcr0", "pcr1", "pcr2", "source", "toolchain"];
    if image.pcr8.is_some() || names.contains(&"pcr8") {
        expected.insert(7, "pcr8");
    }
    assert_eq!(names, expected);
    assert!([image.pcr0, image.pcr1, image.pcr2].iter().all(|register| *register != [0; 48]));
    let name = image.name();
    assert!(name.len() <= NAME_MAX && name.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{name:?}");
    let accepted = image.with_configuration(data);
    assert_eq!((accepted.pcr0, accepted.pcr8), (image.pcr0, image.pcr8));
    Verdict::Accepted
}
