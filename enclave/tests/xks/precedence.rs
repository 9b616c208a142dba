//! The table of the design, section 3: with several things wrong at once, the first in the table is answered.

use std::collections::HashSet;

use holdfast_enclave::clock::Clock;
use holdfast_enclave::directory::Blocks;
use holdfast_enclave::xks::{self, Denial, Note, RawRequest, Refused, Response};
use holdfast_shared::xks::HostName;
use serde_json::{Value, json};

use crate::fixture::{Call, HOST, LEASE_MS, WALL_MS, World, decrypt_body, encrypt_body, key_id, metadata};

/// Runs a call through the pipeline, without TLS and HTTP.
pub(crate) async fn run(world: &World, call: &Call) -> (u16, Value) {
    let host_name = HostName::parse(HOST).unwrap();
    let (parts, body) = call.signed().into_parts();
    let clock: &dyn Clock = &*world.clock;
    let respond = async || -> Result<Response, Refused> {
        let routed = RawRequest::new(&parts, &call.host, &host_name).route(&world.directory)?;
        let request = routed.authenticate(body.as_bytes(), clock)?;
        Ok(xks::answer(request, clock, &mut Note::begin()).await?)
    };
    let response = respond().await.unwrap_or_else(Response::refused).into_http();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(response.body()).unwrap_or(Value::Null))
}

/// What can be wrong with a Decrypt, in order of precedence, and what is answered.
const FAULTS: [(&str, u16, &str); 12] = [
    ("unknown path", 404, "InvalidUriPathException"),
    ("wrong method", 405, "ValidationException"),
    ("bad signature", 401, "AuthenticationFailedException"),
    ("bad body", 400, "ValidationException"),
    ("store blocked", 400, "InvalidStateException"),
    ("lease expired", 503, "DependencyTimeoutException"),
    ("no such key", 404, "KeyNotFoundException"),
    ("key disabled", 400, "InvalidStateException"),
    ("key usage", 400, "InvalidKeyUsageException"),
    ("policy", 403, "AccessDeniedException"),
    ("throttle", 429, "ThrottlingException"),
    ("bad ciphertext", 400, "InvalidCiphertextException"),
];

#[tokio::test]
async fn every_combination_of_faults() {
    let world = World::new();
    let (status, encrypted) = run(&world, &Call::new("keys/enabled/encrypt", &encrypt_body(b"text", b"aad"))).await;
    assert_eq!(status, 200);
    for faults in 0_u32..1 << FAULTS.len() {
        let has =
            |name: &str| FAULTS.iter().position(|(fault, ..)| *fault == name).is_some_and(|at| faults >> at & 1 == 1);
        let key = match (has("no such key"), has("key disabled"), has("key usage")) {
            (true, ..) => "missing",
            (_, true, true) => "disabled-encrypt-only",
            (_, true, false) => "disabled",
            (_, false, true) => "encrypt-only",
            (..) => "enabled",
        };
        let mut body = decrypt_body(&encrypted, if has("bad ciphertext") { b"another" } else { b"aad" });
        if has("bad body") {
            body["initializationVector"] = json!("AAAA");
        }
        let mut call = Call::new(&format!("keys/{key}/decrypt"), &body);
        if has("unknown path") {
            call.path = call.path.replace("tenant-1", "tenant-2");
        }
        if has("wrong method") {
            call.method = "GET";
        }
        if has("bad signature") {
            call.secret.replace_range(..1, "G");
        }
        let epoch = world.gate.epoch() + 1;
        world.gate.apply(Blocks { epoch, store: has("store blocked"), keys: HashSet::new() });
        world.gate.set_lease_expiry(if has("lease expired") { 0 } else { LEASE_MS });
        *world.guard.denial.lock().unwrap() = match (has("policy"), has("throttle")) {
            (true, _) => Some(Denial::policy(None)),
            (false, true) => Some(Denial::throttled("quota")),
            (false, false) => None,
        };
        let (status, answer) = run(&world, &call).await;
        let (expected_status, expected_name) =
            FAULTS.iter().find(|(name, ..)| has(name)).map_or((200, ""), |(_, status, name)| (*status, *name));
        let names: Vec<&str> = FAULTS.iter().map(|(name, ..)| *name).filter(|name| has(name)).collect();
        assert_eq!(status, expected_status, "{names:?}: {answer}");
        assert_eq!(answer["errorName"].as_str().unwrap_or_default(), expected_name, "{names:?}");
    }
}

#[tokio::test]
async fn unsupported_stands_where_validation_stands() {
    let world = World::new();
    let mut body = encrypt_body(b"", b"");
    body["encryptionAlgorithm"] = json!("AES_CTR");
    let mut call = Call::new("keys/missing/encrypt", &body);
    world.block_store();
    assert_eq!(run(&world, &call).await.0, 501);
    call.secret.replace_range(..1, "G");
    assert_eq!(run(&world, &call).await.0, 401);
    let too_long = Call::new("keys/enabled/encrypt", &encrypt_body(b"", &vec![0; 65_536]));
    assert_eq!(run(&world, &too_long).await.1["errorName"], "UnsupportedOperationException");
}

