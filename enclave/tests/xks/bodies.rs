//! Bodies of requests and answers: the examples of the specification, bounds, fields that are absent, unknown or odd.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_shared::limits::{ARN_MAX, PLAINTEXT_MAX, XKS_BODY_MAX};
use serde_json::{Value, json};

use crate::fixture::{Call, World, bytes, decrypt_body, encrypt_body, metadata};
use crate::wire::Client;

const VALIDATION: &str = "400 ValidationException";
const UNSUPPORTED: &str = "501 UnsupportedOperationException";
const OK: &str = "200";

fn vector(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn base64(len: usize) -> Value {
    STANDARD.encode(vec![7; len]).into()
}

/// Status, and error name if there is one.
async fn outcome(client: &mut Client, target: &str, body: &str) -> (String, Value) {
    let call = Call { body: body.to_owned(), ..Call::new(target, &Value::Null) };
    let (status, answer) = client.call(&call).await;
    let name = answer["errorName"].as_str().unwrap_or_default();
    (format!("{status} {name}").trim().to_owned(), answer)
}

async fn check(target: &str, rows: Vec<(String, String, &str)>) {
    let world = World::new();
    let (mut client, _served) = Client::open(&world, "h2").await;
    let mut wrong = Vec::new();
    for (what, body, expected) in rows {
        let (actual, answer) = outcome(&mut client, target, &body).await;
        if actual != expected {
            wrong.push(format!("{what}: expected {expected}, was {actual} {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The names of the members, of nested objects too.
fn names(value: &Value) -> Vec<String> {
    let mut names: Vec<String> = match value {
        Value::Object(members) => {
            members.iter().flat_map(|(name, value)| [vec![name.clone()], names(value)].concat()).collect()
        }
        Value::Array(values) => values.iter().flat_map(names).collect(),
        _ => Vec::new(),
    };
    names.sort();
    names.dedup();
    names
}

/// The published examples, byte for byte; the answers have the members of the published ones, no more and no fewer.
#[tokio::test]
async fn the_examples_of_the_specification() {
    let rows = [
        (
            "keys/enabled/metadata",
            include_str!("../../../tests/vectors/xks/metadata-request.json"),
            include_str!("../../../tests/vectors/xks/metadata-response.json"),
            OK,
        ),
        (
            "keys/enabled/encrypt",
            include_str!("../../../tests/vectors/xks/encrypt-request.json"),
            include_str!("../../../tests/vectors/xks/encrypt-response.json"),
            OK,
        ),
        // Another key manager's ciphertext: the example of an error.
        (
            "keys/enabled/decrypt",
            include_str!("../../../tests/vectors/xks/decrypt-request.json"),
            include_str!("../../../tests/vectors/xks/error-response.json"),
            "400 InvalidCiphertextException",
        ),
        (
            "health",
            include_str!("../../../tests/vectors/xks/health-request.json"),
            include_str!("../../../tests/vectors/xks/health-response.json"),
            OK,
        ),
    ];
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        let (mut client, _served) = Client::open(&world, protocol).await;
        for (target, request, response, expected) in rows {
            let (actual, answer) = outcome(&mut client, target, request).await;
            assert_eq!(actual, expected, "{target}: {answer}");
            assert_eq!(names(&answer), names(&vector(response)), "{target}");
        }
        let (_, encrypted) = outcome(&mut client, "keys/enabled/encrypt", rows[1].1).await;
        let request = vector(rows[1].1);
        let body = decrypt_body(&encrypted, &bytes(&request["additionalAuthenticatedData"]));
        let (_, answer) = outcome(&mut client, "keys/enabled/decrypt", &body.to_string()).await;
        assert_eq!(answer, vector(include_str!("../../../tests/vectors/xks/decrypt-response.json")));
    }
}

/// Appendix C over what was answered: SHA-256 of AAD ‖ metadata ‖ IV ‖ ciphertext ‖ tag, computed here alone.
fn integrity_value(aad: &[u8], answer: &Value) -> Value {
    let fields = ["ciphertextMetadata", "initializationVector", "ciphertext", "authenticationTag"];
    let text = [aad.to_vec(), fields.iter().flat_map(|field| bytes(&answer[field])).collect()].concat();
    STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, &text)).into()
}

#[tokio::test]
async fn integrity_values() {
    let request = vector(include_str!("../../../tests/vectors/xks/encrypt-request.json"));
    let example = vector(include_str!("../../../tests/vectors/xks/encrypt-response.json"));
    let aad = bytes(&request["additionalAuthenticatedData"]);
    assert_eq!(integrity_value(&aad, &example), example["ciphertextDataIntegrityValue"], "the example of Appendix C");

    let world = World::new();
    let (mut client, _served) = Client::open(&world, "h2").await;
    for aad in [None, Some(json!(null)), Some(json!("")), Some(json!("AA==")), Some(base64(8192))] {
        for (algorithm, expected) in [
            (Some(json!("SHA_256")), OK),
            (None, OK),
            (Some(json!(null)), OK),
            (Some(json!("SHA_384")), UNSUPPORTED),
            (Some(json!("SHA-256")), UNSUPPORTED),
            (Some(json!("")), UNSUPPORTED),
            (Some(json!(256)), VALIDATION),
        ] {
            let mut body = encrypt_body(b"Hello World!", b"");
            set(&mut body, "additionalAuthenticatedData", aad.clone());
            set(&mut body, "ciphertextDataIntegrityValueAlgorithm", algorithm.clone());
            let (actual, answer) = outcome(&mut client, "keys/enabled/encrypt", &body.to_string()).await;
            assert_eq!(actual, expected, "{algorithm:?}");
            if actual != OK {
                continue;
            }
            let value = answer.get("ciphertextDataIntegrityValue");
            let aad = aad.as_ref().filter(|aad| !aad.is_null()).map(bytes).unwrap_or_default();
            let asked = algorithm.is_some_and(|algorithm| !algorithm.is_null());
            assert_eq!(value.cloned(), asked.then(|| integrity_value(&aad, &answer)), "{answer}");
        }
    }
}

fn set(body: &mut Value, field: &str, value: Option<Value>) {
    match value {
        Some(value) => body[field] = value,
        None => drop(body.as_object_mut().unwrap().remove(field)),
    }
}

/// Absent, `null` and empty AAD are one and the same, in both directions.
#[tokio::test]
async fn empty_aad_is_absent_aad() {
    let world = World::new();
    let (mut client, _served) = Client::open(&world, "h2").await;
    let forms = [None, Some(json!(null)), Some(json!(""))];
    for encrypt_with in &forms {
        let mut body = encrypt_body(b"text", b"");
        set(&mut body, "additionalAuthenticatedData", encrypt_with.clone());
        let (_, encrypted) = outcome(&mut client, "keys/enabled/encrypt", &body.to_string()).await;
        for decrypt_with in forms.iter().chain([&Some(json!("AA=="))]) {
            let mut body = decrypt_body(&encrypted, b"");
            set(&mut body, "additionalAuthenticatedData", decrypt_with.clone());
            let (actual, answer) = outcome(&mut client, "keys/enabled/decrypt", &body.to_string()).await;
            let expected = if *decrypt_with == Some(json!("AA==")) { "400 InvalidCiphertextException" } else { OK };
            assert_eq!(actual, expected, "{encrypt_with:?} {decrypt_with:?}: {answer}");
        }
        // The metadata that was returned is no AAD (specification, section "Encrypt": unintended successful decrypts).
        let mut body = decrypt_body(&encrypted, &bytes(&encrypted["ciphertextMetadata"]));
        set(&mut body, "ciphertextMetadata", None);
        let (actual, _) = outcome(&mut client, "keys/enabled/decrypt", &body.to_string()).await;
        assert_eq!(actual, "400 InvalidCiphertextException");
    }
}

/// Sizes that must be served, and what follows beyond.
#[tokio::test]
async fn sizes_of_encrypt() {
    let world = World::new();
    let (mut client, _served) = Client::open(&world, "h2").await;
    let rows = [
        (0, 0, OK),
        (1, 1, OK),
        (4299, 8191, OK),
        (4300, 8192, OK),
        (PLAINTEXT_MAX, 8192, OK),
        (PLAINTEXT_MAX + 1, 0, UNSUPPORTED),
        (0, 20_000, OK),
        (0, 28_000, UNSUPPORTED),
        (0, 65_535, UNSUPPORTED),
    ];
    for (plaintext, aad, expected) in rows {
        let (plaintext, aad) = (vec![7; plaintext], vec![8; aad]);
        let what = format!("{} bytes, AAD of {}", plaintext.len(), aad.len());
        let body = encrypt_body(&plaintext, &aad).to_string();
        let (actual, encrypted) = outcome(&mut client, "keys/enabled/encrypt", &body).await;
        assert_eq!(actual, expected, "{what}");
        if actual != OK {
            continue;
        }
        let lens = ["ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag"]
            .map(|field| bytes(&encrypted[field]).len());
        assert_eq!(lens, [plaintext.len(), 20, 12, 16], "{what}");
        let body = decrypt_body(&encrypted, &aad).to_string();
        let (actual, answer) = outcome(&mut client, "keys/enabled/decrypt", &body).await;
        assert_eq!((actual.as_str(), bytes(&answer["plaintext"])), (OK, plaintext), "{what}");
    }
}

/// The bound on the whole body, to the byte; the signature does not matter beyond it.
#[tokio::test]
async fn sizes_of_a_body() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        for (len, secret, expected) in [
            (XKS_BODY_MAX, None, 200),
            (XKS_BODY_MAX + 1, None, 501),
            (XKS_BODY_MAX, Some("x".repeat(43)), 401),
            (XKS_BODY_MAX + 1, Some("x".repeat(43)), 501),
        ] {
            let (mut client, _served) = Client::open(&world, protocol).await;
            let mut call = Call::new("keys/enabled/metadata", &json!({ "requestMetadata": metadata() }));
            call.body.push_str(&" ".repeat(len - call.body.len()));
            call.secret = secret.unwrap_or(call.secret);
            assert_eq!(client.call(&call).await.0, expected, "{protocol} {len}");
        }
    }
}

/// Fields of a Decrypt with a length that the specification fixes, and each in every way that base64 can be wrong.
#[tokio::test]
async fn fields_of_decrypt() {
    let whole = || {
        let mut body = decrypt_body(&json!({}), b"aad");
        for (field, len) in
            [("ciphertext", 12), ("ciphertextMetadata", 20), ("initializationVector", 12), ("authenticationTag", 16)]
        {
            body[field] = base64(len);
        }
        body
    };
    let invalid = "400 InvalidCiphertextException";
    let mut rows = vec![("nothing wrong but the key".to_owned(), whole().to_string(), invalid)];
    let lens: [(&str, &[(usize, &str)]); 4] = [
        (
            "ciphertext",
            &[(0, invalid), (1, invalid), (4300, invalid), (PLAINTEXT_MAX, invalid), (PLAINTEXT_MAX + 1, UNSUPPORTED)],
        ),
        ("ciphertextMetadata", &[(0, invalid), (1, invalid), (19, invalid), (20, invalid), (21, VALIDATION)]),
        (
            "initializationVector",
            &[
                (0, VALIDATION),
                (11, VALIDATION),
                (12, invalid),
                (13, VALIDATION),
                (15, VALIDATION),
                (16, invalid),
                (17, VALIDATION),
            ],
        ),
        ("authenticationTag", &[(0, VALIDATION), (15, VALIDATION), (16, invalid), (17, VALIDATION), (32, VALIDATION)]),
    ];
    for (field, lens) in lens {
        for (len, expected) in lens {
            let mut body = whole();
            body[field] = base64(*len);
            rows.push((format!("{field} of {len}"), body.to_string(), expected));
        }
    }
    let bad_base64 =
        ["-_-_", "AAA", "AA=", "AAB=", "AAAA\n", " AAAA", "AA AA", "AAAA====", "AA==AA==", "\u{e4}AAA", "=", "data:,"];
    for field in
        ["ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag", "additionalAuthenticatedData"]
    {
        for text in bad_base64 {
            let mut body = whole();
            body[field] = json!(text);
            rows.push((format!("{field} as {text:?}"), body.to_string(), VALIDATION));
        }
        let mut body = whole();
        body[field] = json!("PLACE");
        let len = bytes(&whole()[field]).len();
        let escaped = STANDARD.encode(vec![0xFF; len]).replace('/', "\\/");
        rows.push((format!("{field} with escaped slashes"), body.to_string().replace("PLACE", &escaped), invalid));
    }
    for algorithm in ["AES_CTR", "aes_gcm", "", "AES_GCM "] {
        let mut body = whole();
        body["encryptionAlgorithm"] = json!(algorithm);
        rows.push((format!("algorithm {algorithm:?}"), body.to_string(), UNSUPPORTED));
    }
    check("keys/enabled/decrypt", rows).await;
}

/// Every required field of every operation, absent, `null`, and of another type; every optional one, absent and `null`.
#[tokio::test]
async fn required_and_optional_fields() {
    // Target, good body, required fields, optional ones, required ones of requestMetadata, outcome.
    type Case =
        (&'static str, Value, &'static [&'static str], &'static [&'static str], &'static [&'static str], &'static str);
    let metadata_only = || json!({ "requestMetadata": metadata() });
    let decrypt = || {
        let mut body = decrypt_body(&json!({}), b"aad");
        body["ciphertext"] = base64(12);
        body["ciphertextMetadata"] = base64(20);
        body["initializationVector"] = base64(12);
        body["authenticationTag"] = base64(16);
        body
    };
    let health = ["kmsOperation", "kmsRequestId"].as_slice();
    let described = ["awsPrincipalArn", "kmsOperation", "kmsRequestId"].as_slice();
    let used = ["awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId"].as_slice();
    let operations: [Case; 4] = [
        ("health", metadata_only(), &[], &[], health, OK),
        ("keys/enabled/metadata", metadata_only(), &[], &[], described, OK),
        (
            "keys/enabled/encrypt",
            encrypt_body(b"text", b"aad"),
            &["plaintext", "encryptionAlgorithm"],
            &["additionalAuthenticatedData", "ciphertextDataIntegrityValueAlgorithm"],
            used,
            OK,
        ),
        (
            "keys/enabled/decrypt",
            decrypt(),
            &["ciphertext", "encryptionAlgorithm", "initializationVector", "authenticationTag"],
            &["additionalAuthenticatedData", "ciphertextMetadata"],
            used,
            "400 InvalidCiphertextException",
        ),
    ];
    for (target, good, required, optional, of_metadata, success) in operations {
        let mut rows = vec![("nothing changed".to_owned(), good.to_string(), success)];
        let mut vary = |what: &str, expected: [&'static str; 3], change: &dyn Fn(&mut Value, Option<Value>)| {
            for (value, expected) in [None, Some(Value::Null), Some(json!(7))].into_iter().zip(expected) {
                let mut body = good.clone();
                change(&mut body, value.clone());
                rows.push((format!("{target}: {what} as {value:?}"), body.to_string(), expected));
            }
        };
        for field in required.iter().chain(&["requestMetadata"]) {
            vary(field, [VALIDATION; 3], &|body, value| set(body, field, value));
        }
        for field in optional {
            vary(field, [success, success, VALIDATION], &|body, value| set(body, field, value));
        }
        for field in ["awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId"] {
            let expected = if of_metadata.contains(&field) { VALIDATION } else { success };
            let change = |body: &mut Value, value| set(&mut body["requestMetadata"], field, value);
            vary(field, [expected, expected, VALIDATION], &change);
        }
        for field in ["awsSourceVpc", "awsSourceVpce", "kmsViaService"] {
            let change = |body: &mut Value, value| set(&mut body["requestMetadata"], field, value);
            vary(field, [success, success, VALIDATION], &change);
        }
        check(target, rows).await;
    }
}

/// What KMS may send one day, and what it sends for its own services: none of it is a reason to refuse.
#[tokio::test]
async fn metadata_is_not_judged() {
    let long = "a".repeat(ARN_MAX);
    let changes: Vec<(&str, Value, &str)> = vec![
        ("kmsOperation", json!("BulkEverything"), OK),
        ("kmsOperation", json!(""), OK),
        ("kmsOperation", json!("Decrypt"), OK),
        ("kmsOperation", json!("KmsHealthCheck"), OK),
        ("kmsRequestId", json!("not a UUID"), OK),
        ("kmsRequestId", json!(""), OK),
        ("kmsRequestId", json!("\u{1f600}\n\u{0}\"\\"), OK),
        ("kmsRequestId", json!(&long), OK),
        ("kmsRequestId", json!(format!("{long}a")), UNSUPPORTED),
        ("awsPrincipalArn", json!("ec2.amazonaws.com"), OK),
        ("awsPrincipalArn", json!("AWS Internal"), OK),
        ("awsPrincipalArn", json!("arn:aws-us-gov:sts::123456789012:assumed-role/Role/Session"), OK),
        ("awsPrincipalArn", json!(&long), OK),
        ("awsPrincipalArn", json!("\u{e9}".repeat(ARN_MAX)), OK),
        ("awsPrincipalArn", json!(format!("{long}a")), UNSUPPORTED),
        ("kmsKeyArn", json!(&long), OK),
        ("kmsKeyArn", json!(format!("{long}a")), UNSUPPORTED),
        ("awsSourceVpc", json!("vpc-1234"), OK),
        ("awsSourceVpce", json!("vpce-1234"), OK),
        ("kmsViaService", json!("ebs"), OK),
        // Appendix B.
        ("SourceIdentity", json!("Alice"), OK),
        ("kmsRecipientAttestationImageSha384", json!("00".repeat(48)), OK),
        ("kmsRecipientAttestationPCR0", json!("00".repeat(48)), OK),
        ("principalTags", json!({ "team": ["a", { "b": null }] }), OK),
        ("aNumber", json!(1e300), OK),
    ];
    for target in ["health", "keys/enabled/metadata", "keys/enabled/encrypt"] {
        let base = if target.ends_with("encrypt") {
            encrypt_body(b"t", b"")
        } else {
            json!({ "requestMetadata": metadata() })
        };
        let mut rows = Vec::new();
        for (field, value, expected) in &changes {
            let mut body = base.clone();
            body["requestMetadata"][field] = value.clone();
            rows.push((format!("{target}: {field} as {value:.60}"), body.to_string(), *expected));
        }
        let mut body = base.clone();
        body["fromTheFuture"] = json!({ "a": [1, 2, { "b": null }] });
        rows.push(("an unknown field beside requestMetadata".to_owned(), body.to_string(), OK));
        check(target, rows).await;
    }
    // Decrypt, of something that decrypts.
    let world = World::new();
    let (mut client, _served) = Client::open(&world, "h2").await;
    let (_, encrypted) = outcome(&mut client, "keys/enabled/encrypt", &encrypt_body(b"t", b"").to_string()).await;
    for (field, value, expected) in changes {
        let mut body = decrypt_body(&encrypted, b"");
        body["requestMetadata"][field] = value.clone();
        let (actual, answer) = outcome(&mut client, "keys/enabled/decrypt", &body.to_string()).await;
        assert_eq!(actual, expected, "decrypt: {field} as {value:.60}: {answer}");
    }
}

/// Bodies that are not one JSON object in UTF-8; the table of everything that is stands at the parser.
#[tokio::test]
async fn bodies_that_are_no_json() {
    let good = json!({ "requestMetadata": { "kmsOperation": "o", "kmsRequestId": "r" } }).to_string();
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let rows = [
        ("an empty body", String::new(), VALIDATION),
        ("white space", " \r\n\t".to_owned(), VALIDATION),
        ("white space around", format!("\r\n {good} \t\n"), OK),
        ("a byte-order mark", format!("\u{feff}{good}"), VALIDATION),
        ("text after it", format!("{good}x"), VALIDATION),
        ("a NUL after it", format!("{good}\0"), VALIDATION),
        ("two objects", format!("{good}{good}"), VALIDATION),
        ("an array of it", format!("[{good}]"), VALIDATION),
        ("a string", "\"requestMetadata\"".to_owned(), VALIDATION),
        ("null", "null".to_owned(), VALIDATION),
        ("deep nesting", deep.clone(), VALIDATION),
        ("deep nesting in a field that is skipped", good.replacen('{', &format!("{{\"x\":{deep},"), 1), OK),
        ("a member twice", good.replacen('{', "{\"requestMetadata\":{},", 1), VALIDATION),
        ("a form", "requestMetadata=x".to_owned(), VALIDATION),
        ("XML", "<requestMetadata/>".to_owned(), VALIDATION),
    ];
    check("health", rows.into_iter().map(|(what, body, expected)| (what.to_owned(), body, expected)).collect()).await;
}
