//! Vectors, malformed headers, and agreement with AWS's own signer.

use std::time::{Duration, UNIX_EPOCH};

use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use proptest::prelude::*;

use super::credential::{Seed, SigningKey};
use super::*;
use crate::secrets::{Secret, SecretBytes};

const ID: &str = "MUBSXM6K3KMXHN6RRCXI";

fn regions() -> Regions {
    Regions::Only(vec![Region::parse("us-east-1").unwrap(), Region::parse("us-west-2").unwrap()])
}

fn credentials(pairs: &[(&str, &str)]) -> CredentialSet {
    let credentials = pairs
        .iter()
        .map(|(id, secret)| {
            let secret = SecretBytes::new((*secret).to_owned().into_bytes());
            Credential::new(AccessKeyId::parse(id).unwrap(), secret).unwrap()
        })
        .collect();
    CredentialSet::new(credentials, &Secret::take(&mut [0xD0; 32])).unwrap()
}

/// A request as vectors and tests write it down.
#[derive(Clone, Debug, serde::Deserialize)]
struct Case {
    expect: String,
    credentials: Vec<(String, String)>,
    now_ms: u64,
    method: String,
    path: String,
    authority: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Case {
    fn verify(&self) -> Result<Authenticated, SignatureError> {
        let pairs: Vec<(&str, &str)> = self.credentials.iter().map(|(id, secret)| (&**id, &**secret)).collect();
        Claim::parse(&self.request(), &regions(), self.now_ms)?.verify(&credentials(&pairs))
    }

    fn request<'a>(&'a self) -> SignedRequest<'a, impl Fn(&str) -> Occurrence<'a>> {
        SignedRequest {
            method: &self.method,
            path: &self.path,
            authority: &self.authority,
            header: |name: &str| {
                let mut values = self.headers.iter().filter(|(header, _)| header == name);
                match (values.next(), values.next()) {
                    (None, _) => Occurrence::Absent,
                    (Some((_, value)), None) => Occurrence::Once(value.as_bytes()),
                    (Some(_), Some(_)) => Occurrence::Repeated,
                }
            },
            body: self.body.as_bytes(),
        }
    }

    fn header(&mut self, name: &str) -> &mut String {
        self.headers.iter_mut().find(|(header, _)| header == name).map(|(_, value)| value).unwrap()
    }
}

fn valid() -> Case {
    serde_json::from_str(include_str!("../../../tests/vectors/sigv4/valid.json")).unwrap()
}

/// Every vector in a folder: the same of each is asked by more than one test.
fn vectors_in(folder: &str) -> Vec<(String, Case)> {
    let folder = format!("{}/../tests/vectors/{folder}", env!("CARGO_MANIFEST_DIR"));
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| (path.display().to_string(), serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()))
        .collect()
}

/// Ours, written by a script without our code, and those that botocore signed.
#[test]
fn vectors() {
    judge_vectors("sigv4", 27);
}

#[test]
fn vectors_signed_by_botocore() {
    judge_vectors("sigv4/botocore", 27);
}

fn judge_vectors(folder: &str, at_least: usize) {
    let mut count = 0;
    for (path, case) in vectors_in(folder) {
        let actual = match case.verify() {
            Ok(proof) => {
                assert_eq!(proof.access_key_id().as_str(), case.credentials[0].0);
                "valid"
            }
            Err(SignatureError::Authorization(_)) => "Authorization",
            Err(SignatureError::Header) => "Header",
            Err(SignatureError::Date) => "Date",
            Err(SignatureError::Skew) => "Skew",
            Err(SignatureError::ContentHash) => "ContentHash",
            Err(SignatureError::Mismatch) => "Mismatch",
        };
        assert_eq!(actual, case.expect, "{path}");
        count += 1;
    }
    assert!(count >= at_least, "only {count} vectors were found");
}

/// What the operator's tool takes apart is what the verifier computes: on the same requests both come to the same answer.
#[test]
fn taken_apart_a_signature_holds_or_fails_as_when_verified() {
    for (path, case) in vectors_in("sigv4") {
        let secret = SecretBytes::new(case.credentials[0].1.clone().into_bytes());
        let Ok((parts, claimed)) = explain::SignedParts::of(&case.request()) else {
            assert!(matches!(case.expect.as_str(), "Authorization" | "Header"), "{path}");
            continue;
        };
        let (canonical, text) = (parts.canonical_request(), parts.string_to_sign());
        assert_eq!(parts.string_to_sign_over(&canonical), text, "{path}");
        let signed = parts.are_signed_by(&secret, &claimed.signature);
        assert_eq!(parts.scope_signs(&secret, text.as_bytes(), &claimed.signature), signed, "{path}");
        match case.expect.as_str() {
            "valid" => assert!(signed, "{path}"),
            // The verifier never got as far as the signature.
            "Mismatch" if claimed.access_key_id.as_str() == ID => assert!(!signed, "{path}"),
            _ => {}
        }
    }
}

