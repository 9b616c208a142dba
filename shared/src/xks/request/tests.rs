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
        let mut encrypt = encrypt_body();
        encrypt["requestMetadata"].as_object_mut().unwrap().remove(field);
        assert_eq!(error_of(parse_encrypt(encrypt.to_string().as_bytes())), missing, "{field}");
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
}

/// What RFC 8259 calls JSON and what it does not, in fields that are read and in fields that are skipped.
#[test]
fn text_is_utf8_json() {
    let with = |member: &[u8]| {
        let head: &[u8] = br#"{"requestMetadata":{"kmsOperation":"o","kmsRequestId":"r"},"#;
        [head, member, b"}"].concat()
    };
    let read = |id: &[u8]| {
        let head: &[u8] = br#"{"requestMetadata":{"kmsOperation":"o","kmsRequestId":"#;
        [head, id, b"}}"].concat()
    };
    let utf16: Vec<u8> = r#"{"requestMetadata":{"kmsOperation":"o","kmsRequestId":"r"}}"#
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("UTF-16", utf16.clone(), false),
        ("UTF-16 with a mark", [&[0xFF, 0xFE][..], &utf16].concat(), false),
        ("a byte-order mark", [b"\xEF\xBB\xBF", &read(br#""r""#)[..]].concat(), false),
        ("invalid UTF-8, read", read(b"\"\xff\""), false),
        ("invalid UTF-8, skipped", with(b"\"x\":\"\xff\""), false),
        ("invalid UTF-8 in a name", with(b"\"\xff\":1"), false),
        ("an overlong encoding", read(b"\"\xC0\xAF\""), false),
        ("a surrogate in UTF-8", read(b"\"\xED\xA0\x80\""), false),
        ("a pair of escaped surrogates", read(br#""\ud83d\ude00""#), true),
        ("a lone surrogate, read", read(br#""\ud83d""#), false),
        // The grammar of RFC 8259 has it (section 8.2), and nothing is made of it.
        ("a lone surrogate, skipped", with(br#""x":"\ud83d""#), true),
        ("an escaped NUL", read(br#""\u0000""#), true),
        ("a NUL", read(b"\"\0\""), false),
        ("a line feed in a string", read(b"\"\n\""), false),
        ("a name written with an escape", read(br#""r","kmsRequest\u0049d":"s""#), false),
        ("an unknown member twice", with(br#""x":1,"x":{}"#), true),
        ("a huge number", with(br#""x":1e999999"#), true),
        ("a long number", with(format!("\"x\":{}", "9".repeat(10_000)).as_bytes()), true),
        ("not a number", with(br#""x":NaN"#), false),
        ("a comment", with(br#"/**/"x":1"#), false),
        ("single quotes", with(b"'x':1"), false),
        ("a number for text", read(b"7"), false),
        ("a list for text", read(br#"["r"]"#), false),
        ("true for text", read(b"true"), false),
        ("null for text", read(b"null"), false),
        ("empty text", read(br#""""#), true),
    ];
    for (what, body, accepted) in cases {
        let expected = if accepted { None } else { Some(ErrorName::ValidationException) };
        assert_eq!(error_of(parse_health(&body)), expected, "{what}: {}", String::from_utf8_lossy(&body));
    }
}

/// KMS logs `errorMessage` for the owner: it says which field it was.
#[test]
fn messages_name_the_field() {
    let missing = |message: &str| format!("The required field {message} is missing.");
    for field in ["plaintext", "encryptionAlgorithm", "requestMetadata"] {
        let mut body = encrypt_body();
        body[field].take();
        let error = parse_encrypt(body.to_string().as_bytes()).err().unwrap();
        assert_eq!(error.message.as_str(), missing(field));
    }
    for field in ["ciphertext", "initializationVector", "authenticationTag", "encryptionAlgorithm", "requestMetadata"] {
        let mut body = decrypt_body();
        body[field].take();
        let error = parse_decrypt(body.to_string().as_bytes()).err().unwrap();
        assert_eq!(error.message.as_str(), missing(field));
    }
    for field in ["awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId"] {
        let mut body = decrypt_body();
        body["requestMetadata"][field].take();
        let error = parse_decrypt(body.to_string().as_bytes()).err().unwrap();
        assert_eq!(error.message.as_str(), missing(field));
        body["requestMetadata"][field] = json!("x".repeat(ARN_MAX + 1));
        let error = parse_decrypt(body.to_string().as_bytes()).err().unwrap();
        assert!(error.message.as_str().contains(&format!("{field} is longer than the {ARN_MAX} characters")));
    }
    for (field, max) in [
        ("ciphertext", PLAINTEXT_MAX),
        ("ciphertextMetadata", CIPHERTEXT_METADATA_MAX),
        ("initializationVector", 16),
        ("authenticationTag", TAG_LEN),
        ("additionalAuthenticatedData", AAD_MAX),
    ] {
        let mut body = decrypt_body();
        body[field] = base64(max + 1);
        let error = parse_decrypt(body.to_string().as_bytes()).err().unwrap();
        let message = error.message.as_str();
        assert!(message.contains(field) && message.contains(&max.to_string()), "{message}");
        body[field] = json!("-_==");
        let error = parse_decrypt(body.to_string().as_bytes()).err().unwrap();
        assert_eq!(
            error.message.as_str(),
            format!("The field {field} is not Base64 in the standard alphabet with padding.")
        );
    }
}

/// The sum in the comment of [`crate::limits::XKS_BODY_MAX`]: no request within the other bounds is over this one.
#[test]
fn the_largest_request_fits_into_a_body() {
    let text = json!("a".repeat(ARN_MAX));
    let fields = ["awsPrincipalArn", "awsSourceVpc", "awsSourceVpce", "kmsKeyArn", "kmsOperation", "kmsRequestId"];
    for (mut body, data) in [(encrypt_body(), "plaintext"), (decrypt_body(), "ciphertext")] {
        for field in fields.into_iter().chain(["kmsViaService"]) {
            body["requestMetadata"][field] = text.clone();
        }
        body["additionalAuthenticatedData"] = base64(8192);
        body[data] = base64(PLAINTEXT_MAX);
        if data == "ciphertext" {
            body["ciphertextMetadata"] = base64(CIPHERTEXT_METADATA_MAX);
            body["initializationVector"] = base64(16);
        }
        let len = body.to_string().len();
        assert!(len <= crate::limits::XKS_BODY_MAX, "{data}: {len}");
        body[data] = base64(4300);
        let len = body.to_string().len();
        assert!(len + 5 * 1024 <= crate::limits::XKS_BODY_MAX, "{data}: {len}");
    }
}

#[test]
fn escaped_slashes_in_base64_are_read() {
    let mut body = encrypt_body();
    body["plaintext"] = json!("////");
    let text = body.to_string().replace("\"////\"", r#""\/\/\/\/""#);
    assert_eq!(*parse_encrypt(text.as_bytes()).unwrap().plaintext, [0xFF; 3]);
}

/// Every error of this module: its name is one of the two of a bad body, its message within the rules.
#[test]
fn every_error_of_a_body() {
    let fields = [
        REQUEST_METADATA,
        PRINCIPAL,
        SOURCE_VPC,
        SOURCE_VPCE,
        KEY_ARN,
        KMS_OPERATION,
        KMS_REQUEST_ID,
        VIA_SERVICE,
        PLAINTEXT,
        CIPHERTEXT,
        AAD,
        ALGORITHM,
        CIPHERTEXT_METADATA,
        IV,
        TAG,
    ];
    let source = include_str!("../request.rs");
    assert_eq!(
        source.lines().filter(|line| line.contains(": Field = ")).count(),
        fields.len(),
        "a field is missing here"
    );
    let of_fields = fields.iter().flat_map(|field| [field.missing, field.not_base64, field.too_long]);
    let others = [MALFORMED, BAD_IV_LEN, BAD_TAG_LEN, UNKNOWN_ALGORITHM, UNKNOWN_INTEGRITY_ALGORITHM];
    for error in of_fields.chain(others) {
        assert!(matches!(error.name, ErrorName::ValidationException | ErrorName::UnsupportedOperationException));
        let message = error.message.as_str();
        assert!((1..512).contains(&message.len()) && message.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        assert!(message.ends_with('.'), "{message}");
    }
}
