//! `GetHealthStatus` with each credential: what KMS asks first, when a key store is made, changed or connected.

use holdfast_shared::sigv4::Credential;
use http::header;
use serde_json::{Map, Value};

use super::api::{Api, Signing};
use super::http::{Opened, Reply};
use super::report::Finding;
use super::table::{Cause, Grade, causes};

const CHECK: &str = "health";
/// Entries of `ekmFleetDetails` (specification, section `GetHealthStatus`).
const FLEET_MAX: usize = 10;

/// What came of it.
pub(super) enum Health {
    /// There is no HTTP to speak of.
    Unanswered,
    /// Answered, and not as it should be.
    Refused,
    /// A credential is accepted and a key manager serves.
    Serving(Answering),
}

/// The times of the first answer that is as it should be.
pub(super) struct Answering {
    pub(super) opened: Option<Opened>,
    pub(super) first_byte: core::time::Duration,
}

/// Asks with each credential, each over a connection of its own; whether each was accepted is in the findings.
pub(super) async fn judge(api: &mut Api<'_>, credentials: &[Credential], findings: &mut Vec<Finding>) -> Health {
    let mut health = Health::Unanswered;
    for credential in credentials {
        api.wire.hang_up();
        let reply = match api.post(credential, "health", &Api::health_body(), Signing::Right).await {
            Ok(reply) => reply,
            Err(fault) => {
                let (cause, seen) = fault.judged();
                findings.push(Finding::of(CHECK, cause, seen));
                return health;
            }
        };
        if matches!(health, Health::Unanswered) {
            findings.extend(content_type(&reply));
            findings.push(reply.clock());
            health = Health::Refused;
        }
        let finding = match reply.success(CHECK).and_then(|body| fleet(&body)) {
            Ok(seen) => Finding::fine(CHECK, format!("{seen}, with {}", credential.access_key_id())),
            Err(finding) => finding,
        };
        if finding.grade < Grade::Refused && matches!(health, Health::Refused) {
            health = Health::Serving(Answering { opened: reply.opened, first_byte: reply.first_byte });
        }
        findings.push(finding);
    }
    health
}

fn content_type(reply: &Reply) -> Option<Finding> {
    let value = reply.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("none");
    let media_type = value.split(';').next().unwrap_or_default().trim();
    let is_json = media_type.eq_ignore_ascii_case("application/json");
    (!is_json).then(|| Finding::of("content type", &causes::CONTENT_TYPE, value))
}

/// Holds the body against the specification's schema: what is in it, or what is wrong.
fn fleet(body: &Map<String, Value>) -> Result<String, Finding> {
    let wrong = |cause: &'static Cause, seen: &str| Finding::of(CHECK, cause, seen);
    let text = |of: &Map<String, Value>, name: &str| {
        let value = of.get(name).and_then(Value::as_str).map(str::to_owned);
        value.ok_or_else(|| wrong(&causes::FIELD_INVALID, &format!("{name} is no string")))
    };
    let size = body.get("xksProxyFleetSize").and_then(Value::as_u64).filter(|size| *size > 0);
    let size = size.ok_or_else(|| wrong(&causes::FIELD_INVALID, "xksProxyFleetSize is no positive integer"))?;
    let (_, model, _) = (text(body, "xksProxyVendor")?, text(body, "xksProxyModel")?, text(body, "ekmVendor")?);
    let details = body.get("ekmFleetDetails").and_then(Value::as_array);
    let details = details.filter(|details| (1..=FLEET_MAX).contains(&details.len()));
    let details = details.ok_or_else(|| wrong(&causes::FIELD_INVALID, "ekmFleetDetails has no 1 to 10 entries"))?;
    let mut active = 0_usize;
    let mut unavailable = 0_usize;
    for entry in details {
        let entry = entry.as_object().ok_or_else(|| wrong(&causes::FIELD_INVALID, "an entry is no object"))?;
        let (_, _, status) = (text(entry, "id")?, text(entry, "model")?, text(entry, "healthStatus")?);
        match status.as_str() {
            "ACTIVE" => active = active.saturating_add(1),
            "DEGRADED" => {}
            "UNAVAILABLE" => unavailable = unavailable.saturating_add(1),
            _ => return Err(wrong(&causes::FIELD_INVALID, &format!("healthStatus is {status:?}"))),
        }
    }
    let all = details.len();
    let seen = format!("{model}, {size} in the fleet, {active} of {all} key managers active");
    if unavailable == all {
        return Err(wrong(&causes::EKM_UNAVAILABLE, &seen));
    }
    if active < all { Err(wrong(&causes::EKM_DEGRADED, &seen)) } else { Ok(seen) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_schema() {
        let good = json!({
            "xksProxyFleetSize": 2, "xksProxyVendor": "a", "xksProxyModel": "b", "ekmVendor": "c",
            "ekmFleetDetails": [{ "id": "1", "model": "m", "healthStatus": "ACTIVE" }],
        });
        let with = |pointer: &str, value: Value| {
            let mut body = good.clone();
            *body.pointer_mut(pointer).unwrap() = value;
            fleet(body.as_object().unwrap()).map_err(|finding| finding.cause.unwrap().id)
        };
        assert!(fleet(good.as_object().unwrap()).is_ok());
        let status = "/ekmFleetDetails/0/healthStatus";
        for (pointer, value, expected) in [
            ("/xksProxyFleetSize", json!(0), "field-invalid"),
            ("/xksProxyFleetSize", json!("2"), "field-invalid"),
            ("/xksProxyModel", json!(null), "field-invalid"),
            ("/ekmFleetDetails", json!([]), "field-invalid"),
            ("/ekmFleetDetails/0", json!(1), "field-invalid"),
            (status, json!("active"), "field-invalid"),
            (status, json!("UNAVAILABLE"), "ekm-unavailable"),
            (status, json!("DEGRADED"), "ekm-degraded"),
        ] {
            assert_eq!(with(pointer, value.clone()), Err(expected), "{pointer} {value}");
        }
    }
}
