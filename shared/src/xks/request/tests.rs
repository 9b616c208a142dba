//! Bodies, accepted and refused.

use serde_json::{Value, json};

use super::*;

fn encrypt_body() -> Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/xks/encrypt-request.json")).unwrap()
}

fn decrypt_body() -> Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/xks/decrypt-request.json")).unwrap()
}

fn base64(len: usize) -> Value {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(vec![0; len]).into()
}

fn error_of<T>(result: Result<T, XksError>) -> Option<ErrorName> {
    result.err().map(|error| error.name)
}

#[test]
fn the_examples_of_the_specification() {
    let body = include_bytes!("../../../../tests/vectors/xks/encrypt-request.json");
    let request = parse_encrypt(body).unwrap();
    assert_eq!(*request.plaintext, b"Hello World!");
    assert_eq!(*request.aad, b"project=nile,department=marketing");
    assert!(request.integrity_value);
    assert_eq!(request.metadata.aws_principal_arn(), Some("arn:aws:iam::123456789012:user/Alice"));
    assert_eq!(request.metadata.kms_operation(), "Encrypt");
    assert_eq!(request.metadata.kms_request_id(), "4112f4d6-db54-4af4-ae30-c55a22a8dfae");
    assert_eq!(request.metadata.kms_via_service(), Some("ebs"));
    assert_eq!(request.metadata.aws_source_vpc(), None);

    let body = include_bytes!("../../../../tests/vectors/xks/decrypt-request.json");
    let request = parse_decrypt(body).unwrap();
    assert_eq!(*request.ciphertext_metadata, b"key_version=1");
    assert_eq!((request.ciphertext.len(), request.iv.len(), request.tag.len()), (12, 12, 16));
    assert_eq!(*request.aad, b"project=nile,department=marketing");

    let body = include_bytes!("../../../../tests/vectors/xks/metadata-request.json");
    assert_eq!(parse_key_metadata(body).unwrap().metadata.kms_operation(), "CreateKey");
    let body = include_bytes!("../../../../tests/vectors/xks/health-request.json");
    assert_eq!(parse_health(body).unwrap().metadata.kms_operation(), "CreateCustomKeyStore");
}

#[test]
fn required_fields_are_required() {
    let missing = Some(ErrorName::ValidationException);
    for field in ["requestMetadata", "plaintext", "encryptionAlgorithm"] {
        for replacement in [None, Some(Value::Null), Some(json!(7))] {
            let mut body = encrypt_body();
            match replacement {
                None => drop(body.as_object_mut().unwrap().remove(field)),
                Some(value) => body[field] = value,
            }
            assert_eq!(error_of(parse_encrypt(body.to_string().as_bytes())), missing, "{field}");
        }
    }
    for field in ["requestMetadata", "ciphertext", "encryptionAlgorithm", "initializationVector", "authenticationTag"] {
        let mut body = decrypt_body();
        body.as_object_mut().unwrap().remove(field);
        assert_eq!(error_of(parse_decrypt(body.to_string().as_bytes())), missing, "{field}");
    }
    for field in ["awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId"] {
        let mut body = decrypt_body();
        body["requestMetadata"].as_object_mut().unwrap().remove(field);
        let text = body.to_string();
        assert_eq!(error_of(parse_decrypt(text.as_bytes())), missing, "{field}");
        let health = if field.starts_with("kmsO") || field.starts_with("kmsR") { missing } else { None };
        assert_eq!(error_of(parse_health(text.as_bytes())), health, "{field}");
        let metadata = if field == "kmsKeyArn" { None } else { missing };
        assert_eq!(error_of(parse_key_metadata(text.as_bytes())), metadata, "{field}");
    }
}

#[test]
fn optional_and_unknown_fields() {
    let mut body = encrypt_body();
    let fields = body.as_object_mut().unwrap();
    fields.remove("additionalAuthenticatedData");
    fields.remove("ciphertextDataIntegrityValueAlgorithm");
    fields.insert("fromTheFuture".into(), json!({ "a": [1, 2, { "b": null }] }));
    body["requestMetadata"]["kmsViaService"].take();
    body["requestMetadata"]["kmsRecipientAttestationPCR0"] = json!("00");
    body["requestMetadata"]["kmsOperation"] = json!("BulkEncrypt");
    body["requestMetadata"]["kmsRequestId"] = json!("not a \u{201c}UUID\u{201d}, nor must it be\n");
    let text = body.to_string();
    let request = parse_encrypt(text.as_bytes()).unwrap();
    assert!(request.aad.is_empty());
    assert!(!request.integrity_value);
    assert_eq!(request.metadata.kms_operation(), "BulkEncrypt");
    assert_eq!(request.metadata.kms_request_id(), "not a \u{201c}UUID\u{201d}, nor must it be\n");
    assert_eq!(request.metadata.kms_via_service(), None);
}