/// A canonical request in full, with everything that is trimmed, folded or left alone.
#[test]
fn the_canonical_form() {
    let mut case = valid();
    case.headers.push(("x-note".to_owned(), " \t a  b\tc \u{e9}   d \t".to_owned()));
    let header = case.header("authorization");
    *header = header.replace("host;x-amz-date", "host;x-amz-date;x-note");
    let (parts, _) = explain::SignedParts::of(&case.request()).unwrap();
    let expected = format!(
        "POST\n{}\n\nhost:xks.example.com\nx-amz-date:20211009T120000Z\nx-note:a b\tc \u{e9} d\n\nhost;x-amz-date;x-note\n{}",
        case.path,
        hex::encode(crate::sha256(&[case.body.as_bytes()]))
    );
    assert_eq!(String::from_utf8(parts.canonical_request()).unwrap(), expected);
    assert_eq!(
        parts.string_to_sign(),
        format!(
            "AWS4-HMAC-SHA256\n20211009T120000Z\n20211009/us-west-2/kms-xks-proxy/aws4_request\n{}",
            hex::encode(crate::sha256(&[expected.as_bytes()]))
        )
    );
}

#[test]
fn malformed_authorization_headers() {
    use AuthorizationError::{Malformed, Scope, SignedHeaders, TooLong};

    let scope = "20211009/us-west-2/kms-xks-proxy/aws4_request";
    let signature = "a".repeat(64);
    let good =
        format!("AWS4-HMAC-SHA256 Credential={ID}/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}");
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let many: String = (0..40).fold("host".to_owned(), |names, n| format!("{names};i{n:02}")) + ";x-amz-date";
    let cases = [
        (String::new(), Malformed),
        (with("AWS4-HMAC-SHA256", "aws4-hmac-sha256"), Malformed),
        (with("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), Malformed),
        (with("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256  "), Malformed),
        (with("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256, "), Malformed),
        (with("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256\t"), Malformed),
        (with("Credential=", "credential="), Malformed),
        (with(", SignedHeaders", ",  SignedHeaders"), Malformed),
        (with(", SignedHeaders", " ,SignedHeaders"), Malformed),
        (with(", SignedHeaders", "; SignedHeaders"), Malformed),
        (with(", Signature=", " Signature="), Malformed),
        (with(", Signature=", ", signature="), Malformed),
        (with(", Signature=", ",\tSignature="), Malformed),
        (with(", Signature=", ", Signature = "), Malformed),
        (with(", Signature=", ",, Signature="), Malformed),
        (with("Credential=", "Credential=\""), Malformed),
        (with("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256 AWS4-HMAC-SHA256 "), Malformed),
        (with("AWS4-HMAC-SHA256 ", " AWS4-HMAC-SHA256 "), Malformed),
        // Parts twice, left out, and in another order.
        (with("Credential=", &format!("Credential={ID}/{scope}, Credential=")), Malformed),
        (with("SignedHeaders=", "SignedHeaders=host;x-amz-date, SignedHeaders="), Malformed),
        (format!("{good}, Signature={signature}"), Malformed),
        (format!("AWS4-HMAC-SHA256 Credential={ID}/{scope}, Signature={signature}"), Malformed),
        (
            format!("AWS4-HMAC-SHA256 SignedHeaders=host;x-amz-date, Credential={ID}/{scope}, Signature={signature}"),
            Malformed,
        ),
        (
            format!("AWS4-HMAC-SHA256 Credential={ID}/{scope}, Signature={signature}, SignedHeaders=host;x-amz-date"),
            Malformed,
        ),
        // SigV4a has a header for the regions and none in the scope.
        (with("us-west-2/", ""), Malformed),
        (with(ID, "MUBSXM6K3KMXHN6RRCX"), Malformed),
        (with(ID, "MUBSXM6K3KMXHN6RRCXI7TWQH4NU76H"), Malformed),
        (with(ID, "MUBSXM6K3KMXHN6RRCX1"), Malformed),
        // The id in the specification's example header breaks the specification's own rule of 20 to 30 characters.
        (with(ID, "MUBSXM6K3KMXHN6RRCXI7TWQH4NU76HYFKRSESPMTSTIBADXQQXQ"), Malformed),
        (with(ID, "mUBSXM6K3KMXHN6RRCXI"), Malformed),
        (with("20211009/", ""), Malformed),
        (with("/aws4_request", ""), Malformed),
        (with("/aws4_request", "/aws4_request/x"), Malformed),
        (with("/aws4_request", "/aws4"), Malformed),
        (with("kms-xks-proxy", "KMS-XKS-PROXY"), Scope),
        (with("kms-xks-proxy", "kms"), Scope),
        (with("us-west-2", "eu-west-1"), Scope),
        (with("us-west-2", ""), Scope),
        (with("host;", ""), SignedHeaders),
        (with(";x-amz-date", ""), SignedHeaders),
        (with("host;x-amz-date", ""), SignedHeaders),
        (with("host;x-amz-date", "x-amz-date;host"), SignedHeaders),
        (with("host;x-amz-date", "host;host;x-amz-date"), SignedHeaders),
        (with("host;x-amz-date", "host;;x-amz-date"), SignedHeaders),
        (with("host;x-amz-date", "host;x-amz-date;"), SignedHeaders),
        (with("host;x-amz-date", "Host;x-amz-date"), SignedHeaders),
        (with("host;x-amz-date", ":path;host;x-amz-date"), SignedHeaders),
        (with("host;x-amz-date", ":authority;host;x-amz-date"), SignedHeaders),
        (with("host;x-amz-date", ":authority"), SignedHeaders),
        (with("host;x-amz-date", "host;x-amz-date;x-amz-date"), SignedHeaders),
        (with("host;x-amz-date", "host;x-Amz-date"), SignedHeaders),
        (with("host;x-amz-date", "host,x-amz-date"), Malformed),
        (with("host;x-amz-date", "host; x-amz-date"), SignedHeaders),
        (with("host;x-amz-date", "ho st;host;x-amz-date"), SignedHeaders),
        (with("host;x-amz-date", &many), SignedHeaders),
        (with(&signature, &"a".repeat(63)), Malformed),
        (with(&signature, &"a".repeat(65)), Malformed),
        (with(&signature, &"A".repeat(64)), Malformed),
        (with(&signature, &"g".repeat(64)), Malformed),
        (with(&signature, ""), Malformed),
        (format!("{good} "), Malformed),
        (format!("{good}, x"), Malformed),
        (format!("{good}\u{e9}"), Malformed),
        (with("host;", &format!("h{};", "o".repeat(3000))), TooLong),
    ];
    for (header, expected) in cases {
        let mut case = valid();
        case.header("authorization").clone_from(&header);
        assert_eq!(case.verify().unwrap_err(), SignatureError::Authorization(expected), "{header:.300}");
    }
    let mut case = valid();
    *case.header("authorization") = good;
    assert_eq!(case.verify().unwrap_err(), SignatureError::Mismatch, "the base of the table is well-formed");
}

#[test]
fn repeated_headers_are_refused() {
    let expectations = [
        ("authorization", SignatureError::Authorization(AuthorizationError::Absent)),
        ("x-amz-date", SignatureError::Header),
    ];
    for (name, error) in expectations {
        let mut case = valid();
        let twin = (name.to_owned(), case.header(name).clone());
        case.headers.push(twin);
        assert_eq!(case.verify().unwrap_err(), error, "{name}");
        case.headers.retain(|(header, _)| header != name);
        assert_eq!(case.verify().unwrap_err(), error, "{name}");
    }
}

#[test]
fn two_credentials_work_at_once() {
    let mut case = valid();
    case.credentials.insert(0, ("A".repeat(20), "b".repeat(43)));
    assert_eq!(case.verify().unwrap().access_key_id().as_str(), ID);
    case.credentials.clear();
    assert_eq!(case.verify().unwrap_err(), SignatureError::Mismatch);
}

/// AWS's published SigV4 test suite: get-vanilla, post-vanilla and get-header-value-trim.
#[test]
fn the_published_suite() {
    let suite = [
        ("GET", "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET",
            "host;my-header1;my-header2;x-amz-date",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
    ];
    let seed = Seed::of(b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
    for (method, signed_headers, signature) in suite {
        // The suite signs for a service called "service", which is refused; so the parts are put together here.
        let header = format!(
            "AWS4-HMAC-SHA256 Credential={ID}/20150830/us-east-1/kms-xks-proxy/aws4_request, \
             SignedHeaders={signed_headers}, Signature={signature}"
        );
        let authorization = Authorization::parse(header.as_bytes(), &Regions::Any).unwrap();
        let request = SignedRequest {
            method,
            path: "/",
            authority: "example.amazonaws.com",
            header: |name: &str| match name {
                "x-amz-date" => Occurrence::Once(b"20150830T123600Z".as_slice()),
                "my-header1" => Occurrence::Once(b" value1".as_slice()),
                "my-header2" => Occurrence::Once(b" \"a   b   c\"".as_slice()),
                _ => Occurrence::Absent,
            },
            body: b"",
        };
        let canonical = CanonicalRequest {
            method,
            path: request.path,
            query: "",
            headers: &signed_header_values(&request, &authorization).unwrap(),
            signed_headers,
            body_hash: &hex::encode(crate::sha256(&[])),
        };
        let scope = authorization.scope().replace(SERVICE, "service");
        let text = string_to_sign("20150830T123600Z", &scope, &canonical.hash());
        let key = SigningKey::derive(&seed, "20150830", "us-east-1", "service");
        assert!(key.verify(text.as_bytes(), authorization.signature()), "{method} {signed_headers}");
    }
}

/// Signs with AWS's crate and hands the result to our verifier.
fn signed_by_aws(case: &mut Case, secret: &str, region: &str, seconds: u64, checksum: bool) {
    let mut settings = SigningSettings::default();
    if checksum {
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    let identity = aws_credential_types::Credentials::new(ID, secret, None, None, "test").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(SERVICE)
        .time(UNIX_EPOCH + Duration::from_secs(seconds))
        .settings(settings)
        .build()
        .unwrap();
    let uri = format!("https://{}{}", case.authority, case.path);
    let headers: Vec<(&str, &str)> = case.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    let body = SignableBody::Bytes(case.body.as_bytes());
    let request = SignableRequest::new(&case.method, &uri, headers.into_iter(), body).unwrap();
    let (instructions, _) = sign(request, &params.into()).unwrap().into_parts();
    for (name, value) in instructions.headers() {
        case.headers.push((name.to_owned(), value.to_owned()));
    }
}

proptest! {
    #[test]
    fn agrees_with_the_signer_of_aws(
        secret in "[a-zA-Z0-9/+=]{43,64}",
        region in prop_oneof![Just("us-east-1"), Just("us-west-2")],
        seconds in 1_500_000_000_u64..4_000_000_000,
        skew in -300_i64..=300,
        prefix in "(/[a-zA-Z0-9_-]{1,8}){0,3}",
        key in "[a-zA-Z0-9._-]{3,40}",
        host in "[a-z0-9]{1,10}\\.example(:[0-9]{4})?",
        body in ".{0,200}",
        note in "[!-~]([ -~]{0,20}[!-~])?",
        checksum: bool,
        flip in 0..32_usize,
    ) {
        let mut case = Case {
            expect: String::new(),
            credentials: vec![(ID.to_owned(), secret.clone())],
            now_ms: seconds.saturating_add_signed(skew) * 1000,
            method: "POST".to_owned(),
            path: format!("{prefix}/kms/xks/v1/keys/{key}/decrypt"),
            authority: host,
            headers: vec![("content-type".into(), "application/json".into()), ("x-note".into(), note)],
            body,
        };
        signed_by_aws(&mut case, &secret, region, seconds, checksum);
        let proof = case.verify();
        prop_assert!(proof.is_ok(), "{:?} for {:?}", proof.err(), case);

        let mut stale = case.clone();
        stale.now_ms = (seconds + 301) * 1000;
        prop_assert_eq!(stale.verify().err(), Some(SignatureError::Skew));

        let header = case.header("authorization");
        let at = header.len() - 1 - flip;
        let digit = if header.as_bytes()[at] == b'0' { "1" } else { "0" };
        header.replace_range(at..=at, digit);
        prop_assert_eq!(case.verify().err(), Some(SignatureError::Mismatch));
    }

    #[test]
    fn no_header_makes_the_parser_fail_otherwise(header in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Authorization::parse(&header, &Regions::Any).is_err());
    }
}
