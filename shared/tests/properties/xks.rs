//! Requests and answers of the four operations.

use core::fmt::Write as _;
use core::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_shared::external_key::{
    EncryptedMessage, ExternalKey, ExternalKeyId, ExternalKeyVersion, KeyState, KeyUsage, MessageRandomness,
};
use holdfast_shared::secrets::Secret;
use holdfast_shared::xks::{
    DecryptAnswer, EkmHealth, EkmStatus, EncryptAnswer, HealthAnswer, KeyMetadataAnswer, KeyStatus, RequestMetadata,
    parse_decrypt, parse_encrypt, parse_health, parse_key_metadata,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::parts::{array, bytes};

/// Fields of `requestMetadata`, in the order of [`texts_of`].
const FIELDS: [&str; 7] =
    ["awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId", "awsSourceVpc", "awsSourceVpce", "kmsViaService"];

fn texts_of(metadata: &RequestMetadata<'_>) -> Vec<Option<String>> {
    [
        metadata.aws_principal_arn(),
        metadata.kms_key_arn(),
        Some(metadata.kms_operation()),
        Some(metadata.kms_request_id()),
        metadata.aws_source_vpc(),
        metadata.aws_source_vpce(),
        metadata.kms_via_service(),
    ]
    .map(|text| text.map(str::to_owned))
    .to_vec()
}

/// The first four are always there; any text will do for any of them.
fn texts() -> impl Strategy<Value = Vec<Option<String>>> {
    let text = || "\\PC{0,60}|[\u{0}-\u{ff}\"\\\\]{0,30}";
    (prop::collection::vec(text(), 4), prop::collection::vec(prop::option::of(text()), 3))
        .prop_map(|(required, optional)| required.into_iter().map(Some).chain(optional).collect())
}

fn metadata(texts: &[Option<String>]) -> Value {
    FIELDS.iter().zip(texts).map(|(name, text)| ((*name).to_owned(), json!(text))).collect::<Map<_, _>>().into()
}

/// A body with these members and others that nobody knows yet; as text with every character escaped, or none.
fn body(mut members: Value, unknown: &str, escaped: bool) -> Vec<u8> {
    members[format!("unknown {unknown}")] = json!([{ "a": unknown }, 1.5, null]);
    let text = members.to_string();
    if !escaped {
        return text.into_bytes();
    }
    let mut out = String::new();
    let mut quoted = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => quoted = !quoted,
            '\\' => {
                let rest = characters.as_str();
                let length = if rest.starts_with('u') { 5 } else { 1 };
                out.push('\\');
                out.push_str(&rest[..length]);
                characters = rest[length..].chars();
                continue;
            }
            other if quoted && other.is_ascii_alphabetic() => {
                write!(out, "\\u{:04x}", u32::from(other)).unwrap();
                continue;
            }
            _ => {}
        }
        out.push(character);
    }
    out.into_bytes()
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