#[tokio::test]
async fn metadata_answers_before_the_state_of_the_key() {
    let world = World::new();
    let body = json!({ "requestMetadata": metadata() });
    let cases = [
        ("enabled", "ENABLED", json!(["ENCRYPT", "DECRYPT"])),
        ("blocked", "DISABLED", json!(["ENCRYPT", "DECRYPT"])),
        ("disabled", "DISABLED", json!(["ENCRYPT", "DECRYPT"])),
        ("pending", "DISABLED", json!(["ENCRYPT", "DECRYPT"])),
        ("decrypt-only", "ENABLED", json!(["DECRYPT"])),
        ("encrypt-only", "ENABLED", json!(["ENCRYPT"])),
    ];
    for (key, status, usage) in cases.clone() {
        let expected = json!({ "keySpec": "AES_256", "keyUsage": usage, "keyStatus": status });
        assert_eq!(run(&world, &Call::new(&format!("keys/{key}/metadata"), &body)).await, (200, expected), "{key}");
    }
    // The policy is asked who may hear of a key, whatever its state; whether there is one, it does not hide.
    *world.guard.denial.lock().unwrap() = Some(Denial::policy(Some("rule".into())));
    for (key, ..) in cases {
        let (status, answer) = run(&world, &Call::new(&format!("keys/{key}/metadata"), &body)).await;
        assert_eq!((status, answer["errorName"].as_str()), (403, Some("AccessDeniedException")), "{key}");
    }
    let call = Call::new("keys/missing/metadata", &body);
    assert_eq!(run(&world, &call).await.1["errorName"], "KeyNotFoundException");
    world.gate.set_lease_expiry(0);
    assert_eq!(run(&world, &call).await.1["errorName"], "DependencyTimeoutException");
    world.block_store();
    assert_eq!(run(&world, &call).await.1["errorName"], "InvalidStateException");
}

#[tokio::test]
async fn keys_out_of_service_are_not_used() {
    let world = World::new();
    for key in ["blocked", "disabled", "pending"] {
        let call = Call::new(&format!("keys/{key}/encrypt"), &encrypt_body(b"text", b""));
        let (status, answer) = run(&world, &call).await;
        assert_eq!((status, answer["errorName"].as_str()), (400, Some("InvalidStateException")), "{key}");
    }
    let call = Call::new("keys/decrypt-only/encrypt", &encrypt_body(b"text", b""));
    assert_eq!(run(&world, &call).await.1["errorName"], "InvalidKeyUsageException");
}

#[tokio::test]
async fn health_skips_policy_and_nothing_else() {
    let world = World::new();
    *world.guard.denial.lock().unwrap() = Some(Denial::policy(None));
    let call = Call::new("health", &json!({ "requestMetadata": { "kmsOperation": "o", "kmsRequestId": "r" } }));
    let (status, answer) = run(&world, &call).await;
    let model = format!("Holdfast {}", env!("CARGO_PKG_VERSION"));
    let expected = json!({
        "xksProxyFleetSize": 1,
        "xksProxyVendor": "Holdfast",
        "xksProxyModel": model,
        "ekmVendor": "Holdfast",
        "ekmFleetDetails": [
            { "id": "id of home", "model": "Holdfast custodian home, protocol 1", "healthStatus": "ACTIVE" },
        ],
    });
    assert_eq!((status, answer), (200, expected));

    let mut unsigned = call.clone();
    unsigned.secret.replace_range(..1, "G");
    assert_eq!(run(&world, &unsigned).await.0, 401);
    let empty = Call::new("health", &json!({ "requestMetadata": {} }));
    assert_eq!(run(&world, &empty).await.1["errorName"], "ValidationException");
    world.keys.wipe();
    assert_eq!(run(&world, &call).await.1["errorName"], "DependencyTimeoutException");
    world.gate.set_lease_expiry(0);
    assert_eq!(run(&world, &call).await.1["errorName"], "DependencyTimeoutException");
    world.block_store();
    assert_eq!(run(&world, &call).await.1["errorName"], "InvalidStateException");
}

#[tokio::test]
async fn signatures_age() {
    let world = World::new();
    let mut call = Call::new("keys/enabled/encrypt", &encrypt_body(b"text", b""));
    for (wall_ms, status) in
        [(WALL_MS - 300_000, 200), (WALL_MS + 300_000, 200), (WALL_MS - 301_000, 401), (WALL_MS + 301_000, 401)]
    {
        call.wall_ms = wall_ms;
        assert_eq!(run(&world, &call).await.0, status, "{wall_ms}");
    }
}

/// Between the first look at the gate and the answer, the world changes: no 200 may follow.
#[tokio::test]
async fn the_gate_is_asked_again_before_the_answer() {
    type Change = fn(&World);
    let changes: [(Change, u16, &str); 3] = [
        (|world| world.block_store(), 400, "InvalidStateException"),
        (
            |world| {
                let keys = HashSet::from([key_id("enabled")]);
                assert!(world.gate.apply(Blocks { epoch: 9, store: false, keys }));
            },
            400,
            "InvalidStateException",
        ),
        (|world| world.clock.advance_ms(LEASE_MS), 503, "DependencyTimeoutException"),
    ];
    for operation in ["encrypt", "decrypt"] {
        for (change, status, name) in changes {
            let world = std::sync::Arc::new(World::new());
            let encrypt = Call::new("keys/enabled/encrypt", &encrypt_body(b"text", b""));
            let (_, encrypted) = run(&world, &encrypt).await;
            let body = if operation == "encrypt" { encrypt_body(b"t", b"") } else { decrypt_body(&encrypted, b"") };
            let call = Call::new(&format!("keys/enabled/{operation}"), &body);
            assert_eq!(run(&world, &call).await.0, 200);
            let weak = std::sync::Arc::downgrade(&world);
            let hook = move || weak.upgrade().iter().for_each(|world| change(world));
            *world.guard.hook.lock().unwrap() = Some(Box::new(hook));
            let (actual, answer) = run(&world, &call).await;
            assert_eq!((actual, answer["errorName"].as_str()), (status, Some(name)), "{operation}");
            assert!(answer.get("plaintext").is_none() && answer.get("ciphertext").is_none());
        }
    }
}