#[test]
fn values_have_rules() {
    let validation = Some(ErrorName::ValidationException);
    let unsupported = Some(ErrorName::UnsupportedOperationException);
    let encrypt: &[(&str, Value, Option<ErrorName>)] = &[
        ("encryptionAlgorithm", json!("AES_GCM"), None),
        ("encryptionAlgorithm", json!("AES_CBC"), unsupported),
        ("encryptionAlgorithm", json!(""), unsupported),
        ("ciphertextDataIntegrityValueAlgorithm", json!("SHA_512"), unsupported),
        ("ciphertextDataIntegrityValueAlgorithm", json!("sha_256"), unsupported),
        ("plaintext", json!("not base64"), validation),
        ("plaintext", json!("SGVsbG8"), validation),
        ("plaintext", json!("SGVsbG8gV29ybGQ_"), validation),
        ("plaintext", base64(0), None),
        ("plaintext", base64(4300), None),
        ("plaintext", base64(PLAINTEXT_MAX), None),
        ("plaintext", base64(PLAINTEXT_MAX + 1), unsupported),
        ("additionalAuthenticatedData", json!(""), None),
        ("additionalAuthenticatedData", json!("*"), validation),
        ("additionalAuthenticatedData", base64(8192), None),
        ("additionalAuthenticatedData", base64(AAD_MAX), None),
        ("additionalAuthenticatedData", base64(AAD_MAX + 1), unsupported),
    ];
    for (field, value, expected) in encrypt {
        let mut body = encrypt_body();
        body[field] = value.clone();
        assert_eq!(error_of(parse_encrypt(body.to_string().as_bytes())), *expected, "{field}: {value:.40}");
    }
    let decrypt: &[(&str, Value, Option<ErrorName>)] = &[
        ("encryptionAlgorithm", json!("AES_GCM_256"), unsupported),
        ("ciphertext", base64(4300), None),
        ("ciphertext", base64(PLAINTEXT_MAX), None),
        ("ciphertext", base64(PLAINTEXT_MAX + 1), unsupported),
        ("ciphertext", json!("="), validation),
        ("ciphertextMetadata", base64(0), None),
        ("ciphertextMetadata", base64(20), None),
        ("ciphertextMetadata", base64(21), validation),
        ("ciphertextMetadata", Value::Null, None),
        ("initializationVector", base64(11), validation),
        ("initializationVector", base64(12), None),
        ("initializationVector", base64(13), validation),
        ("initializationVector", base64(16), None),
        ("initializationVector", base64(17), validation),
        ("authenticationTag", base64(15), validation),
        ("authenticationTag", base64(17), validation),
        ("authenticationTag", base64(18), validation),
        ("additionalAuthenticatedData", base64(AAD_MAX + 1), unsupported),
    ];
    for (field, value, expected) in decrypt {
        let mut body = decrypt_body();
        body[field] = value.clone();
        assert_eq!(error_of(parse_decrypt(body.to_string().as_bytes())), *expected, "{field}: {value:.40}");
    }
}

#[test]
fn metadata_texts_have_bounds() {
    let fields = [
        "awsPrincipalArn",
        "kmsKeyArn",
        "awsSourceVpc",
        "awsSourceVpce",
        "kmsViaService",
        "kmsOperation",
        "kmsRequestId",
    ];
    for field in fields {
        for (text, expected) in [
            ("a".repeat(ARN_MAX), None),
            ("\u{e9}".repeat(ARN_MAX), None),
            ("a".repeat(ARN_MAX + 1), Some(ErrorName::UnsupportedOperationException)),
        ] {
            let mut body = encrypt_body();
            body["requestMetadata"][field] = json!(text);
            assert_eq!(error_of(parse_encrypt(body.to_string().as_bytes())), expected, "{field}");
        }
    }
}

#[test]
fn shapes_are_strict() {
    let metadata = r#"{"kmsOperation":"o","kmsRequestId":"r"}"#;
    let cases = [
        (format!(r#"{{"requestMetadata":{metadata}}}"#), true),
        (format!(" \r\n\t{{ \"requestMetadata\" : {metadata} }} \n"), true),
        (format!(r#"{{"requestMetadata":{metadata}}}x"#), false),
        (format!(r#"{{"requestMetadata":{metadata}}}{{}}"#), false),
        (format!(r#"{{"requestMetadata":{metadata},"requestMetadata":{metadata}}}"#), false),
        (r#"{"requestMetadata":{"kmsOperation":"o","kmsRequestId":"r","kmsRequestId":"r"}}"#.to_owned(), false),
        (r#"{"requestMetadata":[null,null,null,null,"o","r",null]}"#.to_owned(), false),
        (format!("[{metadata}]"), false),
        (format!(r#"{{"requestMetadata":{metadata},}}"#), false),
        ("{}".to_owned(), false),
        (r#"{"requestMetadata":{}}"#.to_owned(), false),
        ("null".to_owned(), false),
        (String::new(), false),
        (format!("\u{feff}{{\"requestMetadata\":{metadata}}}"), false),
        (format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), false),
        // Unknown fields are skipped without recursion, however deep they are.
        (format!(r#"{{"requestMetadata":{metadata},"x":{}1{}}}"#, "[".repeat(50_000), "]".repeat(50_000)), true),
    ];
    for (body, accepted) in cases {
        let expected = if accepted { None } else { Some(ErrorName::ValidationException) };
        assert_eq!(error_of(parse_health(body.as_bytes())), expected, "{body:.80}");
    }
    assert!(parse_health(b"{\"requestMetadata\":{\"kmsOperation\":\"\xff\",\"kmsRequestId\":\"r\"}}").is_err());
}

#[test]
fn escaped_slashes_in_base64_are_read() {
    let mut body = encrypt_body();
    body["plaintext"] = json!("////");
    let text = body.to_string().replace("\"////\"", r#""\/\/\/\/""#);
    assert_eq!(*parse_encrypt(text.as_bytes()).unwrap().plaintext, [0xFF; 3]);
}
