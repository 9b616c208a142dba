//! Seeds of requests: bodies, signatures, connections.

use std::path::Path;

use super::Seeds;
use crate::fuzz::sigv4::Case;

const METADATA: &str = r#""requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsKeyArn":"arn:aws:kms:us-east-2:123456789012:/key/1","kmsOperation":"Encrypt","kmsRequestId":"4112f4d6","kmsViaService":"ebs","awsSourceVpc":null}"#;
const ENCRYPT: &str = r#""plaintext":"SGVsbG8gV29ybGQh","encryptionAlgorithm":"AES_GCM","additionalAuthenticatedData":"Zm9v","ciphertextDataIntegrityValueAlgorithm":"SHA_256""#;
const DECRYPT: &str = r#""ciphertext":"ghxkK1txeDNn3q8Y","ciphertextMetadata":"AQAAAQ==","encryptionAlgorithm":"AES_GCM","initializationVector":"HMXlRqeplxp7Vnk8","authenticationTag":"vMxSKAQq5tUPmgLMrLZoXQ==""#;

pub(super) fn requests(seeds: &mut Seeds) {
    for (name, body) in [
        ("metadata", format!("m{{{METADATA}}}")),
        ("health", r#"h{"requestMetadata":{"kmsOperation":"KmsHealthCheck","kmsRequestId":"a"}}"#.to_owned()),
        ("encrypt", format!("e{{{METADATA},{ENCRYPT}}}")),
        ("decrypt", format!("d{{{METADATA},{DECRYPT}}}")),
        (
            "escaped",
            format!(r#"m{{"future":[1e999,"\ud800",{{"a":[null]}}],{METADATA},"":0}} "#).replace("kmsR", r"\u006bmsR"),
        ),
    ] {
        seeds.add("xks_bodies", name, body);
    }
    for (name, body) in [
        ("array", b"m[{}]".to_vec()),
        ("doubled", format!("m{{{METADATA},{METADATA}}}").into_bytes()),
        ("not-utf8", [b"m{\"x\":\"\xff\",", METADATA.as_bytes(), b"}"].concat()),
        ("half-surrogate", format!("m{{{METADATA}}}").replace("4112f4d6", r"\ud800").into_bytes()),
        ("after-the-end", format!("m{{{METADATA}}}}}").into_bytes()),
        ("stray-bits", format!("e{{{METADATA},{ENCRYPT}}}").replace("Zm9v", "Zm9=").into_bytes()),
        ("unpadded", format!("d{{{METADATA},{DECRYPT}}}").replace("Q==", "Q").into_bytes()),
        ("short-tag", format!("d{{{METADATA},{DECRYPT}}}").replace("vMxSKAQq5tUPmgLMrLZoXQ==", "AAAA").into_bytes()),
        (
            "odd-iv",
            format!("d{{{METADATA},{DECRYPT}}}").replace("HMXlRqeplxp7Vnk8", "AAAAAAAAAAAAAAAAAA==").into_bytes(),
        ),
    ] {
        seeds.refuse("xks_bodies", name, body);
    }
    for (name, target, body) in [
        ("health", "health", format!("{{{METADATA}}}")),
        ("metadata", "keys/key/metadata", format!("{{{METADATA}}}")),
        ("encrypt", "keys/key/encrypt", format!("{{{METADATA},{ENCRYPT}}}")),
    ] {
        let text = format!("sPOST /ward-7/kms/xks/v1/{target}\ncontent-type:application/json\n\n{body}");
        seeds.add("http_connection", name, text);
    }
    let raw = "1POST /ward-7/kms/xks/v1/health HTTP/1.1\r\nhost: xks.example.com\r\ncontent-length: 2\r\n\r\n{}";
    seeds.add("http_connection", "raw", raw);
    let chunked = "1POST /ward-7/kms/xks/v1/health HTTP/1.1\r\nhost: xks.example.com\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    seeds.add("http_connection", "chunked", chunked);
    seeds.add("http_connection", "http2", [b"2".as_slice(), &http2_request()].concat());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/sigv4");
    for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        if file.extension().is_none_or(|end| end != "json") {
            continue;
        }
        let vector: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let headers = vector["headers"].as_array().unwrap().iter();
        let lines = headers.map(|pair| [text(&pair[0]), ":".to_owned(), text(&pair[1]), "\n".to_owned()].concat());
        let lines: String = lines.collect();
        let (now, method, path) = (&vector["now_ms"], text(&vector["method"]), text(&vector["path"]));
        let case = format!("{now} {method} {path}\n{}\n{lines}\n{}", text(&vector["authority"]), text(&vector["body"]));
        // The target has no list of regions.
        let accepted = name.starts_with("valid") || name == "another-region";
        if accepted { seeds.add("sigv4_claim", &name, case) } else { seeds.refuse("sigv4_claim", &name, case) }
    }
    let header = Case::unsigned(b"POST /kms/xks/v1/health\n\n{}", "xks.example.com").unwrap().sign();
    seeds.add("sigv4_authorization", "signed", header);
}

/// A connection with one request, in literal header fields without Huffman code (RFC 7541, section 6.2.2).
fn http2_request() -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let literal = |index: u8, value: &str| [&[index, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    // Entries of the static table: `:method: POST` 3, `:scheme: https` 7, `:authority` 1, `:path` 4.
    let headers = [vec![0x83, 0x87], literal(1, "xks.example.com"), literal(4, "/ward-7/kms/xks/v1/health")].concat();
    let parts = [frame(4, 0, 0, &[]), frame(1, 4, 1, &headers), frame(0, 1, 1, b"{}")];
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &parts.concat()].concat()
}
