//! The JSON of the KMS API (protocol `json1.1`): what is asked and how answers are read.
//!
//! Guarantees: an answer counts only if it names the key that was asked for; the answer to an attested request holds no plaintext; a
//! refusal is cut to printable, bounded text. Assumes: KMS adds fields over time (`KeyMaterialId` came in 2025), so unknown
//! ones are passed over. Refuses: known fields that are missing, doubled or of another form.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_shared::limits::{CIPHERTEXT_FOR_RECIPIENT_MAX, KMS_SHARE_MAX};
use http::StatusCode;
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

/// Content type of requests and answers.
pub(super) const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
/// The service in the scope of signatures.
pub(super) const SERVICE: &str = "kms";
/// Characters of an error's name that are kept; the longest of KMS has 39.
const KIND_MAX: usize = 64;
/// Characters of an error's text that are kept.
const MESSAGE_MAX: usize = 512;

/// What the ciphertext is bound to: KMS gives nothing back to whoever names another.
pub(super) type EncryptionContext = BTreeMap<&'static str, String>;

/// `Encrypt`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EncryptRequest<'a> {
    pub(super) key_id: &'a str,
    #[serde(serialize_with = "as_base64")]
    pub(super) plaintext: &'a [u8],
    pub(super) encryption_context: &'a EncryptionContext,
    pub(super) encryption_algorithm: Algorithm,
}

/// `Decrypt`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DecryptRequest<'a> {
    pub(super) key_id: &'a str,
    #[serde(serialize_with = "as_base64")]
    pub(super) ciphertext_blob: &'a [u8],
    pub(super) encryption_context: &'a EncryptionContext,
    pub(super) encryption_algorithm: Algorithm,
    pub(super) recipient: Recipient<'a>,
}

/// To whom KMS shall encrypt what it decrypted.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Recipient<'a> {
    #[serde(serialize_with = "as_base64")]
    pub(super) attestation_document: &'a [u8],
    pub(super) key_encryption_algorithm: KeyEncryption,
}

/// The one algorithm of symmetric KMS keys.
#[derive(Serialize)]
pub(super) enum Algorithm {
    #[serde(rename = "SYMMETRIC_DEFAULT")]
    SymmetricDefault,
}

/// The one algorithm for recipients.
#[derive(Serialize)]
pub(super) enum KeyEncryption {
    #[serde(rename = "RSAES_OAEP_SHA_256")]
    RsaesOaepSha256,
}

fn as_base64<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let text = Zeroizing::new(STANDARD.encode(bytes));
    serializer.serialize_str(&text)
}

/// An answer, or what KMS said instead.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    key_id: Option<String>,
    ciphertext_blob: Option<String>,
    ciphertext_for_recipient: Option<String>,
    plaintext: Option<String>,
}

/// Why an answer does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("its answer is not the JSON that it should be")]
    Form,
    #[error("it used another KMS key than it was asked to")]
    OtherKey,
    #[error("it answered in clear, as if there had been no attestation document")]
    InClear,
}

/// The blob of an `Encrypt`.
pub(super) fn ciphertext_blob(body: &[u8], key_arn: &str) -> Result<Vec<u8>, AnswerError> {
    let answer = read(body, key_arn)?;
    decoded(answer.ciphertext_blob.as_deref(), KMS_SHARE_MAX)
}

/// The message of a `Decrypt` with a recipient.
pub(super) fn ciphertext_for_recipient(body: &[u8], key_arn: &str) -> Result<Vec<u8>, AnswerError> {
    let answer = read(body, key_arn)?;
    // "The Plaintext field in the response is null or empty" (API reference of KMS, `Decrypt`).
    if answer.plaintext.map(Zeroizing::new).is_some_and(|plaintext| !plaintext.is_empty()) {
        return Err(AnswerError::InClear);
    }
    decoded(answer.ciphertext_for_recipient.as_deref(), CIPHERTEXT_FOR_RECIPIENT_MAX)
}

