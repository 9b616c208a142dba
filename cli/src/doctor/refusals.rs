//! What must be refused, and with which error: signatures, paths, methods, bodies and keys that are not what they should be
//! (specification, sections "Authentication" and "Error codes").

use holdfast_shared::sigv4::Credential;
use http::Method;
use serde_json::{Value, json};

use super::api::{Api, Signing, random};
use super::http::{Fault, Reply};
use super::report::Finding;
use super::table::{Cause, causes};

/// Characters of `errorMessage`, which has fewer.
const MESSAGE_MAX: usize = 512;

/// Spoils a request for health in each way that a signature must show.
pub(super) async fn signatures(api: &mut Api<'_>, credential: &Credential, findings: &mut Vec<Finding>) {
    let table: [(&'static str, Signing, &'static Cause); 5] = [
        ("unsigned", Signing::Absent, &causes::UNSIGNED_ACCEPTED),
        ("wrong secret", Signing::OtherSecret, &causes::SIGNATURE_NOT_CHECKED),
        ("unknown access key", Signing::Stranger, &causes::SIGNATURE_NOT_CHECKED),
        ("other body signed", Signing::OtherBody, &causes::SIGNATURE_NOT_CHECKED),
        ("old signature", Signing::Old, &causes::OLD_ACCEPTED),
    ];
    for (check, signing, accepted) in table {
        let reply = api.post(credential, "health", &Api::health_body(), signing).await;
        findings.push(refused(check, reply, &[(401, "AuthenticationFailedException")], accepted));
    }
}

/// Paths and methods of a proxy that accepts the credential.
pub(super) async fn paths(api: &mut Api<'_>, credential: &Credential, findings: &mut Vec<Finding>) {
    let body = Api::health_body();
    let reply = api.post(credential, "no-such-operation", &body, Signing::Right).await;
    let expected = [(404, "InvalidUriPathException")];
    findings.push(refused("unknown path", reply, &expected, &causes::ERROR_STATUS));
    let reply = api.send(credential, &Method::GET, "health", Vec::new(), Signing::Absent).await;
    findings.push(match reply {
        Ok(reply) if reply.status == 405 => Finding::fine("get", reply.shown()),
        Ok(reply) => Finding::of("get", &causes::GET_ACCEPTED, reply.shown()),
        Err(fault) => faulty("get", &fault),
    });
    let unknown = format!("holdfast-doctor-{}", hex::encode(random::<8>()));
    let body = json!({ "requestMetadata": api.metadata("DescribeKey", false) });
    let reply = api.post(credential, &format!("keys/{unknown}/metadata"), &body, Signing::Right).await;
    let expected = [(404, "KeyNotFoundException"), (403, "AccessDeniedException")];
    findings.push(refused("unknown key", reply, &expected, &causes::ERROR_STATUS));
}

/// Bodies that are no requests, for a key that is there.
pub(super) async fn bodies(api: &mut Api<'_>, credential: &Credential, key: &str, findings: &mut Vec<Finding>) {
    const INVALID: (u16, &str) = (400, "ValidationException");
    let end = format!("keys/{key}/encrypt");
    let reply = api.send(credential, &Method::POST, &end, b"{\"plaintext\":".to_vec(), Signing::Right).await;
    findings.push(refused("malformed body", reply, &[INVALID], &causes::ERROR_STATUS));
    let body = json!({ "requestMetadata": api.metadata("Encrypt", false), "encryptionAlgorithm": "AES_GCM" });
    let reply = api.post(credential, &end, &body, Signing::Right).await;
    findings.push(refused("missing field", reply, &[INVALID], &causes::ERROR_STATUS));
    let metadata = api.metadata("Encrypt", false);
    let body = json!({ "requestMetadata": metadata, "plaintext": "AAAA", "encryptionAlgorithm": "AES_XYZ" });
    let reply = api.post(credential, &end, &body, Signing::Right).await;
    let expected = [INVALID, (501, "UnsupportedOperationException")];
    findings.push(refused("unknown algorithm", reply, &expected, &causes::ERROR_STATUS));
}

/// Whether a request was refused with one of these; `accepted` is what is wrong if it was not refused at all.
pub(super) fn refused(
    check: &'static str,
    reply: Result<Reply, Fault>,
    expected: &[(u16, &str)],
    accepted: &'static Cause,
) -> Finding {
    let reply = match reply {
        Ok(reply) => reply,
        Err(fault) => return faulty(check, &fault),
    };
    let wanted = || expected.iter().map(|(status, name)| format!("{status} {name}")).collect::<Vec<_>>().join(" or ");
    let name = reply.error_name().unwrap_or_default();
    if (200..300).contains(&reply.status) {
        Finding::of(check, accepted, format!("{} instead of {}", reply.status, wanted()))
    } else if !expected.contains(&(reply.status, name.as_str())) {
        Finding::of(check, &causes::ERROR_STATUS, format!("{} instead of {}", reply.shown(), wanted()))
    } else if !is_message(&reply) {
        Finding::of(check, &causes::ERROR_MESSAGE, reply.shown())
    } else {
        Finding::fine(check, reply.shown())
    }
}

/// `errorMessage` is optional, shorter than 512 characters, and printable ASCII.
fn is_message(reply: &Reply) -> bool {
    match reply.object().and_then(|mut body| body.remove("errorMessage")) {
        None => true,
        Some(Value::String(text)) => text.len() < MESSAGE_MAX && text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
        Some(_) => false,
    }
}

fn faulty(check: &'static str, fault: &Fault) -> Finding {
    let (cause, seen) = fault.judged();
    Finding::of(check, cause, seen)
}
