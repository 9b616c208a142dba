//! The control connection, the manifests, and the pages that show them.

use std::collections::BTreeMap;

use holdfast_link::control::{
    Hello, KeyStoreState, KeyStoreStatus, Level, METRICS_FORMAT, Metrics, RefusedRequest, Status, ToEnclave, ToParent,
    receive_configuration,
};
use holdfast_link::{BootId, KeyStoreId};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::fixture::{Options, Parent, STATIC_CONFIGURATION, soon, until};

/// Puts a file in place as operators are told to.
fn place(parent: &Parent, name: &str, content: &str) {
    let folder = parent.folder.path().join("key-stores");
    std::fs::write(folder.join("new.tmp"), content).unwrap();
    std::fs::rename(folder.join("new.tmp"), folder.join(name)).unwrap();
}

#[tokio::test]
async fn the_enclave_gets_the_configuration_byte_for_byte_and_the_manifests() {
    let parent = Parent::start(Options::default()).await;
    let mut control = parent.control(1).await;
    assert_eq!(control.static_configuration, STATIC_CONFIGURATION);
    assert_eq!(control.hear_manifests().await, Vec::<String>::new());
}

#[tokio::test]
async fn manifests_may_change_while_the_program_runs() {
    let parent = Parent::start(Options::default()).await;
    let mut control = parent.control(1).await;
    assert_eq!(control.hear_manifests().await, Vec::<String>::new());
    place(&parent, "b.manifest", "second");
    assert_eq!(control.hear_manifests().await, ["second"]);
    place(&parent, "a.manifest", "first");
    parent.signal("HUP");
    assert_eq!(control.hear_manifests().await, ["first", "second"]);
    place(&parent, "b.manifest", "changed");
    assert_eq!(control.hear_manifests().await, ["first", "changed"]);
    std::fs::remove_file(parent.folder.path().join("key-stores/a.manifest")).unwrap();
    assert_eq!(control.hear_manifests().await, ["changed"]);
    assert_eq!(parent.status().await["manifests"], 1);

    // A restarted enclave gets the list as it is now.
    let mut control = parent.control(2).await;
    assert_eq!(control.hear_manifests().await, ["changed"]);
}

#[tokio::test]
async fn readiness_follows_the_enclave() {
    let parent = Parent::start(Options::default()).await;
    let not_ready = |reason: &str| (503, json!({"ready": false, "reason": reason}));
    assert_eq!(parent.page("/ready").await, not_ready("enclave_not_connected"));
    let mut control = parent.control(1).await;
    assert_eq!(parent.page("/ready").await, not_ready("no_status_yet"));
    control.tell_ready(false).await;
    until(|| async { parent.page("/ready").await == not_ready("enclave_not_ready") }).await;
    control.tell_ready(true).await;
    until(|| async { parent.page("/ready").await == (200, json!({"ready": true})) }).await;
    // No word for a while: it may be hanging.
    until(|| async { parent.page("/ready").await == not_ready("status_stale") }).await;
    control.tell_ready(true).await;
    until(|| async { parent.page("/ready").await.0 == 200 }).await;
    drop(control);
    until(|| async { parent.page("/ready").await == not_ready("enclave_not_connected") }).await;
}