fn read(body: &[u8], key_arn: &str) -> Result<Answer, AnswerError> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| AnswerError::Form)?;
    match answer.key_id.as_deref() {
        Some(found) if found == key_arn => Ok(answer),
        Some(_) => Err(AnswerError::OtherKey),
        None => Err(AnswerError::Form),
    }
}

fn decoded(text: Option<&str>, max: usize) -> Result<Vec<u8>, AnswerError> {
    let bytes = text.and_then(|text| STANDARD.decode(text).ok()).ok_or(AnswerError::Form)?;
    if bytes.is_empty() || bytes.len() > max { Err(AnswerError::Form) } else { Ok(bytes) }
}

/// What KMS said instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// The error's name (`AccessDeniedException`), or nothing that can be read as one.
    pub kind: String,
    /// Its text.
    pub message: String,
}

#[derive(Deserialize)]
struct RefusalBody {
    #[serde(rename = "__type", default)]
    kind: String,
    // Some errors write it in lower case, some in upper.
    #[serde(alias = "Message", default)]
    message: String,
}

impl Refusal {
    pub(super) fn read(status: StatusCode, body: &[u8]) -> Self {
        let body: RefusalBody = serde_json::from_slice(body)
            .unwrap_or(RefusalBody { kind: String::new(), message: "the answer gives no reason".to_owned() });
        // `com.amazonaws.kms#NotFoundException` is another spelling of the name.
        let kind = body.kind.rsplit('#').next().unwrap_or_default();
        let is_name = kind.len() <= KIND_MAX && kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
        Self {
            status: status.as_u16(),
            kind: if is_name { kind.to_owned() } else { String::new() },
            message: body.message.chars().take(MESSAGE_MAX).map(printable).collect(),
        }
    }

    /// Whether the same request may succeed a moment later (API reference of KMS, "Errors"; "Request quotas").
    pub(super) fn is_passing(&self) -> bool {
        self.status >= 500
            || self.status == 429
            || matches!(&*self.kind, "ThrottlingException" | "RequestLimitExceeded")
    }

