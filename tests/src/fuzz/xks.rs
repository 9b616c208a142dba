//! Bodies of the four operations against a second reading of them.
//!
//! The first byte names the operation (`m`, `h`, `e`, `d`); the rest is the body.

use holdfast_shared::limits::{AAD_MAX, ARN_MAX, CIPHERTEXT_METADATA_MAX, METADATA_TEXT_MAX, PLAINTEXT_MAX};
use holdfast_shared::xks::{
    ErrorName, RequestMetadata, XksError, parse_decrypt, parse_encrypt, parse_health, parse_key_metadata,
};

use super::Verdict;
use super::json::{self, Refusal, Value};

/// What a body says, in the order of the fields below.
type Fields = Vec<Option<Vec<u8>>>;

const METADATA: [&str; 7] =
    ["awsPrincipalArn", "kmsKeyArn", "awsSourceVpc", "awsSourceVpce", "kmsViaService", "kmsOperation", "kmsRequestId"];

/// A body.
pub fn xks_bodies(data: &[u8]) -> Verdict {
    let Some((operation, body)) = data.split_first() else { return Verdict::Refused };
    let actual = match operation {
        b'm' => parse_key_metadata(body).map(|request| metadata_fields(&request.metadata)),
        b'h' => parse_health(body).map(|request| metadata_fields(&request.metadata)),
        b'e' => parse_encrypt(body).map(|request| {
            let mut fields = metadata_fields(&request.metadata);
            fields.extend([Some(request.plaintext.to_vec()), Some(request.aad.to_vec())]);
            fields.push(request.integrity_value.then(|| b"SHA_256".to_vec()));
            fields
        }),
        b'd' => parse_decrypt(body).map(|request| {
            let mut fields = metadata_fields(&request.metadata);
            let parts = [request.ciphertext, request.ciphertext_metadata, request.iv, request.tag, request.aad];
            fields.extend(parts.map(|part| Some(part.to_vec())));
            fields
        }),
        _ => return Verdict::Refused,
    };
    if let Err(error) = &actual {
        check_error(error);
    }
    match expected(*operation, body) {
        Ok(fields) => assert_eq!(actual.as_ref().ok(), fields.as_ref(), "two readers disagree"),
        // Deeper than the second reader goes: nothing that an operation needs can be there.
        Err(Refusal::TooDeep) => {}
        Err(Refusal::Malformed) => assert!(actual.is_err(), "what is not JSON is accepted"),
    }
    if actual.is_ok() && serde_json::from_slice::<serde_json::Value>(body).is_err() {
        // serde_json's own values have bounds that JSON has not: numbers without a double, half surrogates, depth.
        assert!(json::read(body) != Err(Refusal::Malformed));
    }
    Verdict::from(actual.is_ok())
}

fn check_error(error: &XksError) {
    let names = [ErrorName::ValidationException, ErrorName::UnsupportedOperationException];
    assert!(names.contains(&error.name), "{error:?}");
}

fn metadata_fields(metadata: &RequestMetadata<'_>) -> Fields {
    let texts = [
        metadata.aws_principal_arn(),
        metadata.kms_key_arn(),
        metadata.aws_source_vpc(),
        metadata.aws_source_vpce(),
        metadata.kms_via_service(),
        Some(metadata.kms_operation()),
        Some(metadata.kms_request_id()),
    ];
    texts.map(|text| text.map(|text| text.as_bytes().to_vec())).to_vec()
}

/// What the second reader takes from a body; nothing if it must be refused.
pub(super) fn expected(operation: u8, body: &[u8]) -> Result<Option<Fields>, Refusal> {
    Ok(take(operation, &json::read(body)?))
}

