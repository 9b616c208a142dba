//! The four operations through the real stack, by a client of ours and by `curl --aws-sigv4`.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_devkit::xks_client::{HttpVersion, XksAnswer, integrity_value};
use holdfast_tests::curl::{curl, version};
use holdfast_tests::system::{HOST_NAME, KEY, Options, REGION, System};
use http::{Method, StatusCode, Version};
use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};

const PREFIX: &str = "/payments";

fn ok(answer: XksAnswer) -> XksAnswer {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_by_every_client() {
    let system = System::start(Options { path_prefix: PREFIX, ..Options::default() }).await;
    for http in [HttpVersion::Http1, HttpVersion::Http2] {
        by_our_client(&system, http).await;
    }
    by_every_version(&system).await;
    by_curl(&system).await;
    everything_needed_of_sizes(&system).await;
}

/// Metadata, health, and messages with and without AAD, with integrity values that are computed again.
async fn by_our_client(system: &System, http: HttpVersion) {
    let client = system.client().over(http);
    let metadata = ok(client.metadata(KEY).await.unwrap());
    assert_eq!(
        metadata.body,
        json!({ "keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED" })
    );
    let health = ok(client.health().await.unwrap());
    assert!(health.body["xksProxyFleetSize"].as_u64() >= Some(1), "{}", health.body);
    assert_eq!(health.text("xksProxyVendor"), Some("Holdfast"));
    assert_eq!(health.body["ekmFleetDetails"][0]["healthStatus"], "ACTIVE", "{}", health.body);

    for (plaintext, aad) in
        [(&b"Hello World!"[..], None), (b"0123456789abcdef", Some(&b"project=nile"[..])), (b"x", None)]
    {
        let encrypted = ok(client.encrypt(KEY, plaintext, aad).await.unwrap());
        let value = encrypted.bytes("ciphertextDataIntegrityValue").unwrap();
        assert_eq!(Some(value.as_slice()), integrity_value(aad, &encrypted).as_ref().map(<[u8; 32]>::as_slice));
        let lengths = ["initializationVector", "authenticationTag", "ciphertextMetadata", "ciphertext"];
        let lengths = lengths.map(|field| encrypted.bytes(field).unwrap().len());
        assert_eq!(lengths, [12, 16, 20, plaintext.len()]);
        let decrypted = ok(client.decrypt(KEY, &encrypted.body, aad).await.unwrap());
        assert_eq!(decrypted.body, json!({ "plaintext": STANDARD.encode(plaintext) }));
        let again = ok(client.encrypt(KEY, plaintext, aad).await.unwrap());
        // A ciphertext of one byte may be the same by chance; 16 bytes of salt are not.
        assert_ne!(again.body["ciphertextMetadata"], encrypted.body["ciphertextMetadata"], "a key of its own");
    }
}

/// TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2.
async fn by_every_version(system: &System) {
    let client = system.client();
    let body = json!({ "requestMetadata": { "kmsOperation": "KmsHealthCheck", "kmsRequestId": "1" } }).to_string();
    let path = client.path("health");
    for (offered, tls) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        for (http2, http) in [(false, Version::HTTP_11), (true, Version::HTTP_2)] {
            let mut wire = system.wire();
            (wire.versions, wire.http2) = (vec![offered], http2);
            let request = client.signed(&Method::POST, &path, body.clone().into(), std::time::SystemTime::now());
            let answer = wire.send(request.unwrap()).await.unwrap();
            assert_eq!((answer.status, answer.http, answer.tls), (StatusCode::OK, http, Some(tls)), "{answer:?}");
        }
    }
}

struct Curl<'a> {
    system: &'a System,
    flags: &'a [&'a str],
}

impl Curl<'_> {
    fn post(&self, end: &str, body: &Value) -> Value {
        let system = self.system;
        let user = format!("{}:{}", system.credential.access_key_id, system.credential.secret_access_key);
        let url = format!("https://{HOST_NAME}:{}{PREFIX}/kms/xks/v1/{end}", system.listen.port());
        let scope = format!("aws:amz:{REGION}:kms-xks-proxy");
        let authority = system.authority.certificate_file.display().to_string();
        let data = body.to_string();
        let mut arguments = vec!["--aws-sigv4", &scope, "--user", &user, "--cacert", &authority];
        arguments.extend(["--header", "Content-Type: application/json", "--data", &data]);
        arguments.extend(self.flags);
        arguments.push(&url);
        let (status, answer) = curl(&arguments);
        assert_eq!(status, 200, "curl {:?} {end}: {answer}", self.flags);
        serde_json::from_str(&answer).unwrap()
    }
}

/// A client that shares no code with ours signs, verifies the certificate, and gets the same.
async fn by_curl(system: &System) {
    eprintln!("curl {:?}", version());
    let flags: [&[&str]; 4] = [
        &["--http1.1", "--tlsv1.2", "--tls-max", "1.2"],
        &["--http1.1", "--tlsv1.3"],
        &["--http2", "--tlsv1.2", "--tls-max", "1.2"],
        &["--http2", "--tlsv1.3"],
    ];
    let metadata = |operation: &str| {
        json!({
            "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
            "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "kmsOperation": operation,
            "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
        })
    };
    for flags in flags {
        let curl = Curl { system, flags };
        let health = json!({ "requestMetadata": { "kmsOperation": "KmsHealthCheck", "kmsRequestId": "1" } });
        assert_eq!(curl.post("health", &health)["xksProxyVendor"], "Holdfast");
        let described =
            curl.post(&format!("keys/{KEY}/metadata"), &json!({ "requestMetadata": metadata("DescribeKey") }));
        assert_eq!(described["keyStatus"], "ENABLED");
        let request = json!({
            "requestMetadata": metadata("Encrypt"),
            "additionalAuthenticatedData": "cHJvamVjdD1uaWxlLGRlcGFydG1lbnQ9bWFya2V0aW5n",
            "plaintext": "SGVsbG8gV29ybGQh",
            "encryptionAlgorithm": "AES_GCM",
            "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
        });
        let mut encrypted = curl.post(&format!("keys/{KEY}/encrypt"), &request);
        encrypted.as_object_mut().unwrap().remove("ciphertextDataIntegrityValue").unwrap();
        encrypted["requestMetadata"] = metadata("Decrypt");
        encrypted["encryptionAlgorithm"] = json!("AES_GCM");
        encrypted["additionalAuthenticatedData"] = request["additionalAuthenticatedData"].clone();
        let decrypted = curl.post(&format!("keys/{KEY}/decrypt"), &encrypted);
        assert_eq!(decrypted, json!({ "plaintext": "SGVsbG8gV29ybGQh" }));
        // What one client encrypts, the other decrypts.
        let aad = STANDARD.decode(request["additionalAuthenticatedData"].as_str().unwrap()).unwrap();
        let decrypted = ok(system.client().decrypt(KEY, &encrypted, Some(&aad)).await.unwrap());
        assert_eq!(decrypted.text("plaintext"), Some("SGVsbG8gV29ybGQh"));
    }
}

/// The sizes that the specification demands: plaintext of 4,300 bytes, AAD of 8,192.
async fn everything_needed_of_sizes(system: &System) {
    let (plaintext, aad) = (vec![0x5a; 4300], vec![0xa5; 8192]);
    let encrypted = ok(system.client().encrypt(KEY, &plaintext, Some(&aad)).await.unwrap());
    let decrypted = ok(system.client().decrypt(KEY, &encrypted.body, Some(&aad)).await.unwrap());
    assert_eq!(decrypted.bytes("plaintext"), Some(plaintext));
}