    /// Whether other credentials could change it (API reference of KMS, "Common errors").
    pub(super) fn is_about_credentials(&self) -> bool {
        matches!(
            &*self.kind,
            "ExpiredTokenException"
                | "ExpiredToken"
                | "UnrecognizedClientException"
                | "InvalidClientTokenId"
                | "InvalidSignatureException"
                | "IncompleteSignature"
                | "IncompleteSignatureException"
                | "MissingAuthenticationToken"
                | "MissingAuthenticationTokenException"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

    fn body(fields: &str) -> Vec<u8> {
        format!(r#"{{"KeyId":"{ARN}",{fields}}}"#).into_bytes()
    }

    #[test]
    fn requests_are_as_the_api_reference_writes_them() {
        let context = EncryptionContext::from([("a", "b".to_owned())]);
        let decrypt = DecryptRequest {
            key_id: ARN,
            ciphertext_blob: &[1, 2, 3],
            encryption_context: &context,
            encryption_algorithm: Algorithm::SymmetricDefault,
            recipient: Recipient {
                attestation_document: &[4],
                key_encryption_algorithm: KeyEncryption::RsaesOaepSha256,
            },
        };
        let expected = serde_json::json!({
            "KeyId": ARN,
            "CiphertextBlob": "AQID",
            "EncryptionContext": { "a": "b" },
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "Recipient": { "AttestationDocument": "BA==", "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256" },
        });
        assert_eq!(serde_json::to_value(decrypt).unwrap(), expected);
    }

    #[test]
    fn answers_have_rules() {
        let largest = STANDARD.encode(vec![0; CIPHERTEXT_FOR_RECIPIENT_MAX]);
        let too_large = STANDARD.encode(vec![0; CIPHERTEXT_FOR_RECIPIENT_MAX + 1]);
        let other = String::from_utf8(body(r#""CiphertextForRecipient":"AQ==""#)).unwrap().replace("1111", "2222");
        let table: Vec<(Vec<u8>, Result<usize, AnswerError>)> = vec![
            (body(r#""CiphertextForRecipient":"AQID""#), Ok(3)),
            (
                body(r#""CiphertextForRecipient":"AQID","Plaintext":null,"KeyMaterialId":"x"}"#.trim_end_matches('}')),
                Ok(3),
            ),
            (body(r#""CiphertextForRecipient":"AQID","Plaintext":"""#), Ok(3)),
            (body(&format!(r#""CiphertextForRecipient":"{largest}""#)), Ok(CIPHERTEXT_FOR_RECIPIENT_MAX)),
            (body(&format!(r#""CiphertextForRecipient":"{too_large}""#)), Err(AnswerError::Form)),
            (body(r#""CiphertextForRecipient":"AQID","Plaintext":"AQ==""#), Err(AnswerError::InClear)),
            (body(r#""Plaintext":"AQ==""#), Err(AnswerError::InClear)),
            (body(r#""CiphertextForRecipient":"AQID","CiphertextForRecipient":"AQID""#), Err(AnswerError::Form)),
            (body(r#""CiphertextForRecipient":"""#), Err(AnswerError::Form)),
            (body(r#""CiphertextForRecipient":"*""#), Err(AnswerError::Form)),
            (body(r#""CiphertextForRecipient":null"#), Err(AnswerError::Form)),
            (body(r#""x":1"#), Err(AnswerError::Form)),
            (br#"{"CiphertextForRecipient":"AQID"}"#.to_vec(), Err(AnswerError::Form)),
            (other.into_bytes(), Err(AnswerError::OtherKey)),
            (b"[]".to_vec(), Err(AnswerError::Form)),
            (Vec::new(), Err(AnswerError::Form)),
        ];
        for (body, expected) in table {
            let found = ciphertext_for_recipient(&body, ARN).map(|bytes| bytes.len());
            assert_eq!(found, expected, "{}", String::from_utf8_lossy(&body[..body.len().min(300)]));
        }
        assert_eq!(ciphertext_blob(&body(r#""CiphertextBlob":"AQID""#), ARN), Ok(vec![1, 2, 3]));
        assert_eq!(ciphertext_blob(&body(r#""Plaintext":"AQID""#), ARN), Err(AnswerError::Form));
    }

    #[test]
    fn refusals_are_bounded_and_told_apart() {
        let of = |status: u16, body: &str| Refusal::read(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        let table = [
            (400, r#"{"__type":"AccessDeniedException","Message":"no"}"#, "AccessDeniedException", false, false),
            (400, r#"{"__type":"com.amazonaws.kms#NotFoundException"}"#, "NotFoundException", false, false),
            (400, r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#, "ThrottlingException", true, false),
            (400, r#"{"__type":"ExpiredTokenException"}"#, "ExpiredTokenException", false, true),
            (500, r#"{"__type":"KMSInternalException"}"#, "KMSInternalException", true, false),
            (503, "<html>", "", true, false),
            (429, "", "", true, false),
            (400, r#"{"__type":"<script>"}"#, "", false, false),
            (200, "", "", false, false),
        ];
        for (status, body, kind, is_passing, is_about_credentials) in table {
            let refusal = of(status, body);
            assert_eq!((&*refusal.kind, refusal.is_passing()), (kind, is_passing), "{body}");
            assert_eq!(refusal.is_about_credentials(), is_about_credentials, "{body}");
        }
        let long = format!(r#"{{"__type":"{}","message":"{}\u0007\n\u00e9"}}"#, "A".repeat(65), "m".repeat(509));
        let refusal = of(400, &long);
        assert_eq!(refusal.kind, "");
        assert_eq!(refusal.message, format!("{}???", "m".repeat(509)));
        assert_eq!(of(400, &long.replace("mmm", "mmmm")).message.len(), 512);
    }
}