fn take(operation: u8, body: &Value) -> Option<Fields> {
    let metadata = member(body, "requestMetadata", &[])?;
    let metadata = metadata.filter(|value| matches!(value, Value::Object(_)))?;
    let mut fields = Vec::new();
    for (place, name) in METADATA.iter().enumerate() {
        let value = text(metadata, name)?;
        let max = if place < 2 { ARN_MAX } else { METADATA_TEXT_MAX };
        let required = match place {
            0 => operation != b'h',
            1 => matches!(operation, b'e' | b'd'),
            _ => place >= 5,
        };
        if value.as_ref().map_or(required, |value| value.chars().count() > max) {
            return None;
        }
        fields.push(value.map(String::into_bytes));
    }
    let algorithm = |name: &str, value: &str| Some(text(body, name)?.is_some_and(|text| text == value));
    let decoded = |name: &str, max: usize, required: bool| {
        let Some(text) = text(body, name)? else { return (!required).then(Vec::new) };
        base64(&text).filter(|bytes| bytes.len() <= max)
    };
    match operation {
        b'e' => {
            let known = algorithm("encryptionAlgorithm", "AES_GCM")?;
            let integrity = text(body, "ciphertextDataIntegrityValueAlgorithm")?;
            if !known || integrity.as_ref().is_some_and(|name| name != "SHA_256") {
                return None;
            }
            fields.push(Some(decoded("plaintext", PLAINTEXT_MAX, true)?));
            fields.push(Some(decoded("additionalAuthenticatedData", AAD_MAX, false)?));
            fields.push(integrity.map(String::into_bytes));
        }
        b'd' => {
            if !algorithm("encryptionAlgorithm", "AES_GCM")? {
                return None;
            }
            fields.push(Some(decoded("ciphertext", PLAINTEXT_MAX, true)?));
            fields.push(Some(decoded("ciphertextMetadata", CIPHERTEXT_METADATA_MAX, false)?));
            fields.push(Some(decoded("initializationVector", 16, true)?).filter(|iv| [12, 16].contains(&iv.len())));
            fields.push(Some(decoded("authenticationTag", 16, true)?).filter(|tag| tag.len() == 16));
            fields.push(Some(decoded("additionalAuthenticatedData", AAD_MAX, false)?));
            if fields.iter().skip(METADATA.len()).any(Option::is_none) {
                return None;
            }
        }
        _ => {}
    }
    let known: &[&str] = match operation {
        b'e' => &[
            "requestMetadata",
            "plaintext",
            "encryptionAlgorithm",
            "additionalAuthenticatedData",
            "ciphertextDataIntegrityValueAlgorithm",
        ],
        b'd' => &[
            "requestMetadata",
            "ciphertext",
            "ciphertextMetadata",
            "encryptionAlgorithm",
            "additionalAuthenticatedData",
            "initializationVector",
            "authenticationTag",
        ],
        _ => &["requestMetadata"],
    };
    member(body, "requestMetadata", known)?;
    member(metadata, "kmsOperation", &METADATA)?;
    Some(fields)
}

/// The member of that name, if there is one. Nothing at all where the object is none, a name in it is no text, or one of `known`
/// is there twice.
#[expect(clippy::option_option, reason = "no object, no member")]
fn member<'a>(object: &'a Value, name: &str, known: &[&str]) -> Option<Option<&'a Value>> {
    let Value::Object(members) = object else { return None };
    let count = |name: &str| members.iter().filter(|(found, _)| found.as_deref() == Some(name)).count();
    if members.iter().any(|(found, _)| found.is_none()) || known.iter().any(|name| count(name) > 1) || count(name) > 1 {
        return None;
    }
    Some(members.iter().find(|(found, _)| found.as_deref() == Some(name)).map(|(_, value)| value))
}

/// A text; absent and `null` alike.
#[expect(clippy::option_option, reason = "not a text, no text")]
fn text(object: &Value, name: &str) -> Option<Option<String>> {
    match member(object, name, &[])? {
        None | Some(Value::Null) => Some(None),
        Some(Value::Text(Some(text))) => Some(Some(text.clone())),
        Some(_) => None,
    }
}

/// RFC 4648, section 4, bit by bit: padded, no stray bits.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    let (mut bits, mut count, mut out) = (0_u32, 0, Vec::new());
    for digit in digits.chars() {
        bits = bits << 6 | u32::try_from(ALPHABET.find(digit)?).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count).ok()?);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0 && digits.len() % 4 != 1).then_some(out)
}
