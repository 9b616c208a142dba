//! Traces end to end: real requests, through the enclave and the parent, to a collector, read as OpenTelemetry reads them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, in its helpers too")]

use holdfast_tests::python::Script;
use holdfast_tests::system::{HOST_NAME, KEY, Options, System};
use holdfast_tests::wait::until;
use holdfast_tests::webhook::Receiver;
use std::sync::Mutex;

use http::StatusCode;
use serde_json::{Value, json};

const STAGES: [&str; 6] = ["body", "signature", "parse", "guard", "cipher", "audit"];

/// Every span that came, once.
fn spans(collector: &Receiver, reader: &Mutex<Script>) -> Vec<Value> {
    let mut spans = Vec::new();
    for request in collector.received() {
        assert!(
            request.is_for("POST /v1/traces HTTP/1.1") && request.header("content-type") == Some("application/json")
        );
        let answer = reader.lock().unwrap().ask(&serde_json::from_slice(&request.body).unwrap());
        spans.extend(answer.as_array().unwrap().clone());
    }
    // A batch that was refused at first came twice.
    spans.sort_by_key(|span| span["id"].to_string());
    spans.dedup_by_key(|span| span["id"].to_string());
    spans
}

fn of_requests<'s>(spans: &'s [Value], operation: &str, outcome: &str) -> Vec<&'s Value> {
    let is_it = |span: &&Value| span["name"] == operation && span["attributes"]["holdfast.outcome"] == outcome;
    spans.iter().filter(is_it).collect()
}

/// The stages of a request's span, in order, each of which begins where the one before ended.
fn stages_of(spans: &[Value], request: &Value) -> Vec<String> {
    let mut stages: Vec<_> = spans.iter().filter(|span| span["parent"] == request["id"]).collect();
    stages.sort_by_key(|span| STAGES.iter().position(|stage| span["name"] == *stage).unwrap());
    let mut at = request["start"].as_u64().unwrap();
    for stage in &stages {
        assert_eq!((&stage["trace"], &stage["kind"]), (&request["trace"], &json!("SPAN_KIND_INTERNAL")));
        assert_eq!(stage["start"].as_u64(), Some(at));
        at = stage["end"].as_u64().unwrap();
    }
    assert!(at <= request["end"].as_u64().unwrap());
    stages.iter().map(|stage| stage["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_what_requests_passed_and_nothing_secret() {
    let collector = Receiver::start().await;
    collector.answer(StatusCode::SERVICE_UNAVAILABLE);
    let tracing =
        format!("collector = \"http://{}\"\none_in = 1\nper_second = 100\nslow_ms = 60000\n", collector.address());
    let system = System::start(Options { tracing: Some(tracing), ..Options::default() }).await;
    let encrypted = system.round_trip(KEY).await;
    let refused = system.client().decrypt("nobody-knows", &encrypted.body, None).await.unwrap();
    assert_eq!(refused.text("errorName"), Some("KeyNotFoundException"));
    let mut damaged = encrypted.body.clone();
    damaged["authenticationTag"] = json!("AAAAAAAAAAAAAAAAAAAAAA==");
    let refused = system.client().decrypt(KEY, &damaged, None).await.unwrap();
    assert_eq!(refused.text("errorName"), Some("InvalidCiphertextException"));
    until("the collector was asked", || async { (!collector.received().is_empty()).then_some(()) }).await;
    collector.answer(StatusCode::OK);

    let reader = Mutex::new(Script::start("read_otlp.py"));
    let wanted = [
        ("Encrypt", "success", &STAGES[..]),
        ("Decrypt", "success", &STAGES),
        ("Decrypt", "KeyNotFoundException", &["body", "signature", "parse", "guard", "audit"]),
        ("Decrypt", "InvalidCiphertextException", &STAGES),
    ];
    until("the collector took all batches", || async {
        let page = system.parent_metrics().await;
        let taken =
            page.lines().find_map(|line| line.strip_prefix("holdfast_parent_trace_spans_total{outcome=\"exported\"} "));
        taken.filter(|taken| *taken != "0")?;
        let spans = spans(&collector, &reader);
        wanted.iter().all(|(operation, outcome, _)| !of_requests(&spans, operation, outcome).is_empty()).then_some(())
    })
    .await;
    let spans = spans(&collector, &reader);
    let label: String = system.key_store_id().to_string().chars().take(8).collect();
    for (operation, outcome, stages) in wanted {
        for request in of_requests(&spans, operation, outcome) {
            assert_eq!(stages_of(&spans, request), stages, "{request}");
            assert_eq!(
                (&request["kind"], &request["status"]),
                (&json!("SPAN_KIND_SERVER"), &json!("STATUS_CODE_UNSET"))
            );
            assert_eq!(request["attributes"]["holdfast.key_store"], json!(label));
            assert_eq!(request["resource"]["service.name"], json!("holdfast"));
            // Whoever has the id of a request finds its trace.
            let id = request["attributes"]["holdfast.kms_request_id"].as_str().unwrap().replace('-', "");
            assert_eq!(request["trace"].as_str(), Some(id.as_str()));
        }
    }
    for request in collector.received() {
        let text = String::from_utf8(request.body).unwrap();
        for secret in ["arn:", "nobody-knows", KEY, HOST_NAME, "AKIA", "AAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_leaves_requests_out_and_never_a_refused_one() {
    let collector = Receiver::start().await;
    let tracing = format!("collector = \"http://{}\"\none_in = 1000000\nslow_ms = 60000\n", collector.address());
    let system = System::start(Options { tracing: Some(tracing), ..Options::default() }).await;
    let body = system.encrypt(KEY).await.body;
    for _ in 0..5 {
        system.round_trip(KEY).await;
    }
    let refused = system.client().decrypt("nobody-knows", &body, None).await.unwrap();
    assert_eq!(refused.text("errorName"), Some("KeyNotFoundException"));
    let reader = Mutex::new(Script::start("read_otlp.py"));
    let spans = until("the refused one came", || async {
        let spans = spans(&collector, &reader);
        (!of_requests(&spans, "Decrypt", "KeyNotFoundException").is_empty()).then_some(spans)
    })
    .await;
    let requests = spans.iter().filter(|span| span["parent"] == "");
    assert!(requests.count() <= 2, "the first of a million, and the refused one");
    let page = system.parent_metrics().await;
    assert!(page.contains("holdfast_enclave_events_total{slot=\"first\",event=\"traces_dropped\"} 0"), "{page}");
    system.assert_no_panic();
}