proptest! {
    #[test]
    fn requests_without_data(texts in texts(), unknown in "\\PC{0,20}", escaped: bool) {
        let body = body(json!({ "requestMetadata": metadata(&texts) }), &unknown, escaped);
        prop_assert_eq!(&texts_of(&parse_key_metadata(&body).unwrap().metadata), &texts);
        prop_assert_eq!(&texts_of(&parse_health(&body).unwrap().metadata), &texts);
    }

    #[test]
    fn encrypt_requests(
        texts in texts(),
        plaintext in bytes(100),
        aad in prop::option::of(bytes(100)),
        integrity_value: bool,
        unknown in "\\PC{0,20}",
        escaped: bool,
    ) {
        let mut members = json!({
            "requestMetadata": metadata(&texts),
            "plaintext": base64(&plaintext),
            "encryptionAlgorithm": "AES_GCM",
            "additionalAuthenticatedData": aad.as_deref().map(base64),
        });
        if integrity_value {
            members["ciphertextDataIntegrityValueAlgorithm"] = json!("SHA_256");
        }
        let body = body(members, &unknown, escaped);
        let request = parse_encrypt(&body).unwrap();
        prop_assert_eq!(texts_of(&request.metadata), texts);
        prop_assert_eq!(&*request.plaintext, &plaintext);
        prop_assert_eq!(&*request.aad, &aad.unwrap_or_default());
        prop_assert_eq!(request.integrity_value, integrity_value);
    }

    #[test]
    fn decrypt_requests(
        texts in texts(),
        ciphertext in bytes(100),
        ciphertext_metadata in prop::option::of(bytes(20)),
        iv in array::<16>(),
        short_iv: bool,
        tag in array::<16>(),
        escaped: bool,
    ) {
        let iv = if short_iv { &iv[..12] } else { &iv };
        let members = json!({
            "requestMetadata": metadata(&texts),
            "ciphertext": base64(&ciphertext),
            "ciphertextMetadata": ciphertext_metadata.as_deref().map(base64),
            "encryptionAlgorithm": "AES_GCM",
            "initializationVector": base64(iv),
            "authenticationTag": base64(&tag),
        });
        let body = body(members, "", escaped);
        let request = parse_decrypt(&body).unwrap();
        prop_assert_eq!(texts_of(&request.metadata), texts);
        prop_assert_eq!(&*request.ciphertext, &ciphertext);
        prop_assert_eq!(&*request.ciphertext_metadata, &ciphertext_metadata.unwrap_or_default());
        prop_assert_eq!((request.iv.as_slice(), request.tag.as_slice()), (iv, tag.as_slice()));
    }

    /// What Encrypt answers is what Decrypt takes, through the JSON of both.
    #[test]
    fn an_answer_to_encrypt_is_a_request_to_decrypt(
        material: [u8; 32],
        salt: [u8; 16],
        iv: [u8; 12],
        number in 1..1_u32 << 24,
        aad in bytes(100),
        plaintext in bytes(100),
        texts in texts(),
    ) {
        let version = ExternalKeyVersion::new(number, Secret::take(&mut material.clone())).unwrap();
        let id = ExternalKeyId::parse("key").unwrap();
        let key = ExternalKey::new(id, KeyUsage::ENCRYPT_DECRYPT, KeyState::Enabled, vec![version]).unwrap();
        let verified = key.encrypt_verified(&MessageRandomness { salt, iv }, &aad, &plaintext).unwrap();
        let (message, value): (EncryptedMessage, _) = verified.into_parts();
        let answer = EncryptAnswer { message: &message, integrity_value: Some(&value) }.to_json();
        let mut members: Value = serde_json::from_slice(&answer).unwrap();
        let integrity_value = members.as_object_mut().unwrap().remove("ciphertextDataIntegrityValue").unwrap();
        prop_assert_eq!(integrity_value, base64(&value));
        members["requestMetadata"] = metadata(&texts);
        members["encryptionAlgorithm"] = json!("AES_GCM");
        members["additionalAuthenticatedData"] = json!(base64(&aad));
        let body = members.to_string();
        let request = parse_decrypt(body.as_bytes()).unwrap();
        let ciphertext = message.as_ciphertext();
        prop_assert_eq!(&*request.ciphertext, ciphertext.ciphertext);
        prop_assert_eq!(&*request.ciphertext_metadata, ciphertext.metadata);
        let opened = key.decrypt(&ciphertext, &request.aad).unwrap();
        prop_assert_eq!(&*opened, &plaintext);
        let answer: Value = serde_json::from_slice(&DecryptAnswer { plaintext: &opened }.to_json()).unwrap();
        prop_assert_eq!(answer, json!({ "plaintext": base64(&plaintext) }));
    }

    #[test]
    fn answers_to_get_health_status(
        proxies in 1..u32::MAX,
        names in ("\\PC{0,20}", "\\PC{0,20}"),
        members in prop::collection::vec(("\\PC{0,20}", "\\PC{0,20}", 0..3_usize), 1..15),
    ) {
        let states = [EkmStatus::Active, EkmStatus::Degraded, EkmStatus::Unavailable];
        let fleet: Vec<EkmHealth> = members
            .into_iter()
            .map(|(id, model, state)| EkmHealth { id, model, health_status: states[state] })
            .collect();
        let answer = HealthAnswer::new(NonZeroU32::new(proxies).unwrap(), &names.0, &names.1, &fleet).unwrap();
        let answer: Value = serde_json::from_slice(&answer.to_json()).unwrap();
        prop_assert_eq!((&answer["xksProxyFleetSize"], &answer["xksProxyVendor"]), (&json!(proxies), &json!(names.0)));
        let listed = answer["ekmFleetDetails"].as_array().unwrap();
        prop_assert_eq!(listed.len(), fleet.len().min(10));
        // Each entry is a member, and none that is left out is in worse health than one that is listed.
        let all: Vec<Value> = fleet.iter().map(|member| json!({
            "id": member.id, "model": member.model, "healthStatus": serde_json::to_value(member.health_status).unwrap(),
        })).collect();
        prop_assert!(listed.iter().all(|entry| all.contains(entry)));
        let unavailable = |entries: &[Value]| entries.iter().filter(|entry| entry["healthStatus"] == "UNAVAILABLE").count();
        prop_assert_eq!(unavailable(listed), unavailable(&all).min(10));
    }

    #[test]
    fn answers_to_get_key_metadata(encrypt: bool, decrypt: bool, enabled: bool) {
        let status = if enabled { KeyStatus::Enabled } else { KeyStatus::Disabled };
        let answer = KeyMetadataAnswer { usage: KeyUsage { encrypt, decrypt }, status }.to_json();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let usage: Vec<&str> = [(encrypt, "ENCRYPT"), (decrypt, "DECRYPT")].iter().filter(|(may, _)| *may).map(|(_, name)| *name).collect();
        let status = if enabled { "ENABLED" } else { "DISABLED" };
        prop_assert_eq!(answer, json!({ "keySpec": "AES_256", "keyUsage": usage, "keyStatus": status }));
    }
}