#[tokio::test]
async fn the_status_page_shows_what_the_enclave_told() {
    let parent = Parent::start(Options::default()).await;
    let mut control = parent.control(0xab).await;
    control
        .tell(&ToParent::Status(Status {
            ready: true,
            detail: vec![KeyStoreStatus {
                key_store_id: KeyStoreId::from([7; 32]),
                state: KeyStoreState::AwaitingCustodian,
                version: Some(4),
                lease_remaining_ms: Some(5),
                reason: Some("no custodian answered".into()),
            }],
            connections: 3,
            counters: BTreeMap::from([("encrypt".to_owned(), 6)]),
        }))
        .await;
    until(|| async { parent.status().await["enclave"]["status"].is_object() }).await;
    let page = parent.status().await;
    assert_eq!(page["enclave"]["boot_id"], "ab".repeat(16));
    let expected = json!({
        "ready": true,
        "detail": [{
            "key_store_id": "07".repeat(32),
            "state": "AwaitingCustodian",
            "version": 4,
            "lease_remaining_ms": 5,
            "reason": "no custodian answered",
        }],
        "connections": 3,
        "counters": {"encrypt": 6},
    });
    assert_eq!(page["enclave"]["status"], expected);
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let parent = Parent::start(Options::default()).await;
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
        ("GET /ready/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
        ("POST /metric HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".to_owned(), 404),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".to_owned(), 405),
        ("POST /ready HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".to_owned(), 405),
        ("DELETE /status HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405),
        (format!("GET /ready HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(16_384)), 431),
        ("nonsense\r\n\r\n".to_owned(), 400),
    ] {
        let (status, _) = parent.request(&request).await;
        assert_eq!(status, expected, "{request:.60}");
    }
    assert_eq!(parent.page("/ready").await.0, 503);
}

#[tokio::test]
async fn another_protocol_is_refused_with_a_clear_answer() {
    let parent = Parent::start(Options::default()).await;
    let mut control = parent.silent_control().await;
    control.tell(&ToParent::Hello(Hello { protocol: 99, boot_id: BootId::from([1; 16]) })).await;
    match control.hear().await {
        Some(ToEnclave::Refused { protocol: 1, reason }) => {
            assert!(reason.as_str().contains("protocol 1, the enclave 99"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(control.hear().await, None);
    parent.counted("control_refused", 1).await;
    assert_eq!(parent.page("/ready").await.1["reason"], "enclave_not_connected");
}

#[tokio::test]
async fn a_restarted_enclave_replaces_the_old_one() {
    let parent = Parent::start(Options::default()).await;
    let mut old = parent.control(1).await;
    old.tell_ready(true).await;
    until(|| async { parent.page("/ready").await.0 == 200 }).await;
    let mut new = parent.control(2).await;
    assert_eq!(parent.page("/ready").await.1["reason"], "no_status_yet");
    while old.hear().await.is_some() {}
    new.tell_ready(true).await;
    until(|| async { parent.page("/ready").await.0 == 200 }).await;
    assert_eq!(parent.status().await["enclave"]["boot_id"], "02".repeat(16));
}

#[tokio::test]
async fn a_connection_without_a_hello_replaces_nobody() {
    let parent = Parent::start(Options::default()).await;
    let mut control = parent.control(1).await;
    let silent = parent.silent_control().await;
    let mut garbage = parent.silent_control().await;
    garbage.writer.write_all(b"\0\0\0\x05hello").await.unwrap();
    while garbage.hear().await.is_some() {}
    control.tell_ready(true).await;
    until(|| async { parent.page("/ready").await.0 == 200 }).await;
    drop(silent);
}

#[tokio::test]
async fn hostile_bytes_end_only_their_own_connection() {
    let parent = Parent::start(Options::default()).await;
    let mut refused = 0;
    let messages: [&[u8]; 7] = [
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"\0\0\0\x02{}",
        b"\0\0\0\x04\xff\xff\xff\xff",
        b"\0\0\0\x1e{\"status\":{\"ready\":true,\"x\":1}}",
        b"\0\0\0\x08[[[[[[[[",
        // A second hello.
        b"\0\0\0\x45{\"hello\":{\"protocol\":1,\"boot_id\":\"00000000000000000000000000000000\"}}",
    ];
    for message in messages {
        let mut control = parent.control(1).await;
        control.writer.write_all(message).await.unwrap();
        while control.hear().await.is_some() {}
        refused += 1;
        parent.counted("control_refused", refused).await;
    }
    // One that ends inside a frame.
    let mut control = parent.control(1).await;
    control.writer.write_all(b"\0\0\0\x10{").await.unwrap();
    control.writer.shutdown().await.unwrap();
    while control.hear().await.is_some() {}
    let mut control = parent.control(1).await;
    control.tell_ready(true).await;
    until(|| async { parent.page("/ready").await.0 == 200 }).await;
}

#[tokio::test]
async fn the_enclaves_log_is_printed_escaped_and_bounded() {
    let parent = Parent::start(Options::default()).await;
    let mut control = parent.control(1).await;
    // What an honest enclave's types cannot even write: raw control characters in the JSON text.
    let forged = r#"{"log":{"level":"warn","text":"first\n2026-01-01 ERROR forged \u001b[31m"}}"#;
    let length = u32::try_from(forged.len()).unwrap();
    control.writer.write_all(&length.to_be_bytes()).await.unwrap();
    control.writer.write_all(forged.as_bytes()).await.unwrap();
    until(|| async { parent.log().contains("forged") }).await;
    let log = parent.log();
    let line = log.lines().find(|line| line.contains("forged")).unwrap();
    assert!(line.contains(r"first\n2026-01-01 ERROR forged \u{1b}[31m") && line.contains("WARN"), "{line}");
    assert!(line.contains("enclave"), "{line}");

    for number in 0..1000 {
        control.tell(&ToParent::Log { level: Level::Info, text: format!("flood {number}").as_str().into() }).await;
    }
    control.tell_ready(true).await;
    until(|| async { parent.page("/ready").await.0 == 200 }).await;
    let printed = parent.log().matches("flood ").count();
    let dropped = parent.status().await["counters"]["enclave_log_dropped"].as_u64().unwrap();
    assert_eq!(u64::try_from(printed).unwrap() + dropped, 1000);
    assert!(dropped > 0, "a flood must not be printed whole");
}

#[tokio::test]
async fn a_refused_request_is_one_json_line_and_a_flood_of_them_is_bounded() {
    let parent = Parent::start(Options { top: "log_format = \"json\"".to_owned(), ..Options::default() }).await;
    let mut control = parent.control(1).await;
    let refusal = |number: u32| {
        ToParent::Refusal(RefusedRequest {
            key_store_id: [0xab; 32].into(),
            operation: "Decrypt".into(),
            error: "AccessDeniedException".into(),
            kms_request_id: Some(format!("request-{number}").as_str().into()),
            latency_ms: 7,
        })
    };
    for number in 0..1000 {
        control.tell(&refusal(number)).await;
    }
    control.tell_ready(true).await;
    until(|| async { parent.page("/ready").await.0 == 200 }).await;
    let log = parent.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .filter(|line| line.contains("a request was refused"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let first = &lines[0];
    assert_eq!((&first["level"], &first["target"]), (&"WARN".into(), &"enclave".into()));
    let expected = serde_json::json!({
        "message": "a request was refused", "kmsRequestId": "request-0", "operation": "Decrypt",
        "errorName": "AccessDeniedException", "key_store": "ab".repeat(32), "latency_ms": 7,
    });
    assert_eq!(first["fields"], expected);
    let dropped = parent.status().await["counters"]["enclave_log_dropped"].as_u64().unwrap();
    assert_eq!(u64::try_from(lines.len()).unwrap() + dropped, 1000);
    assert!(dropped > 0, "a flood must not be printed whole");
}

#[tokio::test]
async fn metrics_are_served_beside_the_status() {
    let parent = Parent::start(Options::default()).await;
    let (status, page) = parent.request("GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(status, 200);
    assert!(page.contains("holdfast_enclave_up{slot=\"first\"} 0\n"), "{page}");
    let mut control = parent.control(1).await;
    control.tell_ready(true).await;
    control.tell(&ToParent::Metrics(Box::new(Metrics { format: METRICS_FORMAT, ..Metrics::default() }))).await;
    until(|| async {
        let (_, page) = parent.request("GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").await;
        page.contains("holdfast_enclave_up{slot=\"first\"} 1\n")
            && page.contains("holdfast_handshake_duration_seconds_count")
    })
    .await;
    // What an honest enclave of this release cannot write.
    let other = ToParent::Metrics(Box::new(Metrics { format: METRICS_FORMAT + 1, ..Metrics::default() }));
    let other = serde_json::to_vec(&other).unwrap();
    control.writer.write_all(&u32::try_from(other.len()).unwrap().to_be_bytes()).await.unwrap();
    control.writer.write_all(&other).await.unwrap();
    parent.counted("control_refused", 1).await;
}

#[tokio::test]
async fn the_largest_list_of_manifests_is_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = crate::fixture::write_files(folder.path(), &Options::default());
    for number in 0..170 {
        let mut content = vec![b'x'; 64 * 1024];
        content.splice(..4, format!("{number:04}").into_bytes());
        std::fs::write(folder.path().join(format!("key-stores/{number:04}.manifest")), content).unwrap();
    }
    let parent = Parent::start_in(folder, &file).await;
    let mut control = parent.silent_control().await;
    control.tell(&ToParent::Hello(Hello::new(BootId::from([1; 16])))).await;
    soon(receive_configuration(&mut control.reader)).await.unwrap();
    assert_eq!(control.hear_manifests().await.len(), 170);
}
